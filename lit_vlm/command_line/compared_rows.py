"""Samples with several completions, as one row for each: both halves of a pair, or all candidates."""

from __future__ import annotations

from dataclasses import replace

from lit_vlm.interfaces.records import Message, Sample


def compared_rows(sample: Sample) -> list[tuple[str, Sample]]:
    """Lists the rows that a comparing model reads of a sample, each with its name.

    Returns:
        The chosen and the rejected half of each pair, or the completions with their grades and the sample's own one; of
        other samples just the sample, without a name.

    Example:
        >>> from lit_vlm.interfaces.records import Preference, assistant_message, user_message
        >>> pair = Preference((assistant_message("A"),), (assistant_message("B"),))
        >>> sample = Sample("s", (user_message("Q"),), preferences=(pair,))
        >>> [(name, row.messages[-1].text) for name, row in compared_rows(sample)]
        [('chosen', 'A'), ('rejected', 'B')]
    """
    rows = []
    for number, pair in enumerate(sample.preferences, start=1):
        step = f" {number}" if len(sample.preferences) > 1 else ""
        prompt = sample.prompt if pair.prompt is None else pair.prompt
        for name, half in (("chosen", pair.chosen), ("rejected", pair.rejected)):
            if half:
                rows.append((f"{name}{step}", _row(sample, (*prompt, *half))))
    if rows or not sample.candidates:
        return rows or [("", sample)]
    if sample.messages != sample.prompt:
        rows.append(("own completion", _row(sample, sample.messages)))
    for number, candidate in enumerate(sample.candidates, start=1):
        grades = ", ".join(f"{name} {grade:g}" for name, grade in candidate.scores.items())
        name = f"candidate {number}" + (f" ({grades})" if grades else "")
        rows.append((name, _row(sample, (*sample.prompt, *candidate.messages))))
    return rows


def compared_text(sample: Sample) -> str:
    """Writes the completions of a sample one under the other, each after its name; empty where it has none."""
    named = [(name, row) for name, row in compared_rows(sample) if name]
    return "\n".join(f"{name}: {row.messages[-1].text}" for name, row in named)


def _row(sample: Sample, messages: tuple[Message, ...]) -> Sample:
    return replace(sample, messages=messages, preferences=(), candidates=())
