import itertools
import random

import pytest

from lit_vlm.functional.knights_and_knaves import (
    assignments,
    canonical_form,
    evaluate,
    read_statement,
    relabel,
    relabel_puzzle,
    solve,
)
from lit_vlm.functional.knights_and_knaves_sampling import sample_puzzle, sample_statement
from lit_vlm.interfaces.errors import UserError

A_KNIGHT, A_KNAVE = ("telling-truth", 0), ("lying", 0)
B_KNIGHT, B_KNAVE = ("telling-truth", 1), ("lying", 1)


@pytest.mark.parametrize(
    ("puzzle", "solutions"),
    [
        # B says "if A is a knight, B is a knight": a knave B would need A knight, and A says B is a knight.
        ([B_KNIGHT, ("->", A_KNIGHT, B_KNIGHT)], [(True, True)]),
        # A "A and B are alike", B "A is a knave": A knight makes B a knight who calls A a knave; so A knave, B knight.
        ([("<=>", A_KNIGHT, B_KNIGHT), A_KNAVE], [(False, True)]),
        # A "B is a knave", B "we are both knaves": B cannot say so truly; so B is a knave and A is right.
        ([B_KNAVE, ("and", A_KNAVE, B_KNAVE)], [(True, False)]),
        # Each calls the other a knave: exactly one is.
        ([B_KNAVE, A_KNAVE], [(True, False), (False, True)]),
        # "I am a knave" can be said by nobody.
        ([A_KNAVE, A_KNIGHT], []),
    ],
)
def test_puzzles_worked_by_hand_are_solved(puzzle, solutions):
    assert solve(puzzle) == solutions


@pytest.mark.parametrize(
    ("statement", "truth_by_assignment"),
    [
        # In the order knight-knight, knight-knave, knave-knight, knave-knave.
        (A_KNIGHT, [True, True, False, False]),
        (B_KNAVE, [False, True, False, True]),
        (("not", A_KNIGHT), [False, False, True, True]),
        (("and", A_KNIGHT, B_KNIGHT), [True, False, False, False]),
        (("or", A_KNIGHT, B_KNIGHT), [True, True, True, False]),
        (("or", A_KNIGHT, B_KNIGHT, B_KNAVE), [True, True, True, True]),
        (("->", A_KNIGHT, B_KNIGHT), [True, False, True, True]),
        (("<=>", A_KNIGHT, B_KNIGHT), [True, False, False, True]),
        (("not", ("and", A_KNIGHT, ("not", B_KNIGHT))), [True, False, True, True]),
    ],
)
def test_every_operator_follows_its_truth_table(statement, truth_by_assignment):
    assert [evaluate(statement, assignment) for assignment in assignments(2)] == truth_by_assignment


def test_the_solutions_are_those_of_a_plain_search():
    stream = random.Random(0)
    for _ in range(200):
        people = stream.randint(1, 5)
        puzzle = [sample_statement(speaker, people, 3, 2, stream) for speaker in range(people)] if people > 1 else []
        found = [
            tuple(roles)
            for roles in itertools.product((True, False), repeat=len(puzzle))
            if all(evaluate(said, roles) == is_knight for said, is_knight in zip(puzzle, roles, strict=True))
        ]
        assert solve(puzzle) == found


def test_eight_people_are_solved():
    # Seven say "the first is a knight" and so are like the first; the eighth says the contrary and is unlike.
    puzzle = [*[A_KNIGHT] * 7, A_KNAVE]
    assert solve(puzzle) == [(True,) * 7 + (False,), (False,) * 7 + (True,)]


def test_lists_are_read_as_tuples():
    assert read_statement(["and", ["lying", 0], ["not", ["telling-truth", 1]]], 2) == (
        "and",
        A_KNAVE,
        ("not", B_KNIGHT),
    )
    assert solve([["lying", 1], ["and", ["lying", 0], ["lying", 1]]]) == [(True, False)]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (("telling-truth", 2), "names person 2; there are 2, numbered from 0"),
        (("lying", -1), "names person -1"),
        (("lying", True), "is no statement"),
        (("lying", "Bo"), "is no statement"),
        (("xor", A_KNIGHT, B_KNIGHT), "is no statement"),
        (("not", A_KNIGHT, B_KNIGHT), "has 2 parts; 'not' takes 1"),
        (("and", A_KNIGHT), "has 1 parts; 'and' takes 2 or more"),
        (("->", A_KNIGHT, A_KNIGHT, A_KNIGHT), "has 3 parts; '->' takes 2"),
        (("or", A_KNIGHT, "Bo is a knight"), "'Bo is a knight' is no statement"),
        ((), "is no statement"),
        (None, "None is no statement"),
    ],
)
def test_what_is_no_statement_is_refused(value, message):
    with pytest.raises(UserError, match=message.replace("(", r"\(")):
        read_statement(value, 2)
    with pytest.raises(UserError):
        solve([value, A_KNIGHT])


def test_the_canonical_form_shows_neither_numbers_nor_the_order_of_equal_parts():
    stream = random.Random(1)
    for _ in range(60):
        puzzle, solution = sample_puzzle(3, 3, 3, stream)
        order = stream.sample(range(3), 3)
        renumbered = relabel_puzzle(puzzle, order)
        assert canonical_form(renumbered) == canonical_form(puzzle)
        assert solve(renumbered) == [relabel(solution, order)]
    assert canonical_form((("or", A_KNIGHT, B_KNAVE), A_KNIGHT)) == canonical_form(
        (("or", B_KNAVE, A_KNIGHT), A_KNIGHT)
    )


def test_the_canonical_form_tells_different_puzzles_apart():
    puzzles = [
        (("->", A_KNIGHT, B_KNAVE), A_KNIGHT),
        (("->", B_KNAVE, A_KNIGHT), A_KNIGHT),
        (("or", A_KNIGHT, B_KNAVE), A_KNIGHT),
        (("or", A_KNIGHT, B_KNAVE), B_KNIGHT),
        (("or", A_KNIGHT, B_KNIGHT), A_KNIGHT),
    ]
    assert len(set(map(canonical_form, puzzles))) == len(puzzles)
