"""Takes some pairs or groups out of a batch, with the completions, prompts and pixels that belong to them.

Legend: ``P`` prompts, ``C`` completions.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lit_vlm.interfaces.batches import CompletionSet, GroupBatch, PreferenceBatch
from lit_vlm.models.prompt_rows import select_prompts


def compared_rows(model: Any, batch: PreferenceBatch | GroupBatch, rows: range) -> PreferenceBatch | GroupBatch:
    """Takes some pairs or groups, with the counts of the whole step.

    Args:
        model: The Hugging Face model.
        batch: Pairs or groups.
        rows: Which of them.

    Returns:
        They. Where nothing tells which pixels belong to which prompt, all prompts stay, and groups that were not taken
        have neither completions nor a reference.
    """
    if len(rows) == len(batch):
        return batch
    index = _index(batch, rows)
    return _pairs(model, batch, index) if isinstance(batch, PreferenceBatch) else _groups(model, batch, index)


def completion_rows(model: Any, batch: CompletionSet, rows: range) -> CompletionSet:
    """Takes some completions, without what pairs or groups say of them.

    Args:
        model: The Hugging Face model.
        batch: ``C`` completions.
        rows: Which of them.
    """
    if len(rows) == len(batch.token_ids):
        return batch
    index = _index(batch, rows)
    return CompletionSet(**_taken(model, batch, index, batch.prompt_of[index].unique()))


def _index(batch: CompletionSet, rows: range) -> Tensor:
    return torch.arange(rows.start, rows.stop, device=batch.prompt_of.device)


def _pairs(model: Any, batch: PreferenceBatch, index: Tensor) -> PreferenceBatch:
    halves = torch.stack([batch.chosen[index], batch.rejected[index], batch.corrupted[index]])
    kept = halves[halves >= 0].unique()
    chosen, rejected, corrupted = _renumbered(halves, kept, len(batch.token_ids))
    return replace(
        batch,
        **_taken(model, batch, kept, batch.prompt_of[kept].unique()),
        chosen=chosen,
        rejected=rejected,
        corrupted=corrupted,
        weights=batch.weights[index],
        sample_of=batch.sample_of[index].unique(return_inverse=True)[1],
    )


def _groups(model: Any, batch: GroupBatch, index: Tensor) -> GroupBatch:
    is_taken = torch.zeros(len(batch), dtype=torch.bool, device=index.device).index_fill(0, index, value=True)
    kept = is_taken[batch.prompt_of].nonzero().squeeze(1)
    taken = _taken(model, batch, kept, index)
    reference = _renumbered(batch.reference.where(is_taken, -1), kept, len(batch.token_ids))
    if len(taken["prompts"]) < len(batch):
        reference = reference[index]
    return replace(batch, **taken, scores=batch.scores[kept], reference=reference)


def _taken(model: Any, batch: CompletionSet, kept: Tensor, prompts: Tensor) -> dict[str, Any]:
    """Takes completions and prompts; of the latter all, where their pixels cannot be told apart."""
    found = select_prompts(model, batch.prompts, prompts)
    prompt_of = batch.prompt_of[kept]
    return {
        "prompts": batch.prompts if found is None else found,
        "token_ids": batch.token_ids[kept],
        "mask": batch.mask[kept],
        "counted": batch.counted[kept],
        "prompt_of": prompt_of if found is None else _renumbered(prompt_of, prompts, len(batch.prompts)),
        "digests": tuple(batch.digests[row] for row in kept.tolist()) if batch.digests else (),
    }


def _renumbered(numbers: Tensor, kept: Tensor, total: int) -> Tensor:
    """Turns numbers of ``total`` things into those among the ones that were kept; negative ones stay.

    Example:
        >>> _renumbered(torch.tensor([4, -1, 2]), torch.tensor([2, 4]), 5)
        tensor([ 1, -1,  0])
    """
    places = torch.full((total,), -1, device=numbers.device)
    places[kept] = torch.arange(len(kept), device=numbers.device)
    return places[numbers.clamp(min=0)].where(numbers >= 0, -1)
