"""Texts that end a completion, found where they are complete, however they fall into tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.roles import SampleEncoder

INCOMPLETE = "\N{REPLACEMENT CHARACTER}"
"""What a byte-level tokenizer writes for bytes that are no whole character yet."""
SLACK = 8
"""Tokens without text that may stand within a stop string."""


def check_stop_strings(strings: Sequence[str], encoder: SampleEncoder) -> None:
    """Refuses texts that the model cannot write.

    Args:
        strings: Texts that are to end completions.
        encoder: Knows the tokenizer.

    Raises:
        UserError: Text comes back from the tokenizer without the stop string: it lacks the characters, or takes them
            for a special token, which is no text.
    """
    for text in strings:
        # A letter in front, since some tokenizers drop a space at the start of a text.
        written = encoder.decode(encoder.tokenise(f"a{text}"))
        if text not in written:
            raise UserError(
                f"sampling.stop_strings: {text!r} cannot be written by the model, whose tokenizer turns it into "
                f"{written.removeprefix('a')!r}; give plain text, since end tokens end a completion anyway"
            )


class StopStrings:
    """Looks for stop strings while rows grow, decoding a few tokens and only where one can have been completed.

    Args:
        strings: Texts that end a row, none empty.
        decode: Turns ids into text, without special tokens.
    """

    def __init__(self, strings: Sequence[str], decode: Callable[[Sequence[int]], str]) -> None:
        self._strings = tuple(strings)
        self._decode = decode
        self._last = {text[-1] for text in strings}
        # A token has a byte at least, or no text at all.
        self._span = max((len(text.encode()) for text in strings), default=0) + SLACK
        self._may_complete: dict[int, bool] = {}

    def __bool__(self) -> bool:
        return bool(self._strings)

    def may_complete(self, token_id: int) -> bool:
        """Tells whether a stop string can end within a token: its last character is there, or its bytes may be."""
        known = self._may_complete.get(token_id)
        if known is None:
            text = self._decode([token_id])
            # A token alone may lose its leading space.
            known = INCOMPLETE in text or bool(self._last & {*text, " "})
            self._may_complete[token_id] = known
        return known

    def completed(self, token_ids: Sequence[int]) -> bool:
        """Tells whether the end of a row holds a stop string."""
        text = self._decode(token_ids[-self._span :])
        return any(stop in text for stop in self._strings)

    def cut(self, token_ids: list[int]) -> tuple[list[int], str, bool]:
        """Cuts a row behind its first stop string.

        Returns:
            The tokens up to the one that completes the stop string, the text up to the stop string's end, and whether
            there is one.
        """
        text = self._decode(token_ids)
        ends = [text.find(stop) + len(stop) for stop in self._strings if stop in text]
        if not ends:
            return token_ids, text, False
        least, most = 1, len(token_ids)
        while least < most:
            middle = (least + most) // 2
            if any(stop in self._decode(token_ids[:middle]) for stop in self._strings):
                most = middle
            else:
                least = middle + 1
        return token_ids[:least], text[: min(ends)], True
