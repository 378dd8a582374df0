"""The verb ``tiny``: builds the bundled model's files anew, with random weights."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

from lit_vlm.interfaces.errors import UserError


def run(verb: str, arguments: list[str]) -> int:
    """Writes tokenizer, processor, configuration and random weights to a folder."""
    if len(arguments) != 1 or arguments[0].startswith("-"):
        raise UserError("usage: lit-vlm tiny FOLDER; the folder must not exist yet")
    folder = Path(arguments[0])
    if folder.exists():
        raise UserError(f"tiny {folder}: this folder exists; name a new one")
    from lit_vlm.models.tiny_vlm import build_tiny_vlm

    build_tiny_vlm(folder, embedded_corpus())
    print(f"wrote an untrained tiny VLM to {folder}; train it with --model.backbone.checkpoint {folder}")
    return 0


def embedded_corpus(samples: int = 3000) -> Iterator[str]:
    """Yields the texts of the embedded tasks at all levels, for the tokenizer."""
    from lit_vlm.data.digits_reasoning import LEVELS, DigitsReasoningGenerator
    from lit_vlm.data.embedded import THINK_FIRST
    from lit_vlm.data.knights_and_knaves import KnightsAndKnavesGenerator
    from lit_vlm.data.shape_scenes import ShapeSceneGenerator

    generators = (
        DigitsReasoningGenerator(levels=LEVELS),
        ShapeSceneGenerator(levels=LEVELS),
        KnightsAndKnavesGenerator(people=(2, 3, 4)),
    )
    yield from itertools.repeat(THINK_FIRST, samples)
    for generator, index in itertools.product(generators, range(samples)):
        for message in generator.sample("train", index).messages:
            yield message.text
