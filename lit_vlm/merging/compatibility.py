"""Tells whether models can be merged, and lists all that does not fit in one message."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lit_vlm.interfaces.errors import UserError

LISTED = 10
"""Mismatches of one kind that a message names at most."""


class Mismatches:
    """Collects what does not fit, by kind."""

    def __init__(self) -> None:
        self._kinds: dict[str, list[str]] = {}

    def __bool__(self) -> bool:
        return bool(self._kinds)

    def add(self, kind: str, item: str = "") -> None:
        """Notes one mismatch.

        Args:
            kind: A sentence about all mismatches of its kind, naming the models.
            item: What it is this time; empty where the sentence says it all.
        """
        found = self._kinds.setdefault(kind, [])
        if item and item not in found:
            found.append(item)

    def refuse(self) -> None:
        """Raises all at once.

        Raises:
            UserError: There is any.
        """
        if self._kinds:
            raise UserError("; ".join(_sentence(kind, items) for kind, items in self._kinds.items()))


def listed(items: Sequence[str]) -> str:
    """Names the first items and counts the rest.

    Example:
        >>> listed([str(number) for number in range(12)])
        '0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 2 more'
    """
    rest = len(items) - LISTED
    return ", ".join(items[:LISTED]) + (f" and {rest} more" if rest > 0 else "")


def has_other_ancestor(donor: Mapping[str, Any], base: Mapping[str, Any], base_label: str) -> bool:
    """Tells whether two configurations name different models that they were trained from.

    Args:
        donor: What the donor's ``config.json`` says.
        base: What its base's says.
        base_label: What the base itself is called.

    Returns:
        True where the donor names neither the base nor what the base itself was trained from; False too where either
        says nothing.
    """
    parent, grandparent = (configuration.get("_name_or_path") for configuration in (donor, base))
    if not parent or not grandparent:
        return False
    return str(parent).rstrip("/") not in {str(grandparent).rstrip("/"), base_label.rstrip("/")}


def _sentence(kind: str, items: Sequence[str]) -> str:
    return f"{kind}: {listed(items)}" if items else kind
