"""Which samples make which batch: in fixed numbers, grouped by length, or up to a budget of tokens.

These plans are pure functions of their settings and the epoch, and never ask how many processes read the data; for one
that is steered during a run see ``lit_vlm.data.steered_batches``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

from lit_vlm.functional.random_streams import random_stream

POOLED_BATCHES = 64
"""Batches among whose samples a length-aware plan looks for similar ones: more pad less, fewer mix better."""

Place = tuple[int, int]
"""Epoch of a batch, and its number within."""


class BatchPlan(ABC):
    """Tells the batches of one rank, epoch by epoch; every rank has as many, in every epoch.

    Args:
        rank: This process.
        world_size: Processes in all.
        seed: Names the order.
    """

    def __init__(self, *, rank: int, world_size: int, seed: int) -> None:
        self.rank = rank
        self.world_size = world_size
        self.seed = seed

    @abstractmethod
    def __len__(self) -> int:
        """Counts the batches of an epoch on each rank."""

    @abstractmethod
    def batch(self, place: Place) -> list[int]:
        """Returns this rank's batch at a place, as indices into the data set."""

    @abstractmethod
    def settle(self, places: Sequence[Place]) -> None:
        """Decides what these batches hold, in order, and forgets those before the first of them."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """Returns what the plan cannot derive, as plain data."""

    @abstractmethod
    def restore(self, state: Mapping[str, Any]) -> None:
        """Continues from what ``state`` returned."""


class ListedBatches(BatchPlan):
    """Lists all batches of an epoch at once, as a pure function of its settings and the epoch."""

    def __init__(self, *, rank: int, world_size: int, seed: int) -> None:
        super().__init__(rank=rank, world_size=world_size, seed=seed)
        self._listed: tuple[int, list[list[int]]] = (-1, [])

    @abstractmethod
    def batches(self, epoch: int) -> list[list[int]]:
        """Lists this rank's batches of an epoch."""

    def batch(self, place: Place) -> list[int]:
        """Returns this rank's batch at a place, as indices into the data set."""
        epoch, number = place
        if self._listed[0] != epoch:
            self._listed = (epoch, self.batches(epoch))
        return self._listed[1][number]

    def settle(self, places: Sequence[Place]) -> None:
        """Does nothing: what a batch holds never changes."""

    def state(self) -> dict[str, Any]:
        """Returns nothing: all can be derived."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Does nothing."""


class ShardedBatches(ListedBatches):
    """Deals one shuffled order to all ranks: global batch ``k`` is the same set of samples on any number of ranks.

    Args:
        length: Samples in the data set.
        batch_size: Samples a batch on each rank.
        rank: This process.
        world_size: Processes in all.
        seed: Names the order.
        shuffle_batches: Shuffles whole global batches and keeps their samples together, for data laid out in runs of
            one kind (and so of one length).
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        *,
        rank: int,
        world_size: int,
        seed: int,
        shuffle_batches: bool = False,
    ) -> None:
        super().__init__(rank=rank, world_size=world_size, seed=seed)
        self.length = length
        self.batch_size = batch_size
        self.shuffle_batches = shuffle_batches

    def __len__(self) -> int:
        # A last global batch that is not full is left out, so that all ranks take the same steps.
        return self.length // (self.batch_size * self.world_size)

    def batches(self, epoch: int) -> list[list[int]]:
        """Lists this rank's batches of an epoch."""
        size = self.batch_size * self.world_size
        order = list(range(len(self) if self.shuffle_batches else self.length))
        random_stream(self.seed, "order", epoch).shuffle(order)
        if self.shuffle_batches:
            order = [start * size + offset for start in order for offset in range(size)]
        return [order[batch * size : (batch + 1) * size][self.rank :: self.world_size] for batch in range(len(self))]


class LengthGroupedBatches(ListedBatches):
    """Puts samples of similar length into one batch, of the same number of samples each.

    The shuffled order is cut into pools, each pool is sorted by length and cut into global batches, and all global
    batches are shuffled. Global batch ``k`` is the same set of samples on any number of ranks.

    Args:
        lengths: Tokens of each sample, by its index; samples without one are left out.
        batch_size: Samples a batch on each rank.
        rank: This process.
        world_size: Processes in all.
        seed: Names the order.
    """

    def __init__(
        self, lengths: Sequence[int | None], batch_size: int, *, rank: int, world_size: int, seed: int
    ) -> None:
        super().__init__(rank=rank, world_size=world_size, seed=seed)
        self.lengths = _known(lengths)
        self.batch_size = batch_size

    def __len__(self) -> int:
        return len(self.lengths) // (self.batch_size * self.world_size)

    def batches(self, epoch: int) -> list[list[int]]:
        """Lists this rank's batches of an epoch."""
        stream = random_stream(self.seed, "order", epoch)
        order = list(self.lengths)
        stream.shuffle(order)
        size = self.batch_size * self.world_size
        groups = [
            pool[start : start + size]
            # What fills no batch is left out before the sorting, which would single out the shortest.
            for pool in _sorted_pools(order[: len(self) * size], self.lengths, POOLED_BATCHES * size)
            for start in range(0, len(pool), size)
        ]
        stream.shuffle(groups)
        return [group[self.rank :: self.world_size] for group in groups]


