"""How one batch of rollouts becomes optimizer steps: inner epochs, mini-batches, micro-batches within a token budget.

Legend: ``B`` completions, ``T`` tokens of the longest completion.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch.strategies import ParallelStrategy, Strategy
from torch import Tensor

from lit_vlm.functional.random_streams import random_stream
from lit_vlm.functional.token_micro_batches import token_micro_batches
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.rollouts import Loss, PolicyBatch, PolicyTotals, Rollouts, SumOverRanks
from lit_vlm.models.completion_scoring import CompletionScores, PrefixPass


@dataclass(frozen=True)
class UpdateSettings:
    """How often rollouts are learnt from, and in what pieces."""

    epochs: int = 1
    """Passes over the rollouts, mu in the papers."""
    minibatches: int = 1
    """Optimizer steps of a pass; prompts are dealt out evenly, with all their completions."""
    micro_batch_tokens: int = 16384
    """Most tokens of a forward and backward pass, prompts, images and padding included; a single longer completion is
    a pass of its own. The gradient does not depend on it."""
    max_gradient_norm: float | None = 1.0
    """Norm that gradients are cut down to; null for none. It takes the place of ``trainer.gradient_clip_val``."""
    prefix: PrefixPass = "shared"
    """``shared`` computes each prompt once for all its completions, where the model can; ``naive`` once for each."""
    mask_truncated: bool = False
    """Whether completions that met the length limit are left out of the loss; their rewards count in their group."""

    def __post_init__(self) -> None:
        for name in ("epochs", "minibatches", "micro_batch_tokens"):
            if getattr(self, name) < 1:
                raise UserError(f"model.update.{name} is {getattr(self, name)}; give at least 1")
        if self.max_gradient_norm is not None and not self.max_gradient_norm > 0:
            raise UserError(
                f"model.update.max_gradient_norm is {self.max_gradient_norm}; give a number above 0, or null"
            )
        if self.prefix not in ("shared", "naive"):
            raise UserError(f"model.update.prefix is {self.prefix!r}; give shared or naive")

    def check(self, prompts: object) -> None:
        """Refuses more mini-batches than a batch has prompts, which would be optimizer steps of nothing.

        Args:
            prompts: Of a batch; not checked where it is no number, as where batches differ.

        Raises:
            UserError: As said.
        """
        if isinstance(prompts, int) and self.minibatches > prompts:
            raise UserError(
                f"model.update.minibatches is {self.minibatches}, but a batch has data.batch_size {prompts} prompts to "
                f"deal out; give at most {prompts}, or raise data.batch_size"
            )

    @property
    def steps(self) -> int:
        """Optimizer steps that one batch of rollouts serves."""
        return self.epochs * self.minibatches

    def minibatch_rows(self, rollouts: Rollouts, seed: int, step: int) -> Iterator[Tensor]:
        """Deals out completions to optimizer steps, those of a prompt together, in a new order in each epoch.

        Args:
            rollouts: ``B`` completions.
            seed: Of the run.
            step: Optimizer steps taken before the rollouts.

        Yields:
            Indices of completions in ascending order, ``steps`` times; of none where there are fewer prompts.
        """
        owners = rollouts.prompt_of.unique().tolist()
        for epoch in range(self.epochs):
            if self.minibatches > 1:
                random_stream(seed, "minibatches", step, epoch).shuffle(owners)
            for part in range(self.minibatches):
                chosen = rollouts.prompt_of.new_tensor(owners[part :: self.minibatches])
                yield torch.isin(rollouts.prompt_of, chosen).nonzero().squeeze(1)

    def micro_batch_rows(self, rollouts: Rollouts, mask: Tensor, rows: Tensor, *, shares_prompts: bool) -> list[Tensor]:
        """Cuts completions into passes; there is one pass at least, be it of nothing, so that ranks go together.

        Args:
            rollouts: ``B`` completions.
            mask: 1 on tokens that count, shape ``(B, T)``; completions without any need no pass.
            rows: Completions to choose from.
            shares_prompts: Whether a pass computes a prompt once for all its completions.
        """
        counted = rows[mask[rows].any(1)]
        batches = token_micro_batches(
            rollouts.prompts.attention_mask.sum(1).tolist(),
            mask[counted].sum(1).tolist(),
            rollouts.prompt_of[counted].tolist(),
            self.micro_batch_tokens,
            shares_prompts=shares_prompts and self.prefix == "shared",
        )
        return [counted[batch] for batch in batches] or [counted]


@dataclass
class Material:
    """What all optimizer steps of a batch of rollouts learn from."""

    rollouts: Rollouts
    """``B`` completions."""
    advantages: Tensor
    """Shape ``(B, T)``."""
    mask: Tensor
    """1 on tokens that count, shape ``(B, T)``."""
    log_probs: Tensor
    """Under the policy in the last pass over each token, without a graph, shape ``(B, T)``; written as passes run, and
    as sampled where none is needed."""
    old_log_probs: Tensor | None = None
    """Under the policy before the first step, shape ``(B, T)``; None where there is one step, and so no difference."""


class PolicyUpdate:
    """One optimizer step: iterate for its micro-batches, give back the loss of each to ``backward``.

    Args:
        material: The rollouts with their advantages.
        passes: Completions of each micro-batch, by index.
        totals: What the loss is a mean of.
        score: Scores completions, by index, with a graph.
        manual_backward: Runs the backward pass of a scalar.
        strategy: The Trainer's.
    """

    def __init__(
        self,
        material: Material,
        passes: list[Tensor],
        totals: PolicyTotals,
        *,
        score: Callable[[Tensor], CompletionScores],
        manual_backward: Callable[[Tensor], Any],
        strategy: Strategy,
    ) -> None:
        self.totals = totals
        self._material = material
        self._passes = passes
        self._score = score
        self._manual_backward = manual_backward
        self._strategy = strategy
        self._ranks = strategy.world_size if isinstance(strategy, ParallelStrategy) else 1
        self._is_last = False
        self._names: tuple[str, ...] = ()
        self._maxima: tuple[str, ...] = ()
        self._tokens = 0
        self._sums: Tensor | None = None
        self._peaks: Tensor | None = None

    def __iter__(self) -> Iterator[PolicyBatch]:
        """Yields micro-batches, each with a graph of its own: the pass runs when it is asked for."""
        given = self._material
        for place, rows in enumerate(self._passes):
            self._is_last = place + 1 == len(self._passes)
            scores = self._score(rows)
            length = scores.log_probs.shape[1]
            known = scores.log_probs.detach()
            given.log_probs[rows, :length] = known
            self._tokens += int(given.mask[rows].sum())
            reference = given.rollouts.reference_log_probs
            yield PolicyBatch(
                log_probs=scores.log_probs,
                old_log_probs=known if given.old_log_probs is None else given.old_log_probs[rows, :length],
                advantages=given.advantages[rows, :length].to(known.dtype),
                mask=given.mask[rows, :length],
                reference_log_probs=None if reference is None else reference[rows, :length],
                entropies=scores.entropies,
            )

    def backward(self, loss: Loss) -> None:
        """Adds a micro-batch's gradients to those that have gathered; ranks add theirs up at the last one."""
        alone = self._is_last or not isinstance(self._strategy, ParallelStrategy)
        with nullcontext() if alone else self._strategy.block_backward_sync():  # type: ignore[attr-defined]
            # Strategies average over ranks, while shares add up.
            self._manual_backward(loss.share * self._ranks)
        self._names = ("loss", *loss.sums)
        self._maxima = tuple(f"{name}_max" for name in loss.maxima)
        sums = torch.stack([loss.share.detach(), *loss.sums.values()])
        self._sums = sums if self._sums is None else self._sums + sums
        if loss.maxima:
            peaks = torch.stack(list(loss.maxima.values()))
            self._peaks = peaks if self._peaks is None else torch.maximum(self._peaks, peaks)

    def figures(self) -> dict[str, float]:
        """Returns the loss, means over the tokens of all passes, and maxima, over micro-batches and ranks.

        Raises:
            RuntimeError: No micro-batch was handed to ``backward``.
        """
        if self._sums is None:
            raise RuntimeError("each micro-batch's loss must be handed to backward")
        counted = torch.cat([self._sums, self._sums.new_tensor([float(self._tokens)])])
        loss, *sums, tokens = self._strategy.reduce(counted, reduce_op="sum").tolist()
        figures = dict(zip(self._names, [loss, *(value / max(tokens, 1) for value in sums)], strict=True))
        if self._peaks is not None:
            peaks = self._strategy.reduce(self._peaks, reduce_op="max").tolist()
            figures |= dict(zip(self._maxima, peaks, strict=True))
        return figures


def policy_totals(mask: Tensor, max_tokens: int, sum_over_ranks: SumOverRanks) -> PolicyTotals:
    """Counts what an optimizer step's loss is a mean of, over all ranks.

    Args:
        mask: 1 on tokens that count, of all completions of the step on this rank, shape ``(B, T)``.
        max_tokens: The length limit of a completion.
        sum_over_ranks: Adds a tensor up over all ranks.
    """
    lengths = mask.sum(1)
    counts = torch.stack([lengths.sum(), lengths.new_tensor(len(lengths)), (lengths > 0).sum()])
    tokens, sequences, active = sum_over_ranks(counts).tolist()
    return PolicyTotals(tokens=tokens, sequences=sequences, active_sequences=active, max_tokens=max_tokens)
