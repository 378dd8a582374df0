"""Letters of multiple-choice answers.

The letter is read from the answer alone, never by looking for the true one, so an answer that names several letters
("A or B or C", which earned full reward in the open issue 79 of Visual-RFT) reads as none.
"""

import re
import string
from collections.abc import Sequence

from lit_vlm.parsing.answer_text import comparable_text, peel

_LEAD = re.compile(r"(?:the )?(?:correct )?(?:answer|option|choice)(?: is)?:? ?(?=[(\[]?[a-z](?![a-z]))", re.IGNORECASE)
_LETTER = re.compile(r"[(\[]? ?([A-Za-z]) ?[)\].:]*")
_LABELLED = re.compile(r"(?:[(\[] ?([A-Za-z]) ?[)\]]|([A-Za-z]) ?[).:])[.:]? ?(.+)")
_SECOND_LABEL = re.compile(
    r"^[A-Z] ?(?:[).:,;/|&]|$|(?:or|and)(?!\w))"  # the rest begins with a label
    r"|(?:(?<!\w)(?:or|and)|[/|&,]) ?[(\[]?[A-Z](?!\w)"  # "or B", "/ B"
    r"|[(\[][A-Z][)\]]"  # "(B)"
    r"|(?<!\w)[A-Z][).:] ?\w"  # "B. dog"
)
_BARE_LETTERS = re.compile(r"[A-Z](?: ?[A-Z]){1,25}")
_SEPARATOR = re.compile(r"[,;\n&]|(?<!\w)and(?!\w)")


def parse_choice(text: str, options: Sequence[str] = ()) -> str | None:
    """Reads the one letter that an answer chooses.

    Args:
        text: ``A``, ``(a)``, ``A.``, ``A) text``, the option's text, or one of these after "the answer is".
        options: The options' texts without letters; where given, the text after a letter must be that option's.

    Returns:
        A capital letter, or None where no or more than one is chosen.

    Example:
        >>> parse_choice("(B) a dog", ["a cat", "a dog"]), parse_choice("a dog", ["a cat", "a dog"])
        ('B', 'B')
        >>> parse_choice("A or B or C") is None
        True
    """
    text = " ".join(peel(text).split())
    answer = peel(_LEAD.sub("", text, count=1) if _LEAD.match(text) else text)
    if match := _LETTER.fullmatch(answer):
        return match[1].upper()
    texts = [comparable_text(option) for option in options]
    if match := _LABELLED.fullmatch(answer):
        letter, rest = (match[1] or match[2]).upper(), match[3]
        index = string.ascii_uppercase.index(letter)
        if texts and index < len(texts) and texts[index] == comparable_text(rest):
            return letter
        if not texts and not has_second_label(rest):
            return letter
    if text and texts.count(comparable_text(text)) == 1:
        index = texts.index(comparable_text(text))
        return string.ascii_uppercase[index] if index < 26 else None
    return None


def has_second_label(rest: str) -> bool:
    """Says whether what follows a label, such as the text after "B.", names another option as well.

    Example:
        >>> has_second_label("a dog"), has_second_label("a dog or C"), has_second_label("C. D.")
        (False, True, True)
    """
    return bool(_SECOND_LABEL.search(rest))


def parse_choices(text: str, options: Sequence[str] = ()) -> frozenset[str] | None:
    """Reads the set of letters that an answer chooses.

    Args:
        text: Choices as in ``parse_choice`` between commas, semicolons, lines or "and"; or letters only, as ``AC``.
        options: The options' texts without letters.

    Returns:
        Capital letters, or None where any part is no single choice.

    Example:
        >>> sorted(parse_choices("C, (A) and c"))
        ['A', 'C']
    """
    text = peel(text)
    if text.startswith(("[", "{")) and text.endswith(("]", "}")):
        text = text[1:-1]
    if _BARE_LETTERS.fullmatch(" ".join(text.split())) and parse_choice(text, options) is None:
        return frozenset(text) - set(string.whitespace)
    letters = [parse_choice(part.strip(" \"'"), options) for part in _SEPARATOR.split(text) if part.strip()]
    chosen = frozenset(letter for letter in letters if letter is not None)
    return chosen if letters and None not in letters else None
