"""The one error that the command line shows without a traceback."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lit_vlm.interfaces.records import BadSample


class UserError(ValueError):
    """Says what was given, what was wanted and how to mend it.

    Raised for mistakes in a recipe, an option or a file; never for a fault of the program.
    """


class BadSampleError(UserError):
    """Says what is wrong with one sample of a data set, so that the run may leave just that one out.

    Args:
        origin: Where the sample stands: file and line or row, or its id.
        reason: What is wrong with it and how to mend it.
    """

    def __init__(self, origin: str, reason: str) -> None:
        super().__init__(f"{origin}: {reason}")
        self.origin = origin
        self.reason = reason

    def __reduce__(self) -> tuple[type[BadSampleError], tuple[str, str]]:
        # Raised in loader processes and pickled on the way out.
        return type(self), (self.origin, self.reason)


class TooManyBadSamplesError(UserError):
    """Says that more samples were left out than the run allows.

    Args:
        message: How many there are, how many may be, and the first of them.
        bad_samples: All that were left out.
    """

    def __init__(self, message: str, bad_samples: tuple[BadSample, ...]) -> None:
        super().__init__(message)
        self.bad_samples = bad_samples
