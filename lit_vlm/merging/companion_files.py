"""What lies beside the weights of a checkpoint: configuration, tokenizer, processor, chat template."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from lit_vlm.functional.decoder_settings import TEXT_PARTS
from lit_vlm.merging.tied_weights import FLAG

PATTERNS = (
    "generation_config.json", "tokenizer*", "vocab*", "merges*", "special_tokens_map.json", "added_tokens.json",
    "chat_template*", "processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json",
    "*.tiktoken", "spiece.model", "sentencepiece*.model", "LICENSE*", "NOTICE*",
)  # fmt: skip
TEMPLATES = "additional_chat_templates"
KINDS = (".json", ".jinja", ".model", ".txt", ".tiktoken", ".md", "")
"""What such a file may end in; code, pickles and weights do not."""
CONFIGURATION = "config.json"
TYPE_KEYS = ("dtype", "torch_dtype")


def copy_companions(source: Path, destination: Path) -> list[str]:
    """Copies what a checkpoint needs beside configuration and weights; code, pickles and weights stay behind.

    Returns:
        The names of the copied files, sorted.
    """
    copied = []
    for path in sorted(source.iterdir()):
        if path.is_file() and path.suffix in KINDS and any(fnmatchcase(path.name, pattern) for pattern in PATTERNS):
            shutil.copyfile(path, destination / path.name)
            copied.append(path.name)
    for path in sorted((source / TEMPLATES).glob("*.jinja")):
        (destination / TEMPLATES).mkdir(exist_ok=True)
        shutil.copyfile(path, destination / TEMPLATES / path.name)
        copied.append(f"{TEMPLATES}/{path.name}")
    return copied


def write_configuration(
    configuration: Mapping[str, Any], destination: Path, dtype: str | None = None, untie: bool = False
) -> None:
    """Writes ``config.json`` for plain weights: no quantisation, and no mention of code, which is not copied.

    Args:
        configuration: The target's.
        destination: The folder.
        dtype: Name of the type of all weights, where it is not the target's.
        untie: Whether the head has a weight of its own from now on.
    """
    kept = {key: value for key, value in configuration.items() if key not in ("quantization_config", "auto_map")}
    if dtype is not None:
        kept = _with_type(kept, dtype)
    if untie:
        kept = _untied(kept)
    text = json.dumps(kept, indent=2, ensure_ascii=False) + "\n"
    (destination / CONFIGURATION).write_text(text, encoding="utf-8")


def _with_type(value: Any, name: str) -> Any:
    if not isinstance(value, dict):
        return value
    return {
        key: name if key in TYPE_KEYS and item is not None else _with_type(item, name) for key, item in value.items()
    }


def _untied(configuration: dict[str, Any]) -> dict[str, Any]:
    parts = {part: {**configuration[part], FLAG: False} for part in TEXT_PARTS if configuration.get(part)}
    return {**configuration, **parts, FLAG: False}
