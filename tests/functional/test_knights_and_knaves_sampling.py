import random
from collections import Counter

import pytest

from lit_vlm.functional.knights_and_knaves import LEAVES, evaluate, solve
from lit_vlm.functional.knights_and_knaves_sampling import (
    check_sizes,
    sample_leaf,
    sample_puzzle,
    sample_puzzles,
    sample_statement,
)
from lit_vlm.interfaces.errors import UserError


def depth_of(statement):
    return 1 if statement[0] in LEAVES else 1 + max(map(depth_of, statement[1:]))


def nodes_of(statement):
    yield statement
    if statement[0] not in LEAVES:
        for part in statement[1:]:
            yield from nodes_of(part)


def test_statements_keep_depth_width_and_different_parts():
    stream = random.Random(0)
    for _ in range(500):
        statement = sample_statement(1, 3, 3, 4, stream)
        assert depth_of(statement) <= 3
        for kind, *parts in nodes_of(statement):
            if kind in LEAVES:
                assert (kind, *parts) != ("lying", 1)
            else:
                assert len(set(parts)) == len(parts)
                assert len(parts) in {"not": [1], "and": [2, 3, 4], "or": [2, 3, 4]}.get(kind, [2])


def test_the_die_is_fair():
    stream = random.Random(0)
    kinds = Counter(sample_statement(0, 3, 2, 2, stream)[0] for _ in range(6000))
    leaves = sum(kinds.pop(leaf) for leaf in LEAVES)
    # 6000 throws: 1000 of each face, standard deviation sqrt(6000 x 1/6 x 5/6) = 29.
    assert set(kinds) == {"not", "and", "or", "->", "<=>"}
    assert all(abs(count - 1000) < 120 for count in (leaves, *kinds.values()))


def test_at_depth_one_only_leaves_are_said():
    stream = random.Random(0)
    assert {sample_statement(0, 2, 1, 2, stream) for _ in range(200)} == {
        ("telling-truth", 0),
        ("telling-truth", 1),
        ("lying", 1),
    }
    assert ("lying", 0) not in {sample_leaf(0, 2, stream) for _ in range(200)}


def test_every_puzzle_has_exactly_one_consistent_assignment():
    stream = random.Random(0)
    for people in (2, 3, 4):
        for _ in range(150):
            puzzle, solution = sample_puzzle(people, 2, 2, stream)
            consistent = []
            for number in range(2**people):
                roles = [bool(number >> person & 1) for person in range(people)]
                if all(evaluate(puzzle[person], roles) is roles[person] for person in range(people)):
                    consistent.append(tuple(roles))
            assert consistent == [solution]


def test_puzzles_without_operators_never_have_exactly_one_solution():
    stream = random.Random(0)
    for _ in range(300):
        assert len(solve([sample_leaf(speaker, 3, stream) for speaker in range(3)])) != 1


def test_no_puzzle_comes_twice():
    drawn = sample_puzzles(200, 2, 2, 2, random.Random(0))
    assert len({puzzle for puzzle, _ in drawn}) == 200
    assert all(solve(puzzle) == [solution] for puzzle, solution in drawn)
    assert drawn == sample_puzzles(200, 2, 2, 2, random.Random(0))


def test_no_puzzles_are_asked_and_none_come():
    assert sample_puzzles(0, 2, 2, 2, random.Random(0)) == []


def test_only_accepted_puzzles_come():
    puzzle, _ = sample_puzzle(2, 2, 2, random.Random(0), accepts=lambda drawn: drawn[0][0] == "not")
    assert puzzle[0][0] == "not"


def test_more_puzzles_than_there_are_is_an_error():
    # Two people can say 30 x 30 different things, of which 399 have one solution.
    with pytest.raises(UserError, match="found no further puzzle of 2 people, depth 2 and width 2 in 2000 draws"):
        sample_puzzles(1000, 2, 2, 2, random.Random(0), tries=2000)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((1, 2, 2), "people is 1; a puzzle needs at least 2"),
        ((2, 1, 2), "depth is 1; puzzles without operators never have exactly one solution, give at least 2"),
        ((2, 2, 1), "width is 1; give 2 to 3"),
        ((2, 2, 4), "width is 4; give 2 to 3"),
    ],
)
def test_sizes_without_puzzles_are_refused(sizes, message):
    with pytest.raises(UserError, match=message):
        check_sizes(*sizes)
    with pytest.raises(UserError, match=message):
        sample_puzzle(*sizes, random.Random(0))
