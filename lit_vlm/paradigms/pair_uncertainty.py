"""How far a learned reward can be trusted on a pair, and a factor of the pair's loss made of it.

Legend: ``B`` pairs, ``C`` completions, ``H`` features, which are hidden states.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from lit_vlm.functional.bradley_terry import fit_bradley_terry
from lit_vlm.functional.uncertainty_weights import design_factor, error_bounds, gram_matrix, uncertainty_weights
from lit_vlm.interfaces.batches import PreferenceBatch
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.rollouts import SumOverRanks
from lit_vlm.models.media_features import MediaFeatures
from lit_vlm.models.sharding import is_cut
from lit_vlm.models.vision_language_model import VisionLanguageModel
from lit_vlm.paradigms.halved_passes import PassSizes, moves_together
from lit_vlm.paradigms.reference_policy import ReferencePolicy, ReferenceSettings

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class UncertaintyWeights:
    """Weighs pairs by how well the training pairs determine the reward difference of their halves.

    A linear Bradley-Terry reward is fitted to the training pairs before the first step. Its features ``phi`` are the
    reference's last hidden state at a completion's last token; with ``V = sum phi phi^T + ridge I`` over both halves of
    the pairs, its error on the reward margin of a pair is at most proportional to ``|phi_chosen - phi_rejected|`` under
    ``V^-1``. The pair's loss is multiplied by ``clip(exp(-scale * bound + offset), low, high)``, without a gradient.

    Nothing of it is kept in checkpoints: a resumed run fits the same again, from the same reference and pairs. It costs
    a pass of the reference over the pairs at the start, and one over each batch.

    Source:
        Liu et al., PrefPaint: Aligning Image Inpainting Diffusion Model with Human Preference (2024); weight and its
        defaults are confirmed-in-code. The transfer is ours: features, fit, and that a pair is bounded by the
        difference of its halves, since its loss turns on the difference of their rewards. Bounds of pairs that the
        reward was fitted on are then below 1 or so, far below those of the paper, so ``scale`` wants to be larger.
    """

    scale: float = 0.05
    """Fall of the weight's logarithm with the bound, ``a``, 0 or more."""
    offset: float = 0.7
    """Logarithm of the weight at a bound of 0, ``b``."""
    low: float = 1.0
    """Least weight, 0 or more."""
    high: float = 2.21
    """Largest weight, ``low`` or more."""
    ridge: float = 1.0
    """What the diagonal of ``V`` starts at, and the penalty on the reward's coefficients; above 0."""
    samples: int = 4096
    """Most pairs that the reward is fitted on, over all ranks, the first ones of the training split."""

    def __post_init__(self) -> None:
        if not 0 <= self.scale < math.inf or not math.isfinite(self.offset):
            raise UserError(
                f"uncertainty has scale {self.scale} and offset {self.offset}; both must be finite, scale at least 0"
            )
        if not 0 <= self.low <= self.high < math.inf:
            raise UserError(f"uncertainty has low {self.low} and high {self.high}; wanted are 0 <= low <= high")
        if not 0 < self.ridge < math.inf:
            raise UserError(f"uncertainty.ridge is {self.ridge}; it must be finite and above 0")
        if self.samples < 1:
            raise UserError(f"uncertainty.samples is {self.samples}; give at least 1")

    def check(self, reference: ReferenceSettings | None) -> None:
        """Refuses a reference that cannot be run over each batch, or that does not stay as it is.

        Raises:
            UserError: There is none, it is a file, or it follows the policy.
        """
        if reference is None or reference.kind == "cached" or reference.sync_every is not None:
            raise UserError(
                "model.uncertainty reads the features of each batch off a reference that stays as it is; set "
                "model.reference.kind to frozen_copy, or to adapter_off with an adapter, and leave sync_every out"
            )


