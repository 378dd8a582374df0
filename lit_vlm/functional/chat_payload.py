"""Writes a sample's prompt as messages of the chat-completions protocol, pictures as data URIs."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from PIL import Image

from lit_vlm.functional.media import open_image, open_video
from lit_vlm.interfaces.errors import BadSampleError, UserError
from lit_vlm.interfaces.records import ImagePart, Message, Part, Sample, TextPart


@dataclass(frozen=True)
class SentPictures:
    """How pictures are sent to an endpoint."""

    format: Literal["png", "jpeg"] = "png"
    """``png`` loses nothing; ``jpeg`` (quality 90) is smaller for photographs."""
    longest_side: int | None = None
    """Larger pictures are shrunk to this many pixels on their longer side; None sends them as they are."""
    video_frames: int = 8
    """Most frames of a video, which are sent as pictures in order."""

    def __post_init__(self) -> None:
        if self.format not in ("png", "jpeg"):
            raise UserError(f"pictures.format is {self.format!r}; choose png or jpeg")
        if self.longest_side is not None and self.longest_side < 1:
            raise UserError(f"pictures.longest_side is {self.longest_side}; give at least 1 pixel, or null")
        if self.video_frames < 1:
            raise UserError(f"pictures.video_frames is {self.video_frames}; give at least 1")


def chat_messages(sample: Sample, pictures: SentPictures) -> list[dict[str, Any]]:
    """Writes the turns before the completion; a turn of text alone is a string, others are lists of parts.

    Raises:
        BadSampleError: A picture or video cannot be read, or the prompt is empty.
    """
    if not sample.prompt:
        raise BadSampleError(sample.meta.origin or sample.id, "has no turn before the completion")
    try:
        return [_message(message, sample, pictures) for message in sample.prompt]
    except UserError as fault:
        raise BadSampleError(sample.meta.origin or sample.id, str(fault)) from fault


def described(messages: Sequence[Message]) -> str:
    """Writes turns for people to read: ``role: text``, each picture as ``<image>``, each video as ``<video>``.

    Example:
        >>> from lit_vlm.interfaces.records import user_message
        >>> described([user_message("Which digit?", images=1)])
        'user: <image>Which digit?'
    """
    return "\n".join(f"{message.role}: {''.join(map(_placeholder, message.content))}" for message in messages)


def data_uri(image: Image.Image, pictures: SentPictures) -> str:
    """Encodes an RGB image; the same pixels and settings give the same text."""
    if pictures.longest_side is not None and max(image.size) > pictures.longest_side:
        image = image.copy()
        image.thumbnail((pictures.longest_side, pictures.longest_side))
    encoded = io.BytesIO()
    options = {"quality": 90} if pictures.format == "jpeg" else {}
    image.save(encoded, format=pictures.format.upper(), **options)
    return f"data:image/{pictures.format};base64,{base64.b64encode(encoded.getvalue()).decode()}"


def _message(message: Message, sample: Sample, pictures: SentPictures) -> dict[str, Any]:
    if all(isinstance(part, TextPart) for part in message.content):
        return {"role": message.role, "content": message.text}
    parts = [written for part in message.content for written in _parts(part, sample, pictures)]
    return {"role": message.role, "content": parts}


def _parts(part: Part, sample: Sample, pictures: SentPictures) -> list[dict[str, Any]]:
    if isinstance(part, TextPart):
        return [{"type": "text", "text": part.text}]
    if isinstance(part, ImagePart):
        images = [open_image(sample.images[part.index])]
    else:
        images, _ = open_video(sample.videos[part.index], pictures.video_frames)
    return [{"type": "image_url", "image_url": {"url": data_uri(image, pictures)}} for image in images]


def _placeholder(part: Part) -> str:
    if isinstance(part, TextPart):
        return part.text
    return "<image>" if isinstance(part, ImagePart) else "<video>"
