"""Says in one sentence what is wrong with a checkpoint, and how to mend it."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Any

from safetensors import SafetensorError

from lit_vlm.interfaces.errors import UserError

OPTION = "model.backbone.checkpoint"
LOADING_FAULTS = (OSError, ValueError, ImportError, SafetensorError)
"""What transformers raises for a checkpoint that is not there, is damaged, or that it does not know."""

MENDS = (
    (r"custom code", "read that code first; model.backbone.trust_remote_code true then runs it"),
    (r"no file named \S*safetensors", "weights are read from safetensors only; save others anew with save_pretrained"),
    (
        r"Can't load \w+ processor",
        "put processor_config.json or preprocessor_config.json of the model beside config.json",
    ),
    (r"does not recognize this architecture", "upgrade transformers, or choose another checkpoint"),
)
OTHERWISE = "give a folder, a hub id such as Qwen/Qwen2.5-VL-3B-Instruct, or 'tiny'"


def explain_fault(fault: Exception, checkpoint: str, attention: str | None) -> str:
    """Turns what transformers says into one sentence that names the option and the mend.

    Args:
        fault: Raised while a checkpoint was loaded; one of ``LOADING_FAULTS``.
        checkpoint: What was to be loaded.
        attention: The attention implementation asked for.
    """
    text = str(fault).strip()
    told = text.splitlines()[0] if text else type(fault).__name__
    if attention is not None and re.search(r"attn_implementation|flash.?attention", text, re.IGNORECASE):
        return (
            f"model.backbone.attention: {attention!r} cannot be used: {told} (leave it out, give sdpa or eager, or "
            "install the package that it needs)"
        )
    if isinstance(fault, SafetensorError):
        return f"{OPTION}: a weight file of {checkpoint!r} is damaged or cut short: {told}; fetch it again"
    mend = next((mend for pattern, mend in MENDS if re.search(pattern, text)), OTHERWISE)
    return f"{OPTION}: cannot load {checkpoint!r}: {told} ({mend})"


def refuse_incomplete(
    missing: Collection[str], mismatched: Collection[tuple[str, Sequence[int], Sequence[int]]], checkpoint: str
) -> None:
    """Refuses weights that do not fill the model, where transformers would draw the rest at random.

    Args:
        missing: Names of weights that the checkpoint lacks.
        mismatched: Name, shape found and shape wanted of those that do not fit.
        checkpoint: What was loaded.

    Raises:
        UserError: A weight is missing or has another shape; the first are named.
    """
    if mismatched:
        name, found, wanted = min(mismatched)
        raise UserError(
            f"{OPTION}: {name!r} in {checkpoint!r} has shape {tuple(found)}, but its config.json asks for "
            f"{tuple(wanted)}{_others(mismatched)}; configuration and weights are of different models"
        )
    if missing:
        raise UserError(
            f"{OPTION}: {checkpoint!r} lacks the weight {min(missing)!r}{_others(missing)}, which its config.json asks "
            "for; fetch the checkpoint again, or choose a complete one"
        )


def refuse_without_words(tokenizer: Any, checkpoint: str) -> None:
    """Refuses a tokenizer that knows special tokens only, which transformers makes where the files are missing.

    Raises:
        UserError: It is one.
    """
    if len(tokenizer) <= len(set(tokenizer.all_special_tokens)):
        raise UserError(
            f"{OPTION}: {checkpoint!r} has no tokenizer; put tokenizer.json and tokenizer_config.json of the model "
            "beside its config.json"
        )


def _others(names: Collection[Any]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""
