"""Answers as text: wrappers peeled off, spelling made comparable, lists split."""

import json
import re
import unicodedata
from fractions import Fraction

from lit_vlm.parsing.plain_numbers import parse_number

_WRAPPERS = (
    ("$$", "$$"),
    ("$", "$"),
    ("\\(", "\\)"),
    ("\\[", "\\]"),
    ("**", "**"),
    ("`", "`"),
    ("\\boxed{", "}"),
    ("\\text{", "}"),
)
_QUOTES = "\"'\u201c\u201d\u2018\u2019"
_PUNCTUATION = ".,;:!?"
_BULLET = re.compile(r"\s*(?:[-*\u2022]|[0-9]{1,3}[.)])\s+")


def peel(text: str) -> str:
    r"""Takes off white space and what wraps the whole of an answer: dollars, bold, ``\boxed{}``, ``\text{}``.

    Two formulas side by side are not one that is wrapped, and stay as they are.

    Example:
        >>> peel(r" $\boxed{5}$ "), peel(r"\boxed{5}\boxed{6}") == r"\boxed{5}\boxed{6}"
        ('5', True)
    """
    text = text.strip()
    for _ in _WRAPPERS:
        for left, right in _WRAPPERS:
            inner = text[len(left) : len(text) - len(right)]
            wrapped = len(text) > len(left) + len(right) and text.startswith(left) and text.endswith(right)
            if wrapped and left not in inner and _braces_close(inner):
                text = inner.strip()
                break
        else:
            return text
    return text


def comparable_text(text: str) -> str:
    """Folds case and white space and drops quotes around the text and punctuation at its end.

    Example:
        >>> comparable_text(' "A  Red cup." ')
        'a red cup'
    """
    folded = " ".join(unicodedata.normalize("NFC", peel(text)).casefold().split())
    return folded.rstrip(_PUNCTUATION).strip(_QUOTES).rstrip(_PUNCTUATION).strip() or folded


def words_only(text: str) -> str:
    """Folds case and writes one space for every run of other characters than letters and digits.

    Example:
        >>> words_only("The cat, (black)!")
        'the cat black'
    """
    return " ".join(re.findall(r"\w+", unicodedata.normalize("NFC", text).casefold())) or comparable_text(text)


def comparable_items(items: list[str]) -> list[Fraction | str]:
    """Turns plain numbers into numbers, so that ``3.0`` equals ``3``, and other items into comparable text."""
    numbers = [parse_number(peel(item)) for item in items]
    return [comparable_text(item) if number is None else number for item, number in zip(items, numbers, strict=True)]


def parse_list(text: str) -> list[str]:
    """Splits a list: JSON, or one item a line (bullets and numbering dropped), or items between ``;`` or ``,``.

    Example:
        >>> parse_list("left, up"), parse_list('["a, b", 3]'), parse_list("a; b, c")
        (['left', 'up'], ['a, b', '3'], ['a', 'b, c'])
    """
    text = peel(text)
    if text.startswith("[") and text.endswith("]"):
        try:
            items = json.loads(text, parse_int=str, parse_float=str, parse_constant=str)
            return [item if isinstance(item, str) else json.dumps(item) for item in items]
        except (ValueError, RecursionError):
            text = text[1:-1]
    if "\n" in text:
        lines = (line for line in text.splitlines() if line.strip())
        return [_BULLET.sub("", line, count=1).strip() for line in lines]
    return [item.strip() for item in text.split(";" if ";" in text else ",")]


def render_list(items: list[str]) -> str:
    """Writes a list so that ``parse_list`` gives it back: items between commas where that is enough, else as JSON."""
    plain = ", ".join(items)
    return plain if parse_list(plain) == items else json.dumps(items, ensure_ascii=False)


def _braces_close(text: str) -> bool:
    """Says whether every closing brace has an opening one before it."""
    depth = 0
    for character in text:
        depth += (character == "{") - (character == "}")
        if depth < 0:
            return False
    return depth == 0
