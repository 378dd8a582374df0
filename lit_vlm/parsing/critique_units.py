"""Critiques as lists of single remarks: how they are asked for, written and read."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from typing import Any

from lit_vlm.interfaces.critiques import CritiqueUnit
from lit_vlm.parsing.critique_verdict import conclude

MOST_CHARACTERS = 200_000
"""Length from which a text is not read."""
MOST_UNITS = 200
"""Remarks beyond which a critique is not read."""
FATAL_SEVERITY = 2.0
"""Severity from which a flaw makes a solution wrong."""
INSTRUCTION = (
    "Judge the solution below. Check every step, and list each flaw once as JSON: "
    '[{"location": "the step or the words at fault", "flaw": "what is wrong", "severity": 2, '
    '"suggestion": "what should stand there"}]. Severity is 1 for what leaves the answer as it is, 2 for an error, 3 '
    "for one that spoils the whole. Write [] where there is no flaw. Then sum your critique up in one sentence, and "
    'end with "Conclusion: right [END]" or "Conclusion: wrong [END]".'
)
"""What a critic is told where nothing else is given."""

REVISION = "revision/"
"""Begins the names of a critique's scores that are those of revisions after it; the reviser's number follows."""
STEP = re.compile(r"step ([0-9]{1,6})", re.IGNORECASE)
"""What a remark says of its place where that is a step by its number."""

_LIST = re.compile(r"\[\s*(?:\{|\])")
_FLAW_KEYS = ("flaw", "description", "error", "problem")
_DECODER = json.JSONDecoder()


def critique_request(
    question: str,
    response: str,
    *,
    instruction: str = INSTRUCTION,
    task: str = "",
    criteria: Sequence[str] = (),
    reference: str | None = None,
) -> str:
    r"""Writes what a critic is asked, the crucial information first: task, criteria and reference answer.

    Args:
        question: What was asked.
        response: The solution to judge.
        instruction: What to write.
        task: What kind of task it is; empty says nothing.
        criteria: What a good solution does.
        reference: The true answer, for critics that may know it; None for those that may not.

    Example:
        >>> print(critique_request("2 + 2?", "5", instruction="Judge.", criteria=["It is short."], reference="4"))
        Judge.
        Criteria:
        - It is short.
        Reference answer: 4
        Question: 2 + 2?
        Solution: 5

    Source:
        Lan et al., "Training Language Models to Critique With Multi-agent Feedback" (MultiCritique, 2024): crucial
        information before the critique. Order and words are reconstructed.
    """
    lines = [instruction]
    if task:
        lines.append(f"Task: {task}")
    if criteria:
        lines += ["Criteria:", *(f"- {criterion}" for criterion in criteria)]
    if reference is not None:
        lines.append(f"Reference answer: {reference}")
    return "\n".join([*lines, f"Question: {question}", f"Solution: {response}"])


def write_units(units: Sequence[CritiqueUnit]) -> str:
    """Writes remarks as the JSON list that ``read_units`` reads.

    Example:
        >>> write_units([CritiqueUnit("step 2", "it is 5", 2.0, "2 + 3 = 5")])
        '[{"location": "step 2", "flaw": "it is 5", "severity": 2, "suggestion": "2 + 3 = 5"}]'
    """
    return json.dumps([_record(unit) for unit in units], ensure_ascii=False)


def write_critique(units: Sequence[CritiqueUnit], fatal_severity: float = FATAL_SEVERITY) -> str:
    r"""Writes a whole critique: the remarks, a summary, and the conclusion that follows from their severity.

    Example:
        >>> write_critique([])
        '[]\nThere is no flaw.\nConclusion: right [END]'
    """
    is_wrong = any(unit.severity >= fatal_severity for unit in units)
    return "\n".join([write_units(units), sum_up(units), conclude("wrong" if is_wrong else "right")])


def sum_up(units: Sequence[CritiqueUnit]) -> str:
    """Sums remarks up in a sentence: how many there are, and the first step at fault where they number the steps.

    Example:
        >>> sum_up([CritiqueUnit("step 3", "it is 9"), CritiqueUnit("step 2", "it is 5")])
        'There are 2 flaws. First wrong step: 2.'
    """
    if not units:
        return "There is no flaw."
    count = "There is 1 flaw." if len(units) == 1 else f"There are {len(units)} flaws."
    found = (STEP.fullmatch(unit.location) for unit in units)
    steps = [int(match.group(1)) for match in found if match is not None]
    return f"{count} First wrong step: {min(steps)}." if steps else count


def read_units(text: str) -> tuple[CritiqueUnit, ...] | None:
    """Reads the first JSON list of remarks in a text, in time linear in the text.

    Args:
        text: ``[{"location": "step 2", "flaw": "it is 5", "severity": 2, "suggestion": "2 + 3 = 5"}]``, maybe in a code
            fence and with words around it. ``description``, ``error`` and ``problem`` mean ``flaw``.

    Returns:
        The remarks in order; an empty list is a critique without any. None where there is no list, where it is cut
        off, or where anything in it is not what it must be: a remark without a flaw, a severity that is no finite
        number from 1 on, other values than text.

    Example:
        >>> read_units('Flaws: [{"location": "step 2", "flaw": "it is 5"}] Conclusion: wrong [END]')
        (CritiqueUnit(location='step 2', description='it is 5', severity=1.0, suggestion=''),)
        >>> read_units("It is all wrong.") is None
        True

    Source:
        Lan et al., MultiCritique (2024): location, flaw, severity, suggestion (reconstructed).
    """
    begin = _LIST.search(text) if len(text) <= MOST_CHARACTERS else None
    if begin is None:
        return None
    try:
        found, _ = _DECODER.raw_decode(text, begin.start())
    except (ValueError, RecursionError):
        return None
    if len(found) > MOST_UNITS:
        return None
    units = [_unit(item) for item in found]
    complete = tuple(unit for unit in units if unit is not None)
    return complete if len(complete) == len(units) else None


def _record(unit: CritiqueUnit) -> dict[str, Any]:
    severity = int(unit.severity) if float(unit.severity).is_integer() else unit.severity
    return {
        "location": unit.location,
        "flaw": unit.description,
        "severity": severity,
        "suggestion": unit.suggestion,
    }


def _unit(item: Any) -> CritiqueUnit | None:
    if not isinstance(item, dict):
        return None
    flaw = next((item[key] for key in _FLAW_KEYS if item.get(key) is not None), None)
    texts = {name: _text(item.get(name)) for name in ("location", "suggestion")}
    severity = _severity(item.get("severity"))
    if not isinstance(flaw, str) or not flaw.strip() or severity is None:
        return None
    location, suggestion = texts["location"], texts["suggestion"]
    if location is None or suggestion is None:
        return None
    return CritiqueUnit(location, " ".join(flaw.split()), severity, suggestion)


def _text(value: Any) -> str | None:
    """Reads a text that may be missing, or a number; None for anything else."""
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int):
        return None
    return " ".join(str(value).split())


def _severity(value: Any) -> float | None:
    if value is None:
        return 1.0
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    # Compared before it is converted: a number of JSON may have any length.
    return float(value) if 1 <= value <= 1e9 and math.isfinite(value) else None
