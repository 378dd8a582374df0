"""Decodes images and videos from references, lazily and inside their root."""

import io
import math
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy
from PIL import Image, ImageOps, UnidentifiedImageError

from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import MediaRef, VideoRef

MAX_IMAGE_PIXELS = 89_478_485
"""Most pixels of an image whose reference sets no limit: a quarter of a gibibyte as RGB."""
MAX_ASPECT = 200
"""Most that the longer side of an image may be of the shorter: processors that scale by the shorter side would need
gibibytes for a line of pixels."""
MAX_IMAGE_BYTES = 1 << 28
"""Longest file of an image whose reference sets no limit, 256 MiB."""
MAX_VIDEO_BYTES = 1 << 34
"""Longest file of a video whose reference sets no limit, 16 GiB."""
MAX_VIDEO_SECONDS = 3 * 3600.0
"""Longest span of a video whose reference sets no limit."""

_SHOWN = 100  # characters of a path in a message
# What Pillow's decoders raise on broken files.
_DECODING_FAULTS = (
    UnidentifiedImageError,
    OSError,
    SyntaxError,
    EOFError,
    ValueError,
    IndexError,
    OverflowError,
    struct.error,
    zlib.error,
)


def resolve_media_path(reference: MediaRef) -> Path:
    """Finds the file of a reference.

    Raises:
        UserError: The path leaves its root, or there is no such file.
    """
    if reference.path is None:
        raise UserError("this media reference has no path")
    if "\0" in reference.path:
        raise UserError(f"media path {reference.path!r} holds a null character")
    try:
        return _file_of(Path(reference.path), reference.root)
    except (OSError, RuntimeError, UnicodeError) as fault:  # too long, links in a circle, half a character, no access
        shown = reference.path if len(reference.path) <= _SHOWN else f"{reference.path[:_SHOWN]}…"
        reason = fault.strerror if isinstance(fault, OSError) else fault
        raise UserError(f"media path {shown!r} cannot be followed: {reason}; correct it") from fault


def _file_of(path: Path, folder: str | None) -> Path:
    given = path
    if folder is not None:
        root = Path(folder).resolve()
        path = (root / path).resolve()
        if not path.is_relative_to(root):
            raise UserError(
                f"media path {str(given)!r} leaves its folder {folder!r}; use paths inside it, "
                "or name the folder that holds the media"
            )
    if not path.is_file():
        raise UserError(f"there is no media file {str(path)!r}")
    return path


def open_image(reference: MediaRef) -> Image.Image:
    """Decodes an image as upright RGB, by its content whatever its file name says.

    Raises:
        UserError: The file is missing, leaves its root, is empty, truncated, no image or too large; or the reference
            is a URL.
    """
    if reference.url is not None:
        raise UserError(f"image {reference.url!r} is a remote address; download it and give its path")
    if reference.pil is not None:
        return _upright(reference.pil)
    source = io.BytesIO(reference.bytes) if reference.bytes is not None else resolve_media_path(reference)
    _refuse_size("image", reference, MAX_IMAGE_BYTES)
    limit = MAX_IMAGE_PIXELS if reference.max_pixels is None else reference.max_pixels
    try:
        with _own_pixel_limit(), Image.open(source) as image:
            width, height = image.size  # from the header: nothing is decoded yet
            if width * height <= limit and not is_line((width, height)):
                return _upright(image)
    except Image.DecompressionBombError as fault:
        raise UserError(f"the image {_name(reference)} is too large to be decoded at all: {fault}") from fault
    except _DECODING_FAULTS as fault:
        raise UserError(f"cannot decode the image {_name(reference)}: {fault}") from fault
    refuse_line(reference, (width, height))
    raise UserError(
        f"the image {_name(reference)} has {width:,} x {height:,} pixels, more than the {limit:,} allowed; shrink it, "
        "or raise data.max_image_pixels"
    )


def is_line(size: tuple[int, int]) -> bool:
    """Tells whether one side of an image is more than ``MAX_ASPECT`` times the other."""
    return max(size) > MAX_ASPECT * min(size)


def refuse_line(reference: MediaRef, size: tuple[int, int]) -> None:
    """Refuses an image of that size if it is hardly more than a line.

    Raises:
        UserError: It is.
    """
    if is_line(size):
        raise UserError(
            f"the image {_name(reference)} has {size[0]:,} x {size[1]:,} pixels, one side over {MAX_ASPECT} times the "
            "other; crop it"
        )


