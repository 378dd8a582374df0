"""Courses of a number over steps, and the controller of a divergence's weight."""

from __future__ import annotations

import math
from typing import Literal

ScheduleKind = Literal["constant", "linear", "cosine"]

LARGEST_ERROR = 0.2
"""How far the adaptive controller takes a divergence to be off its target, as a share of the target."""


def scheduled_value(kind: ScheduleKind, start: float, end: float, step: int, steps: int) -> float:
    """Computes a schedule's value: ``start + (end - start) * course(min(1, step / steps))``.

    Args:
        kind: ``constant`` stays at ``start``; ``linear`` has ``course(x) = x``; ``cosine`` has ``course(x) =
            (1 - cos(pi x)) / 2``.
        start: Value at step 0.
        end: Value from step ``steps`` on.
        step: Steps done, at least 0.
        steps: Length of the course, at least 1.

    Returns:
        The value, never outside ``start`` and ``end``.

    Example:
        >>> [round(scheduled_value("cosine", 0.0, 0.04, step, 200), 6) for step in (0, 50, 100, 300)]
        [0.0, 0.005858, 0.02, 0.04]
    """
    share = min(1.0, step / steps)
    if kind == "constant" or share == 0:
        return start
    if share == 1:
        return end
    course = share if kind == "linear" else (1 - math.cos(math.pi * share)) / 2
    return start + (end - start) * course


def adapted_weight(weight: float, divergence: float, target: float, completions: int, horizon: float) -> float:
    """Turns the weight of a divergence so that the divergence comes nearer to its target.

    Computes ``weight * (1 + clip(divergence / target - 1, -0.2, 0.2) * completions / horizon)``.

    Args:
        weight: Present weight.
        divergence: Mean divergence of the round, in nats a token.
        target: What it should be, above 0.
        completions: Completions of the round, over all ranks.
        horizon: Completions after which a divergence far off would have changed the weight by about a fifth.

    Returns:
        The new weight; below 0 where ``completions`` exceed five horizons, so bounds belong around it.

    Example:
        >>> adapted_weight(0.1, divergence=0.3, target=0.1, completions=1000, horizon=10_000)
        0.10200000000000001

    Source:
        Ziegler et al., Fine-Tuning Language Models from Human Preferences (2019), section 2.2; verl
        ``verl/trainer/ppo/core_algos.py`` ``AdaptiveKLController`` with ``ray_trainer.py`` ``apply_kl_penalty``, where
        the number of steps is the number of sequences of the whole batch (confirmed-in-code).
    """
    error = min(max(divergence / target - 1, -LARGEST_ERROR), LARGEST_ERROR)
    return weight * (1 + error * completions / horizon)
