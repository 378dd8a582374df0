"""What the estimators share: checks of the rewards, and figures of the groups for the log."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from lit_vlm.functional.groups import GroupStatistics, group_statistics
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.rollouts import Rewards, Rollouts, SumOverRanks


def on_device_of(rewards: Rewards, rollouts: Rollouts) -> Rewards:
    """Checks that rewards belong to the rollouts and are finite where they apply, and moves them there.

    Raises:
        UserError: There are more or fewer rewards than completions, or one is infinite; the message names the function.
    """
    rows, columns = len(rollouts), len(rewards.names)
    for name, tensor, shape in (
        ("total", rewards.total, (rows,)),
        ("parts", rewards.parts, (rows, columns)),
        ("weights", rewards.weights, (columns,)),
        ("per_token", rewards.per_token, tuple(rollouts.mask.shape)),
    ):
        if tensor is not None and tuple(tensor.shape) != shape:
            raise UserError(
                f"the rewards' {name} has shape {tuple(tensor.shape)}; {rows} completions and {columns} functions "
                f"want {shape}"
            )
    for name, column in zip(rewards.names, rewards.parts.unbind(1), strict=True):
        if column.isinf().any():
            row = int(column.isinf().nonzero()[0])
            raise UserError(
                f"the reward {name!r} gave {column[row].item()} to completion {row}; rewards must be finite, or None "
                "where they don't apply"
            )
    if rewards.total.isinf().any():
        raise UserError(f"the weighted sum of the rewards {', '.join(rewards.names)} is infinite")
    device = rollouts.mask.device
    per_token = None if rewards.per_token is None else rewards.per_token.to(device)
    if per_token is not None and not per_token.where(rollouts.mask.bool(), 0).isfinite().all():
        raise UserError(f"one of the rewards {', '.join(rewards.names)} gave a token a reward that is not finite")
    return replace(
        rewards,
        total=rewards.total.to(device),
        parts=rewards.parts.to(device),
        weights=rewards.weights.to(device),
        per_token=per_token,
    )


def completion_scores(rewards: Rewards, mask: Tensor) -> Tensor:
    """Adds the rewards of its tokens to that of each completion; NaN where unscorable, shape ``(B,)``."""
    if rewards.per_token is None:
        return rewards.total
    return rewards.total + rewards.per_token.to(rewards.total.dtype).where(mask.bool(), 0).sum(1)


def scored_groups(rewards: Rewards, rollouts: Rollouts) -> tuple[Rewards, Tensor, GroupStatistics]:
    """Prepares what every estimator over groups begins with.

    Returns:
        The rewards on the rollouts' device, the score of each completion (NaN where unscorable, shape ``(B,)``), and
        the statistics of the scores by prompt.

    Raises:
        UserError: Rewards are infinite or don't fit the rollouts.
    """
    rewards = on_device_of(rewards, rollouts)
    scores = completion_scores(rewards, rollouts.mask)
    return rewards, scores, group_statistics(scores, rollouts.prompt_of)


def check_groups(groups: GroupStatistics, estimator: str, instead: str) -> None:
    """Checks that there is a group of two or more.

    Args:
        groups: Of completions, each with a value, NaN or not.
        estimator: Who asks, for the message.
        instead: What else may be done, for the message.

    Raises:
        UserError: Each prompt has one completion.
    """
    if len(groups.leads) and bool(groups.leads.all()):
        raise UserError(
            f"{estimator} compares completions of the same prompt, but each prompt has one; sample two or more of "
            f"each prompt, or {instead}"
        )


def group_figures(groups: GroupStatistics, scores: Tensor, sum_over_ranks: SumOverRanks) -> dict[str, float]:
    """Counts what teaches nothing, as shares over all ranks.

    Args:
        groups: Statistics of ``scores``.
        scores: Rewards, NaN where unscorable, shape ``(B,)``.
        sum_over_ranks: Adds a tensor up over all ranks; called once.

    Returns:
        ``equal_groups``: share of groups of two or more scorable completions whose rewards are all equal;
        ``lone_groups``: share of groups with fewer than two scorable ones; ``unscorable``: share of completions;
        ``group_deviation``: mean over groups of the rewards' deviation.
    """
    lone = groups.counts < 2
    sums = [
        (groups.leads & ~groups.differ & ~lone).sum(),
        (groups.leads & lone).sum(),
        (groups.leads * groups.deviations).sum(),
        groups.leads.sum(),
        scores.isnan().sum(),
        torch.tensor(len(scores), device=scores.device),
    ]
    counts = sum_over_ranks(torch.stack([value.to(groups.deviations.dtype) for value in sums]))
    equal, alone, deviation, total, unscorable, completions = counts.tolist()
    return {
        "equal_groups": equal / max(total, 1),
        "lone_groups": alone / max(total, 1),
        "unscorable": unscorable / max(completions, 1),
        "group_deviation": deviation / max(total, 1),
    }


def over_tokens(values: Tensor, mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Gives each token that counts its completion's value, others 0; shape ``(B, T)``."""
    return torch.where(mask.bool(), values[:, None].to(dtype), 0)
