import random

from lit_vlm.parsing.edit_distance import edit_distance, similarity


def by_table(first, second):
    row = list(range(len(second) + 1))
    for count, item in enumerate(first, 1):
        above, row = row, [count]
        for place, other in enumerate(second, 1):
            row.append(min(above[place] + 1, row[-1] + 1, above[place - 1] + (item != other)))
    return row[-1]


def test_it_agrees_with_the_table():
    stream = random.Random(0)
    for _ in range(1000):
        first, second = (stream.choices("abc", k=stream.randint(0, 12)) for _ in range(2))
        assert edit_distance(first, second) == by_table(first, second)


def test_it_counts_items_of_any_kind():
    assert edit_distance(["a", "new", "day"], ["a", "day"]) == 1
    assert edit_distance("", "") == 0
    assert edit_distance("x" * 100_000, "y") == 100_000


def test_similarity_is_one_for_equal_and_empty():
    assert similarity("", "") == 1
    assert similarity("ab", "ab") == 1
    assert similarity("ab", "cd") == 0
