"""Turns records of critiques into canonical samples that say what is judged, and how."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from lit_vlm.data.records.critique_conventions import STEPWISE
from lit_vlm.data.records.preference_reader import PreferenceReader
from lit_vlm.data.records.record import Record
from lit_vlm.data.records.sample_reader import SampleReader
from lit_vlm.data.records.structured_values import structure
from lit_vlm.data.records.turns import Turn, plain_text, text_turn
from lit_vlm.interfaces.critiques import Critique, CritiqueUnit, CritiqueVerdict, StepLabel
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import Answer, Sample
from lit_vlm.parsing.answers import check_answer
from lit_vlm.parsing.critique_units import read_units
from lit_vlm.parsing.critique_verdict import read_verdict
from lit_vlm.parsing.judge_prompts import STEP_RUBRIC, read_judge_request, read_numbered_steps, write_numbered_steps
from lit_vlm.parsing.step_judgements import read_step_judgements, write_step_judgements
from lit_vlm.parsing.tagged_answers import extract_answer

SOLUTION_CORRECT = "solution_correct"
"""Entry of ``meta.extra``: whether the verifier says that the judged solution is right, where the answer is known."""
_LABELS: dict[object, bool] = {1: True, 0: False, "1": True, "0": False, "+": True, "-": False}
_UNIT = re.compile(r"\bACU ([0-9]{1,4}):", re.IGNORECASE)
_SCORE = re.compile(r"\bScore:\s*([0-9]{1,4}(?:\.[0-9]{1,4})?)(?![0-9.]*[0-9])", re.IGNORECASE)
_COMPARED = re.compile(r"(image|video|answer) ([12]) is better", re.IGNORECASE)


@dataclass(frozen=True)
class CritiqueReader(SampleReader):
    """Reads conversations that end on a critique, or labels of steps; others stay questions to be solved."""

    def _read(self, record: Record) -> Sample:
        sample = super()._read(record)
        said = sample.messages[-1].text if sample.messages[-1].role == "assistant" else ""
        critique = read_critique(sample.question, said)
        if critique is None:
            return _with_comparison(sample, said)
        extra = dict(sample.meta.extra)
        if sample.answer is not None:
            extra[SOLUTION_CORRECT] = check_answer(critique.response, replace(sample.answer, place="any")).correct
        return replace(sample, critique=critique, answer=None, meta=replace(sample.meta, extra=extra))

    def _conversation(self, record: Record, options: tuple[str, ...]) -> tuple[list[Turn], str]:
        if self.reading.convention != STEPWISE:
            return super()._conversation(record, options)
        *before, asked = self._turns_of(self._wanted(record, "prompt"), "user")
        steps, labels = self._listed(record, "completions"), self._listed(record, "labels")
        if len(steps) != len(labels):
            raise UserError(f"it has {len(steps)} steps and {len(labels)} labels; give one label a step")
        unknown = next((label for label in labels if isinstance(label, list | dict) or label not in _LABELS), None)
        if unknown is not None or None in labels:
            raise UserError(f"a step has the label {unknown!r}; give true or false")
        judged = [
            StepLabel(plain_text(step).strip(), _LABELS[label]) for step, label in zip(steps, labels, strict=True)
        ]
        shown = write_numbered_steps(tuple(step.text for step in judged))
        parts = (f"{STEP_RUBRIC}\n\nQuestion:\n", *asked.parts, f"\n\nStudent's Solution:\n{shown}")
        return [*before, replace(asked, parts=parts), text_turn("assistant", write_step_judgements(judged))], ""

    def _listed(self, record: Record, name: str) -> list[object]:
        value = structure(self._wanted(record, name))
        if not isinstance(value, list):
            raise UserError(f"its column {self.reading.columns[name]!r} is no list")
        return value


@dataclass(frozen=True)
class CritiquePairReader(PreferenceReader):
    """Reads prompts with a chosen and a rejected critique; ``Sample.critique`` is the chosen one."""

    def _read(self, record: Record) -> Sample:
        sample = super()._read(record)
        if not sample.preferences:
            return sample
        said = "".join(message.text for message in sample.preferences[0].chosen)
        return replace(sample, critique=read_critique(sample.question, said))


def read_critique(asked: str, said: str) -> Critique | None:
    r"""Reads what a judge was asked and what it said.

    Args:
        asked: The prompt, with ``Question:`` and ``Solution:`` (or their like), or with ``Step 1:`` and so on.
        said: The critique: words that conclude, a JSON list of labels of steps, or remarks (a JSON list, or ``ACU 1:``
            and so on) with a ``Score:``. Empty where there is none yet.

    Returns:
        The critique; its verdict is None where it says neither right nor wrong. None where nothing is judged.

    Raises:
        UserError: It judges, but there is no solution; or it labels another number of steps than the solution has.

    Example:
        >>> read_critique("Question:\n2 + 2?\n\nSolution:\n5", "It is 4. Conclusion: wrong [END]").verdict
        'wrong'
    """
    request = read_judge_request(asked)
    numbered = read_numbered_steps(asked if request is None else request[1])
    labels, verdict = read_step_judgements(said), read_verdict(said)
    if request is not None:
        question, solution = request
    elif numbered is not None:
        question, solution = numbered[0], write_numbered_steps(numbered[1])
    elif labels is None and verdict is None:
        return None
    else:
        raise UserError(
            "its completion judges a solution, and there is none in its prompt; write it there as 'Question: …' and "
            "'Solution: …', or as 'Step 1: …' and so on"
        )
    steps: tuple[StepLabel, ...] = ()
    if labels is not None:
        texts = numbered[1] if numbered is not None else tuple(label.text for label in labels)
        if len(texts) != len(labels):
            raise UserError(f"it labels {len(labels)} steps, and the solution has {len(texts)}; give one label a step")
        steps = tuple(replace(label, text=label.text or text) for label, text in zip(labels, texts, strict=True))
        of_steps: CritiqueVerdict = "right" if all(step.correct for step in steps) else "wrong"
        verdict = verdict or of_steps
    score = _SCORE.search(said)
    units = () if steps else _units(said)
    return Critique(question, solution, said, verdict, float(score[1]) if score else None, steps, units)


def _units(said: str) -> tuple[CritiqueUnit, ...]:
    units = read_units(said)
    if units is not None:
        return units
    marks = list(_UNIT.finditer(said))
    score = _SCORE.search(said)
    last = score.start() if score and marks and score.start() > marks[-1].end() else len(said)
    ends = [*(mark.start() for mark in marks[1:]), last]
    texts = [said[mark.end() : end].strip() for mark, end in zip(marks, ends, strict=False)]
    return tuple(CritiqueUnit("", text) for text in texts if text)


def _with_comparison(sample: Sample, said: str) -> Sample:
    """Makes a choice of a judgement between two pictures, such as "Image 1 is better"."""
    found = _COMPARED.fullmatch((extract_answer(said) or "").strip().rstrip("."))
    if found is None:
        return sample
    options = tuple(f"{found[1].capitalize()} {number} is better" for number in (1, 2))
    return replace(sample, answer=Answer("choice", "AB"[int(found[2]) - 1], options=options))
