"""Writes a run of text as a processor would, from the sizes of its media and without decoding them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from lit_vlm.functional.image_size import image_size
from lit_vlm.interfaces.records import Sample, VideoRef
from lit_vlm.models.conversation import Segment
from lit_vlm.models.families.family import Family

DEFAULT_FRAMES_PER_SECOND = 2.0
"""What a video without a frame rate of its own is read at."""


def expected_text(
    family: Family, processor: Any, sample: Sample, segment: Segment, in_row: int, max_video_frames: int
) -> str | None:
    """Multiplies the placeholders of a segment.

    Args:
        family: The rules of the model family.
        processor: The checkpoint's processor.
        sample: The sample whose media they are.
        segment: The run of text, with one placeholder a medium.
        in_row: Images of the whole conversation.
        max_video_frames: Frames read from a video at most.

    Returns:
        The text with all placeholder tokens; None where the size of a medium or the family does not tell.

    Raises:
        UserError: An image is missing or is none.
    """
    images = [_image_text(family, processor, sample, index, in_row) for index in segment.images]
    videos = [_video_size(sample.videos[index], max_video_frames) for index in segment.videos]
    known = [size for size in videos if size is not None]
    counts = family.even_counts([frames for frames, *_ in known], max_video_frames)
    videos_text = [
        family.video_text(processor, count, height, width, rate * count / frames)
        for count, (frames, height, width, rate) in zip(counts, known, strict=True)
    ]
    texts = [*images, *videos_text]
    if len(known) < len(videos) or any(text is None for text in texts):
        return None
    written: dict[str, Iterator[str]] = {}
    for kind, expansions in (("image", images), ("video", videos_text)):
        token = getattr(processor, f"{kind}_token", None)
        if expansions:
            written[str(token)] = map(str, expansions)
    marks = "|".join(re.escape(token) for token in written)
    return re.sub(marks, lambda mark: next(written[mark.group()]), segment.text)


def _image_text(family: Family, processor: Any, sample: Sample, index: int, in_row: int) -> str | None:
    width, height = image_size(sample.images[index])
    return family.image_text(processor, height, width, in_row)


def _video_size(reference: VideoRef, most: int) -> tuple[int, int, int, float] | None:
    """Returns frames, height, width and frame rate as they will be read; None where only the file knows."""
    if not reference.frames:
        return None
    frames = min(len(reference.frames), most)
    rate = (reference.fps or DEFAULT_FRAMES_PER_SECOND) * frames / len(reference.frames)
    width, height = image_size(reference.frames[0])
    return frames, height, width, rate
