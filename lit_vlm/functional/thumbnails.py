"""Small pictures of a sample's media as text, to stand in a page that needs no other file."""

import base64
import io

from PIL import Image

from lit_vlm.functional.media import open_image, open_video
from lit_vlm.interfaces.records import Sample


def thumbnails(sample: Sample, side: int = 128, most: int = 4) -> list[str]:
    """Renders the first images of a sample, then frames of its videos, as ``data:`` addresses of PNG pictures.

    Args:
        sample: Its media are decoded here.
        side: Longest side in pixels; smaller pictures keep their size.
        most: Pictures at most.

    Raises:
        UserError: A medium cannot be decoded.
    """
    pictures = [open_image(reference) for reference in sample.images[:most]]
    for video in sample.videos:
        if len(pictures) < most:
            pictures.extend(open_video(video, most - len(pictures))[0])
    return [_data_address(picture, side) for picture in pictures]


def _data_address(picture: Image.Image, side: int) -> str:
    small = picture.copy()
    small.thumbnail((side, side))
    buffer = io.BytesIO()
    small.save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
