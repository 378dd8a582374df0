"""Writes checkpoint files whole or not at all, and reads only those that are whole: a plugin of Lightning."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

from lit_vlm.functional.checkpoint_files import fault_of, read_checkpoint, write_checkpoint
from lit_vlm.functional.checkpoint_search import newest_beside
from lit_vlm.interfaces.errors import UserError


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes files beside their place and renames them, with a digest that is verified when they are read.

    Only plain data and tensors are ever loaded. A disk that is full ends in one sentence, with the checkpoints that
    are there left as they are. Addresses of object stores are left to Lightning, since these put files whole.
    """

    def __init__(self) -> None:
        super().__init__()
        self._kept: list[UserError] | None = None

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Writes a checkpoint.

        Raises:
            UserError: It cannot be written.
        """
        if storage_options is not None or _is_remote(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        try:
            write_checkpoint(checkpoint, Path(path))
        except OSError as fault:
            told = _sentence(Path(path), fault)
            if self._kept is None:
                raise told from fault
            self._kept.append(told)

    def load_checkpoint(
        self, path: Any, map_location: Any | None = "cpu", weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Verifies and reads a checkpoint, by ``weights_only`` whatever is asked for.

        Raises:
            UserError: It is not whole, lies in shards, or holds something else than plain data and tensors.
        """
        if _is_remote(path):
            loaded: dict[str, Any] = super().load_checkpoint(path, map_location, True)
            return loaded
        refuse_broken(Path(path))
        if Path(path).is_dir():
            raise UserError(
                f"--ckpt_path: the checkpoint {str(path)!r} lies in shards, which this trainer.strategy does not read; "
                "give trainer.strategy fsdp2, on as many devices as you like, or begin anew from the model that "
                "'lit-vlm export' makes of it"
            )
        return read_checkpoint(Path(path), map_location)

    def remove_checkpoint(self, path: Any) -> None:
        """Removes a checkpoint; a folder loses its mark first, so that it is not taken for whole."""
        if _is_remote(path):
            super().remove_checkpoint(path)
        else:
            remove(Path(path))

    @contextmanager
    def keeping_faults(self) -> Iterator[list[UserError]]:
        """Opens a context that lists faults of writing instead of raising them.

        Only the first rank writes; a caller can so tell the others, who wait for it.
        """
        self._kept = []
        try:
            yield self._kept
        finally:
            self._kept = None


def refuse_broken(path: Path) -> None:
    """Refuses a checkpoint that is not whole, and names one that is.

    Raises:
        UserError: It is not whole.
    """
    fault = fault_of(path)
    if fault is None:
        return
    other = newest_beside(path)
    mend = f"the newest whole one beside it is {other}" if other else "there is no whole one beside it"
    raise UserError(f"--ckpt_path: the checkpoint {str(path)!r} {fault}; {mend}")


def remove(path: Path) -> None:
    """Removes a checkpoint file or folder, if it is there; half a folder is not left looking whole."""
    if path.is_dir():
        hidden = path.with_name(f".{path.name}.partial")
        path.replace(hidden)
        shutil.rmtree(hidden)
    else:
        path.unlink(missing_ok=True)


def _is_remote(path: Any) -> bool:
    return "://" in str(path)


def _sentence(path: Path, fault: OSError) -> UserError:
    last = newest_beside(path)
    kept = f"the last good checkpoint is {last}; resume from it" if last else "there is no earlier one beside it"
    return UserError(
        f"the checkpoint {path} could not be written: {fault.strerror or fault}; make room or give "
        f"Checkpointing.folder on another disk; {kept}"
    )
