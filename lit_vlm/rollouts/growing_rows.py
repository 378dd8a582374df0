"""Keeps what is drawn for each completion, and tells which are finished.

Legend: ``B`` completions, ``T`` tokens of the longest.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lit_vlm.rollouts.stop_strings import StopStrings
from lit_vlm.rollouts.token_sampler import Draw

BLOCK = 256
"""Tokens of room made at a time."""


class GrowingRows:
    """Completions while they grow, and when all are finished.

    Args:
        count: ``B``.
        most: Longest completion, in tokens.
        end_token_ids: Tokens that end one.
        padding_id: Fills rows after their end.
        stops: Texts that end one.
        device: Where the tensors lie.
    """

    def __init__(
        self,
        count: int,
        most: int,
        end_token_ids: Sequence[int],
        padding_id: int,
        stops: StopStrings,
        device: torch.device,
    ) -> None:
        self._most = most
        self._stops = stops
        self._padding_id = padding_id
        self._end = torch.tensor(sorted(end_token_ids), dtype=torch.int64, device=device)
        self._growing = torch.arange(count, device=device)  # completion of each row of the batch
        self._lengths = torch.zeros(count, dtype=torch.int64, device=device)
        self.length = 0
        """Tokens drawn so far for those that still grow."""
        self.token_ids = torch.full((count, 0), padding_id, dtype=torch.int64, device=device)
        """Shape ``(B, T)`` once finished, like those below."""
        self.log_probs = torch.zeros(count, 0, device=device)
        self.entropies = torch.zeros(count, 0, device=device)
        self.is_truncated = torch.zeros(count, dtype=torch.bool, device=device)
        """Whether a completion met the length limit before its end, shape ``(B,)``."""

    @property
    def is_growing(self) -> bool:
        """Whether any completion is unfinished."""
        return len(self._growing) > 0

    @property
    def mask(self) -> Tensor:
        """1 on tokens that were drawn, int64, shape ``(B, T)``."""
        steps = torch.arange(self.token_ids.shape[1], device=self.token_ids.device)
        return (steps < self._lengths[:, None]).long()

    def append(self, draw: Draw) -> Tensor | None:
        """Adds a token to each unfinished completion, and finds those that it finishes.

        Args:
            draw: One token a row of the batch.

        Returns:
            Rows of the batch that go on, those in front mostly at their place; None where all do.
        """
        if not self.is_growing:
            return None
        self._make_room()
        self.token_ids[self._growing, self.length] = draw.token_ids
        self.log_probs[self._growing, self.length] = draw.log_probs
        self.entropies[self._growing, self.length] = draw.entropies
        self.length += 1
        is_done = torch.isin(draw.token_ids, self._end)
        if self._stops:
            is_done |= self._meet_stop_strings(draw.token_ids)
        if self.length == self._most:
            self.is_truncated[self._growing] = ~is_done
            is_done = torch.ones_like(is_done)
        done = is_done.nonzero().squeeze(1)
        if not len(done):
            return None
        self._lengths[self._growing[done]] = self.length
        kept = _fill_holes(is_done, len(done))
        self._growing = self._growing[kept]
        return kept

    def finish(self) -> list[str]:
        """Cuts what lies behind a stop string, and the room that nothing fills.

        Returns:
            The text of each completion.
        """
        texts = []
        for row, (ids, length) in enumerate(zip(self.token_ids.tolist(), self._lengths.tolist(), strict=True)):
            kept, text, is_stopped = self._stops.cut(ids[:length])
            texts.append(text)
            if is_stopped:
                self._lengths[row] = len(kept)
                self.is_truncated[row] = False
        longest = int(self._lengths.max())
        self.token_ids, self.log_probs, self.entropies = (
            tensor[:, :longest] for tensor in (self.token_ids, self.log_probs, self.entropies)
        )
        beyond = self.mask == 0
        self.token_ids = self.token_ids.masked_fill(beyond, self._padding_id)
        self.log_probs = self.log_probs.masked_fill(beyond, 0.0)
        self.entropies = self.entropies.masked_fill(beyond, 0.0)
        return texts

    def _make_room(self) -> None:
        if self.length == self.token_ids.shape[1]:
            added = min(BLOCK, self._most - self.length)
            for name in ("token_ids", "log_probs", "entropies"):
                tensor: Tensor = getattr(self, name)
                fill = self._padding_id if name == "token_ids" else 0
                setattr(self, name, torch.cat([tensor, tensor.new_full((len(tensor), added), fill)], 1))

    def _meet_stop_strings(self, token_ids: Tensor) -> Tensor:
        candidates = [row for row, token in enumerate(token_ids.tolist()) if self._stops.may_complete(token)]
        met = torch.zeros_like(token_ids, dtype=torch.bool)
        if candidates:
            ends = self.token_ids[self._growing[candidates], : self.length].tolist()
            met[candidates] = torch.tensor([self._stops.completed(ids) for ids in ends], device=met.device)
        return met


def _fill_holes(is_done: Tensor, done: int) -> Tensor:
    """Orders the rows that go on such that only as many change their place as leave a hole before the new end."""
    kept = len(is_done) - done
    rows = torch.arange(kept, device=is_done.device)
    rows[is_done[:kept]] = (~is_done[kept:]).nonzero().squeeze(1) + kept
    return rows
