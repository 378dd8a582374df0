"""Reads the size of an image without decoding its pixels."""

import io
import struct
import warnings

from PIL import Image
from PIL.ExifTags import Base

from lit_vlm.functional.media import refuse_line, resolve_media_path
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import MediaRef

ON_ITS_SIDE = (5, 6, 7, 8)
"""EXIF orientations that swap width and height."""


def image_size(reference: MediaRef) -> tuple[int, int]:
    """Returns width and height of an upright image in pixels: as the reference gives them, or from the file's header.

    Raises:
        UserError: The file is missing, leaves its root, is no image or hardly more than a line;
            or the reference is a URL of unknown size.
    """
    if reference.size is not None:
        return reference.size
    if reference.url is not None:
        raise UserError(f"image {reference.url!r} is a remote address; download it and give its path")
    if reference.pil is not None:
        return _upright_size(reference.pil)
    source = io.BytesIO(reference.bytes) if reference.bytes is not None else resolve_media_path(reference)
    try:
        with warnings.catch_warnings():
            # Whether an image is too large to be decoded is for its decoder to say.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(source) as image:
                size = _upright_size(image)
    except (OSError, SyntaxError, ValueError, struct.error, Image.DecompressionBombError) as fault:
        name = reference.path if reference.path is not None else f"{len(reference.bytes or b'')} bytes"
        raise UserError(f"cannot read the size of the image {name!r}: {fault}") from fault
    refuse_line(reference, size)
    return size


def _upright_size(image: Image.Image) -> tuple[int, int]:
    # Pillow decodes a whole PNG to look for EXIF after the pixels; what stands before them is read with the header.
    has_exif = image.format != "PNG" or "exif" in image.info
    orientation = image.getexif().get(Base.Orientation) if has_exif else None
    width, height = image.size
    return (height, width) if orientation in ON_ITS_SIDE else (width, height)
