import random
from collections import Counter

import pytest

from lit_vlm.functional.knights_and_knaves import LEAVES, solve
from lit_vlm.functional.knights_and_knaves_perturbations import (
    leaf_places,
    perturb_leaf,
    perturb_statement,
    wrong_solution,
)
from lit_vlm.functional.knights_and_knaves_sampling import sample_puzzle
from lit_vlm.interfaces.errors import UserError


def puzzles(count=60, people=3, depth=2):
    stream = random.Random(0)
    return [sample_puzzle(people, depth, 2, stream) for _ in range(count)]


def leaves_apart(first, second):
    """Counts leaves that differ; None where the statements differ in more than leaves."""
    if first[0] in LEAVES and second[0] in LEAVES:
        return int(first != second)
    if first[0] != second[0] or len(first) != len(second):
        return None
    counts = [leaves_apart(left, right) for left, right in zip(first[1:], second[1:], strict=True)]
    return None if None in counts else sum(counts)


def test_a_statement_twin_changes_one_statement_and_the_one_solution():
    stream = random.Random(1)
    for puzzle, solution in puzzles():
        twin, twin_solution = perturb_statement(puzzle, 2, 2, stream)
        assert sum(left != right for left, right in zip(puzzle, twin, strict=True)) == 1
        assert solve(twin) == [twin_solution]
        assert twin_solution != solution


def test_a_leaf_twin_changes_one_leaf_and_the_one_solution():
    stream = random.Random(1)
    found = 0
    for puzzle, solution in puzzles(depth=3):
        twin = perturb_leaf(puzzle, stream)
        if twin is None:
            continue
        found += 1
        assert sum(leaves_apart(left, right) for left, right in zip(puzzle, twin[0], strict=True)) == 1
        assert all(said != ("lying", speaker) for speaker, said in enumerate(twin[0]))
        assert solve(twin[0]) == [twin[1]]
        assert twin[1] != solution
    assert found > 30


def test_a_leaf_twin_repeats_no_part():
    stream = random.Random(1)
    for puzzle, _ in puzzles(people=2):
        twin = perturb_leaf(puzzle, stream)
        if twin is not None:
            assert all(len(set(said[1:])) == len(said) - 1 for said in twin[0] if said[0] not in LEAVES)


def test_a_search_without_luck_gives_no_twin():
    puzzle, _ = puzzles(1)[0]
    stream = random.Random(0)
    assert perturb_statement(puzzle, 2, 2, stream, accepts=lambda twin: False, tries=50) is None
    assert perturb_leaf(puzzle, stream, accepts=lambda twin: False, tries=50) is None
    assert perturb_statement(puzzle, 2, 2, stream, tries=0) is None


def test_a_puzzle_may_have_no_leaf_twin():
    assert None in [perturb_leaf(puzzle, random.Random(0)) for puzzle, _ in puzzles(people=2)]


def test_a_puzzle_without_exactly_one_solution_has_no_twins():
    with pytest.raises(UserError, match="has 2 solutions; only one with exactly 1 has twins"):
        perturb_leaf((("lying", 1), ("lying", 0)), random.Random(0))


def test_leaves_are_found_at_every_depth():
    assert list(leaf_places(("lying", 0))) == [()]
    assert list(leaf_places(("or", ("->", ("lying", 0), ("lying", 1)), ("lying", 2)))) == [(1, 1), (1, 2), (2,)]


def test_a_wrong_solution_flips_some_but_not_all():
    stream = random.Random(0)
    solution = (True, False, True)
    flipped = Counter(wrong_solution(solution, stream) for _ in range(600))
    # Of the 8 subsets of three people all but the empty and the full one, 100 times each (standard deviation 9).
    assert len(flipped) == 6
    assert solution not in flipped
    assert (False, True, False) not in flipped
    assert all(60 < count < 140 for count in flipped.values())


def test_one_person_alone_has_no_wrong_solution():
    with pytest.raises(UserError, match="needs at least 2"):
        wrong_solution((True,), random.Random(0))
