"""Suggests what a misspelt name may have meant."""

import difflib
from collections.abc import Iterable


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """Phrases the closest known names, or nothing where none is close.

    Example:
        >>> did_you_mean("fti", ["fit", "test"])
        "; did you mean 'fit'?"
        >>> did_you_mean("zzz", ["fit", "test"])
        ''
    """
    by_case = {name.casefold(): name for name in known}
    names = [by_case[match] for match in difflib.get_close_matches(given.casefold(), by_case, n=3, cutoff=0.55)]
    return f"; did you mean {' or '.join(map(repr, names))}?" if names else ""
