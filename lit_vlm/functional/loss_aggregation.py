"""How the losses of single tokens become the loss of an optimizer step."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.rollouts import PolicyTotals

Aggregation = Literal["grpo", "bnpo", "dapo", "dr_grpo"]
EmptySequences = Literal["count", "exclude"]


def token_weights(
    mask: Tensor, totals: PolicyTotals, aggregation: Aggregation, empty_sequences: EmptySequences = "count"
) -> Tensor:
    """Computes what each token's loss is multiplied with, so that plain sums over micro-batches and ranks are the loss.

    - ``grpo``: mean over the tokens of a sequence, then over sequences.
    - ``bnpo``, ``dapo``: mean over all tokens of the optimizer step. The published ``bnpo`` averages within a
      micro-batch and then over micro-batches; it is the same where a step has one micro-batch.
    - ``dr_grpo``: sum over tokens, divided by sequences times the configured length limit.

    Args:
        mask: 1 on tokens that count, shape ``(B, T)``; each sequence lies in one micro-batch as a whole.
        totals: Counts over the whole optimizer step.
        aggregation: One of the four.
        empty_sequences: Whether sequences without any token that counts are counted where the loss is divided by the
            number of sequences.

    Returns:
        Weights, 0 where masked, fp32 or the mask's floating type, shape ``(B, T)``.

    Raises:
        UserError: ``dr_grpo`` without a length limit, or there is no such aggregation.

    Source:
        Shao et al., DeepSeekMath (2024), equation 3, for ``grpo``; Yu et al., DAPO (2025), equation 8, for ``dapo``;
        Liu et al., Understanding R1-Zero-Like Training (2025), section 3.2, for ``dr_grpo``. TRL
        ``trl/trainer/grpo_trainer.py`` ``_compute_loss`` (confirmed-in-code); ``exclude`` as verl
        ``verl/trainer/ppo/core_algos.py`` ``agg_loss`` (confirmed-in-code).
    """
    counted = mask if mask.is_floating_point() else mask.float()
    if aggregation in ("bnpo", "dapo"):
        return counted / max(totals.tokens, 1)
    sequences = max(totals.sequences if empty_sequences == "count" else totals.active_sequences, 1)
    if aggregation == "grpo":
        return counted / counted.sum(1, keepdim=True).clamp(min=1) / sequences
    if aggregation != "dr_grpo":
        raise UserError(f"aggregation is {aggregation!r}; it must be one of grpo, bnpo, dapo, dr_grpo")
    if totals.max_tokens < 1:
        raise UserError(
            f"aggregation dr_grpo divides by the length limit of a completion, but max_tokens is {totals.max_tokens}; "
            "set the limit of the rollouts, or choose dapo"
        )
    return counted / (sequences * totals.max_tokens)
