"""The letter of a choice in an answer that may be a sentence; stricter readings are in ``lit_vlm.parsing.choices``."""

import re
import string
from collections.abc import Sequence

from lit_vlm.parsing.answer_text import comparable_text, peel
from lit_vlm.parsing.choices import has_second_label

_LETTER = re.compile(r"[(\[]? ?([A-Za-z]) ?[)\]]?[.:)]?")
_LABEL = re.compile(r"(?:[(\[]([A-Za-z])[)\]][.:]?|([A-Za-z])[.:)]) (.*)")
_STATED = re.compile(r"\b(?i:answer|option|choice)(?: (?i:is))?:? [(\[]?([A-Z])(?![A-Za-z])")


def choice_letter(answer: str, options: Sequence[str] = ()) -> str | None:
    """Reads the letter that an answer chooses.

    In turn: a letter alone, with brackets, a dot or a colon; a letter so marked before a text; an upper-case letter
    after "answer", "option" or "choice"; the text of exactly one option. An answer that marks several letters chooses
    none.

    Args:
        answer: The answer, without the thought.
        options: The options' texts without letters; a letter beyond them is none.

    Returns:
        A capital letter, or None.

    Source:
        Card "multiple-choice accuracy" (ours; VLM-R1 scores by keywords, and pays A for "A cat").

    Example:
        >>> choice_letter("I think option (D)"), choice_letter("A cat sits"), choice_letter("A. B. C. D.")
        ('D', None, None)
    """
    answer = " ".join(peel(answer).split())
    letter: str | None = None
    if match := _LETTER.fullmatch(answer):
        letter = match[1]
    elif match := _LABEL.match(answer):
        letter = None if has_second_label(match[3]) else match[1] or match[2]
    elif stated := set(_STATED.findall(answer)):
        letter = stated.pop() if len(stated) == 1 else None
    else:
        texts = [comparable_text(option) for option in options]
        if answer and texts.count(comparable_text(answer)) == 1:
            letter = string.ascii_uppercase[texts.index(comparable_text(answer)) :][:1]
    known = string.ascii_uppercase[: len(options) or 26]
    return letter.upper() if letter and letter.upper() in known else None
