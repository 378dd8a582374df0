"""Decodes images and videos from references, lazily and inside their root."""

import io
from pathlib import Path

import numpy
from PIL import Image, ImageOps, UnidentifiedImageError

from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import MediaRef, VideoRef


def resolve_media_path(reference: MediaRef) -> Path:
    """Finds the file of a reference.

    Raises:
        UserError: The path leaves its root, or there is no such file.
    """
    if reference.path is None:
        raise UserError("this media reference has no path")
    path = Path(reference.path)
    if reference.root is not None:
        root = Path(reference.root).resolve()
        path = (root / path).resolve()
        if not path.is_relative_to(root):
            raise UserError(f"media path {reference.path!r} leaves its folder {reference.root!r}; use paths inside it")
    if not path.is_file():
        raise UserError(f"there is no media file {str(path)!r}")
    return path


def open_image(reference: MediaRef) -> Image.Image:
    """Decodes an image as upright RGB, by its content whatever its file name says.

    Raises:
        UserError: The file is missing, leaves its root, or is no image; or the reference is a URL.
    """
    if reference.url is not None:
        raise UserError(f"image {reference.url!r} is a remote address; download it and give its path")
    if reference.pil is not None:
        return _upright(reference.pil)
    source = io.BytesIO(reference.bytes) if reference.bytes is not None else resolve_media_path(reference)
    try:
        with Image.open(source) as image:
            return _upright(image)
    except (UnidentifiedImageError, OSError, SyntaxError) as fault:
        name = reference.path if reference.path is not None else f"{len(reference.bytes or b'')} bytes"
        raise UserError(f"cannot decode the image {name!r}: {fault}") from fault


def _upright(image: Image.Image) -> Image.Image:
    return ImageOps.exif_transpose(image).convert("RGB")


def open_video(reference: VideoRef, max_frames: int, frames_per_second: float = 2.0) -> tuple[list[Image.Image], float]:
    """Decodes the frames of a video, evenly spaced.

    Args:
        reference: The video, a file or its frames.
        max_frames: Most frames to return, at least 1.
        frames_per_second: Frames a second to aim at, where ``reference.fps`` does not say.

    Returns:
        RGB frames in order, and how many of them make a second.

    Raises:
        UserError: The video is missing, empty or cannot be decoded.
    """
    wanted = reference.fps or frames_per_second
    if reference.frames:
        chosen = _spread(len(reference.frames), max_frames)
        frames = [open_image(reference.frames[index]) for index in chosen]
        return frames, wanted * len(chosen) / len(reference.frames)
    return _decode_file(reference, max_frames, wanted)


def _decode_file(reference: VideoRef, max_frames: int, wanted: float) -> tuple[list[Image.Image], float]:
    import decord

    if reference.file is None:
        raise UserError("this video reference has no file")
    if reference.file.bytes is not None:
        source: io.BytesIO | str = io.BytesIO(reference.file.bytes)
    else:
        source = str(resolve_media_path(reference.file))
    try:
        reader = decord.VideoReader(source, num_threads=1)
    except (decord.DECORDError, RuntimeError, OSError) as fault:
        raise UserError(f"cannot decode the video {reference.file.path or 'given as bytes'!r}: {fault}") from fault
    rate = float(reader.get_avg_fps()) or wanted
    first = round((reference.start or 0.0) * rate)
    last = len(reader) if reference.end is None else min(len(reader), round(reference.end * rate))
    if last <= first:
        raise UserError(
            f"the video {reference.file.path!r} has no frame between {reference.start} and {reference.end} s"
        )
    count = max(1, min(max_frames, round((last - first) / rate * wanted)))
    indices = [first + index for index in _spread(last - first, count)]
    try:
        batch = reader.get_batch(indices).asnumpy()
    except decord.DECORDError as fault:
        raise UserError(f"cannot read frames of the video {reference.file.path!r}: {fault}") from fault
    return [Image.fromarray(numpy.asarray(frame)) for frame in batch], rate * len(indices) / (last - first)


def _spread(total: int, count: int) -> list[int]:
    """Picks ``count`` of ``total`` positions, evenly, from the middle of their shares."""
    count = min(total, count)
    return [int((index + 0.5) * total / count) for index in range(count)]
