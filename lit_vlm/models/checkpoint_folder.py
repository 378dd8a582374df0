"""Finds the folder of a checkpoint: in the package, on this machine, or on the hub."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.weights import ModelReference
from lit_vlm.models.backbone import TINY
from lit_vlm.models.tiny_vlm import TINY_FOLDER

FETCHED = ["*.safetensors", "*.json", "*.jinja", "*.model", "merges.txt", "vocab.txt"]
"""Weights, configuration, tokenizer and processor; never pickled weights nor code."""
PASSED_BY = ["*/*", "consolidated*"]
"""Copies of the weights in other formats."""


def local_folder(reference: ModelReference) -> Path:
    """Returns the folder of a checkpoint, fetched from the hub where it is not on this machine.

    Raises:
        UserError: There is none, or the hub cannot be reached.
    """
    name, revision = reference.model, reference.revision
    folder = TINY_FOLDER if name == TINY else Path(name).expanduser()
    if folder.is_dir():
        if revision is not None:
            raise UserError(
                f"revision is {revision!r}, but {name!r} is a folder and has no revisions; leave it out, or give a hub "
                "id"
            )
        return folder
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise UserError(
            f"there is no folder {name!r}; give the folder of a checkpoint, a hub id such as Qwen/Qwen2.5-7B, or 'tiny'"
        )
    return _fetched(name, revision)


def _fetched(name: str, revision: str | None) -> Path:
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=FETCHED, ignore_patterns=PASSED_BY))
    except GatedRepoError as fault:
        raise UserError(
            f"{name!r} is given to those only who have accepted its terms on the hub; accept them there, then log in "
            "with hf auth login"
        ) from fault
    except RevisionNotFoundError as fault:
        raise UserError(
            f"{name!r} has no revision {revision!r} on the hub; give a branch, tag or commit of it"
        ) from fault
    except RepositoryNotFoundError as fault:
        raise UserError(
            f"there is no model {name!r}, neither a folder here nor on the hub; mind the spelling, or log in with hf "
            "auth login if it is private"
        ) from fault
    except HFValidationError as fault:
        raise UserError(f"{name!r} is neither a folder nor a hub id such as Qwen/Qwen2.5-7B: {fault}") from fault
    except LocalEntryNotFoundError as fault:
        raise UserError(
            f"{name!r} is no folder, is not complete among the models fetched before, and the hub cannot be reached; "
            "give the folder of a checkpoint, or fetch it where there is a network with hf download"
        ) from fault
    except OSError as fault:
        raise UserError(f"{name!r} cannot be fetched from the hub: {fault}; try again, or give a folder") from fault
