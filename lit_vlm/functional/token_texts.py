"""The text that each token of a row adds, so that a row can be read token by token."""

from collections.abc import Callable, Sequence

INCOMPLETE = "\N{REPLACEMENT CHARACTER}"
"""What a byte-level tokenizer writes for bytes that are no whole character yet."""


def token_texts(token_ids: Sequence[int], decode: Callable[[Sequence[int]], str]) -> list[str]:
    """Splits the decoded text of a row into the share of each token.

    A token alone may decode to something else than it does in a row: a leading space is dropped, or several tokens
    share the bytes of one character. Each token is therefore decoded behind the one before it, and a character goes to
    the token that completes it; tokens that only begin it get an empty text.

    Args:
        token_ids: Token ids of a row, or of a run within it.
        decode: Turns ids into text, special tokens included and white space left as it is.

    Returns:
        One text a token; joined they are ``decode(token_ids)``, for every tokenizer that only appends as ids follow.

    Example:
        >>> token_texts([72, 105, 226, 130, 172], lambda ids: bytes(ids).decode(errors="replace"))
        ['H', 'i', '', '', '€']
    """
    texts = []
    start = read = 0  # the last token that was read, and where the next run of tokens begins
    for end in range(1, len(token_ids) + 1):
        text = decode(token_ids[start:end])
        if text.endswith(INCOMPLETE) and end < len(token_ids):
            texts.append("")
            continue
        texts.append(text[len(decode(token_ids[start:read])) :])
        start, read = read, end
    return texts
