"""The tagged form ``<think>…</think><answer>…</answer>``: whether a completion follows it, and its answer.

What the answer *means* is left to ``lit_vlm.parsing.answers``. Tags count in lower case and without attributes only.
"""

import re

_TAG = re.compile(r"</?(?:think|answer)>")
_FORM = ["<think>", "</think>", "<answer>", "</answer>"]


def is_well_formed(completion: str) -> bool:
    """Says whether a completion is one think block, then one answer block, and nothing else.

    White space may surround and part the blocks. The thought may be blank, the answer may not; a repeated or nested tag
    makes the form wrong.

    Example:
        >>> is_well_formed("<think>2 + 3</think><answer>5</answer>")
        True
        >>> is_well_formed("<think>2 + 3</think><answer>5</answer> or <answer>6</answer>")
        False
    """
    tags = list(_TAG.finditer(completion))
    if [tag.group() for tag in tags] != _FORM:
        return False
    think, think_end, answer, answer_end = tags
    outside = completion[: think.start()], completion[think_end.end() : answer.start()], completion[answer_end.end() :]
    return not any(text.strip() for text in outside) and bool(completion[answer.end() : answer_end.start()].strip())


def extract_answer(completion: str) -> str | None:
    """Reads the last answer block outside the thought, also from a completion that breaks the form.

    An answer block holds no tags: of nested blocks the innermost counts, and one with a thought inside counts as none.
    Everything after an unclosed ``<think>`` is thought, and everything before a first ``</think>`` that nothing opened,
    since chat templates may put ``<think>`` into the prompt. An unclosed ``<answer>`` is no block.

    Returns:
        The block's text without surrounding white space (empty for an empty block), or None where there is no block.

    Example:
        >>> extract_answer("<think>maybe <answer>4</answer></think><answer> 5 </answer>")
        '5'
        >>> extract_answer("<think>2 + 3</think> It is 5.") is None
        True
    """
    found: str | None = None
    start: int | None = None
    depth = 0
    thought_seen = False
    for tag in _TAG.finditer(completion):
        match tag.group():
            case "<think>":
                depth += 1
                thought_seen = True
                start = None
            case "</think>":
                if not thought_seen:
                    found = None
                depth = max(depth - 1, 0)
                thought_seen = True
                start = None
            case "<answer>":
                start = tag.end() if depth == 0 else None
            case _ if start is not None:
                found = completion[start : tag.start()].strip()
                start = None
    return found
