"""One encoded sample before it is padded to the length of its batch."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass
class TokenRow:
    """Tokens of a sample with the media among them."""

    ids: list[int] = field(default_factory=list)
    trained: list[bool] = field(default_factory=list)
    """Whether each token is learnt."""
    media_types: list[int] = field(default_factory=list)
    """0 text, 1 image, 2 video; one a token."""
    completion_start: int | None = None
    """Where the last trained segment begins."""
    outputs: list[dict[str, Any]] = field(default_factory=list)
    """What the processor gave for each segment with media."""

    def add(self, ids: list[int], media_types: list[int], trained: bool) -> None:
        """Appends a segment."""
        if trained:
            self.completion_start = len(self.ids)
        self.ids.extend(ids)
        self.media_types.extend(media_types)
        self.trained.extend([trained] * len(ids))

    def prompt(self) -> TokenRow:
        """The part before the last completion."""
        end = self.completion_start
        return TokenRow(self.ids[:end], self.trained[:end], self.media_types[:end], outputs=self.outputs)

    def digest(self) -> bytes:
        """Hashes all that a model reads of the row: its tokens, and what the processor made of its media."""
        digest = hashlib.blake2b(repr(self.ids).encode(), digest_size=16)
        for output in self.outputs:
            for name in sorted(output):
                tensor = torch.as_tensor(output[name]).contiguous()
                digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
                digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
        return digest.digest()
