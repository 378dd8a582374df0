"""The model's weights among those of a run's checkpoint, and whether they are all there."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from lit_vlm.functional.training_checkpoint import TrainingCheckpoint
from lit_vlm.interfaces.errors import UserError

MODEL, HEAD = "_policy.model.", "_policy.segment_head."
"""What the names of the model's weights begin with in a checkpoint, and those of a head that judges sub-sentences."""
WRAPPERS = ("_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "_orig_mod.")
"""What strategies and compilation write into names."""
SHOWN = 3


class RunWeights:
    """Finds the weights of a model in a checkpoint.

    Args:
        checkpoint: The run's.

    Raises:
        UserError: It holds no weights of a model.
    """

    def __init__(self, checkpoint: TrainingCheckpoint) -> None:
        self.checkpoint = checkpoint
        plain = {_unwrapped(name): name for name in checkpoint.names}
        self._stored = {name.removeprefix(MODEL): full for name, full in plain.items() if name.startswith(MODEL)}
        self._head = {name.removeprefix(HEAD): full for name, full in plain.items() if name.startswith(HEAD)}
        if not self._stored:
            raise UserError(
                f"{str(checkpoint.path)!r} holds no weights of a model; give a checkpoint that fit has written"
            )

    def fit(self, skeleton: Any) -> dict[str, str]:
        """Finds all weights of a plain model.

        Args:
            skeleton: The model, whose weights need not be in memory.

        Returns:
            Name in the model -> name in the checkpoint, of weights that are tied each of their names.

        Raises:
            UserError: Some are missing, are not the model's, or have another shape.
        """
        held = skeleton.state_dict(keep_vars=True)
        names_of: dict[int, list[str]] = {}
        for name, value in held.items():
            names_of.setdefault(id(value), []).append(name)
        found: dict[str, str] = {}
        for name, value in held.items():
            # Of weights that are tied, a checkpoint may hold one.
            stored = next(
                (self._stored[other] for other in (name, *names_of[id(value)]) if other in self._stored), None
            )
            if stored is not None:
                found[name] = stored
        self._check(held, found, held)
        return found

    def fit_adapter(self, trained: Mapping[str, Tensor], known: Collection[str]) -> dict[str, str]:
        """Finds what an adapter run has trained.

        Args:
            trained: Name in the model with its adapter -> weight, which need not be in memory.
            known: Names of all weights of the model with its adapter: a checkpoint in pieces holds the frozen ones too.

        Raises:
            UserError: Some are missing, others are there, or one has another shape.
        """
        found = {name: self._stored[name] for name in trained if name in self._stored}
        self._check(trained, found, known)
        return found

    def dtype(self, stored: str) -> torch.dtype:
        """Returns the type of a weight by its name in the checkpoint."""
        return self.checkpoint.dtype(stored)

    def read(self, stored: str) -> Tensor:
        """Reads a weight by its name in the checkpoint."""
        return self.checkpoint.read(stored)

    def segment_head(self) -> dict[str, Tensor]:
        """Reads the head that judges sub-sentences; empty where there is none."""
        return {name: self.checkpoint.read(stored) for name, stored in self._head.items()}

    def _check(self, wanted: Mapping[str, Tensor], found: Mapping[str, str], known: Collection[str]) -> None:
        missing, unknown = wanted.keys() - found.keys(), self._stored.keys() - set(known)
        if missing or unknown:
            raise UserError(
                f"{str(self.checkpoint.path)!r} does not fit the model of its config.yaml: it lacks {_told(missing)}, "
                f"and has {_told(unknown)} besides; give the configuration of the same run with --config"
            )
        for name, stored in found.items():
            shape = self.checkpoint.shape(stored)
            if shape != tuple(wanted[name].shape):
                raise UserError(
                    f"{name!r} in {str(self.checkpoint.path)!r} has shape {shape}, and the model of its config.yaml "
                    f"{tuple(wanted[name].shape)}; give the configuration of the same run with --config"
                )


def _unwrapped(name: str) -> str:
    for wrapper in WRAPPERS:
        name = name.replace(wrapper, "")
    return name


def _told(names: Collection[str]) -> str:
    if not names:
        return "no weights"
    first = ", ".join(sorted(names)[:SHOWN])
    return f"{len(names)} weights ({first}{', …' if len(names) > SHOWN else ''})"
