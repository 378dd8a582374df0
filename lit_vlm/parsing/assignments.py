"""Statements that give each name a role, as in puzzles about knights and knaves."""

import re
from collections.abc import Iterable, Sequence

_MARKS = str.maketrans(dict.fromkeys('{}"*', " "))
_LINK = r"(?: ?(?::|=|->|\u2192) ?| is )"
_SEPARATOR = re.compile(r"(?:[\s,.;]|and(?!\w)|\(?[0-9]{1,3}[.)])*")


def parse_assignment(text: str, names: Sequence[str], roles: Iterable[str]) -> dict[str, str] | None:
    """Reads who is what, if the text says nothing else and says it once of each.

    Args:
        text: Claims such as ``Ella is a knight, and Bo is a knave.``, ``Ella: knight, Bo: knave``, a numbered list or
            a JSON object.
        names: Names that may be given a role.
        roles: Roles that may be given.

    Returns:
        Role by name, spelled as in ``names`` and ``roles``, perhaps not of every name; None where a name is given a
        role twice (even the same one), or where anything else is said.

    Example:
        >>> parse_assignment("Ella is a knight, and Bo is a knave.", ["Ella", "Bo"], ["knight", "knave"])
        {'Ella': 'knight', 'Bo': 'knave'}
    """
    name_by_spelling = {_spelling(name): name for name in names}
    role_by_spelling = {_spelling(role): role for role in roles}
    claim = re.compile(
        f"({_any_of(name_by_spelling)}){_LINK}(?:(?:an?|the) )?({_any_of(role_by_spelling)})(?=[\\s,.;]|$)"
    )
    text = _spelling(text)
    claims: dict[str, str] = {}
    position = _end_of_separator(text, 0)
    while position < len(text):
        found = claim.match(text, position)
        if found is None or name_by_spelling[found[1]] in claims:
            return None
        claims[name_by_spelling[found[1]]] = role_by_spelling[found[2]]
        position = _end_of_separator(text, found.end())
    return claims


def _end_of_separator(text: str, position: int) -> int:
    found = _SEPARATOR.match(text, position)
    return position if found is None else found.end()


def _spelling(text: str) -> str:
    return " ".join(text.translate(_MARKS).casefold().split())


def _any_of(spellings: Iterable[str]) -> str:
    """Writes an alternation with longer spellings first, so that ``Al`` does not hide ``Al Bo``."""
    return "|".join(re.escape(spelling) for spelling in sorted(spellings, key=len, reverse=True))
