"""The exact token sequence of a row, with what the loss sees of it, for people to read."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rich.text import Text

from lit_vlm.command_line.encoded_rows import EncodedRow, RowEncoder
from lit_vlm.functional.token_texts import token_texts
from lit_vlm.functional.visible_text import visible_text

Kind = Literal["text", "special", "media"]

BEGINS_CHARACTER = "⋯"
"""Shown for a token whose bytes only begin a character."""
TRAINED_START, TRAINED_END = "⟦", "⟧"
"""Enclose trained tokens, where colours cannot be seen or told apart."""
STYLES = {"masked": "bright_black", "trained": "bold green", "special": "underline", "media": "italic"}


@dataclass(frozen=True)
class TokenRun:
    """One token, or a run of one media placeholder."""

    text: str
    """The text it adds to the row; empty where it only begins a character."""
    token_id: int
    count: int
    """Tokens of the run: 1 but for media."""
    trained: bool
    kind: Kind

    @property
    def shown(self) -> str:
        """The text with its white space and control characters made visible."""
        text = visible_text(self.text) or BEGINS_CHARACTER
        return f"{text} x {self.count}" if self.kind == "media" else text


def token_runs(row: EncodedRow, encoder: RowEncoder) -> list[TokenRun]:
    """Splits a row into its tokens, in order, with runs of a media placeholder taken together."""

    def decode(token_ids: Sequence[int]) -> str:
        tokenizer = encoder.tokenizer
        return str(tokenizer.decode(list(token_ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))

    media = frozenset(encoder.media_token_ids)
    special = frozenset(encoder.tokenizer.all_special_ids)
    runs: list[TokenRun] = []
    tokens = zip(row.token_ids, row.trained, strict=True)
    for is_media, stretch in itertools.groupby(tokens, key=lambda token: token[0] in media):
        if is_media:
            for (token_id, trained), same in itertools.groupby(stretch):
                runs.append(TokenRun(decode([token_id]), token_id, len(list(same)), trained, "media"))
            continue
        pairs = list(stretch)
        texts = token_texts([token_id for token_id, _ in pairs], decode)
        runs.extend(
            TokenRun(text, token_id, 1, trained, "special" if token_id in special else "text")
            for text, (token_id, trained) in zip(texts, pairs, strict=True)
        )
    return runs


def styled_tokens(runs: Sequence[TokenRun]) -> Text:
    """Colours the tokens of a row by what the loss sees of them, trained stretches enclosed in brackets."""
    text = Text(overflow="fold")
    for trained, stretch in itertools.groupby(runs, key=lambda run: run.trained):
        if trained:
            text.append(TRAINED_START, STYLES["trained"])
        for run in stretch:
            style = STYLES["trained" if trained else "masked"]
            text.append(run.shown, style if run.kind == "text" else f"{style} {STYLES[run.kind]}")
        if trained:
            text.append(TRAINED_END, STYLES["trained"])
    return text
