"""The logic of Knights-and-Knaves puzzles: statements, their truth, the solutions, and when two puzzles are the same.

What a knight says is true, what a knave says is false. ``n`` people are numbered from 0; person ``i`` says
``statements[i]``, a nested tuple::

    ("telling-truth", i)   ("lying", i)   ("not", s)   ("and", s, s, ...)   ("or", s, s, ...)
    ("->", s, s)   ("<=>", s, s)

Puzzles are drawn in ``knights_and_knaves_sampling``, their twins in ``knights_and_knaves_perturbations``, and worded in
``lit_vlm.parsing.knights_and_knaves``.

Source:
    Xie et al., On Memorization of Large Language Models in Logical Reasoning (2024), section 2.
"""

import itertools
from collections.abc import Iterable, Sequence
from functools import lru_cache, reduce
from typing import Any

from lit_vlm.interfaces.errors import UserError

Statement = tuple[Any, ...]
Puzzle = tuple[Statement, ...]
Solution = tuple[bool, ...]
"""For each person whether they tell the truth."""

LEAVES = ("telling-truth", "lying")
# Fewest and most parts of each operator; None is no bound.
_PARTS: dict[str, tuple[int, int | None]] = {
    "not": (1, 1),
    "and": (2, None),
    "or": (2, None),
    "->": (2, 2),
    "<=>": (2, 2),
}
OPERATORS = tuple(_PARTS)
_SYMMETRIC = ("and", "or", "<=>")


def read_statement(value: Any, people: int) -> Statement:
    """Checks a statement, and turns lists (as JSON gives them) into tuples.

    Args:
        value: A statement of the grammar above, as nested tuples or lists.
        people: How many people there are; a leaf may name 0 to ``people - 1``.

    Raises:
        UserError: The value is no statement.
    """
    match value:
        case [str() as kind, int() as person] if kind in LEAVES and not isinstance(person, bool):
            if not 0 <= person < people:
                raise UserError(f"{value!r} names person {person}; there are {people}, numbered from 0")
            return (kind, person)
        case [str() as operator, *parts] if operator in _PARTS:
            fewest, most = _PARTS[operator]
            if len(parts) < fewest or (most is not None and len(parts) > most):
                wanted = f"{fewest}" if most == fewest else f"{fewest} or more"
                raise UserError(f"{value!r} has {len(parts)} parts; {operator!r} takes {wanted}")
            return (operator, *(read_statement(part, people) for part in parts))
    raise UserError(
        f"{value!r} is no statement; wanted one of {', '.join(map(repr, LEAVES))} with a person's number, or one of "
        f"{', '.join(map(repr, _PARTS))} with statements"
    )


def evaluate(statement: Statement, solution: Sequence[bool]) -> bool:
    """Says whether a statement is true if the people are as ``solution`` says.

    Example:
        >>> evaluate(("->", ("telling-truth", 0), ("lying", 1)), (True, True))
        False
    """
    kind, *parts = statement
    if kind in LEAVES:
        is_knight = bool(solution[parts[0]])
        return is_knight if kind == "telling-truth" else not is_knight
    values = [evaluate(part, solution) for part in parts]
    match kind:
        case "not":
            return not values[0]
        case "and":
            return all(values)
        case "or":
            return any(values)
        case "->":
            return values[1] or not values[0]
        case _:
            return values[0] == values[1]


def assignments(people: int) -> Iterable[Solution]:
    """Lists who might be a knight: all knights first, all knaves last, the last person changing fastest."""
    return itertools.product((True, False), repeat=people)


def solve(statements: Sequence[Any]) -> list[Solution]:
    """Finds every assignment in which exactly the knights' statements are true, in the order of ``assignments``.

    The truth of a statement under all ``2^n`` assignments is one integer with a bit for each, so that a puzzle of
    eight people takes microseconds. Each further person doubles the integers.

    Raises:
        UserError: A statement is none.

    Example:
        >>> solve([("<=>", ("telling-truth", 0), ("telling-truth", 1)), ("lying", 0)])
        [(False, True)]
    """
    knights, everything = _knight_bits(len(statements))
    left = everything
    for person, given in enumerate(statements):
        statement = read_statement(given, len(statements))
        left &= everything ^ knights[person] ^ _truth_bits(statement, knights, everything)
    found = []
    while left:
        lowest = left & -left
        found.append(tuple(bool(bits & lowest) for bits in knights))
        left ^= lowest
    return found


@lru_cache
def _knight_bits(people: int) -> tuple[tuple[int, ...], int]:
    """For each person the assignments, one bit each, in which they are a knight; and the bits of all assignments."""
    listed = list(assignments(people))
    bits = tuple(sum(1 << place for place, one in enumerate(listed) if one[person]) for person in range(people))
    return bits, (1 << len(listed)) - 1


def _truth_bits(statement: Statement, knights: tuple[int, ...], everything: int) -> int:
    kind, *parts = statement
    if kind in LEAVES:
        return knights[parts[0]] if kind == "telling-truth" else everything ^ knights[parts[0]]
    bits = [_truth_bits(part, knights, everything) for part in parts]
    match kind:
        case "not":
            return everything ^ bits[0]
        case "and":
            return reduce(int.__and__, bits)
        case "or":
            return reduce(int.__or__, bits)
        case "->":
            return bits[1] | (everything ^ bits[0])
        case _:
            return everything ^ bits[0] ^ bits[1]


def relabel(items: Sequence[Any], order: Sequence[int]) -> tuple[Any, ...]:
    """Puts what belongs to each person (names, roles) into another order: ``order[k]`` becomes person ``k``."""
    return tuple(items[person] for person in order)


def relabel_puzzle(puzzle: Puzzle, order: Sequence[int]) -> Puzzle:
    """Renumbers people: person ``order[k]`` becomes person ``k``, as speaker and in what is said of them.

    Example:
        >>> relabel_puzzle((("lying", 1), ("telling-truth", 1)), (1, 0))
        (('telling-truth', 0), ('lying', 0))
    """
    number_of = {person: number for number, person in enumerate(order)}

    def renumbered(statement: Statement) -> Statement:
        kind, *parts = statement
        return (kind, number_of[parts[0]]) if kind in LEAVES else (kind, *map(renumbered, parts))

    return tuple(renumbered(puzzle[person]) for person in order)


def canonical_form(puzzle: Puzzle) -> str:
    """Writes a puzzle so that neither the people's numbers nor the order of equal parts shows.

    People are told apart by what they say and of whom, round by round as in colour refinement. Puzzles that differ in
    the numbering of the people or in the order within "and", "or" and "if and only if" get the same form; different
    puzzles share one only where the refinement cannot tell them apart, which is rare.
    """
    colours = ["0"] * len(puzzle)
    forms: list[str] = []
    for _ in puzzle:
        forms = [f"{colours[person]}:{_form(said, person, colours)}" for person, said in enumerate(puzzle)]
        ranks = {form: str(rank) for rank, form in enumerate(sorted(set(forms)))}
        colours = [ranks[form] for form in forms]
    return "|".join(sorted(forms))


def _form(statement: Statement, speaker: int, colours: Sequence[str]) -> str:
    kind, *parts = statement
    if kind in LEAVES:
        return f"{kind} {'self' if parts[0] == speaker else colours[parts[0]]}"
    forms = [_form(part, speaker, colours) for part in parts]
    return f"{kind}({', '.join(sorted(forms) if kind in _SYMMETRIC else forms)})"
