"""Makes the test's own process one in which the command line may run as in a process of its own."""

import logging
import sys

import pytest


def enter(patch: pytest.MonkeyPatch, folder) -> None:
    """Goes to ``folder`` until ``patch`` is undone; what a run changes in the process is then put back."""
    patch.chdir(folder)
    # Lightning warns where the process has arguments beside those that are handed in.
    patch.setattr(sys, "argv", ["lit-vlm"])
    patch.setattr(sys, "path", [*sys.path])
    quietened = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    patch.setattr(quietened, "filters", [*quietened.filters])
