r"""The final answer of a completion: in ``<answer>`` tags, else in ``\boxed{}``. Both in time linear in the text."""

import re

from lit_vlm.parsing.tagged_answers import extract_answer

_BRACE = re.compile(r"\\boxed\s*\{|[{}]")
_BLOCK = re.compile(r"<answer>((?:(?!</?(?:answer|think)>).)*)</answer>", re.DOTALL)


def extract_final_answer(text: str) -> str | None:
    r"""Reads the last answer after the thought: a box in the last ``<answer>`` block, that block, or else the last box.

    Source:
        Card "answer extraction"; rule-based rewards of TRL ``trl/rewards/accuracy_rewards.py`` and VLM-R1
        ``grpo_jsonl.py`` (confirmed-in-code) differ in that a number in the thought may decide.

    Args:
        text: A completion; all of it counts where no thought ends in it.

    Returns:
        The answer without surrounding white space, never empty; None where there is none.

    Example:
        >>> extract_final_answer(r"<think>\boxed{7}</think><answer>120</answer>")
        '120'
        >>> extract_final_answer(r"\boxed{4} then \boxed{\frac{1}{2}}")
        '\\frac{1}{2}'
    """
    tail = text.rpartition("</think>")[2]
    block = extract_answer(tail)
    if block is None:
        return last_boxed(tail)
    return last_boxed(block) or block or None


def extract_single_answer(text: str) -> str | None:
    """Reads the final answer of a completion that does not list several: None where its blocks differ.

    Example:
        >>> extract_single_answer("<answer>1</answer><answer>2</answer>") is None
        True
    """
    return None if lists_answers(text) else extract_final_answer(text)


def lists_answers(text: str) -> bool:
    """Says whether a completion has several answer blocks after its thought that differ.

    Example:
        >>> lists_answers("<answer>1</answer><answer>2</answer>"), lists_answers("<answer>1</answer><answer>1</answer>")
        (True, False)
    """
    return len({block.strip() for block in _BLOCK.findall(text.rpartition("</think>")[2])}) > 1


def last_boxed(text: str) -> str | None:
    r"""Reads the last ``\boxed{}`` whose braces close; None where there is none or it is empty.

    Example:
        >>> last_boxed(r"so \boxed{\frac{1}{2}} and \boxed{3")
        '\\frac{1}{2}'
    """
    opened: list[int | None] = []  # where the content of each open box begins, None for a plain brace
    found = (-1, -1)
    for brace in _BRACE.finditer(text):
        if brace.group() == "{":
            opened.append(None)
        elif brace.group() != "}":
            opened.append(brace.end())
        elif opened and (start := opened.pop()) is not None:
            found = max(found, (start, brace.start()))
    return text[slice(*found)].strip() or None if found[0] >= 0 else None
