import random

import pytest

from lit_vlm.callbacks.picture_exchange import picture_cycles


@pytest.mark.parametrize(
    ("pictures", "sizes", "cycles"),
    [
        ("abcd", [8, 8, 8, 8], [(0, 1), (2, 3)]),
        ("aabb", [8, 8, 8, 8], [(0, 2), (1, 3)]),  # the second question about a picture waits for another picture
        ("abcd", [8, 9, 8, 9], [(0, 2), (1, 3)]),  # sizes come first
        ("abc", [8, 8, 8], [(0, 1, 2)]),  # the odd one joins
        ("abc", [8, 8, 9], [(0, 1, 2)]),  # in another size if need be
        ("abcde", [8, 8, 9, 9, 9], [(0, 1), (2, 3, 4)]),  # rather in its own
        ("aaab", [8, 8, 8, 8], [(0, 3)]),  # nobody has another picture for the rest
        ("aa", [8, 8], []),
        ("a", [8], []),
        ("", [], []),
    ],
)
def test_who_gets_whose_picture(pictures, sizes, cycles):
    assert picture_cycles(pictures, sizes) == cycles


def test_nobody_gets_their_own_picture_and_nobody_is_asked_twice():
    stream = random.Random(0)
    for _ in range(300):
        count = stream.randrange(12)
        pictures = [stream.choice("abcdef") for _ in range(count)]
        sizes = [stream.choice([8, 9]) for _ in range(count)]
        cycles = picture_cycles(pictures, sizes)
        members = [one for cycle in cycles for one in cycle]
        assert len(members) == len(set(members))
        for cycle in cycles:
            assert all(pictures[cycle[place - 1]] != pictures[cycle[place]] for place in range(len(cycle)))
        # Whoever is left out could not be placed: fewer than two pictures, or one that most have.
        if len(set(members)) < count:
            most = max(pictures.count(picture) for picture in set(pictures))
            assert most > 1 or count == 1


def test_different_pictures_are_all_placed():
    for count in range(2, 20):
        assert sum(map(len, picture_cycles(range(count), [index % 3 for index in range(count)]))) == count
