"""Roles that recipes and DataModules fill: abstract bases with one method that matters each."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar, Literal

from torch import Tensor

from lit_vlm.interfaces.batches import (
    EvaluationBatch,
    GroupBatch,
    PreferenceBatch,
    PromptBatch,
    StepTotals,
    TokenScores,
)
from lit_vlm.interfaces.coefficients import Coefficient
from lit_vlm.interfaces.comparisons import GroupScores, PairScores
from lit_vlm.interfaces.records import Completion, RewardOutput, Sample, Split, TokenCount
from lit_vlm.interfaces.rollouts import Loss, RewardContext
from lit_vlm.interfaces.weights import MergeTensors, OffersWeights


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
        """Encodes both forms, decoding each image once, and the samples' preferences where there are any."""

    @abstractmethod
    def encode_pairs(self, samples: Sequence[Sample], corrupt: SampleCorruption | None = None) -> PreferenceBatch:
        """Encodes the preferences of samples, each prompt once; of no samples a batch without pairs.

        Args:
            samples: Samples with preferences.
            corrupt: Spoils the images that the chosen completion is to be read behind a second time; None for none.
        """

    @abstractmethod
    def encode_groups(self, samples: Sequence[Sample]) -> GroupBatch:
        """Encodes the candidates of samples and the completion to imitate; of no samples a batch without prompts.

        A candidate's score is its ``correct``; the completion to imitate is the last assistant turn.
        """

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
    def count_comparison_tokens(self, sample: Sample) -> TokenCount:
        """Counts the tokens of a sample's prompts and of all completions that are compared, each once.

        Preferences count where there are any, candidates otherwise.
        """

    @abstractmethod
    def tokenise(self, text: str) -> list[int]:
        """Turns a run of text into ids, without special tokens around it."""

    @abstractmethod
    def decode(self, token_ids: Sequence[int]) -> str:
        """Turns completion ids into text, without special tokens."""


class SampleTransform(ABC):
    """Makes training samples of a sample: pairs of its candidates, another prompt, the best of what was sampled."""

    @abstractmethod
    def __call__(self, sample: Sample) -> Sequence[Sample]:
        """Returns what to train on instead of a sample: none, one or several, by a pure function of it.

        Raises:
            BadSampleError: The sample lacks what this needs.
        """

    def in_epoch(self, sample: Sample, epoch: int) -> Sequence[Sample]:
        """Returns what to train on in an epoch, as many samples as ever; the same ones where nothing else is said.

        Where they differ, calling the transform gives the longest of each, as batches are put together by its length.

        Args:
            sample: What to train on something else instead of.
            epoch: From 0 on; where a run resumes, the epoch that it stopped in.

        Raises:
            BadSampleError: The sample lacks what this needs.
        """
        return self(sample)

    def for_evaluation(self, sample: Sample) -> Sample:
        """Returns what to validate and test on instead of a sample; the same one where nothing else is said.

        Raises:
            BadSampleError: The sample lacks what this needs.
        """
        return sample


class CurationOperator(ABC):
    """Chooses among the samples of a whole set, or among their candidates."""

    @abstractmethod
    def __call__(self, samples: Sequence[Sample]) -> list[Sample]:
        """Returns what is kept, in the order given: samples, perhaps with fewer candidates; nothing is written anew.

        The same samples give the same result, on every rank.

        Raises:
            UserError: The samples lack what this needs; the message names the first, and how many more.
        """

    def with_reasons(self, samples: Sequence[Sample]) -> tuple[list[Sample], Mapping[str, int]]:
        """Chooses as a call does, and counts what is left out by reason, such as ``samples of too many tokens``."""
        return self(samples), {}


class SampleCorruption(ABC):
    """Spoils the images of a sample, leaving their sizes, so that a prompt keeps its length."""

    @abstractmethod
    def __call__(self, sample: Sample) -> Sample:
        """Returns the sample with spoilt images: a pure function of the settings and the sample.

        Raises:
            BadSampleError: An image cannot be decoded.
        """


