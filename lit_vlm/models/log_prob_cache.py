"""A file of log-probabilities of completions under one model, each found by a hash of all that the model read."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lit_vlm.interfaces.errors import UserError

FORMAT = "1"
OPTION = "model.reference.cache"
MEND = f"delete the file, so that it is made anew, or name another in {OPTION}"


@dataclass(frozen=True)
class ModelName:
    """Which model log-probabilities belong to."""

    checkpoint: str
    """Where it came from; for messages only."""
    weights: str
    """Fingerprint of its weights."""


@dataclass(frozen=True)
class LogProbCache:
    """Sums of log-probabilities of whole completions under one model."""

    file: Path
    """Where they lie."""
    sums: Mapping[str, float]
    """In nats, by a hash of all that the model reads of a completion: prompt, pixels and tokens."""

    def look_up(self, digests: Sequence[str]) -> Tensor:
        """Returns the sum of each completion, fp32, shape ``(C,)``.

        Raises:
            UserError: One is missing.
        """
        if missing := self.count_missing([(digest,) for digest in digests]):
            raise self.lacks(missing, len(digests), "completions")
        return torch.tensor([self.sums[digest] for digest in digests], dtype=torch.float32)

    def count_missing(self, wanted: Sequence[Sequence[str]]) -> int:
        """Counts the pairs of which a completion is missing.

        Args:
            wanted: The hashes of each pair's completions.
        """
        return sum(any(digest not in self.sums for digest in digests) for digests in wanted)

    def lacks(self, missing: int, total: int, kind: str = "pairs") -> UserError:
        """Words the error of a file that lacks some of what a run needs."""
        return UserError(
            f"{self.file} lacks the reference's log-probabilities of {missing} of {total} {kind}: the data, the chat "
            f"template, model.max_tokens or the pixel budget have changed since it was made; {MEND}"
        )

    def save(self, model: ModelName) -> None:
        """Writes the file, whole or not at all.

        Args:
            model: What the log-probabilities belong to.
        """
        names = sorted(self.sums)
        tensors = {
            "digests": torch.tensor([list(bytes.fromhex(name)) for name in names], dtype=torch.uint8),
            "log_probs": torch.tensor([self.sums[name] for name in names], dtype=torch.float32),
        }
        self.file.parent.mkdir(parents=True, exist_ok=True)
        # In the same folder, so that the last step is a renaming.
        part = self.file.with_name(f".{self.file.name}.{os.getpid()}")
        try:
            save_file(tensors, part, {"format": FORMAT, "checkpoint": model.checkpoint, "weights": model.weights})
            part.replace(self.file)
        finally:
            part.unlink(missing_ok=True)

    @classmethod
    def load(cls, file: Path, model: ModelName) -> LogProbCache:
        """Reads a file.

        Args:
            file: A safetensors file that ``save`` wrote.
            model: What the log-probabilities must belong to.

        Raises:
            UserError: It is another file, or belongs to another model.
        """
        try:
            with safe_open(file, "pt") as content:
                told = content.metadata() or {}
                if told.get("format") != FORMAT:
                    raise UserError(f"{file} holds no log-probabilities of a reference; {MEND}")
                digests, log_probs = content.get_tensor("digests"), content.get_tensor("log_probs")
        except (SafetensorError, OSError) as fault:
            raise UserError(f"{file} cannot be read ({str(fault).splitlines()[0]}); {MEND}") from fault
        if told["weights"] != model.weights:
            raise UserError(
                f"{file} was made with other weights ({told['checkpoint']}, fingerprint {told['weights'][:8]}) than "
                f"those that this run starts from ({model.checkpoint}, fingerprint {model.weights[:8]}); {MEND}"
            )
        names = [bytes(row).hex() for row in digests.tolist()]
        return cls(file, dict(zip(names, log_probs.tolist(), strict=True)))
