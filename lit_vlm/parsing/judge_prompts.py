"""Questions about solutions: what a judge is asked, written and read back."""

from __future__ import annotations

import re

RUBRIC = (
    "Judge the student's solution to the question. Name the key concepts first, then check the solution step by step. "
    "Point out each error, and where there is one, give the correct solution with its answer in \\boxed{}. End with "
    '"Conclusion: right [END]" or "Conclusion: wrong [END]".'
)
"""What a judge is told where nothing else is given."""

STEP_RUBRIC = (
    "Judge each step of the student's solution to the question. Answer with a JSON list of one object a step: "
    '{"step": 1, "correct": 1}, or for a wrong step {"step": 2, "correct": 0, "error_type": …, "explanation": …}.'
)
"""What a judge of single steps is told where nothing else is given."""

_QUESTION = re.compile(r"^[ \t]*(?:Question|Query|Problem):[ \t]*", re.MULTILINE)
_SOLUTION = re.compile(r"^[ \t]*(?:(?:Student['\u2019]s )?Solution|Response):[ \t]*", re.MULTILINE)
_CRITERIA = re.compile(r"^[ \t]*Criteria:", re.MULTILINE)
_STEP = re.compile(r"^[ \t]*Step ([0-9]{1,4})[:.][ \t]*", re.MULTILINE | re.IGNORECASE)


def judge_request(question: str, solution: str, rubric: str = RUBRIC) -> str:
    r"""Writes what a judge is asked.

    Args:
        question: What was asked.
        solution: What is to be judged.
        rubric: How to judge.

    Example:
        >>> judge_request("2 + 2?", "5", "Judge.")
        "Judge.\n\nQuestion:\n2 + 2?\n\nStudent's Solution:\n5"

    Source:
        Wang et al., "Unleashing the Reasoning Potential of Pre-trained LLMs by Critique Fine-Tuning on One Problem"
        (2025), ``prompts/generate_teacher_critique.py`` of the authors: the layout (confirmed-in-code); the words of
        ``RUBRIC`` are ours.
    """
    return f"{rubric}\n\nQuestion:\n{question}\n\nStudent's Solution:\n{solution}"


def read_judge_request(text: str) -> tuple[str, str] | None:
    r"""Reads question and solution from what a judge is asked, in time linear in the text.

    Args:
        text: ``Question:`` (or ``Query:``, ``Problem:``) at the beginning of a line, and after it ``Solution:``,
            ``Student's Solution:`` or ``Response:``. ``Criteria:`` ends the solution.

    Returns:
        Question and solution without white space around them; None where one is missing or empty.

    Example:
        >>> read_judge_request("Question:\nWhat is 2 + 2?\n\nSolution:\n5")
        ('What is 2 + 2?', '5')
    """
    asked = _QUESTION.search(text)
    said = None if asked is None else _SOLUTION.search(text, asked.end())
    if asked is None or said is None:
        return None
    criteria = _CRITERIA.search(text, said.end())
    question, solution = text[asked.end() : said.start()].strip(), text[said.end() : criteria and criteria.start()]
    return (question, solution.strip()) if question and solution.strip() else None


def read_numbered_steps(text: str) -> tuple[str, tuple[str, ...]] | None:
    r"""Reads a solution that is split into steps, in time linear in the text.

    Args:
        text: ``Step 1: …``, ``Step 2: …`` and so on, each at the beginning of a line.

    Returns:
        What stands before the first step, and the steps without their numbers; None where there are no steps, one is
        empty, or they are not numbered from 1 in order.

    Example:
        >>> read_numbered_steps("Add 2 and 3.\nStep 1: 2 + 3 = 6.\nStep 2: So 6.")
        ('Add 2 and 3.', ('2 + 3 = 6.', 'So 6.'))
    """
    found = list(_STEP.finditer(text))
    if not found or [int(step[1]) for step in found] != list(range(1, len(found) + 1)):
        return None
    ends = [*(step.start() for step in found[1:]), len(text)]
    steps = tuple(text[step.end() : end].strip() for step, end in zip(found, ends, strict=True))
    return (text[: found[0].start()].strip(), steps) if all(steps) else None


def write_numbered_steps(steps: tuple[str, ...]) -> str:
    r"""Writes steps a line each, with their numbers.

    Example:
        >>> write_numbered_steps(("i see 2 3", "the answer is 5"))
        'Step 1: i see 2 3\nStep 2: the answer is 5'
    """
    return "\n".join(f"Step {number}: {step}" for number, step in enumerate(steps, 1))