class PreferenceObjective(ABC):
    """Turns the log-probabilities of pairs into a loss."""

    @property
    def needs_reference(self) -> bool:
        """Whether it compares with a reference."""
        return True

    @property
    def needs_corrupted(self) -> bool:
        """Whether it asks for the chosen completions behind corrupted images."""
        return False

    def coefficients(self) -> dict[str, Coefficient]:
        """Declares the numbers that callbacks may turn, by name."""
        return {}

    @abstractmethod
    def __call__(self, scores: PairScores, totals: StepTotals, coefficients: Mapping[str, float]) -> Loss:
        """Computes this micro-batch's share of the loss over ``totals``.

        Args:
            scores: The pairs of one micro-batch on one rank.
            totals: Counts over everything the loss is a mean of: tokens of chosen completions, and samples.
            coefficients: Present values of what ``coefficients`` declares.

        Returns:
            The share, and for the log sums over pairs, which are divided by ``totals.sequences``. Both of the
            micro-batch are the sums of those of its pairs, since it is cut where memory runs out.
        """


class GroupObjective(ABC):
    """Turns the log-probabilities of graded completions into a loss."""

    def coefficients(self) -> dict[str, Coefficient]:
        """Declares the numbers that callbacks may turn, by name."""
        return {}

    @abstractmethod
    def __call__(self, scores: GroupScores, totals: StepTotals, coefficients: Mapping[str, float]) -> Loss:
        """Computes this micro-batch's share of the loss over ``totals``.

        Args:
            scores: The groups of one micro-batch on one rank.
            totals: Counts over everything the loss is a mean of: tokens that are imitated, and groups.
            coefficients: Present values of what ``coefficients`` declares.

        Returns:
            The share, and for the log sums over groups, which are divided by ``totals.sequences``. Both of the
            micro-batch are the sums of those of its groups, since it is cut where memory runs out; a group without
            completions adds nothing.
        """


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


class Merge(ABC):
    """Computes one weight of a merged model from those of its sources."""

    needs_values: ClassVar[bool] = False
    """Whether it reads the donors' own weights."""
    prunes: ClassVar[bool] = False
    """Whether it reads the donors' densities."""
    needs_deltas: ClassVar[bool] = True
    """Whether it reads what the donors differ in from their bases, so that there must be bases."""
    elementwise: ClassVar[bool] = False
    """Whether each number of the result depends on the numbers at its own place alone, so that it may be called with
    pieces of a weight."""
    donor_counts: ClassVar[tuple[int, int | None]] = (1, None)
    """Fewest and most donors; None for any number."""

    @property
    def products_of(self) -> Literal["values", "deltas"] | None:
        """What of the donors it must know the inner products of, over a whole weight, to be elementwise; None for none.

        Such an operation is given a weight twice, piece by piece, and no weight need be held whole.
        """
        return None

    def given_products(self, tensors: MergeTensors, products: Tensor) -> Merge:
        """Returns the elementwise operation for one weight; only for operations that have ``products_of``.

        Args:
            tensors: The weight, or any stretch of it: its numbers are not read.
            products: Inner products of the donors' weights or differences, float64, shape ``(N, N)``.

        Raises:
            UserError: A setting does not fit.
        """
        raise RuntimeError(f"{type(self).__name__} does not merge by inner products")

    def fitted(self, tensors: Iterable[MergeTensors]) -> Merge:
        """Returns the operation with what it must know of all weights before the first is merged.

        Args:
            tensors: Every weight that will be merged, once; an operation that needs nothing leaves them unread.
        """
        return self

    @abstractmethod
    def __call__(self, tensors: MergeTensors) -> Tensor:
        """Computes the merged weight, float32, in the target's shape; what it is given stays as it is.

        Raises:
            UserError: A setting does not fit.
        """


class GradientTransform(ABC):
    """Changes gradients after the backward pass, before they are clipped."""

    def check(self, module: OffersWeights) -> None:  # noqa: B027 - optional
        """Refuses what can be seen to be wrong before a model is loaded: nothing here.

        Args:
            module: Opens checkpoints; what it trains is not known yet.

        Raises:
            UserError: What is read does not fit.
        """

    @abstractmethod
    def attach(self, module: OffersWeights) -> AttachedTransform:
        """Chooses the weights to act on, and reads what it needs for them.

        Args:
            module: Tells what it trains and which checkpoint that started from, also after a resume, and opens others.

        Raises:
            UserError: There is nothing to act on, or what is read does not fit.
        """


class AttachedTransform(ABC):
    """A transform of the gradients of certain weights."""

    @property
    @abstractmethod
    def acts_on(self) -> Sequence[str]:
        """Names of the weights, in memory."""

    @abstractmethod
    def __call__(self, coefficients: Mapping[str, float]) -> dict[str, Tensor]:
        """Changes the gradients in place; weights without a gradient are passed by.

        Args:
            coefficients: Present values of what callbacks may turn, such as ``alpha``.

        Returns:
            Figures of this step for the log, by name, the same on all ranks.
        """
