"""DPO and its kin as one loss: link x scale x reference, and what is added to it. Legend: ``B`` pairs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from lit_vlm.interfaces.batches import StepTotals
from lit_vlm.interfaces.coefficients import Coefficient
from lit_vlm.interfaces.comparisons import PairLogProbs, PairScores
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.roles import PreferenceObjective
from lit_vlm.interfaces.rollouts import Loss

PreferenceKind = Literal["sigmoid", "robust", "hinge", "ipo", "ipo_sum", "sigmoid_norm", "simpo", "mdpo"]
NLLReduction = Literal["token_mean", "seq_mean"]

LOWEST_BETA = 1e-6  # 1 / (2 beta) squared still fits fp32
DEFAULT_GAMMA = 0.5
# These compare log-probabilities per token, whose beta is no measure for the sums that image and anchor terms are of.
PER_TOKEN: tuple[PreferenceKind, ...] = ("ipo", "sigmoid_norm", "simpo")
SMOOTHED: tuple[PreferenceKind, ...] = ("sigmoid", "robust", "sigmoid_norm", "simpo", "mdpo")


def preference_losses(
    chosen: Tensor,
    rejected: Tensor,
    chosen_tokens: Tensor,
    rejected_tokens: Tensor,
    *,
    kind: PreferenceKind = "sigmoid",
    beta: float = 0.1,
    label_smoothing: float = 0.0,
    gamma: float = 0.0,
) -> Tensor:
    """Computes the loss of each pair.

    Args:
        chosen: Log-ratio of the preferred completion, policy to reference, or its log-probability where there is no
            reference; a sum over tokens, in nats, shape ``(B,)``.
        rejected: Of the other completion.
        chosen_tokens: Tokens of the preferred completion, shape ``(B,)``.
        rejected_tokens: Of the other completion.
        kind: Which loss; see ``PreferenceLoss``.
        beta: Factor of the margin; of ``ipo`` and ``ipo_sum``, half the inverse of the margin that is aimed at.
        label_smoothing: Share of pairs that are taken to be the wrong way round.
        gamma: Margin that ``simpo`` asks for.

    Returns:
        Shape ``(B,)``.

    Example:
        >>> ratio = torch.tensor([2.0])
        >>> preference_losses(ratio, -ratio, torch.tensor([4]), torch.tensor([2]), kind="hinge")
        tensor([0.6000])
    """
    if kind in PER_TOKEN:
        chosen = chosen / chosen_tokens.clamp(min=1)
        rejected = rejected / rejected_tokens.clamp(min=1)
    margins = chosen - rejected
    if kind in ("ipo", "ipo_sum"):
        return (margins - 1 / (2 * beta)).square()
    logits = beta * margins
    if kind == "hinge":
        return (1 - logits).relu()
    if kind == "simpo":
        logits = logits - gamma
    right, wrong = -logsigmoid(logits), -logsigmoid(-logits)
    if kind == "robust":
        return ((1 - label_smoothing) * right - label_smoothing * wrong) / (1 - 2 * label_smoothing)
    return (1 - label_smoothing) * right + label_smoothing * wrong if label_smoothing else right


def image_losses(chosen: Tensor, corrupted: Tensor, *, beta: float) -> Tensor:
    """Computes how little a completion depends on its image (mDPO's second term).

    Args:
        chosen: Log-ratio of the completion behind the true image, shape ``(B,)``.
        corrupted: Behind the corrupted one.
        beta: Factor of the margin.
    """
    return -logsigmoid(beta * (chosen - corrupted))


def anchor_losses(chosen: Tensor, *, beta: float, margin: float = 0.0) -> Tensor:
    """Computes how far preferred completions fall behind what the reference thinks of them (mDPO's third term).

    Args:
        chosen: Log-ratio of the preferred completion, shape ``(B,)``.
        beta: Factor of the log-ratio.
        margin: Implicit reward that is asked for.
    """
    return -logsigmoid(beta * chosen - margin)


@dataclass(frozen=True)
class PreferenceLoss(PreferenceObjective):
    """Prefers chosen completions to rejected ones, and adds terms for the image, an anchor and imitation.

    With ``s`` the log-ratio of a completion, policy to reference, summed over its ``n`` tokens, of a chosen (``w``) and
    a rejected (``l``) one, a pair's loss is, by ``kind``:

    - ``sigmoid``: ``-log sigmoid(beta (s_w - s_l))``; with ``label_smoothing`` it is cDPO;
    - ``robust``: the same without the bias of labels that are wrong with probability ``label_smoothing``;
    - ``hinge``: ``max(0, 1 - beta (s_w - s_l))``;
    - ``ipo``: ``(s_w / n_w - s_l / n_l - 1 / (2 beta))^2``; ``ipo_sum``: ``(s_w - s_l - 1 / (2 beta))^2``;
    - ``sigmoid_norm``: ``-log sigmoid(beta (s_w / n_w - s_l / n_l))``;
    - ``simpo``: the same of log-probabilities, without a reference, less ``gamma``;
    - ``mdpo``: ``sigmoid`` with ``image_weight`` 1 and ``anchor_weight`` 1.

    To it are added ``image_weight`` times ``-log sigmoid(beta (s_w - s_m))``, with ``s_m`` the chosen completion's
    log-ratio behind corrupted images, ``anchor_weight`` times ``-log sigmoid(beta s_w - anchor_margin)``, and
    ``nll_weight`` times the chosen completion's negative log-likelihood. A pair without a rejected completion
    contributes to the last alone, one without corrupted images to all but the image term. The loss is the mean over
    samples of the pairs' terms times their weights.

    Coefficients: ``beta`` and ``nll_weight``; ``gamma`` of ``simpo``; ``image_weight`` and ``anchor_weight`` where they
    are above 0.

    Source:
        Rafailov et al., Direct Preference Optimization (2023), equation 7; Mitchell, A note on DPO with noisy
        preferences (2023) (cDPO); Chowdhury et al., Provably Robust DPO (2024); Zhao et al., SLiC-HF (2023) (hinge);
        Azar et al., A General Theoretical Paradigm (2023), equation 17 (IPO); Meng et al., SimPO (2024); Pang et al.,
        Iterative Reasoning Preference Optimization (2024) (NLL); Wang et al., mDPO (2024); Yang et al., Embodied
        Multi-Modal Agent (2023) (``sigmoid_norm`` with NLL). TRL 1.16 ``trl/trainer/dpo_trainer.py`` and
        ``trl/experimental/cpo/cpo_trainer.py``, mDPO ``mdpo_trainer.py``, EMMA ``blip2_emma.py`` (confirmed-in-code).
        We differ: denominators always count the whole optimizer step.
    """

    kind: PreferenceKind = "sigmoid"
    """Which loss of a pair."""
    beta: float = 0.1
    """Factor of the margin, above 0; of ``ipo`` and ``ipo_sum`` the strength that keeps the policy at the reference.
    SimPO: about 2."""
    label_smoothing: float = 0.0
    """Share of pairs that are taken to be the wrong way round: in [0, 0.5], below 0.5 for ``robust``, 0 for ``hinge``,
    ``ipo`` and ``ipo_sum``."""
    reference_free: bool = False
    """Takes log-probabilities where log-ratios stand, so that no reference is needed; ``simpo`` always does."""
    gamma: float | None = None
    """Margin that ``simpo`` asks for, at least 0; None: 0.5. Other kinds have none."""
    nll_weight: float = 0.0
    """Weight of the chosen completions' negative log-likelihood (RPO; EMMA: 0.5)."""
    nll_reduction: NLLReduction = "token_mean"
    """``token_mean``: over all chosen tokens of the step, counted without the weights of pairs (TRL); ``seq_mean``:
    mean over samples of the mean over tokens (LLaMA-Factory, EMMA)."""
    image_weight: float | None = None
    """Weight of the preference for the true image; None: 1 for ``mdpo``, else 0. Not for kinds that average over
    tokens."""
    anchor_weight: float | None = None
    """Weight of the anchor, which needs a reference; None: 1 for ``mdpo``, else 0. Not for kinds that average over
    tokens."""
    anchor_margin: float = 0.0
    """Implicit reward that the anchor asks of chosen completions."""

    def __post_init__(self) -> None:
        for name, choices in (("kind", get_args(PreferenceKind)), ("nll_reduction", get_args(NLLReduction))):
            if getattr(self, name) not in choices:
                raise UserError(f"{name} is {getattr(self, name)!r}; it must be one of {', '.join(choices)}")
        if not LOWEST_BETA <= self.beta < math.inf:
            raise UserError(f"beta is {self.beta}; it must be finite and at least {LOWEST_BETA:g}")
        for name in ("nll_weight", "gamma", "image_weight", "anchor_weight"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise UserError(f"{name} is {value}; it must be finite and at least 0")
        if not math.isfinite(self.anchor_margin):
            raise UserError(f"anchor_margin is {self.anchor_margin}; it must be finite")
        self._check_smoothing()
        self._check_terms()

    def _check_smoothing(self) -> None:
        if not 0 <= self.label_smoothing <= 0.5:
            raise UserError(f"label_smoothing is {self.label_smoothing}; it must lie in [0, 0.5]")
        if self.label_smoothing == 0.5 and self.kind == "robust":
            raise UserError("label_smoothing is 0.5; kind robust divides by 1 - 2 label_smoothing, so stay below 0.5")
        if self.label_smoothing > 0 and self.kind not in SMOOTHED:
            raise UserError(
                f"label_smoothing is {self.label_smoothing}, which kind {self.kind} has no use for; set it to 0, or "
                f"choose one of {', '.join(SMOOTHED)}"
            )

    def _check_terms(self) -> None:
        if self.gamma is not None and self.kind != "simpo":
            raise UserError(f"gamma is {self.gamma}, but only kind simpo has a margin, not {self.kind}; leave it out")
        for name, weight in (("image_weight", self._image_weight), ("anchor_weight", self._anchor_weight)):
            if weight > 0 and self.kind in PER_TOKEN:
                raise UserError(
                    f"{name} is {weight}, but kind {self.kind} averages over tokens while that term is of sums; set it "
                    "to 0, or choose a kind of sums such as sigmoid"
                )
        if self.reference_free and self._anchor_weight > 0:
            raise UserError(
                f"anchor_weight is {self._anchor_weight} and reference_free is set, but the anchor compares with the "
                "reference; set one of the two to 0"
            )
        if self.anchor_margin != 0 and self._anchor_weight == 0:
            raise UserError(
                f"anchor_margin is {self.anchor_margin}, but there is no anchor; set anchor_weight, or it to 0"
            )

    @property
    def _image_weight(self) -> float:
        return float(self.kind == "mdpo") if self.image_weight is None else self.image_weight

    @property
    def _anchor_weight(self) -> float:
        return float(self.kind == "mdpo") if self.anchor_weight is None else self.anchor_weight

    @property
    def needs_reference(self) -> bool:
        """Whether log-ratios are compared."""
        return not self.reference_free and self.kind != "simpo"

    @property
    def needs_corrupted(self) -> bool:
        """Whether ``image_weight`` is above 0."""
        return self._image_weight > 0

    def coefficients(self) -> dict[str, Coefficient]:
        """Declares ``beta``, ``nll_weight``, and the numbers of the terms that there are."""
        found = {"beta": Coefficient(self.beta, LOWEST_BETA), "nll_weight": Coefficient(self.nll_weight)}
        if self.kind == "simpo":
            found["gamma"] = Coefficient(DEFAULT_GAMMA if self.gamma is None else self.gamma)
        terms = {"image_weight": self._image_weight, "anchor_weight": self._anchor_weight}
        return found | {name: Coefficient(weight) for name, weight in terms.items() if weight > 0}

    def __call__(self, scores: PairScores, totals: StepTotals, coefficients: Mapping[str, float]) -> Loss:
        """Computes this micro-batch's share of the loss over ``totals``.

        Args:
            scores: The pairs of one micro-batch on one rank.
            totals: Tokens of chosen completions, and samples, of the whole optimizer step.
            coefficients: Present values of what ``coefficients`` declares.

        Returns:
            The share, 0 with a graph where there is no pair. Two kinds of sums: the loss's terms as they enter it,
            weights of pairs included, which ``totals.sequences`` turns into means: ``preference_loss``, ``image_loss``,
            ``anchor_loss`` and ``nll``; and sums over the ``pairs`` with a rejected completion, without weights, which
            ``pairs`` turns into means: ``chosen_reward``, ``rejected_reward`` (``beta`` times the log-ratio, or for
            ``simpo`` the log-probability per token), ``reward_margin``, ``reward_accuracy`` (a tie counts as wrong),
            ``chosen_log_prob``, ``rejected_log_prob``, and ``corrupted_pairs`` where there is an image term.

        Raises:
            UserError: Log-ratios are wanted without a reference.
            ValueError: Log-probabilities behind corrupted images are wanted and lacking.
        """
        self._check_inputs(scores)
        ratios, paired = self._ratios(scores), scores.has_rejected
        beta = coefficients["beta"]
        terms = {
            "preference_loss": preference_losses(
                ratios.chosen, ratios.rejected, scores.chosen_tokens, scores.rejected_tokens, kind=self.kind, beta=beta,
                label_smoothing=self.label_smoothing, gamma=coefficients["gamma"] if self.kind == "simpo" else 0.0,
            ).where(paired, 0)
        }  # fmt: skip
        seen = paired & scores.has_corrupted
        if ratios.corrupted is not None:
            terms["image_loss"] = image_losses(ratios.chosen, ratios.corrupted, beta=beta).where(seen, 0)
        if self._anchor_weight > 0:
            terms["anchor_loss"] = anchor_losses(ratios.chosen, beta=beta, margin=self.anchor_margin).where(paired, 0)
        sums = {name: (scores.weights * losses).sum() for name, losses in terms.items()}
        sums["nll"] = self._nll(scores, totals)
        factors = {"preference_loss": 1.0, "nll": coefficients["nll_weight"]}
        factors |= {
            f"{name}_loss": coefficients[f"{name}_weight"] for name in ("image", "anchor") if f"{name}_loss" in sums
        }
        share = torch.stack([factors[name] * value for name, value in sums.items()]).sum()
        told = {name: value.detach() for name, value in sums.items()}
        told |= self._figures(scores, ratios, beta)
        if ratios.corrupted is not None:
            told["corrupted_pairs"] = seen.sum().to(share.dtype)
        return Loss(share / max(totals.sequences, 1), told)

    def _check_inputs(self, scores: PairScores) -> None:
        if self.needs_reference and scores.reference is None:
            raise UserError(
                f"kind {self.kind} compares with a reference, but there is none; give the module one, or set "
                "reference_free"
            )
        halves = (scores.policy, scores.reference) if self.needs_reference else (scores.policy,)
        if self.needs_corrupted and any(half is None or half.corrupted is None for half in halves):
            raise ValueError("image_weight wants log-probabilities behind corrupted images, which the pairs lack")

    def _ratios(self, scores: PairScores) -> PairLogProbs:
        """Subtracts the reference, where there is one to compare with; 0 where a pair lacks a completion."""
        policy, reference = scores.policy, scores.reference if self.needs_reference else None
        chosen, rejected, corrupted = policy.chosen, policy.rejected, policy.corrupted
        if reference is not None:
            chosen, rejected = chosen - reference.chosen.detach(), rejected - reference.rejected.detach()
        if not self.needs_corrupted or corrupted is None:
            return PairLogProbs(chosen, rejected.where(scores.has_rejected, 0))
        if reference is not None and reference.corrupted is not None:
            corrupted = corrupted - reference.corrupted.detach()
        return PairLogProbs(chosen, rejected.where(scores.has_rejected, 0), corrupted.where(scores.has_corrupted, 0))

    def _nll(self, scores: PairScores, totals: StepTotals) -> Tensor:
        """Adds up the chosen completions' negative log-likelihoods, so that samples turn them into the mean wanted."""
        losses = -scores.policy.chosen * scores.weights
        if self.nll_reduction == "token_mean":
            return losses.sum() * (totals.sequences / max(totals.labels, 1))
        return (losses / scores.chosen_tokens.clamp(min=1)).sum()

    def _figures(self, scores: PairScores, ratios: PairLogProbs, beta: float) -> dict[str, Tensor]:
        chosen, rejected = ratios.chosen.detach(), ratios.rejected.detach()
        if self.kind == "simpo":
            chosen = chosen / scores.chosen_tokens.clamp(min=1)
            rejected = rejected / scores.rejected_tokens.clamp(min=1)
        figures = {
            "chosen_reward": beta * chosen,
            "rejected_reward": beta * rejected,
            "reward_margin": beta * (chosen - rejected),
            "reward_accuracy": (chosen > rejected).to(chosen.dtype),
            "chosen_log_prob": scores.policy.chosen.detach(),
            "rejected_log_prob": scores.policy.rejected.detach(),
            "pairs": torch.ones_like(chosen),
        }
        return {name: values.where(scores.has_rejected, 0).sum() for name, values in figures.items()}
