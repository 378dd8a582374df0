r"""Where a completion's answer stands: in tags, in ``\boxed{}``, after "the answer is", or nowhere but in the whole.

What the answer *means* is left to ``lit_vlm.parsing.answers``.
"""

import re

from lit_vlm.interfaces.records import AnswerPlace
from lit_vlm.parsing.final_answers import last_boxed
from lit_vlm.parsing.tagged_answers import extract_answer

_STATED = re.compile(
    r"(?:^[ \t]*####|\banswer(?:[ \t]+is\b|[ \t]*\**[ \t]*:))[ \t:*]*(\S.*)", re.IGNORECASE | re.MULTILINE
)
_THOUGHT_END = "</think>"


def find_answer(completion: str, place: AnswerPlace) -> str | None:
    r"""Reads the answer of a completion from the place where it has to stand; the last one counts.

    Args:
        completion: What the model wrote.
        place: ``tags``: between ``<answer>`` and ``</answer>``; ``boxed``: in ``\boxed{}``; ``stated``: the rest of
            the line after "the answer is", "Answer:" or "####"; ``whole``: all of it; ``any``: the first of these, in
            this order, that is there. A thought that ends with ``</think>`` never counts.

    Returns:
        The answer without surrounding white space, or None where there is none.

    Example:
        >>> find_answer(r"So \boxed{\frac{1}{2}}.", "boxed"), find_answer("The answer is 5.", "stated")
        ('\\frac{1}{2}', '5')
        >>> find_answer("<think>2 + 3</think> Five", "whole"), find_answer("Five", "tags") is None
        ('Five', True)
    """
    after_thought = completion.rpartition(_THOUGHT_END)[2]
    match place:
        case "tags":
            return extract_answer(completion)
        case "boxed":
            return last_boxed(after_thought)
        case "stated":
            stated = [found[1] for found in _STATED.finditer(after_thought)]
            return _without_stop(stated[-1]) or None if stated else None
        case "whole":
            # An unclosed thought has not come to an answer.
            return None if "<think>" in after_thought else after_thought.strip() or None
        case _:
            return next((text for one in _IN_TURN if (text := find_answer(completion, one)) is not None), None)


_IN_TURN: tuple[AnswerPlace, ...] = ("tags", "boxed", "stated", "whole")


def _without_stop(text: str) -> str:
    text = text.strip().strip("*").strip()
    return text[:-1].rstrip() if text.endswith(".") else text
