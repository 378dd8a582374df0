"""A folder that holds images and videos once each, under the SHA-256 of their bytes."""

from __future__ import annotations

import hashlib
import io
import os
import re
import secrets
import shutil
from pathlib import Path
from typing import BinaryIO

from PIL import Image

from lit_vlm.functional.media import open_image, resolve_media_path
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import MediaRef

NAME = re.compile(r"[0-9a-f]{64}")
"""What the files are called."""


class MediaStore:
    """Takes in the media that references point at, and points at what it holds.

    Args:
        folder: Where the files lie; made with the first of them.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._known: dict[tuple[str, int, int], str] = {}

    def put(self, reference: MediaRef) -> str:
        """Keeps what a reference points at, and returns its name, the SHA-256 of its bytes.

        A decoded image becomes a PNG of what ``open_image`` makes of it; files and bytes stay as they are.

        Raises:
            UserError: There is no such file, or it leaves its root; or the reference is a URL, whose content is not
                known.
        """
        if reference.url is not None:
            raise UserError(f"{reference.url!r} is a remote address; download it and give its path")
        if reference.path is not None:
            return self._put_file(resolve_media_path(reference))
        content = png_bytes(open_image(reference)) if reference.bytes is None else reference.bytes
        name = hashlib.sha256(content).hexdigest()
        self._keep(name, io.BytesIO(content))
        return name

    def reference(self, name: str) -> MediaRef:
        """Points at what is held under a name.

        Raises:
            UserError: It is no name of this store.
        """
        if not NAME.fullmatch(name):
            raise UserError(f"{name!r} is no name of a file in {self.folder}; names are 64 hexadecimal digits")
        return MediaRef(path=name, root=str(self.folder))

    def _put_file(self, path: Path) -> str:
        stat = path.stat()
        key = (str(path), stat.st_size, stat.st_mtime_ns)
        if key not in self._known:
            with path.open("rb") as file:
                name = hashlib.file_digest(file, "sha256").hexdigest()
                file.seek(0)
                self._keep(name, file)
            self._known[key] = name
        return self._known[key]

    def _keep(self, name: str, content: BinaryIO) -> None:
        """Writes beside and renames, so that a file is there whole or not at all, whoever else writes it too."""
        if (self.folder / name).exists():
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = self.folder / f".{name}.{secrets.token_hex(4)}"
        with partial.open("wb") as file:
            shutil.copyfileobj(content, file)
        os.replace(partial, self.folder / name)


def png_bytes(image: Image.Image) -> bytes:
    """Writes an image as a PNG file, which keeps every pixel."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
