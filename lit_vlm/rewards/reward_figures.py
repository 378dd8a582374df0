"""Figures of rewards for the log."""

from __future__ import annotations

import torch

from lit_vlm.interfaces.rollouts import Rewards, SumOverRanks


def reward_figures(rewards: Rewards, sum_over_ranks: SumOverRanks = lambda tensor: tensor) -> dict[str, float]:
    """Summarises rewards over all ranks; every rank must call it equally often.

    Args:
        rewards: What the completions of this rank scored.
        sum_over_ranks: Adds a tensor up over all ranks.

    Returns:
        ``reward/mean``, ``reward/std`` (with Bessel's correction) and ``reward/missing`` (share of completions without
        a score), and the same for each function as ``reward/NAME/…``; where failures are allowed also
        ``reward/NAME/failed``, their share. Means without any score, and deviations of fewer than two, are left out.
    """
    columns = torch.cat([rewards.total[:, None], rewards.parts], dim=1).double()  # (B, 1 + K)
    scored = ~columns.isnan()
    failures = [name for name in sorted(rewards.details) if name.endswith("/failed")]
    failed = [rewards.details[name].double().sum() for name in failures]
    rows = torch.tensor(float(len(columns)), dtype=torch.float64, device=columns.device)
    sums = sum_over_ranks(torch.cat([scored.sum(0), columns.nansum(0), torch.stack([rows, *failed])]))
    counts, totals = sums[: columns.shape[1]], sums[columns.shape[1] : 2 * columns.shape[1]]
    rows = sums[2 * columns.shape[1]]
    means = totals / counts.clamp(min=1)
    squares = sum_over_ranks((columns - means).square().nansum(0))
    figures = {}
    for place, name in enumerate(["reward", *(f"reward/{name}" for name in rewards.names)]):
        count = float(counts[place])
        if count > 0:
            figures[f"{name}/mean"] = float(means[place])
        if count > 1:
            figures[f"{name}/std"] = float((squares[place] / (count - 1)).sqrt())
        if rows > 0:
            figures[f"{name}/missing"] = 1 - count / float(rows)
    if rows > 0:
        for name, number in zip(failures, sums[2 * columns.shape[1] + 1 :], strict=True):
            figures[f"reward/{name}"] = float(number / rows)
    return figures
