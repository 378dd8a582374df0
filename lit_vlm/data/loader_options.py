"""Checks the options that all DataModules share."""

from __future__ import annotations

from typing import Literal, get_args

from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import Split

Batching = Literal["fixed", "length_grouped", "token_budget"]


def check_at_least(least: int, **options: int | None) -> None:
    """Checks options that may not be lower; None passes.

    Raises:
        UserError: One is.
    """
    for name, value in options.items():
        if value is not None and value < least:
            raise UserError(f"data.{name} is {value}; give {'0 or more' if least == 0 else 'at least 1'}")


def check_batching(batching: Batching, batch_size: int | None, max_batch_tokens: int | None) -> None:
    """Checks that the size of batches is given in the unit that they are made by.

    Raises:
        UserError: It is not.
    """
    if batching == "token_budget" and max_batch_tokens is None:
        raise UserError("data.batching is token_budget; say how many tokens a batch may have in data.max_batch_tokens")
    if batching != "token_budget" and max_batch_tokens is not None:
        raise UserError(
            f"data.max_batch_tokens is {max_batch_tokens}, but data.batching is {batching}; set it to token_budget"
        )
    if batching != "token_budget" and batch_size is None:
        raise UserError(f"data.batch_size is null, but data.batching is {batching}; give a number of samples")


def check_split(split: Split) -> None:
    """Checks that a split exists.

    Raises:
        UserError: It does not.
    """
    if split not in get_args(Split):
        raise UserError(f"data.predict_split is {split!r}; choose {', '.join(get_args(Split))}")
