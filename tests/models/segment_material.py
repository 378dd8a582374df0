"""Descriptions with labels of their sub-sentences."""

from collections.abc import Sequence

from PIL import Image

from lit_vlm.interfaces.records import (
    Completion,
    MediaRef,
    Message,
    Sample,
    SampleMeta,
    TextPart,
    assistant_message,
    user_message,
)
from lit_vlm.interfaces.segments import HALLUCINATIONS, SEGMENT_LABELS


def described(text: str, labels: Sequence[int], sample_id: str = "s", before: Sequence[Message] = ()) -> Sample:
    """A picture with a description, whose labels are the same for all kinds of hallucination."""
    return Sample(
        id=sample_id,
        messages=(*before, user_message("describe the picture.", images=1), assistant_message(text)),
        images=(MediaRef(pil=Image.new("RGB", (64, 64), (40, 90, 200))),),
        meta=SampleMeta(
            category="describe", origin=sample_id, extra={SEGMENT_LABELS: dict.fromkeys(HALLUCINATIONS, list(labels))}
        ),
    )


def system(text: str) -> Message:
    """A system turn."""
    return Message("system", (TextPart(text),))


def completed(text: str, sample_id: str = "s", before: Sequence[Message] = ()) -> Completion:
    """A completion of the same prompt."""
    return Completion(described("", [], sample_id, before), "", text, None)