class PairUncertainty:
    """Fits the reward of ``UncertaintyWeights``, and weighs pairs.

    Args:
        settings: See there.
        policy: The model that the reference takes the place of.
        reference: What features are read off.
        sum_over_ranks: Adds a tensor up over all ranks.
        sizes: How large passes of the reference may be.
    """

    def __init__(
        self,
        settings: UncertaintyWeights,
        policy: VisionLanguageModel,
        reference: ReferencePolicy,
        sum_over_ranks: SumOverRanks,
        sizes: PassSizes,
    ) -> None:
        self.settings = settings
        self._policy = policy
        self._reference = reference
        self._sum_over_ranks = sum_over_ranks
        self._sizes = sizes
        self._factor: Tensor | None = None

    @property
    def factor(self) -> Tensor:
        """Lower Cholesky factor of ``V``, shape ``(H, H)``, the same on all ranks.

        Raises:
            RuntimeError: Nothing is fitted.
        """
        if self._factor is None:
            raise RuntimeError("pairs are weighed after the fit at the start of the run")
        return self._factor

    def fit(self, batches: Iterable[PreferenceBatch], ranks: int = 1) -> float:
        """Runs the reference over the training pairs, and fits the reward.

        Args:
            batches: This rank's pairs, on the policy's device.
            ranks: How many there are; each reads its part of ``samples``.

        Returns:
            Share of the pairs, over all ranks, whose preferred half the fitted reward puts first.

        Raises:
            UserError: No rank has a pair with two halves.
        """
        differences, design, weights = self._read(batches, math.ceil(self.settings.samples / ranks))
        design = self._sum_over_ranks(design) + self.settings.ridge * torch.eye(len(design)).to(design)
        self._factor = design_factor(design, self.settings.ridge)
        theta = fit_bradley_terry(differences, weights, self.settings.ridge, self._sum_over_ranks)
        right = (differences.to(theta) @ theta > 0).sum()
        pairs = right.new_tensor(len(differences))
        total_right, total = self._sum_over_ranks(torch.stack([right, pairs])).tolist()
        if not total:
            raise UserError("model.uncertainty has no training pair with two halves to fit its reward on")
        logger.info("the reward that weighs pairs puts %d of %d training pairs right", total_right, total)
        return float(total_right / total)

    def bounds(self, batch: PreferenceBatch, media: MediaFeatures | None = None) -> Tensor:
        """Bounds the error of the reward margin of each pair that has two halves, and gives 0 for the others."""
        features = self._features(batch, media)
        has_rejected = batch.rejected >= 0
        found = error_bounds(_differences(batch, features), self.factor).float()
        return torch.zeros(len(batch), device=found.device).masked_scatter(has_rejected, found)

    def weights(self, batch: PreferenceBatch, media: MediaFeatures | None = None) -> Tensor:
        """Weighs the pairs of a batch.

        Args:
            batch: The pairs.
            media: Features of the prompts' media under the reference; None has them made.

        Returns:
            Factors of their losses, fp32, without a graph, shape ``(B,)``; 1 where a pair has no rejected half, since
            no reward says what to imitate.
        """
        settings = self.settings
        weights = uncertainty_weights(
            self.bounds(batch, media),
            scale=settings.scale,
            offset=settings.offset,
            low=settings.low,
            high=settings.high,
        )
        return torch.where(batch.rejected >= 0, weights, torch.ones_like(weights))

    def _read(self, batches: Iterable[PreferenceBatch], most: int) -> tuple[Tensor, Tensor, Tensor]:
        """Collects differences of features, their design matrix, and the pairs' weights, of ``most`` pairs."""
        device = next(self._policy.parameters()).device
        none = torch.zeros(0, self._policy.hidden_width, device=device)
        differences, design, weights = [none], gram_matrix(none), [none[:, 0]]
        count = 0
        remaining, batch = iter(batches), None
        while True:
            following = next(remaining, None) if count < most else None
            if not self._policy.any_rank(following is not None):
                break
            batch = batch if following is None else following
            if batch is None:
                raise UserError("this rank has no training pairs, but shares its weights with others; use fewer ranks")
            features = self._features(batch)
            if following is None:
                continue
            two = (batch.rejected >= 0).nonzero().squeeze(1)[: most - count]
            design = design + gram_matrix(features[torch.cat([batch.chosen[two], batch.rejected[two]])])
            differences.append(_differences(batch, features)[: len(two)])
            weights.append(batch.weights[two])
            count += len(two)
        return torch.cat(differences), design, torch.cat(weights)

    def _features(self, batch: PreferenceBatch, media: MediaFeatures | None = None) -> Tensor:
        """Reads the features of the completions that are halves of pairs; zeros of the others, shape ``(C, H)``."""
        features = torch.zeros(len(batch.token_ids), self._policy.hidden_width, device=batch.token_ids.device)
        halves = torch.cat([batch.chosen, batch.rejected[batch.rejected >= 0]]).unique()
        if not len(halves) and not is_cut(self._policy):
            return features

        def read(rows: range) -> Tensor:
            some = halves[rows.start : rows.stop]
            return self._policy.completion_features(
                batch.prompts, batch.token_ids[some], batch.mask[some], batch.prompt_of[some], media=media
            )

        with self._reference.installed():
            found = self._sizes.in_pieces("scoring", len(halves), read, together=moves_together(self._policy))
        features[halves] = torch.cat(found)
        return features


def _differences(batch: PreferenceBatch, features: Tensor) -> Tensor:
    """Features of chosen less those of rejected halves, of the pairs that have both."""
    two = batch.rejected >= 0
    return features[batch.chosen[two]] - features[batch.rejected[two]]
