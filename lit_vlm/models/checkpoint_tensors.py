"""Opens a checkpoint as weights to compute with, whatever form they are stored in."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoTokenizer

from lit_vlm.functional.safetensors_folder import SafetensorsFolder
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.weights import ModelReference, TensorSource
from lit_vlm.models.adapter_tensors import AdapterTensors
from lit_vlm.models.adapters import CONFIGURATION as ADAPTER_CONFIGURATION
from lit_vlm.models.checkpoint_faults import LOADING_FAULTS
from lit_vlm.models.checkpoint_folder import local_folder
from lit_vlm.models.quantised_tensors import dequantised

CONFIGURATION = "config.json"


def open_checkpoint(reference: ModelReference) -> TensorSource:
    """Finds a checkpoint and lists its weights; none is read.

    Weights that bitsandbytes quantised are dequantised as they are read, and those that an adapter changes are read
    with the change; both come as float32, whatever type ``dtype`` says they stand for.

    Raises:
        UserError: There is no such checkpoint, it is no safetensors, or its form is not known.
    """
    source = dequantised(CheckpointTensors(local_folder(reference), label=reference.model))
    return source if reference.adapter is None else AdapterTensors(source, Path(reference.adapter))


class CheckpointTensors(TensorSource):
    """The weights of a folder as its files hold them.

    Args:
        folder: With ``config.json`` and weights as safetensors.
        label: What messages call it.

    Raises:
        UserError: It has no configuration or no weights, or they are damaged.
    """

    def __init__(self, folder: Path, label: str) -> None:
        self._folder = folder
        self._label = label
        self._configuration = _configuration(folder)
        self._files = SafetensorsFolder(folder)

    @property
    def label(self) -> str:
        """What the recipe calls the checkpoint."""
        return self._label

    @property
    def folder(self) -> Path:
        """The folder on this machine."""
        return self._folder

    @property
    def configuration(self) -> Mapping[str, Any]:
        """What ``config.json`` says."""
        return self._configuration

    @property
    def names(self) -> Sequence[str]:
        """Names of all weights, in the order of the files."""
        return self._files.names

    def shape(self, name: str) -> tuple[int, ...]:
        """Returns a weight's shape, without reading it."""
        return self._files.stored(name).shape

    def dtype(self, name: str) -> torch.dtype:
        """Returns the type a weight is stored in, without reading it."""
        return self._files.stored(name).dtype

    def read(self, name: str) -> Tensor:
        """Reads one weight, on the CPU, in the type it is stored in."""
        return self._files.read(name)

    def pieces(self, name: str) -> Callable[[int, int], Tensor]:
        """Returns what reads any stretch of one flattened weight, in the type it is stored in."""
        return self._files.pieces(name)

    def vocabulary(self) -> Mapping[str, int]:
        """Returns the tokenizer's tokens with their ids, added ones too.

        Raises:
            UserError: There is no tokenizer.
        """
        try:
            tokenizer: Any = AutoTokenizer.from_pretrained(self._folder, trust_remote_code=False)
        except LOADING_FAULTS as fault:
            raise UserError(f"{self._label} has no tokenizer that can be read: {str(fault).splitlines()[0]}") from fault
        tokens: dict[str, int] = tokenizer.get_vocab()
        # Where the files are missing, transformers makes one of special tokens alone.
        if not tokens.keys() - set(tokenizer.all_special_tokens):
            raise UserError(
                f"{self._label} has no tokenizer; put tokenizer.json and tokenizer_config.json of the model beside its "
                "config.json"
            )
        return tokens

    def digests(self) -> Mapping[str, str]:
        """Hashes the files that hold the weights, once: name of the file -> SHA-256, hexadecimal."""
        return self._files.digests()

    @contextmanager
    def opened(self) -> Iterator[TensorSource]:
        """Keeps the file that was read last open over many reads."""
        with self._files.opened():
            yield self


def _configuration(folder: Path) -> dict[str, Any]:
    path = folder / CONFIGURATION
    if not path.is_file():
        if (folder / ADAPTER_CONFIGURATION).is_file():
            raise UserError(
                f"{str(folder)!r} holds an adapter and no model; give its base as model, and this folder as adapter"
            )
        raise UserError(f"{str(folder)!r} has no {CONFIGURATION}; give the folder of a checkpoint")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as fault:
        raise UserError(f"{path} is no JSON: {fault}; fetch the checkpoint again") from fault
    if not isinstance(content, dict):
        raise UserError(f"{path} does not describe a model; fetch the checkpoint again")
    return content
