"""Batches of tensors: what a DataModule hands to a paradigm.

Legend: ``B`` rows of a batch, ``L`` padded tokens of a row, ``P`` prompts, ``C`` completions of them, ``T`` tokens
of the longest completion.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any, Self

import torch
from torch import Tensor

from lit_vlm.interfaces.records import IGNORED_LABEL, BadSample, Sample


@dataclass(frozen=True)
class StepTotals:
    """Denominators of a loss."""

    labels: int
    """Tokens that are predicted."""
    sequences: int
    """Rows with at least one such token."""


@dataclass
class TokenScores:
    """What a policy thinks of the label tokens of a batch; one entry a token, ``N`` in all, row by row."""

    log_probs: Tensor
    """Log-probability of each label token given what precedes it, fp32, in nats; shape ``(N,)``."""
    rows: Tensor
    """Row of the batch each token belongs to; shape ``(N,)``."""
    is_top: Tensor
    """Whether the label was the likeliest token, bool; shape ``(N,)``."""
    weights: Tensor | None = None
    """Factor of each row's loss, fp32, shape ``(B,)``; None where all are 1."""


@dataclass
class PromptBatch:
    """Tokens and media of a batch, checked once and carried to every pass.

    Rows are right-padded where ``labels`` are given (teacher forcing), left-padded otherwise (generation).
    """

    input_ids: Tensor
    """Token ids, shape ``(B, L)``."""
    attention_mask: Tensor
    """1 where a token counts, shape ``(B, L)``."""
    visual: dict[str, Tensor]
    """What the family's forward takes for media (pixels, grids, token types); only ``lit_vlm.models`` opens it."""
    samples: tuple[Sample, ...] = ()
    """The samples of the rows, in order."""
    labels: Tensor | None = None
    """Next-token targets before the shift, ``-100`` where none, shape ``(B, L)``."""
    weights: Tensor | None = None
    """Factor of each row's loss, fp32, shape ``(B,)``; None where all are 1."""
    step_totals: StepTotals | None = None
    """Counts over the whole optimizer step, where the loader knows them."""
    dropped: tuple[BadSample, ...] = ()
    """Samples left out of this batch."""

    def __len__(self) -> int:
        return int(self.input_ids.shape[0])

    @property
    def has_targets(self) -> bool:
        """Whether it says which tokens to learn."""
        return self.labels is not None

    def count(self) -> StepTotals:
        """Counts the labels left after the shift by one, and the rows that have any."""
        if self.labels is None:
            return StepTotals(labels=0, sequences=0)
        labelled = self.labels[:, 1:] != IGNORED_LABEL
        return StepTotals(labels=int(labelled.sum()), sequences=int(labelled.any(dim=1).sum()))

    def _map(self, function: Any) -> PromptBatch:
        return replace(
            self,
            input_ids=function(self.input_ids),
            attention_mask=function(self.attention_mask),
            labels=None if self.labels is None else function(self.labels),
            weights=None if self.weights is None else function(self.weights),
            visual={name: function(tensor) for name, tensor in self.visual.items()},
        )

    def to(self, *args: Any, **kwargs: Any) -> PromptBatch:
        """Moves the tensors, as ``Tensor.to`` does; the samples stay where they are."""
        return self._map(lambda tensor: tensor.to(*args, **kwargs))

    def pin_memory(self) -> PromptBatch:
        """Pins the tensors for a fast copy to the GPU."""
        return self._map(lambda tensor: tensor.pin_memory())


@dataclass
class EvaluationBatch:
    """The same samples twice: with completions for the loss, without for generation. The media are shared."""

    complete: PromptBatch
    prompts: PromptBatch
    pairs: PreferenceBatch | None = None
    """The samples' preferences, where there are any."""

    def __len__(self) -> int:
        return len(self.complete)

    def to(self, *args: Any, **kwargs: Any) -> EvaluationBatch:
        """Moves the tensors, as ``Tensor.to`` does."""
        return self._map(lambda batch: batch.to(*args, **kwargs))

    def pin_memory(self) -> EvaluationBatch:
        """Pins the tensors for a fast copy to the GPU."""
        return self._map(lambda batch: batch.pin_memory())

    def _map(self, function: Any) -> EvaluationBatch:
        pairs = None if self.pairs is None else function(self.pairs)
        return EvaluationBatch(function(self.complete), function(self.prompts), pairs)


