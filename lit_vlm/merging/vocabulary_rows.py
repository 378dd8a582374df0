"""Rows of embeddings and heads, matched by the tokens that they stand for.

Models of one family differ in their vocabularies: appended tokens, and rows that only pad the matrix. A row is merged
where all models have the same token for it; all other rows stay the target's.

Legend: ``V`` rows of the target, ``K`` matched rows, ``D`` width of the model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lit_vlm.interfaces.errors import UserError

VocabularyPolicy = Literal["shared_rows", "by_token"]
NAMED = 5
"""Tokens that a message names at most."""
PIECE = 4096
"""Rows that are gathered at a time."""


@dataclass(frozen=True)
class Vocabulary:
    """The tokens of a model, and for how many there is a row."""

    label: str
    """What messages call the model."""
    tokens: Mapping[str, int] | None
    """Token -> row; None where there is no tokenizer."""
    rows: int


@dataclass(frozen=True)
class RowMatch:
    """Which rows of several models belong together, the target's first."""

    rows: tuple[Tensor, ...]
    """For each model ``K`` indices."""

    @property
    def target(self) -> Tensor:
        """Rows of the target, ascending, shape ``(K,)``."""
        return self.rows[0]

    def difference(self, target: Tensor, donor: Tensor, base: Tensor | None) -> Tensor:
        """Spreads what the donor differs in from its base over the target's rows; 0 in rows that are not matched.

        Args:
            target: Shape ``(V, D)``.
            donor: Its own rows; a difference already where ``base`` is None.
            base: Its own rows.
        """
        result = torch.zeros_like(target)
        for at in self._pieces():
            matched = donor[self.rows[1][at]]
            if base is not None:
                matched = matched - base[self.rows[2][at]]
            result[self.target[at]] = matched
        return result

    def value(self, target: Tensor, donor: Tensor) -> Tensor:
        """Spreads the donor's rows over the target's, which stay where there is no match; shape ``(V, D)``."""
        result = target.clone()
        for at in self._pieces():
            result[self.target[at]] = donor[self.rows[1][at]]
        return result

    def _pieces(self) -> Iterator[slice]:
        """Cuts the matched rows, which may be most of the largest matrix, so that no second copy is made of them."""
        for begin in range(0, len(self.target), PIECE):
            yield slice(begin, begin + PIECE)


def match_rows(policy: VocabularyPolicy, models: Sequence[Vocabulary]) -> RowMatch | None:
    """Matches the rows of the target with those of a donor and of its base.

    Args:
        policy: ``shared_rows`` matches a row with the same row where all tokenizers have the same token for it, and
            accepts no token that stands elsewhere in another model; ``by_token`` matches tokens wherever they stand.
        models: The target, the donor and, unless the donor is a difference, its base.

    Returns:
        The match; None where all tokenizers and all numbers of rows are the same, so that whole matrices fit, or where
        there is no tokenizer to tell and the numbers of rows are the same.

    Raises:
        UserError: Rows cannot be matched: a tokenizer is missing, tokens have moved, or there is none in common.

    Source:
        mergekit ``tokenizer/embed.py`` (confirmed-in-code) for matching by token. Where no tokenizer is given it takes
        the rows that the smallest matrix has, which is right for appended tokens alone; here a row that has another
        token is left out.
    """
    target = models[0]
    same_rows = all(model.rows == target.rows for model in models)
    without = [model.label for model in models if model.tokens is None]
    if without:
        if same_rows and policy == "shared_rows":
            return None
        raise UserError(
            f"rows of embedding and head cannot be matched: {' and '.join(without)} without a tokenizer; "
            "put its files beside the weights, or give embed and head the coefficient 0"
        )
    tables = [model.tokens or {} for model in models]
    if same_rows and all(table == tables[0] for table in tables):
        return None
    if policy == "shared_rows":
        _refuse_moved_tokens(models)
    shared = set(tables[0]).intersection(*tables[1:])
    matched = sorted(tuple(table[token] for table in tables) for token in shared)
    # A tokenizer may know more tokens than there are rows.
    matched = [rows for rows in matched if all(row < model.rows for row, model in zip(rows, models, strict=True))]
    if not matched:
        raise UserError(
            f"rows of embedding and head cannot be matched: {' and '.join(model.label for model in models)} have no "
            "token in common; give embed and head the coefficient 0"
        )
    return RowMatch(tuple(torch.tensor(column) for column in zip(*matched, strict=True)))


def moved_tokens(first: Mapping[str, int], second: Mapping[str, int]) -> list[tuple[str, int, int]]:
    """Lists tokens that two models both have, in different rows: token, row in the first, row in the second."""
    return [(token, row, second[token]) for token, row in first.items() if second.get(token, row) != row]


def describe_moved(moved: Sequence[tuple[str, int, int]]) -> str:
    """Names some tokens that have moved, and counts the rest."""
    named = ", ".join(f"{token!r} ({here} and {there})" for token, here, there in moved[:NAMED])
    return named + (f" and {len(moved) - NAMED} more" if len(moved) > NAMED else "")


def _refuse_moved_tokens(models: Sequence[Vocabulary]) -> None:
    target = models[0]
    for model in models[1:]:
        if moved := moved_tokens(target.tokens or {}, model.tokens or {}):
            raise UserError(
                f"the tokenizers of {target.label} and {model.label} have tokens in different rows: "
                f"{describe_moved(moved)}; give vocabulary by_token, or embed and head the coefficient 0"
            )
