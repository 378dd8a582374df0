"""Names in memory of the weights of linear layers of a checkpoint that is not loaded."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

from lit_vlm.interfaces.errors import UserError
from lit_vlm.models.checkpoint_faults import LOADING_FAULTS
from lit_vlm.models.disk_names import memory_names

WEIGHT = ".weight"


def linear_names(folder: Path, on_disk: Iterable[str]) -> dict[str, str]:
    """Finds the weights of linear layers by the model's structure; no weight is read.

    Args:
        folder: With the ``config.json`` of the model.
        on_disk: Names in the checkpoint's files; those that the model lacks are left out.

    Returns:
        Name of a weight on disk -> its name in memory, for weights of linear layers.

    Raises:
        UserError: transformers does not know the model.
    """
    try:
        configuration = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        reads_images = type(configuration) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
        loader = AutoModelForImageTextToText if reads_images else AutoModelForCausalLM
        with torch.device("meta"):
            skeleton = loader.from_config(configuration, trust_remote_code=False)
    except LOADING_FAULTS as fault:
        raise UserError(f"{str(folder)!r}: its model cannot be built: {str(fault).splitlines()[0]}") from fault
    linear = {f"{name}{WEIGHT}" for name, module in skeleton.named_modules() if isinstance(module, nn.Linear)}
    return {disk: name for disk, name in memory_names(skeleton, on_disk).items() if name in linear}
