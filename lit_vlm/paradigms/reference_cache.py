"""Log-probabilities of a data set's pairs under the policy as it was at the start, made once and kept in a file."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor

from lit_vlm.interfaces.batches import PreferenceBatch
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import Split
from lit_vlm.models.log_prob_cache import LogProbCache, ModelName

FILE = "reference_log_probs.safetensors"
SPLITS: tuple[Split, ...] = ("train", "validation")
SECONDS_BETWEEN_LINES = 20.0


@runtime_checkable
class ServesPairs(Protocol):
    """A DataModule whose pairs can be gone through without training on them."""

    def pair_batches(self, split: Split) -> Iterable[PreferenceBatch]:
        """Yields this rank's share of a split's pairs, in order."""

    def cache_file(self, name: str) -> Path:
        """Names a file that belongs to the data set."""


def cache_file(data: ServesPairs, option: str | None) -> Path:
    """Returns the file of a run's log-probabilities.

    Args:
        data: Whose pairs they are.
        option: The user's choice; None: next to the data.
    """
    return data.cache_file(FILE) if option is None else Path(option).expanduser()


def load_cache(file: Path, model: ModelName, data: ServesPairs) -> LogProbCache:
    """Reads log-probabilities that an earlier run made, and checks that they are those of all pairs.

    Every rank must call this; they all fail where one does.

    Args:
        file: Where they lie.
        model: What the run starts from.
        data: Whose pairs must be there.

    Raises:
        UserError: The file is of another model, or lacks pairs.
    """
    cache = LogProbCache.load(file, model)
    missing = total = 0
    for batch in _all_batches(data):
        wanted = _digests_of_pairs(batch)
        missing, total = missing + cache.count_missing(wanted), total + len(wanted)
    missing, total = map(sum, zip(*_from_all_ranks((missing, total)), strict=True))
    if missing:
        raise cache.lacks(missing, total)
    return cache


def make_cache(
    file: Path, model: ModelName, data: ServesPairs, score: Callable[[PreferenceBatch], Tensor], *, writes: bool
) -> LogProbCache:
    """Computes the log-probabilities of all pairs, and writes them.

    Every rank must call this, each does its share of the pairs, and all get the whole.

    Args:
        file: Where to write.
        model: What the run starts from.
        data: Whose pairs are scored.
        score: Sums of the log-probabilities of a batch's completions, shape ``(C,)``.
        writes: Whether this rank writes the file.
    """
    rank_zero_info("computing the reference's log-probabilities once ahead, into %s", file)
    start = told = time.monotonic()
    own: dict[str, float] = {}
    pairs = 0
    for batch in _all_batches(data):
        own |= zip(batch.digests, score(batch).tolist(), strict=True)
        pairs += len(batch)
        if (now := time.monotonic()) - told > SECONDS_BETWEEN_LINES:
            told = now
            rank_zero_info("%d pairs scored on this rank, %.1f a second", pairs, pairs / (now - start))
    sums = {digest: value for found in _from_all_ranks(own) for digest, value in found.items()}
    cache = LogProbCache(file, sums)
    if writes:
        cache.save(model)
    rank_zero_info("log-probabilities of %d completions are in %s", len(sums), file)
    return cache


def _all_batches(data: ServesPairs) -> Iterator[PreferenceBatch]:
    for split in SPLITS:
        for batch in data.pair_batches(split):
            if len(batch.digests) != len(batch.token_ids):
                raise UserError(
                    "the completions of data have no digests, by which model.reference.kind cached finds their "
                    "log-probabilities; set kind to frozen_copy, or to adapter_off with an adapter"
                )
            yield batch


def _digests_of_pairs(batch: PreferenceBatch) -> list[list[str]]:
    rows = torch.stack([batch.chosen, batch.rejected, batch.corrupted], 1).tolist()
    return [[batch.digests[row] for row in pair if row >= 0] for pair in rows]


def _from_all_ranks(found: Any) -> list[Any]:
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return [found]
    everything: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(everything, found)
    return everything
