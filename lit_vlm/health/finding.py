"""What a check of a recipe found, and what it was shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import torch

from lit_vlm.callbacks.vision_probes import completed
from lit_vlm.interfaces.records import Sample

Status = Literal["pass", "fail", "not applicable"]
HAVE_TOKENS = "have a completion or an answer of which a token lies within model.max_tokens"


@dataclass(frozen=True)
class Finding:
    """The outcome of one check."""

    check: str
    status: Status
    told: str
    """What was seen, or why there was nothing to see."""
    mend: str = ""
    """What to do where it failed."""

    @classmethod
    def of(cls, check: str, passed: bool, told: str, mend: str) -> Finding:
        """Makes a finding that passed or failed."""
        return cls(check, "pass" if passed else "fail", told, "" if passed else mend)

    @classmethod
    def without_object(cls, check: str, told: str) -> Finding:
        """Makes a finding of a check that does not apply."""
        return cls(check, "not applicable", told)


@dataclass(frozen=True)
class Subject:
    """A recipe's model, loaded on one device, and the first samples that it would train on."""

    module: Any
    """A ``VLMModule`` with its policy."""
    samples: Sequence[Sample]
    """Those that could be read."""
    folder: Path
    """For what a check writes; empty."""

    @property
    def policy(self) -> Any:
        """The model that is trained."""
        return self.module.policy

    @property
    def encoder(self) -> Any:
        """Turns samples into batches."""
        return self.module.encoder

    @property
    def is_exact(self) -> bool:
        """Whether the policy computes in fp32, so that two ways of the same sums agree to many digits."""
        device = self.module.device.type
        return self.policy.model.dtype == torch.float32 and not torch.is_autocast_enabled(device)

    @property
    def tolerance(self) -> float:
        """How far log-probabilities of the same token may differ, in nats, on average over tokens."""
        return 1e-4 if self.is_exact else 5e-2

    def scored_samples(self, most: int) -> list[Sample]:
        """Returns the first samples that keep a token of a completion within ``max_tokens``, completed where needed."""
        made = (completed(sample) for sample in self.samples)
        kept = (sample for sample in made if sample is not None and self.encoder.encode([sample]).count().labels)
        return list(islice(kept, most))
