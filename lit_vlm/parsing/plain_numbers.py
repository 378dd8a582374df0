"""Numbers as people write them, read exactly: integers, decimals, fractions, percentages."""

import re
from fractions import Fraction

MAXIMUM_CHARACTERS = 1000
"""Longer texts are no plain number: Python refuses to read very long integers, and nobody means them."""

_SIGNS = str.maketrans(dict.fromkeys("\u2212\u2010\u2011\u2012\u2013\u2014\ufe63\uff0d", "-") | {"\uff0b": "+"})
_UNSIGNED = r"(?:(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]*)?|\.[0-9]+)"
# Three digits of exponent: exact arithmetic on 1e999999999 would fill the memory.
_DECIMAL = re.compile(rf"([+-]?) ?({_UNSIGNED}(?:[eE][+-]?[0-9]{{1,3}})?) ?(%?)")
_FRACTION = re.compile(rf"([+-]?) ?(?:([0-9]+) )?({_UNSIGNED}) ?/ ?({_UNSIGNED}) ?(%?)")


def unify_signs(text: str) -> str:
    """Writes every minus and dash of Unicode as ``-``."""
    return text.translate(_SIGNS)


def parse_number(text: str) -> Fraction | None:
    """Reads a plain number exactly.

    Args:
        text: An integer (also with commas between thousands), a decimal (also with an exponent of up to three digits),
            a fraction of two of these, or a mixed number such as ``1 1/2``; signed, a full stop and a percent sign may
            follow.

    Returns:
        The number, a percentage as hundredths; None where the whole text is no plain number.

    Example:
        >>> parse_number("3.0"), parse_number("1,200"), parse_number("3/4"), parse_number("50%")
        (Fraction(3, 1), Fraction(1200, 1), Fraction(3, 4), Fraction(1, 2))
        >>> parse_number("5 or 6") is None
        True
    """
    if len(text) > MAXIMUM_CHARACTERS:
        return None
    text = " ".join(unify_signs(text).replace("\\%", "%").split()).rstrip(".")
    if match := _DECIMAL.fullmatch(text):
        sign, digits, percent = match.groups()
        number = Fraction(digits.replace(",", ""))
    elif match := _FRACTION.fullmatch(text):
        sign, whole, numerator, denominator, percent = match.groups()
        below = Fraction(denominator.replace(",", ""))
        if below == 0:
            return None
        number = Fraction(whole or 0) + Fraction(numerator.replace(",", "")) / below
    else:
        return None
    number = -number if sign == "-" else number
    return number / 100 if percent else number
