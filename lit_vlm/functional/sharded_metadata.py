"""Reads what ``torch.distributed.checkpoint`` says of a sharded checkpoint, without running what a file may hold.

torch itself unpickles that file, and every entry that is no tensor, without limits.
"""

from __future__ import annotations

import io
import pickle
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import torch
from torch.distributed.checkpoint import filesystem, metadata
from torch.distributed.checkpoint.metadata import BytesStorageMetadata, Metadata

from lit_vlm.interfaces.errors import UserError

FILE = ".metadata"
REST = "meta.pt"
"""What Lightning writes beside the shards: all of a checkpoint that is neither weights nor the optimizer's state."""
BROKEN_PICKLE = (
    pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, IndexError, TypeError, AttributeError,
    ImportError, MemoryError,
)  # fmt: skip
"""What reading a damaged or forged pickle with limits may raise."""
_KNOWN = {
    **{
        ("torch.distributed.checkpoint.metadata", kind.__name__): kind
        for kind in (
            metadata.BytesStorageMetadata,
            metadata.ChunkStorageMetadata,
            metadata.Metadata,
            metadata.MetadataIndex,
            metadata.StorageMeta,
            metadata.TensorProperties,
            metadata.TensorStorageMetadata,
            metadata._MEM_FORMAT_ENCODING,
        )
    },
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"): filesystem._StorageInfo,
    ("torch", "Size"): torch.Size,
    ("torch.serialization", "_get_layout"): torch.serialization._get_layout,
    ("pathlib", "PosixPath"): PurePosixPath,
    ("pathlib", "PurePosixPath"): PurePosixPath,
    ("pathlib", "WindowsPath"): PureWindowsPath,
}
"""All that a description may be made of; beside these, types of numbers."""


class _DescriptionReader(pickle.Unpickler):
    """Knows the classes of a description, and refuses all others before anything is called."""

    def find_class(self, module: str, name: str) -> Any:
        """Looks a name up among those known."""
        if (module, name) in _KNOWN:
            return _KNOWN[module, name]
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which describes no weights")


def is_sharded(path: Path) -> bool:
    """Tells whether a folder is a sharded checkpoint."""
    return (path / FILE).is_file()


def read_metadata(folder: Path) -> Metadata:
    """Reads the description of a sharded checkpoint.

    Raises:
        UserError: There is none, it is damaged, or it would run or read something else.
    """
    path = folder / FILE
    try:
        with path.open("rb") as file:
            described = _DescriptionReader(file).load()
    except OSError as fault:
        raise UserError(f"{str(path)!r} cannot be read: {fault.strerror}; give a whole sharded checkpoint") from fault
    except BROKEN_PICKLE as fault:
        raise UserError(f"{str(path)!r} is refused: {_first_line(fault)}; give another checkpoint") from fault
    if not isinstance(described, Metadata) or not isinstance(described.storage_data, dict):
        raise UserError(f"{str(path)!r} does not describe a sharded checkpoint; give another one")
    for place in described.storage_data.values():
        # The folder's own files only: a path may otherwise lead anywhere.
        name = getattr(place, "relative_path", None)
        if not isinstance(name, str) or Path(name).name != name or (folder / name).is_symlink():
            raise UserError(f"{str(path)!r} names the file {name!r}, which does not lie beside it")
        if not (folder / name).is_file():
            raise UserError(f"{str(folder)!r} lacks {name!r}, which its {FILE} names; give a whole checkpoint")
    return described


def check_sharded(folder: Path) -> None:
    """Makes sure that torch and Lightning can read a sharded checkpoint without running what it holds.

    Raises:
        UserError: They cannot.
    """
    described = read_metadata(folder)
    known = described.state_dict_metadata
    for index, place in described.storage_data.items():
        if not isinstance(known.get(index.fqn), BytesStorageMetadata):
            continue  # torch reads tensors with limits
        if place.transform_descriptors:
            raise UserError(f"{str(folder)!r}: {index.fqn} is stored by an extension of torch; save it plainly")
        with (folder / place.relative_path).open("rb") as file:
            file.seek(place.offset)
            content = io.BytesIO(file.read(place.length))
        try:
            torch.load(content, weights_only=True, map_location="cpu")
        except BROKEN_PICKLE as fault:
            raise UserError(
                f"{str(folder)!r}: {index.fqn} is refused, since it is damaged or would run code: {_first_line(fault)}"
            ) from fault


def _first_line(fault: BaseException) -> str:
    return (str(fault).strip().splitlines() or [type(fault).__name__])[0]