@contextmanager
def _own_pixel_limit() -> Iterator[None]:
    """Silences Pillow's warning of large images: the limit here is an error already."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        yield


def _name(reference: MediaRef) -> str:
    return repr(reference.path) if reference.path is not None else f"given as {len(reference.bytes or b''):,} bytes"


def _refuse_size(kind: str, reference: MediaRef, otherwise: int) -> None:
    size = resolve_media_path(reference).stat().st_size if reference.bytes is None else len(reference.bytes)
    if size == 0:
        raise UserError(f"the {kind} {_name(reference)} is empty")
    limit = otherwise if reference.max_bytes is None else reference.max_bytes
    if size > limit:
        raise UserError(
            f"the {kind} {_name(reference)} has {size:,} bytes, more than the {limit:,} allowed; make it smaller, or "
            "raise data.max_media_bytes"
        )


def _upright(image: Image.Image) -> Image.Image:
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16 bits a pixel: Pillow would clip all that is not nearly black to white
        values = numpy.asarray(image).astype("int64")
        scale = 8 if int(values.max(initial=0)) > 255 else 0
        image = Image.fromarray((values.clip(0, 65535) >> scale).astype("uint8"))
    # What was turned upright is a copy already, and free of the file.
    return image if image.mode == "RGB" else image.convert("RGB")


def open_video(reference: VideoRef, max_frames: int, frames_per_second: float = 2.0) -> tuple[list[Image.Image], float]:
    """Decodes the frames of a video, evenly spaced.

    Args:
        reference: The video, a file or its frames.
        max_frames: Most frames to return, at least 1.
        frames_per_second: Frames a second to aim at, where ``reference.fps`` does not say.

    Returns:
        RGB frames in order, and how many of them make a second.

    Raises:
        UserError: The video is missing, empty, too long or cannot be decoded.
    """
    wanted = reference.fps or frames_per_second
    if reference.frames:
        chosen = _spread(len(reference.frames), max_frames)
        frames = [open_image(reference.frames[index]) for index in chosen]
        for index, frame in zip(chosen, frames, strict=True):
            if frame.size != frames[0].size:
                raise UserError(
                    f"frame {index + 1} of a video has {frame.width} x {frame.height} pixels and frame {chosen[0] + 1} "
                    f"{frames[0].width} x {frames[0].height}; make them equal"
                )
        return frames, wanted * len(chosen) / len(reference.frames)
    return _decode_file(reference, max_frames, wanted)


def _decode_file(reference: VideoRef, max_frames: int, wanted: float) -> tuple[list[Image.Image], float]:
    import decord

    if reference.file is None:
        raise UserError("this video reference has no file")
    if reference.file.url is not None:
        raise UserError(f"video {reference.file.url!r} is a remote address; download it and give its path")
    if reference.file.bytes is not None:
        source: io.BytesIO | str = io.BytesIO(reference.file.bytes)
    else:
        source = str(resolve_media_path(reference.file))
    name = _name(reference.file)
    _refuse_size("video", reference.file, MAX_VIDEO_BYTES)
    decord.logging.set_level(decord.logging.QUIET)  # it would write beside the error that is raised here
    try:
        reader = decord.VideoReader(source, num_threads=1)
    except (decord.DECORDError, RuntimeError, OSError) as fault:
        raise UserError(f"cannot decode the video {name}: {_first_line(fault)}") from fault
    rate = float(reader.get_avg_fps())
    if not 0 < rate < math.inf:
        rate = wanted
    first = round((reference.start or 0.0) * rate)
    last = len(reader) if reference.end is None else min(len(reader), round(reference.end * rate))
    if last <= first:
        raise UserError(
            f"the video {name} has no frame between {reference.start or 0} and "
            f"{'its end' if reference.end is None else reference.end} s; it is {len(reader) / rate:.2f} s long"
        )
    limit = MAX_VIDEO_SECONDS if reference.max_seconds is None else reference.max_seconds
    if (last - first) / rate > limit:
        raise UserError(
            f"the video {name} is {(last - first) / rate:,.1f} s long, more than the {limit:,.1f} s allowed; cut it, "
            "or raise data.max_video_seconds"
        )
    count = max(1, min(max_frames, round((last - first) / rate * wanted)))
    indices = [first + index for index in _spread(last - first, count)]
    try:
        # One frame tells how large they are, before memory is taken for all of them.
        frames = [_pixels(reader[indices[0]])]
        _refuse_large_frames(reference.file, frames[0])
        if indices[1:]:
            frames += list(_pixels(reader.get_batch(indices[1:])))
    except (decord.DECORDError, RuntimeError, OSError) as fault:
        raise UserError(f"cannot read frames of the video {name}: {_first_line(fault)}") from fault
    return [Image.fromarray(frame) for frame in frames], rate * len(indices) / (last - first)


def _pixels(decoded: Any) -> numpy.ndarray:
    # Readers differ in what they return: their own array, or one of NumPy or torch.
    return decoded.asnumpy() if hasattr(decoded, "asnumpy") else numpy.asarray(decoded)


def _refuse_large_frames(reference: MediaRef, frame: numpy.ndarray) -> None:
    height, width = frame.shape[:2]
    limit = MAX_IMAGE_PIXELS if reference.max_pixels is None else reference.max_pixels
    if width * height > limit:
        raise UserError(
            f"the video {_name(reference)} has frames of {width:,} x {height:,} pixels, more than the {limit:,} "
            "allowed; shrink it, or raise data.max_image_pixels"
        )


def _first_line(fault: Exception) -> str:
    """Leaves out the stack that native readers append to their messages."""
    return (str(fault).strip().splitlines() or [type(fault).__name__])[0]


def _spread(total: int, count: int) -> list[int]:
    """Picks ``count`` of ``total`` positions, evenly, from the middle of their shares."""
    count = min(total, count)
    return [int((index + 0.5) * total / count) for index in range(count)]
