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

from lit_vlm.functional.memory_errors import free_memory, is_out_of_memory
from lit_vlm.functional.random_streams import random_stream
from lit_vlm.functional.token_micro_batches import token_micro_batches
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.rollouts import Loss, PolicyBatch, PolicyTotals, Rollouts, SumOverRanks
from lit_vlm.models.completion_scoring import CompletionScores, PrefixPass
from lit_vlm.paradigms.mismatch_correction import MeasuredMismatch, MismatchCorrection, measure_mismatch


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
    mismatch: MismatchCorrection = MismatchCorrection()
    """What is done about an engine whose log-probabilities differ from the policy's, as vLLM's do."""

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
    mismatch: MismatchCorrection | None = None
    """What is done about an engine with weights of its own; None where the policy sampled itself."""


class PolicyUpdate:
    """One optimizer step: iterate for its micro-batches, give back the loss of each to ``backward``.

    Args:
        material: The rollouts with their advantages.
        passes: Completions of each micro-batch, by index.
        totals: What the loss is a mean of.
        score: Scores completions, by index, with a graph.
        manual_backward: Runs the backward pass of a scalar.
        strategy: The Trainer's.
        smaller: Told which completions were too much for the memory, and by what error, it drops all gradients and
            returns smaller micro-batches, or raises.
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
        smaller: Callable[[Tensor, BaseException], list[Tensor]],
    ) -> None:
        self.totals = totals
        self._material = material
        self._passes = passes
        self._score = score
        self._manual_backward = manual_backward
        self._strategy = strategy
        self._ranks = strategy.world_size if isinstance(strategy, ParallelStrategy) else 1
        self._smaller = smaller
        self._is_last = False
        self._begins_anew = False
        self._given: PolicyBatch | None = None
        self._rows = passes[0]
        self._names: tuple[str, ...] = ()
        self._maxima: tuple[str, ...] = ()
        self._tokens = 0
        self._sums: Tensor | None = None
        self._peaks: Tensor | None = None
        self._measured: MeasuredMismatch | None = None

    def __iter__(self) -> Iterator[PolicyBatch]:
        """Yields micro-batches, each with a graph of its own: the pass runs when it is asked for.

        Where memory runs out in one, here or in ``backward``, all are yielded again, smaller.
        """
        place = 0
        while place < len(self._passes):
            self._rows = self._passes[place]
            self._is_last = place + 1 == len(self._passes)
            try:
                self._given = self._micro_batch(self._rows)
            except (RuntimeError, MemoryError) as error:
                self._begin_anew(error)
            else:
                yield self._given
            place += 1
            if self._begins_anew:
                free_memory()
                self._begins_anew = False
                self._tokens, self._sums, self._peaks = 0, None, None
                place = 0
        self._given = None

    def _micro_batch(self, rows: Tensor) -> PolicyBatch:
        given = self._material
        scores = self._score(rows)
        length = scores.log_probs.shape[1]
        known = scores.log_probs.detach()
        given.log_probs[rows, :length] = known
        self._tokens += int(given.mask[rows].sum())
        reference = given.rollouts.reference_log_probs
        old = known if given.old_log_probs is None else given.old_log_probs[rows, :length]
        mask, advantages = given.mask[rows, :length], given.advantages[rows, :length].to(known.dtype)
        if given.mismatch is not None:
            sampled = given.rollouts.log_probs[rows, :length]
            self._measured = measure_mismatch(given.mismatch, old, sampled, mask)
            advantages = advantages * self._measured.weights
        return PolicyBatch(
            log_probs=scores.log_probs,
            old_log_probs=old,
            advantages=advantages,
            mask=mask,
            reference_log_probs=None if reference is None else reference[rows, :length],
            entropies=scores.entropies,
        )

    def _begin_anew(self, error: BaseException) -> None:
        if not is_out_of_memory(error):
            raise error
        self._passes = self._smaller(self._rows, error)
        self._begins_anew = True
        if self._given is not None:
            # Whoever iterates still holds it, and its graph with it.
            self._given.log_probs, self._given.entropies = self._given.log_probs.detach(), None

    def backward(self, loss: Loss) -> None:
        """Adds a micro-batch's gradients to those that have gathered; ranks add theirs up at the last one."""
        alone = self._is_last or not isinstance(self._strategy, ParallelStrategy)
        with nullcontext() if alone else self._strategy.block_backward_sync():  # type: ignore[attr-defined]
            # Strategies average over ranks, while shares add up.
            if not self._run_backward(loss.share * self._ranks, is_alone=self._ranks == 1 or not alone):
                loss.share.detach_()
                return
        own_sums, own_maxima = ({}, {}) if self._measured is None else (self._measured.sums, self._measured.maxima)
        told, maxima = loss.sums | own_sums, loss.maxima | own_maxima
        self._names = ("loss", *told)
        self._maxima = tuple(f"{name}_max" for name in maxima)
        sums = torch.stack([loss.share.detach(), *told.values()])
        self._sums = sums if self._sums is None else self._sums + sums
        if maxima:
            peaks = torch.stack(list(maxima.values()))
            self._peaks = peaks if self._peaks is None else torch.maximum(self._peaks, peaks)

    def _run_backward(self, share: Tensor, *, is_alone: bool) -> bool:
        """Runs a backward pass; False where memory ran out, and the step begins anew."""
        try:
            self._manual_backward(share)
        except (RuntimeError, MemoryError) as error:
            if is_out_of_memory(error) and not is_alone:
                raise UserError(
                    "memory ran out in the backward pass in which ranks add their gradients up, so that it cannot be "
                    "tried again; lower model.update.micro_batch_tokens"
                ) from error
            self._begin_anew(error)
        return not self._begins_anew

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
