"""The one error that the command line shows without a traceback."""

from __future__ import annotations


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
