"""Judges solutions of the embedded tasks step by step: the truth about the picture is known, so rules can.

A judge that is the same on every machine, not a model's opinion. It leaves alone what is no derivation in the tasks'
small grammar, instead of guessing.
"""

from __future__ import annotations

import re

from lit_vlm.data.derivation_slots import Derivation, Slot, derived
from lit_vlm.data.digit_derivations import digit_derivation
from lit_vlm.data.scene_derivations import scene_derivation
from lit_vlm.interfaces.critiques import StepLabel
from lit_vlm.interfaces.records import Answer, Sample
from lit_vlm.parsing.answer_text import comparable_text
from lit_vlm.parsing.answers import check_answer
from lit_vlm.parsing.tagged_answers import extract_answer, is_well_formed

NO_SOLUTION = "no solution provided"
NO_ANSWER = "there is no answer"
"""What is said of a solution that ends without one."""

_OPENED, _CLOSED, _ANSWER = "<think>", "</think>", "<answer>"
_SENTENCE_END = re.compile(r"\.(?:\s+|$)")


def check_derivation(sample: Sample, completion: str) -> tuple[StepLabel, ...] | None:
    """Labels the steps of a solution of an embedded question: the sentences of its thought, then its answer.

    A sentence is right if what it says of the picture is true, and if it follows from the sentences before where it
    says nothing of the picture, also where one of these is wrong. The answer is right if it is the true one. So a
    solution all of whose steps are right is right; one with a wrong step may still have come to the true answer.

    Of a wrong step the kind of the error is told, and in ``explanation`` what should stand there, in the words of
    the tasks. An answer that follows from a wrong thought has the kind of that thought's first error.

    Args:
        sample: A question of ``DigitsReasoning`` or ``ShapeScenes``, with the picture's truth in ``meta.extra``.
        completion: The solution, ``<think>…</think><answer>…</answer>``.

    Returns:
        The labels in order, the answer's last. Where the solution ends before an answer, the last is a step "there is
        no answer", of the kind "no solution provided". None where the thought is no such derivation: a sentence that
        does not belong there, sentences after its end, other text or a second answer around it.

    Raises:
        ValueError: The sample is none of these questions.

    Source:
        Kinds of errors: Ai et al., "ProJudge" (2025), reconstructed. The rules are ours.
    """
    if sample.answer is None:
        raise ValueError(f"{sample.id} has no answer to judge solutions by")
    text = completion.strip()
    if is_well_formed(text):
        steps = _sentences(text.removeprefix(_OPENED).partition(_CLOSED)[0])
        answer = extract_answer(text)
    elif text and (not text.startswith(_OPENED) or _ANSWER in text or text.partition(_CLOSED)[2].strip()):
        return None
    else:
        thought, closed, _ = text.removeprefix(_OPENED).partition(_CLOSED)
        steps = _sentences(thought if closed else _whole_sentences(thought))
        answer = None
    labels: list[StepLabel] = []
    conclusion: str | None = None
    derivation = derivation_of(sample)
    slot: Slot = next(derivation)
    for step in steps:
        found = None if conclusion is not None else slot.form.fullmatch(step)
        if found is None:
            return None
        labels.append(_label(slot, found))
        try:
            slot = derivation.send(found)
        except StopIteration as end:
            conclusion = str(end.value)
    return (*labels, _label_of_answer(sample, sample.answer, labels, conclusion, answer))


def true_derivation(sample: Sample) -> tuple[tuple[str, ...], str]:
    """Returns the sentences that derive the answer of an embedded question, and what they conclude.

    Raises:
        ValueError: The sample is none of these questions.
    """
    steps, conclusion = derived(derivation_of(sample))
    return tuple(steps), conclusion


def derivation_of(sample: Sample) -> Derivation:
    """Returns how an embedded question is answered, from the truth about its picture.

    Raises:
        ValueError: The sample is none of these questions.
    """
    truth = sample.meta.extra
    if "rows" in truth:
        return digit_derivation(sample.meta.category, sample.question, truth["rows"])
    if "objects" in truth:
        return scene_derivation(sample.meta.category, sample.question, truth["objects"])
    raise ValueError(f"{sample.id} is no question about digits or scenes whose picture's truth is known")


def _label(slot: Slot, found: re.Match[str]) -> StepLabel:
    if slot.is_right(found):
        return StepLabel(found.group(), True)
    return StepLabel(found.group(), False, slot.error_of(found), slot.mended(found))


def _label_of_answer(
    sample: Sample, truth: Answer, labels: list[StepLabel], conclusion: str | None, answer: str | None
) -> StepLabel:
    if answer is None:
        return StepLabel(NO_ANSWER, False, NO_SOLUTION, _stated(true_derivation(sample)[1]))
    if check_answer(_tagged(answer), truth).correct:
        return StepLabel(_stated(answer), True)
    first_error = next((label.error_type for label in labels if not label.correct), None)
    follows = conclusion is not None and comparable_text(answer) == comparable_text(conclusion)
    # An answer without a thought does not tell where it went wrong.
    error_type = (first_error if follows else "reasoning") if labels else None
    return StepLabel(_stated(answer), False, error_type, _stated(true_derivation(sample)[1]))


def _tagged(answer: str) -> str:
    return f"<think></think><answer>{answer}</answer>"


def _stated(answer: str) -> str:
    return f"the answer is {answer}"


def _sentences(thought: str) -> list[str]:
    """Splits a thought at its full stops; an empty sentence counts, as of a scene in which nothing is seen."""
    thought = " ".join(thought.split())
    parts = [part.strip() for part in _SENTENCE_END.split(thought)]
    return parts[:-1] if parts and not parts[-1] else parts


def _whole_sentences(thought: str) -> str:
    """Leaves out what was cut off."""
    ends = [found.end() for found in _SENTENCE_END.finditer(thought)]
    return thought[: ends[-1]] if ends else ""
