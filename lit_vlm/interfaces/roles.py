"""Roles that recipes and DataModules fill: abstract bases with one method that matters each."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from lit_vlm.interfaces.records import (
    Completion,
    EvaluationBatch,
    PromptBatch,
    RewardOutput,
    Sample,
    Split,
    StepTotals,
    TokenCount,
    TokenScores,
)
from lit_vlm.interfaces.rollouts import RewardContext


class TaskGenerator(ABC):
    """An endless deterministic source of questions whose answers are known."""

    name: str
    """Source name written into the samples."""

    @property
    @abstractmethod
    def tasks(self) -> tuple[str, ...]:
        """The tasks asked, in the order they are reported."""

    @abstractmethod
    def sample(self, split: Split, index: int) -> Sample:
        """Builds example ``index`` of a split: a pure function of the settings, the split and the index.

        The last message is the assistant's chain of thought and answer, written as
        ``<think>…</think><answer>…</answer>``; ``meta.category`` is one of ``tasks``.
        """

    def outline(self, split: Split, index: int) -> Sample:
        """Tells the id, task and difficulty of example ``index``; generators that can do so leave the rest out."""
        return self.sample(split, index)


class SampleEncoder(ABC):
    """Turns samples into the tensors of one model family."""

    @abstractmethod
    def encode(self, samples: Sequence[Sample]) -> PromptBatch:
        """Encodes prompts with their completions, right-padded, with labels on trained assistant turns only."""

    @abstractmethod
    def encode_prompts(self, samples: Sequence[Sample]) -> PromptBatch:
        """Encodes the prompts alone, left-padded, ready to be continued; of no samples a batch without rows."""

    @abstractmethod
    def encode_evaluation(self, samples: Sequence[Sample]) -> EvaluationBatch:
        """Encodes both forms, decoding each image once."""

    @abstractmethod
    def describe_prompt(self, sample: Sample) -> str:
        """Renders a prompt as the model reads it, each medium as one placeholder."""

    @abstractmethod
    def count_tokens(self, sample: Sample) -> TokenCount:
        """Counts the tokens of a sample with its completions, before any cut; pixels are not decoded where possible."""

    @abstractmethod
    def count_prompt_tokens(self, sample: Sample) -> TokenCount:
        """Counts the tokens of a prompt as ``encode_prompts`` makes it; pixels are not decoded where possible."""

    @abstractmethod
    def tokenise(self, text: str) -> list[int]:
        """Turns a run of text into ids, without special tokens around it."""

    @abstractmethod
    def decode(self, token_ids: Sequence[int]) -> str:
        """Turns completion ids into text, without special tokens."""


class SupervisedObjective(ABC):
    """Turns the log-probabilities of label tokens into a loss."""

    @abstractmethod
    def __call__(self, scores: TokenScores, totals: StepTotals) -> Tensor:
        """Computes this batch's share of the loss over ``totals``.

        Args:
            scores: The label tokens of one micro-batch on one rank.
            totals: Counts over everything the loss is a mean of: the batch alone, or a whole optimizer step.

        Returns:
            A scalar; the shares of all micro-batches and ranks add up to the loss.
        """


class Reward(ABC):
    """Scores completions."""

    needs_groups: ClassVar[bool] = False
    """Whether a score depends on the other completions of the same prompt."""

    @abstractmethod
    def __call__(self, completions: Sequence[Completion], context: RewardContext = RewardContext()) -> RewardOutput:
        """Scores each completion; a reward that cannot score raises, it never guesses.

        Args:
            completions: ``B`` generated completions with their samples and, where there is an answer, verdicts.
            context: What is known beside them; empty in validation.
        """
