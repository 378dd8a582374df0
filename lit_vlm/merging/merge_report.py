"""``merge_report.json``: what became of every weight; and its lines while a merge is under way."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lit_vlm import __version__
from lit_vlm.merging.model_card import MergeSource
from lit_vlm.merging.weight_figures import WeightFigures

REPORT = "merge_report.json"
LINES = "merge_report.unfinished.jsonl"


def write_report(
    folder: Path,
    operation: str,
    donors: Sequence[str],
    sources: Sequence[MergeSource],
    weights: Sequence[WeightFigures],
    warnings: Sequence[str],
    further: Mapping[str, Any],
) -> None:
    """Writes the report of a finished merge.

    Args:
        folder: Where.
        operation: Name of the merge operation with its settings.
        donors: What the donors are called; figures of weights follow their order.
        sources: What was read.
        weights: Figures of every weight.
        warnings: What did not fit quite.
        further: More entries, such as times.
    """
    content = {
        "lit_vlm": __version__,
        "operation": operation,
        "donors": list(donors),
        "merged": sum(weight.merged for weight in weights),
        "kept": sum(not weight.merged for weight in weights),
        **further,
        "warnings": list(warnings),
        "sources": [
            {"role": source.role, "label": source.label, "digests": dict(source.digests)} for source in sources
        ],
        "weights": [_entry(weight) for weight in weights],
    }
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
    (folder / REPORT).write_text(text + "\n", encoding="utf-8")


class FigureLog:
    """Keeps the figures of finished weights on the disk, so that a merge that was stopped has them when it goes on.

    Args:
        folder: Where the merge writes.
        unwritten: Weights that are still to be computed; what is known of them is forgotten.
    """

    def __init__(self, folder: Path, unwritten: Collection[str]) -> None:
        self._path = folder / LINES
        self._known: dict[str, WeightFigures] = {}
        if self._path.is_file():
            for line in self._path.read_text(encoding="utf-8").splitlines():
                if (figures := _read(line)) is not None and figures.name not in unwritten:
                    self._known[figures.name] = figures
        # Anew, since the last line may have been cut off.
        self._path.write_text("".join(map(_line, self._known.values())), encoding="utf-8")

    @property
    def known(self) -> list[WeightFigures]:
        """Figures of the weights that are done, in order."""
        return list(self._known.values())

    def add(self, figures: WeightFigures) -> None:
        """Takes down one weight; it is called before the weight itself is written."""
        self._known[figures.name] = figures
        with self._path.open("a", encoding="utf-8") as file:
            file.write(_line(figures))

    def remove(self) -> None:
        """Removes the file."""
        self._path.unlink(missing_ok=True)


def _line(figures: WeightFigures) -> str:
    return json.dumps(asdict(figures)) + "\n"


def _read(line: str) -> WeightFigures | None:
    try:
        content = json.loads(line)
    except json.JSONDecodeError:  # the line that was being written when the merge was stopped
        return None
    fields: dict[str, Any] = {key: tuple(item) if isinstance(item, list) else item for key, item in content.items()}
    return WeightFigures(**fields)


def _entry(weight: WeightFigures) -> dict[str, Any]:
    if weight.merged:
        return {key: value for key, value in asdict(weight).items() if key != "reason"}
    return {"name": weight.name, "merged": False, "reason": weight.reason}
