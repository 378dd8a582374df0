"""Turns what records hold for an image or a video into a reference; nothing is opened or decoded here."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lit_vlm.data.records.structured_values import is_empty, structure
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import MediaRef, VideoRef

_DATA_ADDRESS = re.compile(r"data:[\w.+/-]*(?:;[\w=.+-]+)*,", re.IGNORECASE)
_REMOTE = re.compile(r"(?:https?|ftp|s3|gs|hf)://", re.IGNORECASE)
_BASE64 = re.compile(r"[A-Za-z0-9+/\s]+={0,2}\s*")
LARGEST_TIME = 1_000_000
"""Most seconds, or frames a second, that a record may name."""
_LONGEST_PATH = 1024  # characters; a longer text is base64 or nothing
_SOURCES = ("bytes", "path", "url", "image", "video", "image_url", "video_url", "file_name", "base64")


@dataclass(frozen=True)
class MediaRoots:
    """Where media lie, and what may be read of them.

    Args:
        default: Folder of paths that no prefix claims.
        prefixes: Folder for each beginning of a path, longest first.
        max_image_pixels: Largest image, None for the reader's own limit.
        max_video_seconds: Longest video, None for the reader's own limit.
        max_media_bytes: Longest file of an image or video, None for the reader's own limits.
    """

    default: Path
    prefixes: Mapping[str, Path] = field(default_factory=dict)
    max_image_pixels: int | None = None
    max_video_seconds: float | None = None
    max_media_bytes: int | None = None

    def encoded(self, content: bytes) -> MediaRef:
        """Refers to the contents of a file."""
        return MediaRef(bytes=content, max_pixels=self.max_image_pixels, max_bytes=self.max_media_bytes)

    def locate(self, path: str) -> MediaRef:
        """Finds the root of a path; whether the file lies in it is checked when it is opened.

        Raises:
            UserError: The path is absolute and lies in no root.
        """
        path = path.removeprefix("file://")
        for prefix in sorted(self.prefixes, key=len, reverse=True):
            rest = path.removeprefix(prefix.rstrip("/") + "/")
            if rest != path:
                return self._reference(rest, self.prefixes[prefix])
        if not Path(path).is_absolute():
            return self._reference(path, self.default)
        for root in (self.default, *self.prefixes.values()):
            if Path(path).is_relative_to(root.absolute()):
                return self._reference(path, root)
        raise UserError(
            f"the media path {path!r} is absolute and lies outside {str(self.default)!r}; set data.media_root to the "
            "folder that holds it, or map the beginning of the path with data.roots"
        )

    def _reference(self, path: str, root: Path) -> MediaRef:
        return MediaRef(path=path, root=str(root), max_pixels=self.max_image_pixels, max_bytes=self.max_media_bytes)


def media_list(value: Any) -> list[Any]:
    """Lists the media of a column: none, one, or several; a list written as text is read."""
    value = structure(value)
    if is_empty(value):
        return []
    if isinstance(value, Mapping) and value and all(isinstance(column, list) for column in value.values()):
        return [dict(zip(value, row, strict=False)) for row in zip(*value.values(), strict=False)]
    if isinstance(value, (list, tuple)):
        return [item for item in value if not is_empty(item)]
    return [value]


def image_reference(value: Any, roots: MediaRoots) -> MediaRef:
    """Refers to one image: a path, encoded bytes, base64 with or without ``data:…``, or an object with one of these.

    Raises:
        UserError: It is none of these, a remote address, or lies in no root.
    """
    value = _inner(value)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return roots.encoded(bytes(value))
    if isinstance(value, str):
        if _DATA_ADDRESS.match(value):
            return roots.encoded(_from_base64(value.partition(",")[2]))
        if _REMOTE.match(value):
            shown = value if len(value) <= 100 else f"{value[:100]}…"
            raise UserError(f"{shown!r} is a remote address; nothing is downloaded: fetch it and give its path")
        if len(value) > _LONGEST_PATH:
            return roots.encoded(_from_base64(value))
        return roots.locate(value)
    raise UserError(f"an image or video must be a path, bytes or base64, not {_described(value)}")


def video_reference(value: Any, roots: MediaRoots) -> VideoRef:
    """Refers to one video: a file as for images, or the list of its frames; an object may add start, end and fps.

    Raises:
        UserError: As ``image_reference``; or there is no frame.
    """
    value = structure(value)
    times: dict[str, float] = {}
    if isinstance(value, Mapping):
        for name, keys in (("start", ("start", "video_start")), ("end", ("end", "video_end")), ("fps", ("fps",))):
            given = next((value[key] for key in keys if not is_empty(value.get(key))), None)
            if given is not None:
                times[name] = _seconds(given, name)
        frames = structure(value.get("frames") or value.get("video"))
        value = frames if isinstance(frames, (list, tuple)) else value
    if isinstance(value, (list, tuple)):
        shown = tuple(image_reference(frame, roots) for frame in _present(value))
        if not shown:
            raise UserError("a video given as frames has no frame")
        video = VideoRef(frames=shown)
    else:
        video = VideoRef(file=image_reference(value, roots), max_seconds=roots.max_video_seconds)
    return replace(video, start=times.get("start"), end=times.get("end"), fps=times.get("fps"))


def _inner(value: Any) -> Any:
    """Takes the one source out of an object such as ``{bytes, path}`` or ``{url}``; bytes come before paths."""
    value = structure(value)
    if not isinstance(value, Mapping):
        return value
    for key in _SOURCES:
        inner = value.get(key)
        if not is_empty(inner):
            return _inner(inner) if isinstance(inner, Mapping) else inner
    return value


def _from_base64(text: str) -> bytes:
    if not _BASE64.fullmatch(text):
        raise UserError(f"a text of {len(text):,} characters that stands for an image is neither a path nor base64")
    try:
        return base64.b64decode(text)
    except binascii.Error as fault:
        raise UserError(f"the base64 text of an image is broken: {fault}") from fault


def _seconds(value: Any, name: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError) as fault:
        raise UserError(f"the {name} of a video is {value!r}; give a number") from fault
    if not 0 <= number <= LARGEST_TIME or (name == "fps" and number == 0):
        raise UserError(f"the {name} of a video is {value!r}; give a number above 0 and up to {LARGEST_TIME:,}")
    return number


def _present(values: Iterable[Any]) -> list[Any]:
    return [value for value in values if not is_empty(value)]


def _described(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"an object with {sorted(map(str, value))}"
    return f"{type(value).__name__} {str(value)[:40]!r}"
