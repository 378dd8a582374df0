"""Answers of an endpoint on disk, so that no request is paid for twice."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from lit_vlm.parsing.chat_answers import ChatAnswer


class AnswerCache:
    """Keeps each answer in a file named after the SHA-256 of its request.

    The hash is over all that is asked: address, model, messages with the bytes of their pictures, sampling, seed and
    the completion's number; never over the key, which is no part of a request's body. Files appear whole or not at
    all; one that cannot be read counts as missing. Several processes may share a folder.

    Args:
        folder: Where the files lie; made when the first is written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def find(self, key: str) -> ChatAnswer | None:
        """Returns the answer to a request, or None where it was not asked yet."""
        try:
            record = json.loads(self._file(key).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        names = {field.name for field in fields(ChatAnswer)}
        whole = isinstance(record, dict) and set(record) == names
        if not whole or not isinstance(record["text"], str) or not isinstance(record["log_probs"], list):
            return None
        return ChatAnswer(**{**record, "log_probs": tuple(record["log_probs"])})

    def keep(self, key: str, answer: ChatAnswer) -> None:
        """Writes the answer to a request."""
        file = self._file(key)
        file.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=file.parent, prefix=".", suffix=".partial")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as partial:
                json.dump(asdict(answer), partial, ensure_ascii=False)
            Path(name).replace(file)
        finally:
            Path(name).unlink(missing_ok=True)

    def _file(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.json"


def request_key(address: str, body: dict[str, Any], index: int) -> str:
    """Hashes a request.

    Args:
        address: Where it is sent.
        body: What is sent, as JSON; pictures stand in it as text.
        index: Number of the completion among those of the same prompt.
    """
    text = json.dumps([address, body, index], sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
