"""The step that a critique in words finds fault with first."""

from __future__ import annotations

import re

_FIRST = re.compile(
    r"\bfirst (?:wrong|incorrect) step(?: is|:)?\s*(?:step\s*)?([0-9]{1,6})\b"
    r"|\bstep\s*([0-9]{1,6})\s*(?:is|:|-)?\s*(?:wrong|incorrect|not right|not correct)\b",
    re.IGNORECASE,
)


def read_first_wrong_step(text: str) -> int | None:
    """Reads the first step that a critique calls wrong, in time linear in the text.

    Args:
        text: The critique, as ``Step 2 is wrong: …`` or ``First wrong step: 2``.

    Returns:
        Its number, from 1; None where no step is called wrong.

    Example:
        >>> read_first_wrong_step("Step 1 is right. Step 2 is wrong: 3 + 4 is 7. Step 3 is wrong too.")
        2
        >>> read_first_wrong_step("All steps are right. Conclusion: right [END]") is None
        True
    """
    found = _FIRST.search(text)
    number = 0 if found is None else int(found.group(1) or found.group(2))
    return number or None
