"""Twins of a Knights-and-Knaves puzzle: nearly the same statements with another solution; and wrong solutions.

Who solved a puzzle by reasoning solves its twin too; who remembers it does not. Twins that change only words (names,
roles) are left to ``lit_vlm.data.knights_and_knaves``.

Source:
    Xie et al., On Memorization of Large Language Models in Logical Reasoning (2024), section 2, and released
    generator. That a changed leaf may not repeat its neighbour ("A and A") is ours.
"""

import random
from collections.abc import Callable, Iterator

from lit_vlm.functional.knights_and_knaves import (
    LEAVES,
    Puzzle,
    Solution,
    Statement,
    solve,
)
from lit_vlm.functional.knights_and_knaves_sampling import sample_leaf, sample_statement
from lit_vlm.interfaces.errors import UserError

TRIES = 1000
_Acceptance = Callable[[Puzzle], bool]


def perturb_statement(
    puzzle: Puzzle,
    depth: int,
    width: int,
    stream: random.Random,
    accepts: _Acceptance = lambda twin: True,
    tries: int = TRIES,
) -> tuple[Puzzle, Solution] | None:
    """Draws one person's whole statement again; the person is drawn anew at each try.

    Args:
        puzzle: A puzzle with exactly one solution.
        depth: Most levels of the new statement.
        width: Most parts of its "and" and "or".
        stream: Source of randomness.
        accepts: A further condition on the twin.
        tries: Most draws.

    Returns:
        The twin and its one solution, both other than the puzzle's; None where no try gave one.

    Raises:
        UserError: The puzzle itself has not exactly one solution.
    """

    def draw(speaker: int) -> Statement:
        return sample_statement(speaker, len(puzzle), depth, width, stream)

    return _search(puzzle, draw, stream, accepts, tries)


def perturb_leaf(
    puzzle: Puzzle, stream: random.Random, accepts: _Acceptance = lambda twin: True, tries: int = TRIES
) -> tuple[Puzzle, Solution] | None:
    """Draws one leaf again, in the statement of a person drawn uniformly; all else stays.

    Arguments, result and errors are those of ``perturb_statement``.
    """

    def draw(speaker: int) -> Statement:
        statement = puzzle[speaker]
        place = stream.choice(list(leaf_places(statement)))
        return _replaced(statement, place, sample_leaf(speaker, len(puzzle), stream))

    return _search(puzzle, draw, stream, lambda twin: not any(map(_repeats_a_part, twin)) and accepts(twin), tries)


def leaf_places(statement: Statement) -> Iterator[tuple[int, ...]]:
    """Lists where the leaves of a statement are, as paths of part numbers; a leaf by itself has the empty path.

    Example:
        >>> list(leaf_places(("and", ("lying", 0), ("not", ("lying", 1)))))
        [(1,), (2, 1)]
    """
    if statement[0] in LEAVES:
        yield ()
        return
    for number, part in enumerate(statement[1:], start=1):
        for place in leaf_places(part):
            yield (number, *place)


def wrong_solution(solution: Solution, stream: random.Random) -> Solution:
    """Turns the roles of some people, but not of all: a random non-empty proper subset, each as likely.

    Raises:
        UserError: There are fewer than two people, so that no such subset exists.
    """
    people = len(solution)
    if people < 2:
        raise UserError(f"the solution is {solution}; flipping some people but not all needs at least 2")
    flipped = stream.randint(1, 2**people - 2)
    return tuple(is_knight ^ bool(flipped >> person & 1) for person, is_knight in enumerate(solution))


def _search(
    puzzle: Puzzle, draw: Callable[[int], Statement], stream: random.Random, accepts: _Acceptance, tries: int
) -> tuple[Puzzle, Solution] | None:
    original = solve(puzzle)
    if len(original) != 1:
        raise UserError(f"the puzzle {puzzle} has {len(original)} solutions; only one with exactly 1 has twins")
    for _ in range(tries):
        person = stream.randrange(len(puzzle))
        twin = (*puzzle[:person], draw(person), *puzzle[person + 1 :])
        if twin == puzzle:
            continue
        solutions = solve(twin)
        if len(solutions) == 1 and solutions != original and accepts(twin):
            return twin, solutions[0]
    return None


def _replaced(statement: Statement, place: tuple[int, ...], leaf: Statement) -> Statement:
    if not place:
        return leaf
    number, *rest = place
    return (*statement[:number], _replaced(statement[number], tuple(rest), leaf), *statement[number + 1 :])


def _repeats_a_part(statement: Statement) -> bool:
    if statement[0] in LEAVES:
        return False
    parts = statement[1:]
    return len(set(parts)) < len(parts) or any(map(_repeats_a_part, parts))
