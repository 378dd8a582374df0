"""Splits responses into sub-sentences, and finds the token that ends each."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import accumulate

LEAST_WORDS = 5
"""Words that a clause and what follows it in its sentence must have for a comma to part them."""

_SENTENCE_END = re.compile(r"[.!?…]+[\"'’”)\]]*(?=\s|$)|[。！？]+[」』”’）]*|\n")
_WORD = re.compile(r"\S+")
_CLAUSE_MARKS = (",", ";", ":")

Span = tuple[int, int]


def split_segments(text: str) -> list[str]:
    """Splits a response into sub-sentences.

    A sentence ends with a full stop, exclamation or question mark before white space, with their ideographic forms, or
    with its line; what has no letter, such as the number of a list's entry, belongs to what follows. A sentence is
    parted at commas, semicolons and colons where ``LEAST_WORDS`` words or more stand on either side. What follows the
    last sentence end is one segment, so that a response without a sentence end is one, too.

    Args:
        text: The response.

    Returns:
        The sub-sentences in order, without white space around them; none where the text is blank.

    Example:
        >>> split_segments("there is a cat. it sits on the mat")
        ['there is a cat.', 'it sits on the mat']

    Source:
        Jing and Du, FGAIF (2024); ``RLHF/data_utils/segment.py`` of the authors (reconstructed). We differ: sentences
        are found by their marks and not by a parser, lines and list entries are regarded, and commas of a sentence
        without an end are not.
    """
    spans, _ = _spans(text)
    return [text[start:end] for start, end in spans]


def segment_end_tokens(token_texts: Sequence[str]) -> list[int]:
    """Finds the token in which each sub-sentence ends.

    Args:
        token_texts: What each token of the response adds to its text, nothing for special tokens.

    Returns:
        For each of ``split_segments`` of the joined texts the index of the token that holds its last character, for one
        without a sentence end that of the last token; ascending, and equal where one token ends two.

    Example:
        >>> segment_end_tokens(["a", " cat", ".", " a", " dog", ""])
        [2, 5]
    """
    spans, is_finished = _spans("".join(token_texts))
    ends = []
    token = 0
    reached = list(accumulate(map(len, token_texts)))
    for _, end in spans:
        while reached[token] < end:
            token += 1
        ends.append(token)
    if not is_finished:
        ends[-1] = len(token_texts) - 1
    return ends


def _spans(text: str) -> tuple[list[Span], bool]:
    """Returns where each sub-sentence begins and ends, and whether the last one has a sentence end."""
    spans: list[Span] = []
    start = 0
    for mark in _SENTENCE_END.finditer(text):
        if any(character.isalpha() for character in text[start : mark.end()]):
            spans.extend(_clauses(text, start, mark.end()))
            start = mark.end()
    rest = _trimmed(text, start, len(text))
    if rest is None:
        return spans, True
    return [*spans, rest], False


def _clauses(text: str, start: int, end: int) -> list[Span]:
    """Parts a sentence at its clause marks."""
    words = list(_WORD.finditer(text, start, end))
    clauses = []
    first = 0
    for place, word in enumerate(words):
        done = place + 1
        if word[0].endswith(_CLAUSE_MARKS) and done - first >= LEAST_WORDS and len(words) - done >= LEAST_WORDS:
            clauses.append((words[first].start(), word.end()))
            first = done
    return [*clauses, (words[first].start(), words[-1].end())]


def _trimmed(text: str, start: int, end: int) -> Span | None:
    """Takes white space off both ends; None where nothing is left."""
    inner = text[start:end]
    if not inner.strip():
        return None
    return start + len(inner) - len(inner.lstrip()), start + len(inner.rstrip())
