"""The policy loss of GRPO and its kin: ratio x clip x KL x aggregation. Legend: ``B`` completions, ``T`` tokens."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from lit_vlm.functional.kl_estimators import KLEstimator, check_kl_estimator, kl_estimate
from lit_vlm.functional.loss_aggregation import Aggregation, EmptySequences, token_weights
from lit_vlm.interfaces.coefficients import Coefficient
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.policy_roles import PolicyObjective
from lit_vlm.interfaces.rollouts import Loss, PolicyBatch, PolicyTotals

LARGEST_CLAMP = 40.0  # the square of its exponential still fits fp32
HIGHEST_COEFFICIENT = 1.0


@dataclass(frozen=True)
class ClippedPolicyLoss(PolicyObjective):
    """Weighs advantages by clipped importance ratios, and adds the divergence from a reference and an entropy bonus.

    For each token, with ``ratio = exp(log_prob - old_log_prob)``: ``loss = -min(min(ratio, dual_clip) * advantage,
    clip(ratio, 1 - clip_low, 1 + clip_high) * advantage) + kl * divergence - entropy_bonus * entropy``; see
    ``token_weights`` for what the tokens' losses are multiplied with. Where each rollout serves one update only, the
    old log-probabilities are the detached new ones: the ratio is 1, and the loss is no measure of progress.

    Coefficients: ``clip_low`` and ``clip_high``; ``kl`` and ``entropy_bonus`` where they can be above 0.

    Source:
        Shao et al., DeepSeekMath (2024), equation 3; Yu et al., DAPO (2025), equation 8 (clip-higher, token mean);
        Ye et al., Mastering Complex Control in MOBA Games (2020) (dual clip); Zheng et al., GSPO (2025),
        equations 5 to 7; Liu et al., Understanding R1-Zero-Like Training (2025), section 3.2 (Dr. GRPO). TRL 1.16
        ``trl/trainer/grpo_trainer.py`` ``_compute_loss`` and verl ``verl/trainer/ppo/core_algos.py`` ``agg_loss``,
        ``compute_policy_loss_vanilla``, ``compute_policy_loss_gspo`` (confirmed-in-code). We differ: denominators
        always count the whole optimizer step; the entropy bonus is aggregated as the loss is, as in verl, where TRL
        takes the mean over tokens.
    """

    ratio: Literal["token", "sequence"] = "token"
    """``token``: a ratio for each token; ``sequence``: the geometric mean over a completion's tokens (GSPO), meant for
    the aggregation ``grpo`` and clips of about 3e-4."""
    clip_low: float = 0.2
    """How far below 1 a ratio counts where the advantage is negative, in [0, 1)."""
    clip_high: float | None = None
    """How far above 1 a ratio counts where the advantage is positive, at least 0; None: as ``clip_low``. DAPO: 0.28."""
    dual_clip: float | None = None
    """Ratio beyond which a negative advantage pulls no further, above 1 + ``clip_high``; None: no bound. verl: 3."""
    aggregation: Aggregation = "dapo"
    """``grpo``: mean over a completion's tokens, then over completions; ``dapo`` or ``bnpo``: mean over all tokens;
    ``dr_grpo``: sum over tokens, divided by completions times the length limit."""
    empty_sequences: EmptySequences = "count"
    """Whether completions without a token that counts, such as masked truncated ones, are counted in means over
    completions (TRL) or left out (verl)."""
    kl: float = 0.0
    """Weight of the divergence from the reference. Above 0 the module needs a reference."""
    highest_kl: float | None = None
    """Highest weight that callbacks may set; None: 1 where ``kl`` is above 0, else there is no divergence at all."""
    kl_estimator: KLEstimator = "k3"
    """Estimate of the divergence; ``k1+`` and ``k3+`` have the gradient of ``k2``."""
    kl_bias_correction: bool = False
    """Multiplies the divergence by the ratio, which unbiases it where a rollout serves several updates."""
    entropy_bonus: float = 0.0
    """Weight of the policy's entropy, which is subtracted from the loss."""
    highest_entropy_bonus: float | None = None
    """Highest weight that callbacks may set; None: 1 where ``entropy_bonus`` is above 0, else there is no bonus."""
    log_ratio_clamp: float = 20.0
    """Bound of the logarithm of a ratio on either side, in nats, so that none overflows; at most 40."""

    def __post_init__(self) -> None:
        for name, choices in (
            ("ratio", ("token", "sequence")),
            ("aggregation", get_args(Aggregation)),
            ("empty_sequences", get_args(EmptySequences)),
        ):
            if getattr(self, name) not in choices:
                raise UserError(f"{name} is {getattr(self, name)!r}; it must be one of {', '.join(choices)}")
        check_kl_estimator(self.kl_estimator, "kl_estimator")
        self._check_clips()
        for name in ("kl", "entropy_bonus"):
            value, highest = getattr(self, name), self._highest(name)
            if not 0 <= value <= highest < math.inf:
                raise UserError(
                    f"{name} is {value} and highest_{name} {highest}; they must be finite, 0 <= the first <= the second"
                )
        if not 0 < self.log_ratio_clamp <= LARGEST_CLAMP:
            raise UserError(f"log_ratio_clamp is {self.log_ratio_clamp}; it must lie in (0, {LARGEST_CLAMP:g}]")
        if self.ratio == "sequence" and self.aggregation != "grpo":
            warnings.warn(
                f"ratio sequence with aggregation {self.aggregation} weighs completions by their length, so it is not "
                "GSPO's objective; choose aggregation grpo",
                stacklevel=3,
            )

    def _check_clips(self) -> None:
        if not 0 <= self.clip_low < 1:
            raise UserError(f"clip_low is {self.clip_low}; it must lie in [0, 1)")
        if not 0 <= self._clip_high < math.inf:
            raise UserError(f"clip_high is {self.clip_high}; it must be finite and at least 0")
        if self.dual_clip is not None and not 1 + self._clip_high < self.dual_clip < math.inf:
            raise UserError(
                f"dual_clip is {self.dual_clip}; it must be finite and above 1 + clip_high, {1 + self._clip_high:g}"
            )

    @property
    def _clip_high(self) -> float:
        return self.clip_low if self.clip_high is None else self.clip_high

    def _highest(self, name: str) -> float:
        value: float = getattr(self, name)
        highest: float | None = getattr(self, f"highest_{name}")
        if highest is not None:
            return highest
        return max(value, HIGHEST_COEFFICIENT) if value > 0 else 0.0

    @property
    def needs_reference(self) -> bool:
        """Whether ``kl`` can be above 0."""
        return self._highest("kl") > 0

    @property
    def needs_entropies(self) -> bool:
        """Whether ``entropy_bonus`` can be above 0."""
        return self._highest("entropy_bonus") > 0

    @property
    def needs_all_tokens(self) -> bool:
        """Whether there is a divergence or a bonus, which counts whatever the advantage is."""
        return self.needs_reference or self.needs_entropies

    def coefficients(self) -> dict[str, Coefficient]:
        """Declares the clips, and the weights that can be above 0."""
        highest_clip = math.inf if self.dual_clip is None else self.dual_clip - 1
        return {
            "clip_low": Coefficient(self.clip_low, 0.0, math.nextafter(1.0, 0.0)),
            "clip_high": Coefficient(self._clip_high, 0.0, highest_clip),
            **{
                name: Coefficient(getattr(self, name), 0.0, self._highest(name))
                for name in ("kl", "entropy_bonus")
                if self._highest(name) > 0
            },
        }

    def __call__(self, batch: PolicyBatch, totals: PolicyTotals, coefficients: Mapping[str, float]) -> Loss:
        """Computes this micro-batch's share of the loss over ``totals``.

        Args:
            batch: Log-probabilities and advantages of some completions.
            totals: Counts over the whole optimizer step.
            coefficients: Present values of what ``coefficients`` declares.

        Returns:
            The share, 0 with a graph where no token counts; sums ``ratio``, ``old_kl`` (``k3`` from the old policy),
            ``clipped_low``, ``clipped_high`` and ``clipped_dual`` of the tokens whose advantage is cut off, and, where
            known, ``kl`` and ``entropy``; the maximum ``ratio``.

        Raises:
            UserError: A divergence is wanted without a reference, or ``dr_grpo`` without a length limit.
            ValueError: Shapes differ, or a bonus is wanted without entropies.
        """
        _check(batch, self)
        counted = batch.mask.bool()
        weights = token_weights(counted.to(batch.log_probs.dtype), totals, self.aggregation, self.empty_sequences)
        # Masked tokens may hold anything; zeros here keep it out of the gradients too.
        log_probs = batch.log_probs.masked_fill(~counted, 0)
        old_log_probs = batch.old_log_probs.detach().masked_fill(~counted, 0)
        advantages = batch.advantages.detach().masked_fill(~counted, 0)
        ratios = self._ratios(log_probs - old_log_probs, counted)
        low, high = 1 - coefficients["clip_low"], 1 + coefficients["clip_high"]
        bounded = ratios if self.dual_clip is None else ratios.clamp(max=self.dual_clip)
        losses = -torch.minimum(bounded * advantages, ratios.clamp(low, high) * advantages)
        share = (losses * weights).sum()
        sums = self._sums(log_probs.detach(), old_log_probs, advantages, ratios.detach(), low, high)
        if batch.reference_log_probs is not None:
            divergences = self._divergences(log_probs, batch.reference_log_probs, ratios, counted)
            if self.needs_reference:
                share = share + coefficients["kl"] * (divergences * weights).sum()
            sums["kl"] = divergences.detach()
        if batch.entropies is not None:
            entropies = batch.entropies.masked_fill(~counted, 0)
            if self.needs_entropies:
                share = share - coefficients["entropy_bonus"] * (entropies * weights).sum()
            sums["entropy"] = entropies.detach()
        known = ratios.detach().where(counted, 0)
        return Loss(
            share,
            {name: torch.where(counted, value, 0).sum() for name, value in sums.items()},
            {"ratio": known.amax() if known.numel() else known.sum()},
        )

    def _ratios(self, log_ratios: Tensor, counted: Tensor) -> Tensor:
        if self.ratio == "sequence":
            means = log_ratios.sum(1, keepdim=True) / counted.sum(1, keepdim=True).clamp(min=1)
            log_ratios = means.expand_as(log_ratios)
        return log_ratios.clamp(-self.log_ratio_clamp, self.log_ratio_clamp).exp()

    def _divergences(self, log_probs: Tensor, reference_log_probs: Tensor, ratios: Tensor, counted: Tensor) -> Tensor:
        reference_log_probs = reference_log_probs.detach().masked_fill(~counted, 0)
        divergences = kl_estimate(log_probs, reference_log_probs, self.kl_estimator, self.log_ratio_clamp)
        return divergences * ratios if self.kl_bias_correction else divergences

    def _sums(
        self, log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, ratios: Tensor, low: float, high: float
    ) -> dict[str, Tensor]:
        sums = {
            "ratio": ratios,
            # Of the old policy, which sampled, from the new one.
            "old_kl": kl_estimate(old_log_probs, log_probs, "k3", self.log_ratio_clamp),
            "clipped_low": ((ratios < low) & (advantages < 0)).float(),
            "clipped_high": ((ratios > high) & (advantages > 0)).float(),
        }
        if self.dual_clip is not None:
            sums["clipped_dual"] = ((ratios > self.dual_clip) & (advantages < 0)).float()
        return sums


def _check(batch: PolicyBatch, objective: ClippedPolicyLoss) -> None:
    if objective.needs_reference and batch.reference_log_probs is None:
        raise UserError("kl is above 0, or may be, but there is no reference; give the module one, or set kl to 0")
    if objective.needs_entropies and batch.entropies is None:
        raise ValueError("entropy_bonus wants the policy's entropies, which the batch lacks")
    shape = batch.mask.shape
    for name in ("log_probs", "old_log_probs", "advantages", "reference_log_probs", "entropies"):
        tensor: Tensor | None = getattr(batch, name)
        if tensor is not None and tensor.shape != shape:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}, the mask {tuple(shape)}")
