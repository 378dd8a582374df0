"""What running out of memory looks like, and how to give back what is only kept in store."""

from __future__ import annotations

import gc

import torch

WORDS = (
    "out of memory",
    "can't allocate memory",
    "cannot allocate memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUSOLVER_STATUS_ALLOC_FAILED",
)
"""What errors say that have no class of their own: those of the CPU's allocator and of libraries on the GPU."""


def is_out_of_memory(error: BaseException) -> bool:
    """Tells whether an error says that there is no memory left, on a device or in the host.

    Example:
        >>> is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"))
        True
    """
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(word.lower() in str(error).lower() for word in WORDS)


def free_memory() -> None:
    """Gives back what nothing refers to any more, and what the allocator of a GPU keeps for later."""
    gc.collect()
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
