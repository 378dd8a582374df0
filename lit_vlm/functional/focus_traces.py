"""Attaches traces, a box and the answer from its crop, to the question that they are about."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from lit_vlm.functional.boxes import Box
from lit_vlm.functional.focus_boxes import crop_to_box, read_focus_box
from lit_vlm.functional.focus_conversation import focus_conversation, show
from lit_vlm.functional.media import open_image
from lit_vlm.interfaces.records import Candidate, CoordinateSpace, MediaRef, Message, Sample, assistant_message

Trace = tuple[str, str]
"""The assistant's box and its answer, as written."""
Judge = Callable[[Sample, Box, str], tuple[float, float] | None]
"""Scores a trace by its box (in pixels) and its answer: the answer's score, then the box's, in [0, 1]; None where it
cannot tell."""
ANSWER, BOX = "answer", "box"
"""Names of the two scores."""


def with_traces(
    sample: Sample, traces: Sequence[Trace], judge: Judge, *, coords: CoordinateSpace = "pixel", crop_size: int = 64
) -> Sample:
    """Makes a candidate of each trace, with its crop as an image of the sample.

    Args:
        sample: A sample in two steps.
        traces: What was written; one without a usable box, or that the judge cannot score, is left out.
        judge: Gives the scores ``answer`` and ``box``.
        coords: What the coordinates of the boxes count in.
        crop_size: Longer side of the crops in pixels.

    Returns:
        The sample with the candidates: each is the assistant's box, the user's turn with the crop, the answer.

    Raises:
        BadSampleError: The sample has other turns.
        UserError: Its image cannot be decoded.
    """
    pieces = focus_conversation(sample)
    image = open_image(sample.images[pieces.image])
    images = [*sample.images]
    candidates = []
    for box_text, answer in traces:
        box = read_focus_box(box_text, coords, image.size)
        scores = None if box is None else judge(sample, box, answer)
        if box is None or scores is None:
            continue
        crop = crop_to_box(image, box, crop_size)
        look = Message("user", show(pieces.look.content, len(images)))
        images.append(MediaRef(pil=crop, size=crop.size))
        turns = (assistant_message(box_text), look, assistant_message(answer))
        candidates.append(Candidate(turns, {ANSWER: scores[0], BOX: scores[1]}))
    return replace(sample, images=tuple(images), candidates=tuple(candidates))
