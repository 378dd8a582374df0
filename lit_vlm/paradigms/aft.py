"""Alignment fine-tuning: right chains of thought above wrong ones, within limits."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from lit_vlm.interfaces.batches import GroupBatch, StepTotals
from lit_vlm.interfaces.capabilities import BatchForm
from lit_vlm.interfaces.comparisons import GroupScores
from lit_vlm.interfaces.roles import GroupObjective, Reward
from lit_vlm.models.backbone import Backbone
from lit_vlm.models.completion_scoring import PrefixPass
from lit_vlm.models.vision_language_model import GenerationSettings
from lit_vlm.objectives.aft_loss import LOWEST_POSITIVE, AFTLoss
from lit_vlm.paradigms.completion_learning import ComparisonModule
from lit_vlm.paradigms.optimization import OptimizerSettings
from lit_vlm.paradigms.pair_passes import completion_sums
from lit_vlm.paradigms.step_figures import StepFigures

RATIOS = {
    "assessment_accuracy": "assessed_pairs",
    "positive_score": "positives",
    "negative_score": "negatives",
}
"""Figures that are means over something else than questions, and the count of it."""


class AFTModule(ComparisonModule):
    """Imitates a question's reference chain, and brings the scores of graded chains of it into their order.

    A chain's score is its log-probability per token. Each question is read once for its reference and all its graded
    chains. Logged beside the loss and its parts are ``assessment_accuracy``, the share of pairs compared in which the
    better chain scores higher, and ``positive_score`` and ``negative_score``, the mean scores of chains with a grade of
    0.5 or more and of the others; steps without such pairs or chains leave them out.

    Args:
        backbone: The model to train.
        objective: The loss over groups of graded chains.
        optimizer: Learning rate, decay and schedule.
        generation: How completions are decoded in validation, test and predict.
        reward: Scores completions in validation and test, logged beside exact match; None scores nothing.
        max_tokens: Longest prompt with one completion.
        chunk_tokens: Completion tokens whose logits exist at one time.
        prefix: ``shared`` computes each prompt once for all its completions, where the model can; ``naive`` once for
            each.

    Source:
        Wang et al., Making Large Language Models Better Reasoners with Alignment, arXiv 2309.02144 (reconstructed).
    """

    def __init__(
        self,
        backbone: Backbone = Backbone(),
        *,
        objective: GroupObjective = AFTLoss(),
        optimizer: OptimizerSettings = OptimizerSettings(),
        generation: GenerationSettings = GenerationSettings(),
        reward: Reward | None = None,
        max_tokens: int = 4096,
        chunk_tokens: int = 1024,
        prefix: PrefixPass = "shared",
    ) -> None:
        super().__init__(
            backbone,
            objective=objective,
            optimizer=optimizer,
            generation=generation,
            reward=reward,
            max_tokens=max_tokens,
            chunk_tokens=chunk_tokens,
            prefix=prefix,
        )
        self.objective = objective

    @property
    def batch_form(self) -> BatchForm:
        """Graded completions."""
        return "groups"

    def share_of(self, prepared: GroupBatch, totals: StepTotals, parts: int) -> tuple[Tensor, StepFigures]:
        """Computes the share that groups of a micro-batch have in the loss over ``totals``, and its figures."""
        batch, figures = prepared, StepFigures()
        log_probs = completion_sums(self.policy, batch, chunk_tokens=self.chunk_tokens, prefix=self.prefix)
        scores = GroupScores(log_probs, batch.token_counts, batch.prompt_of, batch.scores, batch.reference)
        loss = self.objective(scores, totals, self.coefficients)
        share = loss.share / parts
        questions = max(totals.sequences, 1) * parts
        sums = {**loss.sums, **_mean_scores(log_probs.detach(), batch)}
        figures.add_shares({"loss": share, **{name: value / questions for name, value in sums.items()}})
        return share, figures

    def step_figures(self, figures: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Turns sums over pairs and over chains into means of them, and leaves those over nothing out."""
        found = {name: value for name, value in figures.items() if name not in RATIOS}
        for name, count in RATIOS.items():
            if name in figures and figures[count] > 0:
                found[name] = figures[name] / figures[count]
        return found


def _mean_scores(log_probs: Tensor, batch: GroupBatch) -> dict[str, Tensor]:
    """Adds up the scores of good and of bad chains, and counts both."""
    counts = batch.token_counts
    averages = log_probs / counts.clamp(min=1)  # (C,)
    graded = ~batch.scores.isnan() & (counts > 0)
    is_good = batch.scores >= LOWEST_POSITIVE
    sums = {}
    for name, members in (("positive", graded & is_good), ("negative", graded & ~is_good)):
        sums[f"{name}_score"] = (averages * members).sum()
        sums[f"{name}s"] = members.sum().float()
    return sums
