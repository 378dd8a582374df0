"""The README of a merged checkpoint: what it was made of, by which recipe, and how to make it again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lit_vlm import __version__

TAGS = ("merge", "lit-vlm")


@dataclass(frozen=True)
class MergeSource:
    """A checkpoint that a merge read."""

    role: str
    """What it was to the merge, such as ``target`` or ``donor 1``."""
    label: str
    """Hub id or folder."""
    digests: Mapping[str, str]
    """File of weights -> SHA-256, hexadecimal."""


def model_card(
    title: str,
    operation: str,
    sources: Sequence[MergeSource],
    recipe: str,
    outcome: str,
    library: str = "transformers",
    warnings: Sequence[str] = (),
) -> str:
    """Writes a model card in Markdown, with the fields that the hub reads before it.

    Args:
        title: Heading.
        operation: Name of the merge operation.
        sources: What was read.
        recipe: The resolved configuration, YAML.
        outcome: How many weights were merged and kept.
        library: What loads it.
        warnings: What did not fit quite.
    """
    models = dict.fromkeys(source.label for source in sources)
    lines = ["---", f"library_name: {library}", "base_model:"]
    # JSON texts are YAML texts too, whatever a path holds.
    lines += [f"- {json.dumps(model, ensure_ascii=False)}" for model in models]
    lines += ["tags:", *(f"- {tag}" for tag in TAGS), "---", "", f"# {_cell(title)}", ""]
    lines += [f"Merged with lit-vlm {__version__} by {operation}: {outcome}.", ""]
    lines += ["## Sources", "", "| role | checkpoint | file | SHA-256 |", "| --- | --- | --- | --- |"]
    for source in sources:
        lines += [
            f"| {_cell(source.role)} | {_cell(source.label)} | {_cell(file)} | `{digest}` |"
            for file, digest in source.digests.items()
        ]
    if warnings:
        lines += ["", "## Warnings", "", *(f"- {' '.join(warning.split())}" for warning in warnings)]
    fence = "`" * max(3, 1 + _longest_run(recipe))
    lines += ["", "## Recipe", "", "`lit-vlm merge --config recipe.yaml --output FOLDER`, where `recipe.yaml` is", ""]
    lines += [f"{fence}yaml", recipe.strip(), fence]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _longest_run(text: str) -> int:
    longest = present = 0
    for letter in text:
        present = present + 1 if letter == "`" else 0
        longest = max(longest, present)
    return longest
