"""Ledgers: folders of Parquet that hold every completion a model wrote, with all that is known of it.

A ledger holds ``ledger.json`` (the header), ``part-*.parquet`` (rows) and ``media/`` (images and videos by their
SHA-256). It needs nothing else to be read back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from lit_vlm.interfaces.records import Completion


@dataclass(frozen=True)
class LedgerHeader:
    """What holds for all rows of a ledger."""

    model: str
    """Name of the checkpoint, without the folder that it lies in, or an endpoint's name for its model."""
    model_hash: str
    """Of the weights that wrote the completions; an endpoint's own version where there are no weights to hash."""
    config_hash: str
    """Of the resolved configuration, as far as it changes what is written: model, data, sampling, seed."""
    template_hash: str
    """Of the chat template and the tokens, by which ids mean text."""
    completions: int
    """Completions of each sample."""
    seed: int
    sampling: Mapping[str, Any]
    """Temperature, length and the like."""
    version: str
    """Of lit-vlm."""
    split: str = ""
    """Which split of the data was read."""


@dataclass(frozen=True)
class LedgerRow:
    """One completion."""

    completion: Completion
    """With its sample; pixels stand as references into the ledger's ``media/``."""
    media_hash: str
    """SHA-256 over the sample's media in order; empty where it has none."""
    model_hash: str
    config_hash: str
    time: float
    """When it was written, in seconds since 1970."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Everything else, as JSON."""


@runtime_checkable
class DescribesCompletions(Protocol):
    """Writes completions in ``predict``, and tells what holds for all of them."""

    def ledger_header(self) -> LedgerHeader:
        """Returns what it knows once its weights are what they are in ``predict``; on all ranks together.

        ``config_hash`` and ``split`` are for the callback that writes the ledger to fill in.
        """
