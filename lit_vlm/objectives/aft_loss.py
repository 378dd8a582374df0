"""The constraint alignment loss of AFT, over groups of graded completions. Legend: ``C`` completions, ``G`` groups."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from lit_vlm.interfaces.batches import StepTotals
from lit_vlm.interfaces.coefficients import Coefficient
from lit_vlm.interfaces.comparisons import GroupScores
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.roles import GroupObjective
from lit_vlm.interfaces.rollouts import Loss

Constraint = Literal["detached", "boundary"]

LOWEST_POSITIVE = 0.5


def compared_pairs(group_of: Tensor, scores: Tensor, *, ranked: bool = False) -> tuple[Tensor, Tensor]:
    """Lists the completions that are better than another one of their group.

    Args:
        group_of: Group of each completion, shape ``(C,)``.
        scores: How good each is, NaN for one that is no member of its group, shape ``(C,)``.
        ranked: Whether every difference in score counts, or only that between 0.5 or more and less.

    Returns:
        Indices of the better and of the worse completions, shape ``(pairs,)`` each.

    Example:
        >>> compared_pairs(torch.tensor([0, 0, 1]), torch.tensor([1.0, 0.0, 0.0]))
        (tensor([0]), tensor([1]))
    """
    grades = scores if ranked else (scores >= LOWEST_POSITIVE).to(scores.dtype).where(~scores.isnan(), scores)
    # A comparison with NaN is false.
    better = (group_of[:, None] == group_of) & (grades[:, None] > grades)
    first, second = better.nonzero(as_tuple=True)
    return first, second


def alignment_losses(
    means: Tensor,
    group_of: Tensor,
    groups: int,
    better: Tensor,
    worse: Tensor,
    *,
    constraint: Constraint = "detached",
    beta: float = 0.15,
) -> Tensor:
    """Computes how far worse completions come up to better ones of their group, in likelihood per token.

    Args:
        means: Log-probability per token of each completion, in nats, shape ``(C,)``.
        group_of: Group of each completion, from 0 to ``groups - 1``, shape ``(C,)``.
        groups: How many groups there are, ``G``.
        better: Better completion of each pair that is compared, shape ``(pairs,)``.
        worse: Worse one.
        constraint: What keeps worse completions from falling without limit; see ``AFTLoss``.
        beta: How far below the worst better completion the push on a worse one turns round, in nats per token.

    Returns:
        Shape ``(G,)``; 0 of a group in which nothing is compared.
    """
    if constraint == "detached":
        exponents, pair_groups = means.detach()[worse] - means[better], group_of[worse]
    else:
        lowest = torch.full_like(means, torch.inf).scatter_reduce(0, worse, means.detach()[better], "amin")
        boundaries = lowest[worse] - 2 * beta
        exponents = torch.cat([means[worse] - means[better], boundaries - means[worse]])
        pair_groups = group_of[worse].repeat(2)
    # log(1 + sum exp(x)) of each group: the 1 is an exponent of 0.
    peaks = means.new_zeros(groups).scatter_reduce(0, pair_groups, exponents.detach(), "amax")
    totals = (-peaks).exp().index_add(0, pair_groups, (exponents - peaks[pair_groups]).exp())
    return totals.log() + peaks


@dataclass(frozen=True)
class AFTLoss(GroupObjective):
    """Imitates a reference completion, and scores right completions of a question above wrong ones, within limits.

    With ``s`` the log-probability per token of a completion, over all pairs of a better (``p``) and a worse (``n``)
    completion of a question, the question's alignment loss is

    - ``detached``: ``log(1 + sum exp(sg(s_n) - s_p))``: wrong completions are not pushed down at all;
    - ``boundary``: ``log(1 + sum exp(s_n - s_p) + exp(T_n - s_n))`` with ``T_n = min_p sg(s_p) - 2 beta``: they are
      pushed down to ``beta`` below the worst better completion, and up again from below that.

    The loss is the mean of it over questions, those without such a pair included as 0, and ``sft_weight`` times the
    mean negative log-likelihood over the reference completions' tokens.

    Coefficients: ``sft_weight``; ``beta`` of ``boundary``.

    Source:
        Wang et al., Making Large Language Models Better Reasoners with Alignment, arXiv 2309.02144 (reconstructed: the
        abstract and a quoted fragment; the boundary form, its detached ``T`` and the default of ``beta`` are ours).
    """

    constraint: Constraint = "boundary"
    """What keeps wrong completions from being pushed down without limit."""
    ranked: bool = False
    """Whether completions are compared by their order of scores, equal ones not at all; where not, those with a score
    of 0.5 or more are compared with the others."""
    beta: float = 0.15
    """How far below the worst better completion ``boundary`` wants a worse one, in nats per token, above 0."""
    sft_weight: float = 1.0
    """Weight of the reference completions' negative log-likelihood."""

    def __post_init__(self) -> None:
        if self.constraint not in get_args(Constraint):
            raise UserError(f"constraint is {self.constraint!r}; it must be one of {', '.join(get_args(Constraint))}")
        if not 0 < self.beta < math.inf:
            raise UserError(f"beta is {self.beta}; it must be finite and above 0")
        if not 0 <= self.sft_weight < math.inf:
            raise UserError(f"sft_weight is {self.sft_weight}; it must be finite and at least 0")

    def coefficients(self) -> dict[str, Coefficient]:
        """Declares ``sft_weight``, and ``beta`` of ``boundary``."""
        found = {"sft_weight": Coefficient(self.sft_weight)}
        return found | {"beta": Coefficient(self.beta)} if self.constraint == "boundary" else found

    def __call__(self, scores: GroupScores, totals: StepTotals, coefficients: Mapping[str, float]) -> Loss:
        """Computes this micro-batch's share of the loss over ``totals``.

        Args:
            scores: The groups of one micro-batch on one rank.
            totals: Tokens that are imitated, and groups, of the whole optimizer step.
            coefficients: Present values of what ``coefficients`` declares.

        Returns:
            The share, 0 with a graph where there is nothing to compare or to imitate. Sums that ``totals.sequences``
            turns into means: ``alignment_loss``, ``sft_loss`` and ``compared_groups``; and ``assessed_pairs``, the
            pairs compared, with ``assessment_accuracy``, those of them in which the better completion is the likelier
            one per token (a tie counts as wrong).
        """
        means = scores.log_probs / scores.tokens.clamp(min=1)
        # A completion without tokens has no likelihood per token, so it is no member.
        grades = scores.scores.masked_fill(scores.tokens == 0, torch.nan)
        better, worse = compared_pairs(scores.group_of, grades, ranked=self.ranked)
        groups = len(scores.reference)
        losses = alignment_losses(
            means, scores.group_of, groups, better, worse,
            constraint=self.constraint, beta=coefficients["beta"] if self.constraint == "boundary" else self.beta,
        )  # fmt: skip
        imitated = scores.reference[scores.reference >= 0]
        nll = -scores.log_probs[imitated].sum() / max(totals.labels, 1)
        questions = max(totals.sequences, 1)
        share = losses.sum() / questions + coefficients["sft_weight"] * nll
        right = means.detach()[better] > means.detach()[worse]
        return Loss(
            share,
            {
                "alignment_loss": losses.detach().sum(),
                "sft_loss": nll.detach() * questions,
                "compared_groups": share.new_tensor(scores.group_of[worse].unique().numel()),
                "assessed_pairs": share.new_tensor(len(worse)),
                "assessment_accuracy": right.sum().to(share.dtype),
            },
        )
