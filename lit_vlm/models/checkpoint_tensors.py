"""Opens a checkpoint as weights to compute with, whatever form they are stored in."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from lit_vlm.functional.safetensors_source import SafetensorsSource
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


class CheckpointTensors(SafetensorsSource):
    """The weights of a folder as its files hold them.

    Args:
        folder: With ``config.json`` and weights as safetensors.
        label: What messages call it.

    Raises:
        UserError: It has no configuration or no weights, or they are damaged.
    """

    def __init__(self, folder: Path, label: str) -> None:
        self._label = label
        self._configuration = _configuration(folder)
        super().__init__(folder)

    @property
    def label(self) -> str:
        """What the recipe calls the checkpoint."""
        return self._label

    @property
    def configuration(self) -> Mapping[str, Any]:
        """What ``config.json`` says."""
        return self._configuration

    def vocabulary(self) -> Mapping[str, int]:
        """Returns the tokenizer's tokens with their ids, added ones too.

        Raises:
            UserError: There is no tokenizer.
        """
        try:
            tokenizer: Any = AutoTokenizer.from_pretrained(self.folder, trust_remote_code=False)
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
