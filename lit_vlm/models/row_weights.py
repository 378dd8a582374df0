"""Factors of single rows in the supervised loss."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lit_vlm.interfaces.errors import BadSampleError
from lit_vlm.interfaces.records import Sample
from lit_vlm.models.conversation import origin_of


def check_weights(samples: Sequence[Sample]) -> None:
    """Refuses weights by which nothing could be learnt.

    Raises:
        BadSampleError: A weight is negative, infinite or no number; the first of them is named.
    """
    for sample in samples:
        if not (math.isfinite(sample.weight) and sample.weight >= 0):
            raise BadSampleError(
                origin_of(sample), f"the weight of sample {sample.id!r} is {sample.weight}; give a number from 0 on"
            )


def row_weights(samples: Sequence[Sample]) -> Tensor | None:
    """Collects the samples' weights, fp32, shape ``(B,)``; None where all are 1, which costs nothing."""
    if all(sample.weight == 1 for sample in samples):
        return None
    return torch.tensor([sample.weight for sample in samples], dtype=torch.float32)
