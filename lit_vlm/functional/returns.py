"""Rewards of single tokens and what they add up to. Legend: ``B`` completions, ``T`` tokens."""

from __future__ import annotations

import torch
from torch import Tensor


def token_rewards(totals: Tensor, per_token: Tensor | None, mask: Tensor) -> Tensor:
    """Adds the reward of each completion to that of its last token.

    Args:
        totals: Reward of each completion, shape ``(B,)``.
        per_token: Rewards of single tokens beside it, shape ``(B, T)``; None where there are none.
        mask: 1 on tokens that count, shape ``(B, T)``.

    Returns:
        Shape ``(B, T)``, 0 where masked.

    Example:
        >>> token_rewards(torch.tensor([1.0]), torch.tensor([[-0.25, 0.5, 9.0]]), torch.tensor([[1, 1, 0]]))
        tensor([[-0.2500,  1.5000,  0.0000]])
    """
    counted = mask.bool()
    spread = torch.zeros_like(mask, dtype=totals.dtype) if per_token is None else per_token.to(totals.dtype)
    spread = spread.masked_fill(~counted, 0)
    from_here = counted.flip(1).cumsum(1).flip(1)
    is_last = counted & (from_here == 1)
    return spread + totals[:, None].where(is_last, 0)


def discounted_returns(rewards: Tensor, mask: Tensor, discount: float = 1.0) -> Tensor:
    """Adds up the rewards from each token to the end of its completion: ``R_t = r_t + discount * R_{t+1}``.

    Tokens that don't count, such as a tool's output amid a completion, are passed over without a discount.

    Args:
        rewards: Of each token, shape ``(B, T)``; read where the mask is 1 only.
        mask: 1 on tokens that count, shape ``(B, T)``.
        discount: Weight of the next token's return, usually written gamma, in [0, 1].

    Returns:
        Shape ``(B, T)``, 0 where masked.

    Example:
        >>> discounted_returns(torch.tensor([[0.0, 0.0, 1.0]]), torch.tensor([[1, 1, 1]]), discount=0.5)
        tensor([[0.2500, 0.5000, 1.0000]])

    Source:
        verl ``verl/trainer/ppo/core_algos.py`` ``compute_reinforce_plus_plus_outcome_advantage`` (confirmed-in-code).
        We differ: verl starts anew after a masked token amid a completion.
    """
    counted = mask.bool()
    known = rewards.masked_fill(~counted, 0)
    if discount == 1:
        return known.flip(1).cumsum(1).flip(1).masked_fill(~counted, 0)
    running = torch.zeros_like(known[:, 0]) if known.shape[1] else known.sum(1)
    columns = []
    for column in reversed(range(known.shape[1])):
        running = torch.where(counted[:, column], known[:, column] + discount * running, running)
        columns.append(running)
    returns = torch.stack(columns[::-1], 1) if columns else known
    return returns.masked_fill(~counted, 0)
