"""What the verbs that run a Trainer take as their model."""

from __future__ import annotations

from abc import ABC, abstractmethod

from lightning import LightningModule

from lit_vlm.interfaces.roles import SampleEncoder


class RunModule(LightningModule, ABC):
    """A LightningModule that says how samples become its batches; the command line hands that to the data."""

    @property
    @abstractmethod
    def encoder(self) -> SampleEncoder:
        """Turns samples into what the module's steps are given."""