class TokenBudgetBatches(ListedBatches):
    """Fills each batch with samples of similar length until its padded rows reach a budget of tokens.

    The list of batches does not depend on the number of ranks: rank ``r`` of ``W`` takes batches ``r``, ``r + W``, ....
    So an optimizer step sees the same samples wherever ranks times accumulated batches are the same. Every epoch has as
    many batches as the first: a surplus is left out, a shortfall is made up by halving the batches with most rows.

    Args:
        lengths: Tokens of each sample, by its index; samples without one are left out.
        max_batch_tokens: Most tokens of a batch on each rank: rows times the longest row. No sample may be longer.
        batch_size: Most samples of a batch; None for any number.
        rank: This process.
        world_size: Processes in all.
        seed: Names the order.

    Raises:
        ValueError: A sample is longer than the budget.
    """

    def __init__(
        self,
        lengths: Sequence[int | None],
        max_batch_tokens: int,
        *,
        batch_size: int | None = None,
        rank: int,
        world_size: int,
        seed: int,
    ) -> None:
        super().__init__(rank=rank, world_size=world_size, seed=seed)
        self.lengths = _known(lengths)
        self.max_batch_tokens = max_batch_tokens
        self.batch_size = batch_size
        longest = max(self.lengths.values(), default=0)
        if longest > max_batch_tokens:
            raise ValueError(f"a sample has {longest} tokens, more than the budget of {max_batch_tokens}")

    def __len__(self) -> int:
        return self._count // self.world_size

    def batches(self, epoch: int) -> list[list[int]]:
        """Lists this rank's batches of an epoch."""
        groups = self._filled(epoch)
        _halve_the_largest(groups, self._count)
        return groups[self.rank :: self.world_size][: len(self)]

    @cached_property
    def _count(self) -> int:
        """Batches of the first epoch over all ranks."""
        return len(self._filled(0))

    def _filled(self, epoch: int) -> list[list[int]]:
        stream = random_stream(self.seed, "order", epoch)
        order = list(self.lengths)
        stream.shuffle(order)
        groups = []
        for pool in _sorted_pools(order, self.lengths, self._pool_size()):
            start = 0
            while start < len(pool):
                # The first of what is left is the longest.
                rows = self._rows(self.lengths[pool[start]])
                groups.append(pool[start : start + rows])
                start += rows
        stream.shuffle(groups)
        return groups

    def _rows(self, length: int) -> int:
        rows = self.max_batch_tokens // max(1, length)
        return rows if self.batch_size is None else min(rows, self.batch_size)

    def _pool_size(self) -> int:
        mean = sum(self.lengths.values()) // max(1, len(self.lengths))
        return POOLED_BATCHES * max(1, self._rows(mean))


def padding_share(batches: Sequence[Sequence[int]], lengths: Sequence[int]) -> float:
    """Computes which share of the tokens of padded batches is padding, in [0, 1).

    Example:
        >>> padding_share([[0, 1]], [4, 2])
        0.25
    """
    padded = sum(len(batch) * max(lengths[index] for index in batch) for batch in batches)
    real = sum(lengths[index] for batch in batches for index in batch)
    return 1 - real / padded


def _known(lengths: Sequence[int | None]) -> dict[int, int]:
    return {index: length for index, length in enumerate(lengths) if length is not None}


def _sorted_pools(order: Sequence[int], lengths: dict[int, int], size: int) -> Iterator[list[int]]:
    """Cuts an order into pools of ``size`` samples and sorts each, the longest first."""
    for start in range(0, len(order), size):
        yield sorted(order[start : start + size], key=lengths.__getitem__, reverse=True)


def _halve_the_largest(groups: list[list[int]], wanted: int) -> None:
    """Splits batches, in place, until there are ``wanted``."""
    while len(groups) < wanted:
        largest = max(range(len(groups)), key=lambda group: len(groups[group]))
        rows = groups[largest]
        groups[largest] = rows[: len(rows) // 2]
        groups.append(rows[len(rows) // 2 :])
