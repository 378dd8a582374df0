"""Memory for large tensors that is used again when they are gone.

Fresh memory comes from the system page by page, which takes longer than most of what is done with a tensor that is read
once.
"""

from __future__ import annotations

import math
import threading
import weakref
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

SMALLEST = 1 << 20
"""Bytes from which on memory is worth keeping."""


class RecycledMemory:
    """Gives out tensors, and takes their memory back when nothing refers to them or to parts of them any more.

    What is held is at most what was in use at one time; it goes back to the system with this object, or with the last
    tensor. It may be used by several threads.

    Example:
        >>> memory = RecycledMemory()
        >>> tensor = memory.empty((1 << 20,), torch.float32)
        >>> address = tensor.data_ptr()
        >>> del tensor
        >>> memory.empty((1 << 19,), torch.float32).data_ptr() == address
        True
    """

    def __init__(self) -> None:
        self._free: list[NDArray[np.uint8]] = []
        # A tensor may go while this thread is inside: the lock must let it in twice.
        self._lock = threading.RLock()

    def empty(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Returns a tensor of any content, on the CPU."""
        size = math.prod(shape) * dtype.itemsize
        if size < SMALLEST:
            return torch.empty(tuple(shape), dtype=dtype)
        room = self._take(size)
        # The tensor holds on to this view of its own: when the view goes, nothing of the tensor is left.
        view = room[:size]
        weakref.finalize(view, _give_back, weakref.ref(self), room).atexit = False
        return torch.from_numpy(view).view(dtype).view(tuple(shape))

    def _take(self, size: int) -> NDArray[np.uint8]:
        with self._lock:
            fitting = [place for place, room in enumerate(self._free) if room.nbytes >= size]
            if fitting:
                return self._free.pop(min(fitting, key=lambda place: self._free[place].nbytes))
            if self._free:
                # All are too small: the largest makes way, or rooms of all sizes would pile up.
                self._free.pop(max(range(len(self._free)), key=lambda place: self._free[place].nbytes))
        return np.empty(size, dtype=np.uint8)

    def take_back(self, room: NDArray[np.uint8]) -> None:
        """Keeps memory that a tensor has left."""
        with self._lock:
            self._free.append(room)


def _give_back(owner: weakref.ref[RecycledMemory], room: NDArray[np.uint8]) -> None:
    if (memory := owner()) is not None:
        memory.take_back(room)
