"""Which models can read a prompt once and continue it several times.

All families that the tests cover can. A model of another family must first show, on a prompt of the first batch, that
its logits after a cached step are those of a pass without any cache; where only the repetition of the cache is at
fault, its prompts are repeated instead, and the log says so, once.
"""

from __future__ import annotations

import logging
from typing import Any

import torch

from lit_vlm.interfaces.batches import PromptBatch
from lit_vlm.interfaces.errors import UserError
from lit_vlm.models.completion_passes import Continuations, naive_states
from lit_vlm.models.decoding_state import begin_rows
from lit_vlm.models.prefix_sharing import COARSE_TOLERANCE, TOLERANCE, is_verified
from lit_vlm.models.prompt_rows import select_prompts

logger = logging.getLogger(__name__)

VERIFIED_BESIDE = frozenset(("gemma3",))
"""Families that decode as the tests show, beside those that share prompts."""
TRIED_ROWS = 2


@torch.no_grad()
def must_repeat_prompts(model: Any, prompts: PromptBatch) -> bool:
    """Decides whether each prompt is to be read once for each of its completions.

    Args:
        model: The Hugging Face model, in evaluation mode.
        prompts: A batch that is about to be continued; one prompt of it serves as the trial of an unknown family.

    Raises:
        UserError: The model continues prompts wrongly even so.
    """
    if is_verified(model) or model.config.model_type in VERIFIED_BESIDE:
        return False
    first = select_prompts(model, prompts, torch.zeros(1, dtype=torch.int64, device=prompts.input_ids.device))
    if first is None:
        raise UserError(
            f"nothing tells which pixels of a batch belong to which prompt of {type(model).__name__}, so that its "
            "completions cannot be scored; choose another model"
        )
    reason = decoding_fault(model, first)
    if reason is None:
        return False
    if decoding_fault(model, first, repeat_prompts=True) is not None:
        raise UserError(f"{type(model).__name__} cannot be sampled token by token: {reason}; choose another model")
    logger.warning("%s reads each prompt once for each of its completions: %s", type(model).__name__, reason)
    return True


def decoding_fault(model: Any, prompt: PromptBatch, *, repeat_prompts: bool = False) -> str | None:
    """Compares a step of decoding with a pass over whole rows; says what is wrong, if anything.

    Args:
        model: The Hugging Face model.
        prompt: One prompt.
        repeat_prompts: Whether the prompt is read for each row, or its cache repeated.
    """
    try:
        rows = begin_rows(model, prompt, TRIED_ROWS, repeat_prompts=repeat_prompts)
    except UserError as fault:
        return str(fault)
    token_ids = rows.logits[0].topk(TRIED_ROWS).indices  # one a row
    rows.advance(token_ids)
    added = token_ids[:, None].expand(-1, 2)  # nothing is predicted from the last token
    owners = torch.zeros_like(token_ids)
    states = naive_states(model, Continuations.of_prompts(model, prompt, added, torch.ones_like(added), owners))
    expected = model.get_output_embeddings()(states[1::2])
    difference = float((rows.logits - expected).abs().max() / expected.abs().max())
    if difference <= TOLERANCE.get(expected.dtype, COARSE_TOLERANCE):
        return None
    return f"the logits with and without a cache differ by {difference:.1e} of the largest"
