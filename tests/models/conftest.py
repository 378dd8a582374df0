"""A tiny checkpoint of each model family, built at most once in a run of the tests."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.models.family_checkpoints import build_family_checkpoint


@pytest.fixture(scope="session")
def family_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Returns the folder with the checkpoint of a family."""
    root = tmp_path_factory.mktemp("families")

    def folder(family: str) -> Path:
        if not (root / family).exists():
            build_family_checkpoint(family, root / family)
        return root / family

    return folder
