"""Roles of reinforcement learning: abstract bases with one method that matters each."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from lit_vlm.interfaces.batches import PromptBatch
from lit_vlm.interfaces.coefficients import Coefficient
from lit_vlm.interfaces.roles import SampleEncoder
from lit_vlm.interfaces.rollouts import (
    Advantages,
    Loss,
    PolicyBatch,
    PolicyTotals,
    Rewards,
    Rollouts,
    SumOverRanks,
)


class AdvantageEstimator(ABC):
    """Turns rewards into advantages."""

    @property
    def needs_groups(self) -> bool:
        """Whether a prompt needs two or more completions."""
        return True

    @property
    def needs_reference(self) -> bool:
        """Whether it reads ``Rollouts.reference_log_probs``."""
        return False

    def coefficients(self) -> dict[str, Coefficient]:
        """Declares the numbers that callbacks may turn, by name."""
        return {}

    @abstractmethod
    def __call__(
        self, rewards: Rewards, rollouts: Rollouts, sum_over_ranks: SumOverRanks, coefficients: Mapping[str, float]
    ) -> Advantages:
        """Computes the advantage of each token; a group lies on one rank, statistics of the batch span all ranks.

        Args:
            rewards: What the completions scored.
            rollouts: The completions.
            sum_over_ranks: Adds a tensor up over all ranks; every rank must call it equally often.
            coefficients: Present values of what ``coefficients`` declares, and others' beside them.
        """


class PolicyObjective(ABC):
    """Turns log-probabilities and advantages into a loss."""

    @property
    def needs_reference(self) -> bool:
        """Whether it compares with a reference."""
        return False

    @property
    def needs_entropies(self) -> bool:
        """Whether it wants the policy's entropies, with a graph."""
        return False

    @property
    def needs_all_tokens(self) -> bool:
        """Whether tokens with an advantage of 0 have a gradient.

        Where not, completions of such tokens are left out of the passes, though not out of the totals.
        """
        return True

    def coefficients(self) -> dict[str, Coefficient]:
        """Declares the numbers that callbacks may turn, by name."""
        return {}

    @abstractmethod
    def __call__(self, batch: PolicyBatch, totals: PolicyTotals, coefficients: Mapping[str, float]) -> Loss:
        """Computes this micro-batch's share of the loss over ``totals``.

        Args:
            batch: Log-probabilities and advantages of some completions.
            totals: Counts over the whole optimizer step.
            coefficients: Present values of what ``coefficients`` declares, and others' beside them.
        """


class DecodingState(ABC):
    """Rows that a policy is continuing, with what it remembers of them."""

    logits: Tensor
    """Scores of the token that follows each row, shape ``(rows, V)``."""

    @abstractmethod
    def advance(self, token_ids: Tensor) -> None:
        """Appends a token to each row, and makes the logits of the next.

        Args:
            token_ids: Shape ``(rows,)``.
        """

    @abstractmethod
    def select(self, rows: Tensor) -> None:
        """Keeps some rows, in the order given, logits included.

        Args:
            rows: Indices, shape ``(kept,)``; cheapest where most kept rows stay at their index.
        """


class GeneratingPolicy(ABC):
    """What a rollout engine needs of a policy."""

    padding_id: int
    """Id that fills rows after their end."""

    @property
    @abstractmethod
    def end_token_ids(self) -> tuple[int, ...]:
        """Tokens that end a completion."""

    @property
    @abstractmethod
    def unsampled_token_ids(self) -> tuple[int, ...]:
        """Tokens that no completion may hold: placeholders of media, and padding that ends nothing."""

    @property
    @abstractmethod
    def context_tokens(self) -> int | None:
        """Most tokens of a prompt with its completion; None where the model sets no limit."""

    @abstractmethod
    def decoding(self) -> AbstractContextManager[None]:
        """Opens a context without gradients and in evaluation mode; the mode before returns at its end."""

    @abstractmethod
    def prefill(self, prompts: PromptBatch, repeats: int, media: object | None = None) -> DecodingState:
        """Reads each prompt once.

        Args:
            prompts: ``P`` left-padded prompts with their media.
            repeats: Rows that continue each prompt.
            media: Features of the prompts' media, as this policy makes them; None has them made.

        Returns:
            ``P * repeats`` rows, prompt by prompt.
        """

    @abstractmethod
    def any_rank(self, decodes: bool) -> bool:
        """Tells whether this rank must run one more pass: where ranks hold pieces of the weights, all pass together.

        Args:
            decodes: Whether this rank has rows to continue.
        """


