"""Batches whose samples are drawn with probabilities that change while a run goes on."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from typing import Any

from lit_vlm.data.batch_plans import BatchPlan, Place, ShardedBatches
from lit_vlm.functional.random_streams import random_stream
from lit_vlm.interfaces.capabilities import ArmKind
from lit_vlm.interfaces.errors import UserError

LISTED = 10
"""Arms named in a message."""


class Steering:
    """Draws a sample's arm with the present probabilities, then the next sample of it.

    The samples of an arm come in a shuffled order; where it is used up they are shuffled anew. How far each arm is used
    up is remembered while others are steered by.

    Args:
        arms: Lists the samples of each arm by index.
    """

    def __init__(self, arms: Callable[[ArmKind], Mapping[str, Sequence[int]]]) -> None:
        self._arms = arms
        self._by: ArmKind | None = None
        self._probabilities: dict[str, float] = {}
        self._cumulative: list[float] = []
        self._taken: dict[ArmKind, dict[str, int]] = {}
        self._orders: dict[tuple[ArmKind, str], tuple[int, list[int]]] = {}

    @property
    def is_on(self) -> bool:
        """Whether anybody has steered."""
        return self._by is not None

    def steer(self, by: ArmKind, probabilities: Mapping[str, float]) -> None:
        """Draws from now on with these probabilities; arms left out have none.

        Raises:
            UserError: An arm is unknown, a probability is no number from 0 on, or all are 0.
        """
        known = self._arms(by)
        unknown = [name for name in probabilities if name not in known]
        if unknown:
            raise UserError(
                f"training samples cannot be drawn by {by} {_first(unknown)}, which no sample has; there are "
                f"{_first(list(known))}"
            )
        for name, probability in probabilities.items():
            if not (math.isfinite(probability) and probability >= 0):
                raise UserError(f"the probability of {by} {name!r} is {probability}; give a number from 0 on")
        drawn = {name: float(probabilities[name]) for name in known if probabilities.get(name)}
        if not drawn:
            raise UserError(f"all probabilities of {by} are 0, so that no sample can be drawn; give one above 0")
        self._by = by
        self._probabilities = drawn
        self._cumulative = list(accumulate(drawn.values()))

    def draw(self, count: int, seed: int, place: Place) -> list[int]:
        """Draws the samples of a batch over all ranks, as indices.

        Args:
            count: How many.
            seed: Names all draws and orders.
            place: Names the draws of this batch.
        """
        if self._by is None:
            raise RuntimeError("nobody has said by what samples are drawn")
        stream = random_stream(seed, "steered", *place)
        names = stream.choices(list(self._probabilities), cum_weights=self._cumulative, k=count)
        return [self._next(self._by, name, seed) for name in names]

    def state(self) -> dict[str, Any]:
        """Returns what samples are drawn by, and how far each arm is used up."""
        taken = {by: dict(counts) for by, counts in self._taken.items()}
        return {"by": self._by, "probabilities": dict(self._probabilities), "taken": taken}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continues from what ``state`` returned.

        Raises:
            UserError: The data lack an arm of the earlier run.
        """
        self.steer(state["by"], state["probabilities"])
        self._taken = {by: dict(counts) for by, counts in state["taken"].items()}

    def _next(self, by: ArmKind, name: str, seed: int) -> int:
        samples = self._arms(by)[name]
        if len(samples) == 1:
            return samples[0]
        counts = self._taken.setdefault(by, {})
        taken = counts.get(name, 0)
        counts[name] = taken + 1
        turn, position = divmod(taken, len(samples))
        known_turn, order = self._orders.get((by, name), (-1, []))
        if turn != known_turn:
            order = list(samples)
            random_stream(seed, "arm", by, name, turn).shuffle(order)
            self._orders[by, name] = (turn, order)
        return order[position]


class SteeredBatches(BatchPlan):
    """Serves another plan's batches until somebody steers, and from then on batches that ``Steering`` draws.

    An epoch has as many batches as the other plan's. A batch is drawn over all ranks, of which each takes its share, so
    it is the same on any number of ranks that make up the same number of samples.

    A batch is decided when it is settled or asked for, whichever comes first, and in order; what is decided stays. The
    state holds the decided batches too, so that a resumed run serves what the uninterrupted one would have.

    Args:
        unsteered: What is served until somebody steers.
        steering: Draws the samples.
    """

    def __init__(self, unsteered: ShardedBatches, steering: Steering) -> None:
        super().__init__(rank=unsteered.rank, world_size=unsteered.world_size, seed=unsteered.seed)
        self._unsteered = unsteered
        self._steering = steering
        self._decided: dict[Place, list[int] | None] = {}
        """Samples over all ranks; None for a batch of the other plan."""

    def __len__(self) -> int:
        return len(self._unsteered)

    def batch(self, place: Place) -> list[int]:
        """Returns this rank's batch at a place."""
        samples = self._decided_at(place)
        return self._unsteered.batch(place) if samples is None else samples[self.rank :: self.world_size]

    def settle(self, places: Sequence[Place]) -> None:
        """Decides what these batches hold, in order, and forgets those before the first of them."""
        self._decided = {place: samples for place, samples in self._decided.items() if place >= places[0]}
        for place in places:
            self._decided_at(place)

    def state(self) -> dict[str, Any]:
        """Returns the steering and the decided batches; nothing where nobody has steered."""
        if not self._steering.is_on:
            return {}
        decided = [[epoch, number, samples] for (epoch, number), samples in self._decided.items()]
        return {"steering": self._steering.state(), "decided": decided}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continues from what ``state`` returned.

        Raises:
            UserError: The data lack an arm of the earlier run, or its batches were of another size.
        """
        if "steering" not in state:
            return
        for _, _, samples in state["decided"]:
            if samples is not None and len(samples) != self._size:
                raise UserError(
                    f"the run to resume drew {len(samples)} samples for a batch over all ranks, and this one draws "
                    f"{self._size}; give the same data.batch_size times number of ranks"
                )
        self._steering.restore(state["steering"])
        self._decided = {(epoch, number): samples for epoch, number, samples in state["decided"]}

    @property
    def _size(self) -> int:
        """Samples of a batch over all ranks."""
        return self._unsteered.batch_size * self.world_size

    def _decided_at(self, place: Place) -> list[int] | None:
        if place not in self._decided:
            is_steered = self._steering.is_on
            self._decided[place] = self._steering.draw(self._size, self.seed, place) if is_steered else None
        return self._decided[place]


def _first(names: Sequence[str]) -> str:
    more = len(names) - LISTED
    return ", ".join(map(repr, names[:LISTED])) + (f" and {more} more" if more > 0 else "")
