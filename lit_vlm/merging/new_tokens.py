"""Rows of embedding and head that are taken over from donors, token by token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lit_vlm.functional.weight_names import weight_key
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.weights import TensorSource
from lit_vlm.merging.named_source import NamedSource
from lit_vlm.merging.weight_planner import PlannedWeight


@dataclass(frozen=True, eq=False)
class NewRow:
    """A row that becomes the mean of the donors' rows for the same token."""

    token: str
    row: int
    """Of the target's matrix."""
    donors: tuple[tuple[TensorSource, str, int], ...]
    """Where the donors have it: weight on disk and row."""

    def mean(self) -> Tensor:
        """Reads the donors' rows; float32, shape ``(D,)``."""
        rows = []
        for source, name, row in self.donors:
            width = source.shape(name)[-1]
            rows.append(source.pieces(name)(row * width, (row + 1) * width).float())
        return torch.stack(rows).mean(0)


def new_rows(
    tokens: Sequence[str], target: NamedSource, donors: Sequence[NamedSource], planned: Sequence[PlannedWeight]
) -> dict[str, tuple[NewRow, ...]]:
    """Finds the rows of certain tokens in embedding and head of the donors.

    Args:
        tokens: As the tokenizers write them, such as ``<think>``.
        target: Must know all of them.
        donors: Those that know a token give its row; differences and models without it do not count.
        planned: The weights of the result.

    Returns:
        Name of the embedding or head on disk -> its new rows.

    Raises:
        UserError: The target or all donors lack a token.

    Source:
        mergekit ``tokenizer/embed.py`` (confirmed-in-code) for the mean over donors. The target's tokenizer stays: a
        token that it lacks is refused, not added.
    """
    if not tokens:
        return {}
    matrices = [weight for weight in planned if weight.place.group in ("embed", "head")]
    known = target.tokens or {}
    rows = min((weight.shape[0] for weight in matrices), default=0)
    lacking = [token for token in tokens if token not in known or known[token] >= rows]
    if lacking:
        raise UserError(
            f"new_tokens: {target} has no row for {', '.join(map(repr, lacking))}; add the tokens to its tokenizer and "
            "resize its embedding first (tokenizer.add_tokens, model.resize_token_embeddings)"
        )
    return {
        weight.place.name: tuple(
            NewRow(token, known[token], _found(token, weight_key(weight.place.name), donors)) for token in tokens
        )
        for weight in matrices
    }


def put_new_rows(rows: Sequence[NewRow], matrix: Tensor) -> None:
    """Writes the donors' rows into a matrix, in its type."""
    for row in rows:
        matrix[row.row] = row.mean().to(matrix)


def _found(token: str, key: str, donors: Sequence[NamedSource]) -> tuple[tuple[TensorSource, str, int], ...]:
    found = []
    for donor in donors:
        name, row = donor.find(key), (donor.tokens or {}).get(token)
        if not donor.is_vector and name is not None and row is not None and row < donor.source.shape(name)[0]:
            found.append((donor.source, name, row))
    if not found:
        raise UserError(f"new_tokens: no donor has a row for {token!r} in {key}; leave it out, or check its spelling")
    return tuple(found)
