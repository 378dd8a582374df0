"""Tells which samples are left to write completions for."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from torch.utils.data import Dataset

from lit_vlm.interfaces.errors import BadSampleError, UserError
from lit_vlm.interfaces.records import Sample


def samples_left(samples: Dataset[Sample], done: Collection[str], rank: int, world_size: int) -> Sequence[int]:
    """Deals the samples that are not done to the ranks, in turn.

    A rank that nothing is left for gets one that is done, so that ranks go together and none skips the run; whoever
    writes passes it by. Where some are done, every sample is read once, without decoding its media; one that cannot be
    read counts as left.

    Args:
        samples: All of them, by index.
        done: Ids of those to pass by.
        rank: Of this process.
        world_size: Number of processes.

    Returns:
        Indices of this rank's samples, in order.

    Raises:
        UserError: Two samples have one id, so that nobody can tell which of them is done.
    """
    total = len(samples)  # type: ignore[arg-type]
    if not done:
        return range(rank, total, world_size)
    left: list[int] = []
    passed: list[int] = []
    ids: dict[str, int] = {}
    for index in range(total):
        try:
            sample_id = samples[index].id
        except BadSampleError:
            left.append(index)
            continue
        if ids.setdefault(sample_id, index) != index:
            raise UserError(
                f"samples {ids[sample_id]} and {index} of those to predict are both called {sample_id!r}; give each "
                "an id of its own"
            )
        (passed if sample_id in done else left).append(index)
    return left[rank::world_size] or passed[:1]
