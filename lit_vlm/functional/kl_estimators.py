"""Estimates of the KL divergence between two policies from tokens that the first one sampled."""

from __future__ import annotations

from typing import Literal, get_args

from torch import Tensor

from lit_vlm.interfaces.errors import UserError

KLEstimator = Literal["k1", "k2", "k3", "abs", "k1+", "k3+"]


def check_kl_estimator(name: str, field: str) -> None:
    """Checks a setting that names an estimator.

    Raises:
        UserError: There is no such estimator; the message names the field and lists those there are.
    """
    if name not in get_args(KLEstimator):
        raise UserError(f"{field} is {name!r}; it must be one of {', '.join(get_args(KLEstimator))}")


def kl_estimate(
    log_probs: Tensor, reference_log_probs: Tensor, estimator: KLEstimator, largest_log_ratio: float | None = None
) -> Tensor:
    """Estimates KL(policy || reference) for each token; the gradient runs through ``log_probs``.

    With ``d = reference_log_probs - log_probs``:

    - ``k1``: ``-d``, unbiased, of either sign. Its gradient is 0 in expectation, so it belongs in a reward.
    - ``k2``: ``d**2 / 2``, biased in value, but with the unbiased gradient of the divergence while on-policy.
    - ``k3``: ``exp(d) - d - 1``, unbiased and never negative.
    - ``abs``: ``|d|``.
    - ``k1+``, ``k3+``: the value of ``k1`` or ``k3`` with the gradient of ``k2`` (straight-through).

    Args:
        log_probs: Under the policy, in nats, any shape.
        reference_log_probs: Under the reference, same shape.
        estimator: One of the six.
        largest_log_ratio: Where ``d`` is cut off above in ``k3``, so that it stays finite; the gradient is 0 from
            there on. None cuts nothing off.

    Returns:
        One estimate for each token, in nats.

    Raises:
        UserError: There is no such estimator.

    Example:
        >>> import torch
        >>> kl_estimate(torch.tensor([-1.0, -2.0]), torch.tensor([-1.5, -2.0]), "k1")
        tensor([0.5000, 0.0000])

    Source:
        Schulman, Approximating KL divergence (2020). verl ``verl/trainer/ppo/core_algos.py`` ``kl_penalty``
        (confirmed-in-code). We differ: verl cuts ``d`` off at 20 on both sides and the value of ``k3`` at 10; here
        neither the lower side, which cannot overflow, nor the value is cut.
    """
    check_kl_estimator(estimator, "estimator")
    difference = reference_log_probs - log_probs
    if estimator == "k1":
        return log_probs - reference_log_probs
    if estimator == "abs":
        return difference.abs()
    if estimator == "k3":
        bounded = difference if largest_log_ratio is None else difference.clamp(max=largest_log_ratio)
        return bounded.expm1() - bounded
    squared = difference.square() / 2
    if estimator == "k2":
        return squared
    value = kl_estimate(log_probs, reference_log_probs, "k1" if estimator == "k1+" else "k3", largest_log_ratio)
    return value.detach() + (squared - squared.detach())
