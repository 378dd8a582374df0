"""Knights-and-Knaves puzzles in English: writing puzzles and solutions, reading claims, the published answer check.

The statements' grammar is that of ``lit_vlm.functional.knights_and_knaves``. Strict grading of an answer is left to
``lit_vlm.parsing.answers``.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

from lit_vlm.functional.knights_and_knaves import LEAVES, Puzzle, Solution, Statement

_CONCLUSION = re.compile("CONCLUSION:", re.IGNORECASE)
_CUTS = ("###", "Let's think step by step again", "let's go back and check")


class Roles(NamedTuple):
    """Words for the two kinds of people."""

    truthful: str = "knight"
    """Who tells the truth."""
    lying: str = "knave"
    """Who lies."""

    def of(self, is_truthful: bool) -> str:
        """Returns the word for one person."""
        return self.truthful if is_truthful else self.lying


KNIGHT_AND_KNAVE = Roles()


def describe_statement(statement: Statement, names: Sequence[str], roles: Roles = KNIGHT_AND_KNAVE) -> str:
    """Writes what is said; compound parts stand in brackets, so that the words can be read in one way only.

    Example:
        >>> describe_statement(("->", ("lying", 0), ("not", ("telling-truth", 1))), ["Ella", "Bo"])
        'if Ella is a knave then Bo is not a knight'
    """
    kind, *parts = statement
    if kind in LEAVES:
        return _claim(statement, names, roles, "is")
    if kind == "not" and parts[0][0] in LEAVES:
        return _claim(parts[0], names, roles, "is not")
    if kind == "not":
        return f"not ({describe_statement(parts[0], names, roles)})"
    texts = [_as_part(part, names, roles) for part in parts]
    match kind:
        case "->":
            return f"if {texts[0]} then {texts[1]}"
        case "<=>":
            return f"{texts[0]} if and only if {texts[1]}"
        case _:
            return f" {kind} ".join(texts)


def describe_puzzle(puzzle: Puzzle, names: Sequence[str], roles: Roles = KNIGHT_AND_KNAVE) -> str:
    """Writes the rule, what each person says, and the question.

    Example:
        >>> describe_puzzle((("lying", 1), ("and", ("lying", 0), ("lying", 1))), ["Ella", "Bo"]).split(". ")[1:3]
        ['Ella says: Bo is a knave', 'Bo says: Ella is a knave and Bo is a knave']
    """
    said = [
        f"{name} says: {describe_statement(statement, names, roles)}."
        for name, statement in zip(names, puzzle, strict=True)
    ]
    rule = f"{roles.truthful.capitalize()}s tell the truth, {roles.lying}s lie."
    question = f"Who is {_with_article(roles.truthful)} and who is {_with_article(roles.lying)}?"
    return " ".join([rule, *said, question])


def describe_solution(solution: Solution, names: Sequence[str], roles: Roles = KNIGHT_AND_KNAVE) -> str:
    """Writes a solution as one sentence.

    Example:
        >>> describe_solution((True, False), ["Ella", "Bo"])
        'Ella is a knight, and Bo is a knave.'
    """
    clauses = _clauses(solution, names, roles)
    return ", ".join([*clauses[:-1], f"and {clauses[-1]}" if len(clauses) > 1 else clauses[-1]]) + "."


def list_solution(solution: Solution, names: Sequence[str], roles: Roles = KNIGHT_AND_KNAVE) -> str:
    r"""Writes a solution as a numbered list, the form that the published check asks for after ``CONCLUSION:``.

    Example:
        >>> list_solution((True, False), ["Ella", "Bo"])
        '(1) Ella is a knight\n(2) Bo is a knave'
    """
    return "\n".join(f"({number}) {clause}" for number, clause in enumerate(_clauses(solution, names, roles), start=1))


def read_claims(text: str, names: Sequence[str], roles: Roles = KNIGHT_AND_KNAVE) -> list[tuple[str, bool]]:
    """Reads every claim ``X is a knight`` or ``X is a knave``, wherever it stands, in the order of the text.

    Conditions and negations around a claim are not understood; ``X is not a knight`` is no claim.

    Returns:
        Pairs of the name as in ``names`` and whether the role claimed is the truthful one; empty where nothing is
        claimed. Letters' case does not count.

    Example:
        >>> read_claims("So Ella is a knight, thus Bo is a knave.", ["Ella", "Bo"])
        [('Ella', True), ('Bo', False)]
    """
    name_of = {name.casefold(): name for name in names}
    spelled = "|".join(re.escape(name) for name in sorted(name_of, key=len, reverse=True))
    claim = rf"(?<!\w)({spelled})\s+is\s+an?\s+({re.escape(roles.truthful)}|{re.escape(roles.lying)})(?!\w)"
    found = re.findall(claim, text, re.IGNORECASE)
    return [(name_of[name.casefold()], role.casefold() == roles.truthful.casefold()) for name, role in found]


def agrees_as_published(
    response: str, solution: Solution, names: Sequence[str], roles: Roles = KNIGHT_AND_KNAVE
) -> bool:
    """Checks a response as the puzzles' authors do, for figures that compare with theirs.

    What follows ``CONCLUSION:`` (in any case) counts, up to a mark of a new attempt; a response without it counts as a
    whole if it holds ``(1)`` to ``(n)``. Wrong are a further item ``(n+1)``, the word "if", and a missing clause.
    The check is lenient: a response that claims both roles of a person passes, and so does any other order.

    Args:
        response: What the model wrote.
        solution: The true roles.
        names: The people, in the order of ``solution``.
        roles: Words for the roles.

    Source:
        Xie et al., On Memorization of Large Language Models in Logical Reasoning (2024), released evaluation. We look
        for "if" as a word in any case, so that a name may hold these letters.
    """
    parts = _CONCLUSION.split(response, maxsplit=1)
    if len(parts) == 1 and any(f"({number})" not in response for number in range(1, len(names) + 1)):
        return False
    answer = parts[-1]
    for cut in _CUTS:
        answer = answer.split(cut)[0]
    if f"({len(names) + 1})" in answer or re.search(r"\bif\b", answer, re.IGNORECASE):
        return False
    return all(clause in answer for clause in _clauses(solution, names, roles))


def _clauses(solution: Solution, names: Sequence[str], roles: Roles) -> list[str]:
    return [
        f"{name} is {_with_article(roles.of(is_truthful))}" for name, is_truthful in zip(names, solution, strict=True)
    ]


def _claim(leaf: Statement, names: Sequence[str], roles: Roles, link: str) -> str:
    kind, person = leaf
    return f"{names[person]} {link} {_with_article(roles.of(kind == 'telling-truth'))}"


def _as_part(statement: Statement, names: Sequence[str], roles: Roles) -> str:
    text = describe_statement(statement, names, roles)
    is_simple = statement[0] in LEAVES or (statement[0] == "not" and statement[1][0] in LEAVES)
    return text if is_simple else f"({text})"


def _with_article(word: str) -> str:
    return f"an {word}" if word[0].lower() in "aeiou" else f"a {word}"