def _no_rows() -> Tensor:
    return torch.zeros(0, dtype=torch.long)


def _no_weights() -> Tensor:
    return torch.zeros(0)


@dataclass
class CompletionSet:
    """Completions of some prompts, each prompt encoded once, however many completions follow it."""

    prompts: PromptBatch
    """The ``P`` prompts, left-padded, with their media."""
    token_ids: Tensor
    """Right-padded, shape ``(C, T)``."""
    mask: Tensor
    """1 where a token counts for attention, shape ``(C, T)``."""
    counted: Tensor
    """1 on the tokens whose log-probabilities are learnt from: those of the assistant; shape ``(C, T)``."""
    prompt_of: Tensor
    """Row of ``prompts`` that each completion continues, shape ``(C,)``."""
    digests: tuple[str, ...] = ()
    """A hash of all that the model reads of each completion (prompt, pixels and tokens), where the encoder was asked
    for it; ``C`` of them or none."""
    step_totals: StepTotals | None = None
    """Counts over the whole optimizer step, where the loader knows them."""
    dropped: tuple[BadSample, ...] = ()
    """Samples left out of this batch."""

    @property
    def has_targets(self) -> bool:
        """Whether it says which tokens to learn."""
        return True

    @property
    def samples(self) -> tuple[Sample, ...]:
        """The samples of the prompts."""
        return self.prompts.samples

    @property
    def token_counts(self) -> Tensor:
        """Counted tokens of each completion, shape ``(C,)``."""
        return self.counted.sum(1)

    def _map(self, function: Any) -> Self:
        """Applies a function to every tensor, also to those of a subclass."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        changed = {name: function(value) for name, value in values.items() if isinstance(value, Tensor)}
        return replace(self, prompts=self.prompts._map(function), **changed)

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Moves the tensors, as ``Tensor.to`` does; the samples stay where they are."""
        return self._map(lambda tensor: tensor.to(*args, **kwargs))

    def pin_memory(self) -> Self:
        """Pins the tensors for a fast copy to the GPU."""
        return self._map(lambda tensor: tensor.pin_memory())


@dataclass
class PreferenceBatch(CompletionSet):
    """Pairs of completions, ``B`` of them, of ``N`` samples; ``len`` counts the pairs.

    Both halves of a pair continue the same row of ``prompts``. Where a method wants it, the chosen completion comes a
    second time behind the prompt with corrupted images.
    """

    chosen: Tensor = field(default_factory=_no_rows)
    """Completion that is preferred, shape ``(B,)``."""
    rejected: Tensor = field(default_factory=_no_rows)
    """Completion that it is preferred to, shape ``(B,)``; -1 where the chosen one is only to be imitated."""
    corrupted: Tensor = field(default_factory=_no_rows)
    """The chosen completion behind the corrupted images, shape ``(B,)``; -1 where there is none."""
    weights: Tensor = field(default_factory=_no_weights)
    """Factor of each pair's loss, fp32, shape ``(B,)``."""
    sample_of: Tensor = field(default_factory=_no_rows)
    """Number of the sample that each pair belongs to, from 0 on, ascending, shape ``(B,)``."""

    def __len__(self) -> int:
        return len(self.chosen)

    def count(self) -> StepTotals:
        """Counts the tokens of the chosen completions, and the samples."""
        labels = int(self.token_counts[self.chosen].sum())
        return StepTotals(labels=labels, sequences=int(self.sample_of.unique().numel()))


@dataclass
class GroupBatch(CompletionSet):
    """Several completions of each of ``P`` prompts, with a score each; ``len`` counts the prompts."""

    scores: Tensor = field(default_factory=_no_weights)
    """How good each completion is, fp32, shape ``(C,)``; NaN for one that is no member of its group."""
    reference: Tensor = field(default_factory=_no_rows)
    """Completion of each prompt that is to be imitated, shape ``(P,)``; -1 where there is none."""

    def __len__(self) -> int:
        return len(self.prompts)

    def count(self) -> StepTotals:
        """Counts the tokens of the completions that are imitated, and the prompts."""
        imitated = self.reference[self.reference >= 0]
        return StepTotals(labels=int(self.token_counts[imitated].sum()), sequences=len(self))


TrainingBatch = PromptBatch | PreferenceBatch | GroupBatch
"""What training loaders yield."""
