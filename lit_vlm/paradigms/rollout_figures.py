"""Figures of a batch of rollouts for the log."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lit_vlm.interfaces.rollouts import Rewards, Rollouts, SumOverRanks
from lit_vlm.rewards.reward_figures import reward_figures


def rollout_figures(rollouts: Rollouts, rewards: Rewards, sum_over_ranks: SumOverRanks) -> dict[str, float]:
    """Summarises completions and their rewards over all ranks; every rank must call it equally often.

    Args:
        rollouts: This rank's completions, none or more.
        rewards: What they scored, on the CPU.
        sum_over_ranks: Adds a tensor up over all ranks.

    Returns:
        ``completion_length`` (mean, in tokens), ``truncated``, ``correct`` and ``well_formed`` (shares, of completions
        with a verdict), ``entropy`` (mean over tokens, in nats), the figures of ``reward_figures``, and
        ``seconds/STAGE`` (mean over ranks). What nothing is known of is left out.
    """
    verdicts = [completion.verdict for completion in rollouts.completions if completion.verdict is not None]
    tokens = rollouts.mask.sum()
    stages = sorted(rollouts.seconds)
    entropies = rollouts.entropies
    sums = [
        len(rollouts),
        int(tokens),
        int(rollouts.is_truncated.sum()),
        0.0 if entropies is None else float((entropies * rollouts.mask).sum()),
        len(verdicts),
        sum(verdict.correct for verdict in verdicts),
        sum(verdict.formatted for verdict in verdicts),
    ]
    device = rollouts.mask.device
    total = sum_over_ranks(torch.tensor(sums, dtype=torch.float64).to(device)).tolist()
    completions, tokens_in_all, truncated, entropy, judged, correct, formatted = total
    figures: dict[str, float] = {}
    if completions:
        figures |= {"completion_length": tokens_in_all / completions, "truncated": truncated / completions}
    if judged:
        figures |= {"correct": correct / judged, "well_formed": formatted / judged}
    if entropies is not None and tokens_in_all:
        figures["entropy"] = entropy / tokens_in_all
    figures |= reward_figures(rewards, lambda tensor: sum_over_ranks(tensor.to(device)).to(tensor.device))
    return figures | {f"seconds/{stage}": rollouts.seconds[stage] for stage in stages}


def log_distributions(trainer: Any, rewards: Rewards, rollouts: Rollouts) -> None:
    """Writes histograms of this rank's rewards and lengths where the logger takes them, as often as other figures.

    Args:
        trainer: The Trainer.
        rewards: Of the completions, on the CPU.
        rollouts: The completions.
    """
    writer = getattr(trainer.logger, "experiment", None) if trainer.is_global_zero else None
    if writer is None or not hasattr(writer, "add_histogram"):
        return
    if trainer.fit_loop.epoch_loop._batches_that_stepped % trainer.log_every_n_steps:
        return
    columns: dict[str, Tensor] = {
        "reward": rewards.total,
        **{f"reward/{name}": part for name, part in zip(rewards.names, rewards.parts.unbind(1), strict=True)},
        "completion_length": rollouts.lengths.float().cpu(),
    }
    for name, values in columns.items():
        known = values[~values.isnan()]
        if len(known):
            writer.add_histogram(f"distribution/{name}", known, trainer.global_step)
