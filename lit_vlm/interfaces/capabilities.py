"""What callbacks and DataModules may ask a LightningModule for, by protocol and never by class."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from lit_vlm.interfaces.records import Completion

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


def completions_of(outputs: Any) -> Sequence[Completion]:
    """Reads the completions that a validation, test or predict step returned; empty where it returned none."""
    if isinstance(outputs, Mapping):
        outputs = outputs.get(COMPLETIONS)
    if isinstance(outputs, list) and all(isinstance(item, Completion) for item in outputs):
        return outputs
    return ()
