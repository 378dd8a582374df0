"""Asks held-out samples in the callback's own way, and logs what comes of it."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor

from lit_vlm.callbacks.rollout_callback import RolloutCallback
from lit_vlm.interfaces.capabilities import ProbesPolicy, ServesSamples
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import Sample, Split


class AskedSamples(Callback):
    """Asks the first samples of a split at the end of each validation and test; ranks share them.

    A subclass says how samples are asked (``ask``) and what its sums mean (``tell``). Random streams are left as they
    were.

    Args:
        samples: Samples of the split that are asked, at most, from the first on.
        batch_size: Samples that are asked at once.
    """

    def __init__(self, samples: int = 256, batch_size: int = 64) -> None:
        for name, value in (("samples", samples), ("batch_size", batch_size)):
            if value < 1:
                raise UserError(f"{type(self).__name__}.{name} is {value}; give at least 1")
        self.samples = samples
        self.batch_size = batch_size

    @abstractmethod
    def ask(self, pl_module: Any, samples: Sequence[Sample]) -> Tensor:
        """Asks samples.

        Args:
            pl_module: Offers ``ProbesPolicy``; as many calls of it are made whatever the samples are.
            samples: One or more.

        Returns:
            Sums over the samples, float64, always of one shape.
        """

    @abstractmethod
    def tell(self, sums: Sequence[float], split: Split, total: int) -> tuple[dict[str, float], str]:
        """Makes figures of the sums over all ranks.

        Args:
            sums: As ``ask`` returns them, added up.
            split: What was asked.
            total: Samples that were asked.

        Returns:
            Figures by name, without the split; and what is printed of them.
        """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Checks that there is a policy to ask, and data to ask about.

        Raises:
            UserError: There is not.
        """
        name = type(self).__name__
        if not isinstance(pl_module, ProbesPolicy):
            raise UserError(
                f"{name} asks a policy about samples, which {type(pl_module).__name__} does not offer; leave it out, "
                "or train with a module that does, such as SFTModule"
            )
        data = _data(trainer)
        if not isinstance(data, ServesSamples):
            raise UserError(
                f"{name} reads single samples, which the data ({type(data).__name__}) do not serve; leave it out, or "
                "give a DataModule of lit_vlm.data, such as DigitsReasoning"
            )

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Asks validation samples."""
        self._evaluate(trainer, pl_module, "validation")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Asks test samples."""
        self._evaluate(trainer, pl_module, "test")

    def _evaluate(self, trainer: Trainer, pl_module: Any, split: Split) -> None:
        samples = _data(trainer).prepared(split)
        total = min(self.samples, len(samples))
        ranks = trainer.world_size
        own = range(trainer.global_rank, total, ranks)
        sums: Tensor | None = None
        with isolate_rng(), trainer.precision_plugin.val_step_context():
            # Where ranks hold pieces of the weights, all must ask equally often: the first are asked again for that.
            for call in range(math.ceil(math.ceil(total / ranks) / self.batch_size)):
                places = own[call * self.batch_size : (call + 1) * self.batch_size]
                rows = self.ask(pl_module, [samples[place] for place in places or (0,)])
                rows = rows if places else torch.zeros_like(rows)
                sums = rows if sums is None else sums + rows
        if sums is None:
            raise UserError(f"{type(self).__name__}: there are no {split} samples to ask")
        figures, told = self.tell(RolloutCallback.sum_over_ranks(trainer, sums).tolist(), split, total)
        for name, value in figures.items():
            pl_module.log(f"{split}/{name}", value, batch_size=1)
        rank_zero_info(f"{split} at step {trainer.global_step}, {told}")


def _data(trainer: Any) -> Any:
    return getattr(trainer, "datamodule", None)
