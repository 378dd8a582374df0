"""Questions that are asked with their picture, with a blank one and with another's, to see what the picture is for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lit_vlm.callbacks.picture_exchange import picture_cycles
from lit_vlm.functional.replaced_media import (
    media_names,
    media_sizes,
    with_blank_media,
    with_frames,
    with_media_of,
)
from lit_vlm.interfaces.errors import BadSampleError, UserError
from lit_vlm.interfaces.records import Sample, assistant_message
from lit_vlm.interfaces.roles import SampleEncoder
from lit_vlm.parsing.answers import render_answer
from lit_vlm.parsing.placed_answers import place_answer

VARIANTS = ("", "_blank", "_shuffled")
"""Suffixes of the figures: with the sample's own picture, with mid grey, with another sample's picture."""


@dataclass(frozen=True)
class ProbePlan:
    """Which samples of a split are probed, and who shows whose picture."""

    cycles: tuple[tuple[int, ...], ...]
    """Indices into the split; in each circle everybody gets the picture of the next, the last that of the first."""
    resized: int
    """Probes whose other picture has to be resized."""

    def of_rank(self, rank: int, world_size: int) -> tuple[tuple[int, ...], ...]:
        """Returns the circles of a rank; whole ones, so that each picture is needed on one rank only."""
        return self.cycles[rank::world_size]

    def most_of_a_rank(self, world_size: int) -> int:
        """Counts the probes of the rank that has most."""
        return max(sum(map(len, self.of_rank(rank, world_size))) for rank in range(world_size))


@dataclass(frozen=True)
class Probe:
    """A sample with a right completion, and the one whose picture stands in for its own."""

    sample: Sample
    other: Sample
    tokens: int
    """Trained tokens of the completion, at least 1."""

    def variants(self, video_frames: int) -> tuple[Sample, Sample, Sample]:
        """Returns the sample with its own picture, a blank one, and the other's; see ``VARIANTS``.

        Args:
            video_frames: Frames of a video file, at most.

        Raises:
            UserError: A medium cannot be decoded.
        """
        own, other = with_frames(self.sample, video_frames), with_frames(self.other, video_frames)
        return own, with_blank_media(own), with_media_of(own, other)


def plan_probes(samples: Any, most: int) -> ProbePlan:
    """Chooses the first samples that have a picture and a right completion, and who gets whose picture.

    Args:
        samples: Samples by index, with a length; those that cannot be read are passed over.
        most: Probes at most.

    Raises:
        UserError: The size of a picture cannot be read.
    """
    indices: list[int] = []
    pictures: list[tuple[str, ...]] = []
    sizes: list[tuple[tuple[int, int], ...]] = []
    for index in range(len(samples)):
        if len(indices) == most:
            break
        try:
            sample = completed(samples[index])
            if sample is None or not (sample.images or sample.videos):
                continue
            size = media_sizes(sample)
        except BadSampleError:  # counted and reported where the split is validated
            continue
        indices.append(index)
        pictures.append(media_names(sample))
        sizes.append(size)
    cycles = picture_cycles(pictures, sizes)
    resized = sum(sizes[cycle[place - 1]] != sizes[cycle[place]] for cycle in cycles for place in range(len(cycle)))
    return ProbePlan(tuple(tuple(indices[place] for place in cycle) for cycle in cycles), resized)


def read_probes(samples: Any, cycles: Sequence[Sequence[int]], encoder: SampleEncoder) -> list[Probe]:
    """Reads the probes of some circles; one with a sample that cannot be encoded is left out whole.

    Args:
        samples: Samples by index.
        cycles: As in ``ProbePlan``.
        encoder: Counts the tokens that are scored.
    """
    return [probe for cycle in cycles for probe in _read_cycle(samples, cycle, encoder)]


def completed(sample: Sample) -> Sample | None:
    """Returns a sample with a completion that is right: its own, or one that holds its answer and nothing else.

    Returns:
        None where there is neither.
    """
    if any(message.train for message in sample.messages):
        return sample
    if sample.answer is None or sample.answer.value is None:
        return None
    try:
        text = render_answer(sample.answer)
    except UserError:  # what only a judge can decide has no form of its own
        text = str(sample.answer.value)
    return replace(sample, messages=(*sample.prompt, assistant_message(place_answer(text, sample.answer.place))))


def _read_cycle(samples: Any, cycle: Sequence[int], encoder: SampleEncoder) -> Iterator[Probe]:
    read = [sample for index in cycle if (sample := completed(samples[index])) is not None]
    try:
        batches = [encoder.encode([sample]) for sample in read]
    except BadSampleError:
        return
    tokens = [batch.count().labels for batch in batches]
    if all(tokens) and not any(batch.dropped for batch in batches):
        for place, sample in enumerate(read):
            yield Probe(sample, read[(place + 1) % len(read)], tokens[place])
