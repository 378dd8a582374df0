r"""Forms that a completion may have to follow: a thought, then an answer in tags or in a box.

Found by searching for fixed marks in turn, never by one regular expression over the whole, so that the time is linear
in the text.
"""

import re
from typing import Literal

from lit_vlm.parsing.tagged_answers import is_well_formed

CompletionFormat = Literal["strict", "lenient", "think_only", "boxed"]

_THINK, _THINK_END, _ANSWER_END = "<think>", "</think>", "</answer>"
_BETWEEN = re.compile(r"</think>\s*<answer>")
_MARK = re.compile(r"([<>/])")


def follows_format(text: str, form: CompletionFormat) -> bool:
    r"""Says whether a completion follows a form.

    Args:
        text: The completion.
        form: ``strict``: one thought, one answer that is not blank, nothing else but white space; ``lenient``: begins
            with ``<think>``, ends with ``</answer>``, with ``</think>``, white space and ``<answer>`` between them
            (repeated tags and blank answers pass, white space around it does not); ``think_only``: begins with the only
            ``<think>``, closed somewhere; ``boxed``: begins with ``<think>``, then ``</think>``, then ``\boxed{…}``.

    Source:
        ``lenient``: VLM-R1 ``grpo_jsonl.py`` and EasyR1 ``r1v.py``; ``think_only``: TRL
        ``trl/rewards/format_rewards.py``; ``boxed``: EasyR1 ``examples/reward_function/math.py`` (all
        confirmed-in-code). ``strict`` is ours.

    Example:
        >>> text = "<think>a</think><answer>b</answer>\n"
        >>> follows_format(text, "strict"), follows_format(text, "lenient")
        (True, False)
    """
    if form == "strict":
        return is_well_formed(text)
    if not text.startswith(_THINK):
        return False
    start = len(_THINK)
    if form == "lenient":
        return text.endswith(_ANSWER_END) and bool(_BETWEEN.search(text, start, len(text) - len(_ANSWER_END)))
    if form == "think_only":
        return _THINK not in text[start:] and _THINK_END in text[start:]
    for mark in (_THINK_END, "\\boxed{", "}"):
        found = text.find(mark, start)
        if found < 0:
            return False
        start = found + len(mark)
    return True


def with_opened_thought(text: str) -> str:
    """Puts ``<think>`` in front of a completion whose prompt opened the thought already.

    Example:
        >>> with_opened_thought("a</think>")
        '<think>a</think>'
    """
    stripped = text.strip()
    return stripped if stripped.startswith(_THINK) else _THINK + stripped


def without_spaced_marks(text: str) -> str:
    """Drops white space around ``<``, ``>`` and ``/``; for a test of the form only, since it rewrites ``a / b``.

    Example:
        >>> without_spaced_marks("< think >a</ think >")
        '<think>a</think>'
    """
    pieces = _MARK.split(text)
    last = len(pieces) - 1
    if not last:
        return text
    inner = [piece.strip() for piece in pieces[1:-1]]
    return "".join([pieces[0].rstrip(), *inner, pieces[-1].lstrip()])
