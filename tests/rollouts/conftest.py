"""The tiny checkpoints of the model families."""

from tests.models.conftest import family_folder

__all__ = ["family_folder"]
