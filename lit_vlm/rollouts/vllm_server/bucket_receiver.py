"""What a worker does for weights that come through a process group; it knows nothing of vLLM."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from .flat_weights import Described, flat_size, unpack_weights
from .weight_group import GroupBrokenError, Place, WeightGroup, join

Load = Callable[[Iterable[tuple[str, Tensor]]], None]


class BucketReceiver:
    """Takes buckets of weights, each once, although it may be sent again after a group broke.

    A fault of the group is told, not raised: the trainer forms another, and goes on where it was.
    """

    def __init__(self) -> None:
        self._group: WeightGroup | None = None
        self._loaded = 0

    def begin(self) -> None:
        """Prepares for the first bucket."""
        self._loaded = 0

    def join(self, place: Place, device: torch.device) -> str | None:
        """Comes to a group, and leaves an earlier one.

        Args:
            place: Of this worker.
            device: Of its weights.

        Returns:
            Why the group did not come about; None where it did.

        Raises:
            UnreachableError: The trainer cannot be reached.
        """
        self.leave()
        try:
            self._group = join(place, device if place.backend == "nccl" else torch.device("cpu"))
        except GroupBrokenError as fault:
            return str(fault)
        return None

    def receive(self, number: int, described: Described, load: Load) -> str | None:
        """Takes a bucket, and loads it unless it was loaded before.

        Args:
            number: 1 for the first after ``begin``, then one more each.
            described: The weights in it; see ``flat_weights``.
            load: Takes the weights.

        Returns:
            Why the bucket did not come; None where it did.
        """
        if self._group is None:
            return "the worker is in no group"
        flat = torch.empty(flat_size(described), dtype=torch.uint8, device=self._group.device)
        try:
            self._group.broadcast(flat)
        except GroupBrokenError as fault:
            self.leave()
            return str(fault)
        if number > self._loaded:
            load(unpack_weights(flat, described))
            self._loaded = number
        return None

    def leave(self) -> None:
        """Lets go of the group, if there is one."""
        if self._group is not None:
            self._group.close()
            self._group = None
