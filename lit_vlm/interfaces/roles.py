"""Roles that recipes and DataModules fill: abstract bases with one method that matters each."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from lit_vlm.interfaces.records import EvaluationBatch, PromptBatch, Sample, Split


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


class SampleEncoder(ABC):
    """Turns samples into the tensors of one model family."""

    @abstractmethod
    def encode(self, samples: Sequence[Sample]) -> PromptBatch:
        """Encodes prompts with their completions, right-padded, with labels on trained assistant turns only."""

    @abstractmethod
    def encode_prompts(self, samples: Sequence[Sample]) -> PromptBatch:
        """Encodes the prompts alone, left-padded, ready to be continued."""

    @abstractmethod
    def encode_evaluation(self, samples: Sequence[Sample]) -> EvaluationBatch:
        """Encodes both forms, decoding each image once."""

    @abstractmethod
    def decode(self, token_ids: Sequence[int]) -> str:
        """Turns completion ids into text, without special tokens."""
