"""Writes how a Knights-and-Knaves puzzle is solved: assume, look for a contradiction, assume the next.

The grammar is fixed and terse, so that a model of a million parameters can learn it and each word follows from a few
others nearby::

    thought    = attempt*                 all knights first, all knaves last, the last person changing fastest
    attempt    = assumption+ ":" check ("," check)* "."
    assumption = name role
    check      = name value "ok" | name value "no"      ok: a knight with true, a knave with false
    value      = truth | working "=" truth
    working    = "not" part | part "and" part … | part "or" part … | part "then" part | part "iff" part
    part       = truth | "(" working "=" truth ")"

Each attempt restates the assumptions, the truth of the parts comes before that of the whole, and people are checked in
order up to the first "no". The attempt without a "no" is the solution. All people are assumed at once, also where
fewer would do: skipping assumptions saves a tenth of the words for three people, but asks the reader to see who is
not mentioned. The length doubles with each person.
"""

from collections.abc import Sequence

from lit_vlm.functional.knights_and_knaves import LEAVES, Puzzle, Solution, Statement, assignments, evaluate
from lit_vlm.interfaces.errors import UserError
from lit_vlm.parsing.knights_and_knaves import KNIGHT_AND_KNAVE, Roles

_LINKS = {"and": "and", "or": "or", "->": "then", "<=>": "iff"}


def derive(puzzle: Puzzle, names: Sequence[str], roles: Roles = KNIGHT_AND_KNAVE) -> str:
    """Writes the attempts up to the first that holds.

    Args:
        puzzle: What each person says.
        names: The people, in the order of ``puzzle``.
        roles: Words for the roles.

    Raises:
        UserError: No attempt holds.

    Example:
        >>> derive((("lying", 1), ("and", ("lying", 0), ("lying", 1))), ["Ella", "Bo"])
        'Ella knight Bo knight: Ella false no. Ella knight Bo knave: Ella true ok, Bo false and true = false ok.'
    """
    attempts = []
    for assumed in assignments(len(puzzle)):
        text, holds = _attempt(puzzle, assumed, names, roles)
        attempts.append(text)
        if holds:
            return " ".join(attempts)
    raise UserError(f"the puzzle {puzzle} has no solution; write thoughts for puzzles with exactly one")


def _attempt(puzzle: Puzzle, assumed: Solution, names: Sequence[str], roles: Roles) -> tuple[str, bool]:
    assumptions = " ".join(f"{name} {roles.of(is_truthful)}" for name, is_truthful in zip(names, assumed, strict=True))
    checks = []
    holds = True
    for name, is_truthful, statement in zip(names, assumed, puzzle, strict=True):
        holds = evaluate(statement, assumed) == is_truthful
        checks.append(f"{name} {_value(statement, assumed)} {'ok' if holds else 'no'}")
        if not holds:
            break
    return f"{assumptions}: {', '.join(checks)}.", holds


def _value(statement: Statement, assumed: Solution) -> str:
    kind, *parts = statement
    truth = "true" if evaluate(statement, assumed) else "false"
    if kind in LEAVES:
        return truth
    values = [_value(part, assumed) if part[0] in LEAVES else f"({_value(part, assumed)})" for part in parts]
    working = f"not {values[0]}" if kind == "not" else f" {_LINKS[kind]} ".join(values)
    return f"{working} = {truth}"
