"""Lets a model look at several places of an image and answer from each, so that good and bad traces can be compared."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lit_vlm.functional.boxes import Box
from lit_vlm.functional.focus_boxes import Size, crop_to_box, read_focus_box
from lit_vlm.functional.focus_conversation import answer_step, box_step, focus_conversation
from lit_vlm.functional.focus_traces import Judge, Trace, with_traces
from lit_vlm.functional.media import open_image
from lit_vlm.functional.negative_boxes import negative_box
from lit_vlm.functional.random_streams import random_stream
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import CoordinateSpace, Sample

Completer = Callable[[Sequence[Sample], int], Sequence[str]]
"""Continues each sample's prompt with a text, sampled anew for every call; the number names the call."""
BoxWriter = Callable[[Box, Size], str]
"""Writes a box, given in pixels of an image of that size, as the assistant does."""


@dataclass(frozen=True)
class FocusAttempts:
    """Asks a model for boxes and for answers from their crops; each attempt gives a good trace and a bad one.

    The bad trace looks at the model's second guess, where that lies elsewhere, or at a random place of about the size
    of the first (``negative_box``). An attempt without a usable first box, or for which no other place is found, is
    dropped.

    Source:
        Zhang et al., VisRL: Intention-Driven Visual Perception via Reinforced Reasoning (2025),
        ``data_gen/generate.py`` (confirmed-in-code). We differ: boxes may count in any space, and random places
        depend on the seed, the sample and the attempt alone.
    """

    attempts: int = 3
    """Attempts at each question."""
    largest_overlap: float = 0.05
    """IoU with the first box up to which the second guess is kept as the bad one."""
    tries: int = 100
    """Random boxes drawn at most, where it is not kept."""
    coords: CoordinateSpace = "norm1"
    """What the model's coordinates count in."""
    crop_size: int = 64
    """Longer side of the crops in pixels."""
    seed: int = 0
    """Seed of the random boxes."""

    def __post_init__(self) -> None:
        for name in ("attempts", "tries", "crop_size"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; give at least 1")
        if not 0 <= self.largest_overlap <= 1:
            raise UserError(f"largest_overlap is {self.largest_overlap}; an IoU lies between 0 and 1")

    def __call__(
        self, samples: Sequence[Sample], propose: Completer, answer: Completer, judge: Judge, write_box: BoxWriter
    ) -> list[Sample]:
        """Runs all attempts at some questions.

        Args:
            samples: Samples in two steps.
            propose: Writes the box, given image and question; asked twice an attempt.
            answer: Writes the answer, given image, question, box and crop; asked twice an attempt.
            judge: Scores the traces.
            write_box: Writes the random boxes.

        Returns:
            The samples with their traces as candidates, attempt by attempt, each time the good one, then the bad one.

        Raises:
            BadSampleError: A sample has other turns.
        """
        images = [open_image(sample.images[focus_conversation(sample).image]) for sample in samples]
        asked = [box_step(sample) for sample in samples]
        traces: list[list[Trace]] = [[] for _ in samples]
        for attempt in range(self.attempts):
            first, second = (propose(asked, 2 * attempt + half) for half in range(2))
            texts = zip(first, second, strict=True)
            looks = [
                self._looks(sample, image.size, *written, attempt, write_box)
                for sample, image, written in zip(samples, images, texts, strict=True)
            ]
            for half in range(2):
                chosen = [(place, pair[half]) for place, pair in enumerate(looks) if pair is not None]
                shown = [
                    answer_step(samples[place], text, crop_to_box(images[place], box, self.crop_size))
                    for place, (text, box) in chosen
                ]
                answers = answer(shown, 2 * attempt + half) if shown else ()
                for (place, (text, _)), words in zip(chosen, answers, strict=True):
                    traces[place].append((text, words))
        return [
            with_traces(sample, of_sample, judge, coords=self.coords, crop_size=self.crop_size)
            for sample, of_sample in zip(samples, traces, strict=True)
        ]

    def _looks(
        self, sample: Sample, size: Size, first: str, second: str, attempt: int, write_box: BoxWriter
    ) -> tuple[tuple[str, Box], tuple[str, Box]] | None:
        """Returns the good box and the bad one, each as written and as read; None where there are not both."""
        box, guess = (read_focus_box(text, self.coords, size) for text in (first, second))
        if box is None:
            return None
        stream = random_stream(self.seed, "negative box", sample.id, attempt)
        bad = negative_box(box, guess, size, stream, largest_overlap=self.largest_overlap, tries=self.tries)
        if bad is None:
            return None
        text = second if bad == guess else write_box(bad, size)
        # What is written is rounded; of a sliver nothing may be left.
        read = read_focus_box(text, self.coords, size)
        return None if read is None else ((first, box), (text, read))
