"""Finds texts that are nearly the same, exactly: no pair is missed and none is taken by chance."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

ROUNDING = 1e-9
"""By which a similarity may fall short of the threshold, being a quotient of two whole numbers."""


def shingles(text: str, length: int) -> frozenset[str]:
    """Lists all runs of ``length`` characters of a text; capitals and white space are evened out.

    A shorter text is one run; an empty one has none.

    Example:
        >>> sorted(shingles("A  bcd", 3))
        [' bc', 'a b', 'bcd']
    """
    evened = " ".join(text.casefold().split())
    if len(evened) <= length:
        return frozenset([evened] if evened else [])
    return frozenset(evened[start : start + length] for start in range(len(evened) - length + 1))


def jaccard(first: frozenset[str], second: frozenset[str]) -> float:
    """Computes the share of what two sets have in common, in [0, 1]; 1 for two empty ones.

    Example:
        >>> jaccard(frozenset("abc"), frozenset("bcd"))
        0.5
    """
    union = len(first | second)
    return len(first & second) / union if union else 1.0


def first_similar(sets: Sequence[frozenset[str]], threshold: float) -> list[int | None]:
    """Finds for each set the first earlier one that stays and is at least ``threshold`` alike.

    A set stays where there is none. So of those that stay no two are alike, and each other one is like one that stays.

    Args:
        sets: In the order in which they are preferred.
        threshold: Least Jaccard similarity of two that are alike, in (0, 1].

    Returns:
        Of each set the place of the one it is like, None where it stays.

    Example:
        >>> first_similar([frozenset("abcd"), frozenset("xy"), frozenset("abce")], threshold=0.6)
        [None, None, 0]

    Source:
        Chaudhuri et al., A Primitive Operator for Similarity Joins in Data Cleaning (2006); Bayardo et al., Scaling Up
        All Pairs Similarity Search (2007): sets that are alike share one of their rarest members, where "rarest" means
        the first n - ceil(threshold * n) + 1 of n. So few pairs have to be compared.
    """
    frequencies = Counter(member for members in sets for member in members)
    alike: list[int | None] = []
    staying: dict[str, list[int]] = {}  # by the rare members of those that stay
    empty: int | None = None
    for place, members in enumerate(sets):
        if not members:
            alike.append(empty)
            empty = place if empty is None else empty
            continue
        ordered = sorted(members, key=lambda member: (frequencies[member], member))
        rare = ordered[: len(ordered) - math.ceil(threshold * len(ordered) - ROUNDING) + 1]
        others = sorted({other for member in rare for other in staying.get(member, ())})
        found = next(
            (other for other in others if jaccard(sets[other], members) >= threshold - ROUNDING),
            None,
        )
        alike.append(found)
        if found is None:
            for member in rare:
                staying.setdefault(member, []).append(place)
    return alike
