"""What callbacks and DataModules may ask a LightningModule for, by protocol and never by class."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from torch import Tensor

from lit_vlm.interfaces.coefficients import Coefficients
from lit_vlm.interfaces.records import Completion, RewardOutput, Sample, Split
from lit_vlm.interfaces.roles import SampleCorruption, SampleEncoder
from lit_vlm.interfaces.rollouts import Iteration

COMPLETIONS = "completions"
"""Where validation and test steps put their completions in what they return."""


@runtime_checkable
class Exportable(Protocol):
    """Writes its model as a Hugging Face folder that plain ``from_pretrained`` loads."""

    def export(self, folder: Path) -> None:
        """Writes weights (safetensors), configuration, tokenizer and processor."""


@dataclass(frozen=True)
class PartSummary:
    """How large a part of a model is."""

    part: str
    parameters: int
    """In all; weights shared with another part count there."""
    trainable: int
    """Those that the optimizer changes."""


@runtime_checkable
class DescribesParts(Protocol):
    """Tells what its model consists of, once it is loaded."""

    def part_summaries(self) -> Sequence[PartSummary]:
        """Returns the parts in the order in which data pass them."""

    def token_budgets(self) -> Sequence[str]:
        """Says in a line each what an image and a video cost, in tokens; nothing for a model that reads text only."""


@runtime_checkable
class ServesTasks(Protocol):
    """A DataModule whose tasks and length are known."""

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks among its samples."""

    def train_batches(self, world_size: int) -> int:
        """Counts the training batches of an epoch on each of ``world_size`` ranks."""


BatchForm = Literal["completions", "prompts", "pairs", "groups"]
"""What a training batch holds: prompts with completions (``PromptBatch`` with labels), prompts alone (without labels),
pairs (``PreferenceBatch``) or graded completions (``GroupBatch``)."""


@runtime_checkable
class ChoosesBatches(Protocol):
    """Says what its training batches must hold; modules that do not are given prompts with completions."""

    @property
    def batch_form(self) -> BatchForm:
        """What they hold."""


@runtime_checkable
class RepeatsTest(Protocol):
    """Tests several models, or one in several states, on the same samples.

    It is given the test batches as several loaders, one after the other, and told by ``dataloader_idx`` which one.
    """

    @property
    def test_passes(self) -> int:
        """How often it goes through the test batches, at least 1."""


@runtime_checkable
class CorruptsImages(Protocol):
    """Learns from pairs whose images are spoilt in one half."""

    @property
    def corruption(self) -> SampleCorruption | None:
        """Spoils the images of pairs that are read a second time; None where none are."""


@runtime_checkable
class HasCoefficients(Protocol):
    """Has named numbers that callbacks may turn; they are known from ``setup`` on."""

    @property
    def coefficients(self) -> Coefficients:
        """The numbers, with their bounds."""


@runtime_checkable
class SamplesRollouts(HasCoefficients, Protocol):
    """Trains on completions that it samples itself, and tells ``RolloutObserver`` callbacks of each round."""

    @property
    def encoder(self) -> SampleEncoder:
        """Turns samples into tensors, and tokens into text."""

    @property
    def group_size(self) -> int:
        """Completions of each prompt."""

    @property
    def sampling_temperature(self) -> float:
        """Temperature that log-probabilities and entropies belong to."""

    @property
    def unfinished_batches(self) -> int:
        """Batches taken from the loader since the last update, where groups are sampled until there are enough."""


@runtime_checkable
class ProbesPolicy(Protocol):
    """Answers questions about its policy as it is, without gradients; ranks may ask different ones."""

    def completion_log_probs(self, samples: Sequence[Sample]) -> Tensor:
        """Scores each sample's trained turns, given what stands before them.

        Returns:
            Sums of log-probabilities over the trained tokens, in nats, fp32, on the CPU, shape ``(N,)``.
        """

    def complete(self, samples: Sequence[Sample]) -> list[Completion]:
        """Continues each sample's prompt as validation does."""

    def rewards_of(self, completions: Sequence[Completion]) -> RewardOutput:
        """Scores completions by the module's reward.

        Raises:
            UserError: It has none.
        """


@runtime_checkable
class RolloutObserver(Protocol):
    """A callback that is told of each round of an on-policy paradigm; see ``lit_vlm.callbacks.rollout_callback``."""

    def on_before_rollout(self, trainer: Any, pl_module: Any, iteration: Iteration) -> None:
        """Prompts are there, nothing is sampled."""

    def on_after_rollout(self, trainer: Any, pl_module: Any, iteration: Iteration) -> None:
        """Completions are sampled."""

    def on_after_rewards(self, trainer: Any, pl_module: Any, iteration: Iteration) -> None:
        """Completions are scored."""

    def on_after_advantages(self, trainer: Any, pl_module: Any, iteration: Iteration) -> None:
        """Advantages are there; nothing is learnt."""

    def on_after_update(self, trainer: Any, pl_module: Any, iteration: Iteration) -> None:
        """All optimizer steps of the round are taken."""


@runtime_checkable
class ServesSamples(Protocol):
    """A DataModule whose samples can be read one by one."""

    def prepared(self, split: Split) -> Any:
        """Returns the samples of a split by index, with a length, as the loaders read them."""


@runtime_checkable
class LeavesOutPredicted(Protocol):
    """A DataModule whose ``predict`` loader can pass by samples that are done."""

    def leave_out(self, sample_ids: Collection[str]) -> None:
        """Passes by these samples in ``predict``, before its loader is made; the rest is dealt to the ranks evenly."""


ArmKind = Literal["category", "difficulty", "sample"]
"""What samples are drawn by: their task, their level, or each for itself."""


def arm_of(sample: Sample, by: ArmKind) -> str:
    """Names the arm that a sample belongs to; empty where it does not say."""
    if by == "sample":
        return sample.id
    if by == "category":
        return sample.meta.category
    return "" if sample.meta.difficulty is None else str(sample.meta.difficulty)


@runtime_checkable
class SteeredData(Protocol):
    """A DataModule whose training samples can be drawn with probabilities that change during a run."""

    def arms(self, by: ArmKind) -> Mapping[str, int]:
        """Counts the training samples of each arm, sorted by name, levels by number.

        Raises:
            UserError: A sample does not say which arm it belongs to.
        """

    def steer(self, by: ArmKind, probabilities: Mapping[str, float]) -> None:
        """Draws from now on each sample's arm with these probabilities, then the next unused sample of it.

        Batches that are read ahead already stay as they are. Every rank must give the same numbers.

        Args:
            by: What the names name.
            probabilities: Of each arm, none negative; they need not add up to 1; arms left out have none.

        Raises:
            UserError: A name is unknown, or all probabilities are 0.
        """


def completions_of(outputs: Any) -> Sequence[Completion]:
    """Reads the completions that a validation, test or predict step returned; empty where it returned none."""
    if isinstance(outputs, Mapping):
        outputs = outputs.get(COMPLETIONS)
    if isinstance(outputs, list) and all(isinstance(item, Completion) for item in outputs):
        return outputs
    return ()
