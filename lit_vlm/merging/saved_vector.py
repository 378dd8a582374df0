"""A task vector as a folder: differences of weights as safetensors, and ``vector.json``, which says what they are.

The files are ``vector.safetensors`` or its shards, not ``model.safetensors``, so that nothing takes them for a model.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any
from uuid import uuid4

from torch import Tensor

from lit_vlm.functional.safetensors_source import SafetensorsSource
from lit_vlm.functional.shard_writer import ShardWriter, TensorSpec, parse_size
from lit_vlm.interfaces.errors import UserError

DESCRIPTION, STEM = "vector.json", "vector"
VERSION = 1


@dataclass(frozen=True)
class VectorDescription:
    """What a saved vector is."""

    plus: str
    """The model whose weights count positively."""
    minus: str
    """The model whose weights are subtracted."""
    layers: int
    """Layers of the decoder of both, whichever of them the vector has weights of."""
    digests: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """``plus`` and ``minus`` -> name of a file of weights -> SHA-256."""
    further: Mapping[str, Any] = field(default_factory=dict)
    """What else is to be known, such as a coefficient that the differences were multiplied by."""


def write_vector(
    folder: Path,
    weights: Sequence[TensorSpec],
    difference: Callable[[str], Tensor],
    description: VectorDescription,
    largest_shard: str = "5GB",
) -> None:
    """Writes a vector, one difference at a time; the folder appears complete or not at all.

    Args:
        folder: Absent or empty.
        weights: Names, canonical or on disk, with shapes and the types to store them in.
        difference: Computes one by its name, in any floating-point type.
        description: What it is.
        largest_shard: Size of a file at most, such as ``5GB``.

    Raises:
        UserError: The folder holds something, or a difference holds NaN or infinity.
    """
    # What an earlier attempt left is not known to be of the same vector, so it is not taken over.
    with ShardWriter(folder, weights, parse_size(largest_shard), fingerprint=uuid4().hex, stem=STEM) as writer:
        for weight in weights:
            value = difference(weight.name).to(weight.dtype)
            if not value.isfinite().all():
                raise UserError(f"the difference of {weight.name!r} holds NaN or infinity as {weight.dtype}")
            writer.write(weight.name, value)

        def describe(partial: Path) -> None:
            content = {"version": VERSION, **asdict(description)}
            (partial / DESCRIPTION).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

        writer.finish(describe)


def open_vector(folder: Path) -> SavedVector:
    """Opens a saved vector; no difference is read.

    Raises:
        UserError: There is none, or it is damaged.
    """
    return SavedVector(folder)


class SavedVector(SafetensorsSource):
    """The differences of a saved vector, as if they were the weights of a checkpoint.

    Args:
        folder: As ``write_vector`` has written it.

    Raises:
        UserError: There is none, or it is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.description = _description(folder)
        super().__init__(folder, stem=STEM)

    @property
    def label(self) -> str:
        """The folder."""
        return str(self.folder)

    @property
    def configuration(self) -> Mapping[str, Any]:
        """Empty: it is no model."""
        return {}

    def vocabulary(self) -> Mapping[str, int]:
        """Refuses: a vector has no tokenizer."""
        raise UserError(f"the vector {self.label} has no tokenizer")


def _description(folder: Path) -> VectorDescription:
    path = folder / DESCRIPTION
    if not path.is_file():
        raise UserError(
            f"there is no {DESCRIPTION} in {str(folder)!r}; give the folder of a saved vector, or name a checkpoint as "
            "model instead of vector"
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as fault:
        raise UserError(f"{path} is no JSON: {fault}; save the vector again") from fault
    if not isinstance(content, dict) or content.pop("version", None) != VERSION:
        raise UserError(f"{path} does not describe a vector of version {VERSION}; save the vector again")
    if content.keys() != {item.name for item in fields(VectorDescription)}:
        raise UserError(
            f"{path} has the entries {sorted(content)}, wanted are "
            f"{sorted(item.name for item in fields(VectorDescription))}; save the vector again"
        )
    return VectorDescription(**content)