@dataclass(frozen=True)
class WeightBucket:
    """Some weights, or an adapter, on their way to another program; good until the next is asked for."""

    tensors: Mapping[str, Tensor]
    """By the names that a checkpoint has, on the policy's device, and perhaps its own weights: to be read only."""
    metadata: Mapping[str, str]
    """Of a safetensors file that holds them; an adapter's has its ``adapter_config`` (JSON)."""


@runtime_checkable
class SharesWeights(Protocol):
    """A policy that hands its weights to programs that sample with a copy of them."""

    @property
    def weight_source(self) -> str:
        """Folder or hub id that the weights were loaded from."""

    def shared_adapter_rank(self) -> int | None:
        """Tells what is handed over: an adapter of this rank, or, where None, all weights.

        Raises:
            UserError: Neither can be, as the weights are held.
        """

    def weight_buckets(self, dtype: torch.dtype, most_bytes: int, *, keep: bool) -> Iterator[WeightBucket]:
        """Yields the weights, or an adapter in one piece; every rank goes through all of them.

        Args:
            dtype: Type that the other side computes in; an adapter keeps its own.
            most_bytes: Size of a bucket, but for a single weight that is larger.
            keep: Whether this rank wants them; the others help to put them together, and get nothing.
        """


@dataclass(frozen=True)
class EnginePrompt:
    """A prompt as programs want it that process images themselves."""

    token_ids: tuple[int, ...]
    """With one placeholder for each image."""
    whole: tuple[int, ...]
    """With as many placeholders as there are feature rows, as the policy reads it."""
    images: tuple[bytes, ...] = ()
    """PNG files of the pixels that the policy's own processor is given, in order."""
    processor: Mapping[str, Any] = field(default_factory=dict)
    """Options of the image processor that differ between runs, such as its bounds of size."""


@runtime_checkable
class WritesEnginePrompts(Protocol):
    """An encoder that puts prompts as programs want them that process images themselves."""

    def engine_prompts(self, prompts: PromptBatch) -> list[EnginePrompt]:
        """Puts each prompt of a batch so.

        Raises:
            BadSampleError: A prompt has videos, or placeholders that do not stand together.
        """


class RolloutEngine(ABC):
    """Samples completions."""

    @property
    def has_own_weights(self) -> bool:
        """Whether it samples with a copy of the weights, so that its log-probabilities differ from the policy's."""
        return False

    @property
    @abstractmethod
    def temperature(self) -> float:
        """Temperature that the log-probabilities of its rollouts belong to; 0 where it takes the likeliest token."""

    @property
    @abstractmethod
    def max_new_tokens(self) -> int:
        """Longest completion, in tokens."""

    @abstractmethod
    def check(self, policy: GeneratingPolicy, encoder: SampleEncoder) -> None:
        """Refuses settings that do not go with a model, before the first step.

        Raises:
            UserError: They do not.
        """

    def follow(  # noqa: B027 - optional
        self,
        policy: GeneratingPolicy,
        encoder: SampleEncoder,
        prompts: PromptBatch,
        step: int,
        sum_over_ranks: SumOverRanks,
    ) -> None:
        """Takes over the policy's present weights, where it has a copy of its own; every rank calls it in every round.

        Args:
            policy: The model.
            encoder: Turns token ids into text.
            prompts: Of the coming round on this rank, perhaps none.
            step: Optimizer steps taken; the weights are the same while it is.
            sum_over_ranks: Adds a tensor up over all ranks.

        Raises:
            UserError: The copy cannot be made, or does not compute what the policy does.
        """

    @abstractmethod
    def __call__(
        self,
        policy: GeneratingPolicy,
        encoder: SampleEncoder,
        prompts: PromptBatch,
        group_size: int,
        seeds: Sequence[int],
        media: object | None = None,
    ) -> Rollouts:
        """Samples ``group_size`` completions of each prompt.

        Args:
            policy: The model.
            encoder: Turns token ids into text.
            prompts: ``P`` left-padded prompts, each once.
            group_size: Completions of each.
            seeds: Seed of each prompt; with the completion's index in its group it determines the random numbers.
            media: Features of the prompts' media, where the policy has made them already.

        Returns:
            ``P * group_size`` completions, prompt by prompt.
        """
