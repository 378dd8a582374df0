"""Keeps count of the samples that a run leaves out, and stops it where there are too many."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from lit_vlm.interfaces.errors import BadSampleError, TooManyBadSamplesError, UserError
from lit_vlm.interfaces.records import BadSample, Split

BadSamplePolicy = Literal["error", "skip"]
LISTED = 10
"""Bad samples named in a message."""


class BadSampleLedger:
    """Counts the bad samples of a split, each once however often it is met.

    Args:
        policy: ``error`` stops at the first, ``skip`` at the one that exceeds the limit.
        limit: Most bad samples: an integer counts them, a fraction below 1 is a share of the split.
        split: Named in messages.
        size: Samples of the split.

    Raises:
        UserError: The limit is negative, or a share above 1.
    """

    def __init__(
        self, policy: BadSamplePolicy = "error", limit: int | float = 0, split: Split = "train", size: int = 0
    ) -> None:
        check_limit(limit)
        self._policy = policy
        self._limit = limit
        self._split = split
        self._size = size
        self._known: dict[str, BadSample] = {}

    @property
    def bad_samples(self) -> tuple[BadSample, ...]:
        """All bad samples so far, in the order they were met."""
        return tuple(self._known.values())

    def unknown(self, found: Iterable[BadSample]) -> list[BadSample]:
        """Lists those of ``found`` that were not met before."""
        return [bad for bad in dict.fromkeys(found) if bad.origin not in self._known]

    def add(self, found: Iterable[BadSample]) -> None:
        """Counts bad samples; those that it refuses are not remembered, so that it refuses them again.

        Raises:
            BadSampleError: The policy is ``error`` and there is one.
            TooManyBadSamplesError: The policy is ``skip`` and there are more than the limit.
        """
        news = self.unknown(found)
        if not news:
            return
        if self._policy == "error":
            raise BadSampleError(news[0].origin, f"{news[0].reason} (data.bad_samples=skip leaves such samples out)")
        together = {**self._known, **{bad.origin: bad for bad in news}}
        allowed = self._limit * self._size if isinstance(self._limit, float) else self._limit
        if len(together) > allowed:
            everything = tuple(together.values())
            raise TooManyBadSamplesError(
                f"{len(together)} of {self._size} samples of the {self._split} split are bad, more than "
                f"data.bad_samples_limit={self._limit} allows; mend them or raise the limit. {first_of(everything)}",
                everything,
            )
        self._known = together

    def state(self) -> list[list[str]]:
        """Returns the bad samples as plain lists."""
        return [[bad.origin, bad.reason] for bad in self.bad_samples]

    def restore(self, state: Iterable[Iterable[str]]) -> None:
        """Adds the bad samples of an earlier run, which its limit allowed."""
        for origin, reason in state:
            self._known[origin] = BadSample(origin, reason)


def first_of(bad_samples: Sequence[BadSample]) -> str:
    """Names the first bad samples, each with its reason, and how many more there are."""
    first = [f"{bad.origin}: {bad.reason}" for bad in bad_samples[:LISTED]]
    more = len(bad_samples) - len(first)
    return "; ".join([*first, *([f"and {more} more"] if more else [])])


def check_limit(limit: int | float) -> None:
    """Refuses a limit that is neither a count nor a share.

    Raises:
        UserError: It is negative, or a share above 1.
    """
    if limit < 0 or (isinstance(limit, float) and limit > 1):
        raise UserError(
            f"data.bad_samples_limit is {limit}; give a whole number of samples, or a share such as 0.01 of the split"
        )
