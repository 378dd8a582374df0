"""Pieces of a model card in Markdown, and settings as they may stand in one: no path of a machine, no secret."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

LEFT_OUT = "(left out)"
_SECRET_NAME = re.compile(r"(?:^|_)(?:api_?key|key|token|secret|password|passwd|credentials?)$", re.IGNORECASE)
_SECRET = re.compile(r"\b(?:hf_|sk-|ghp_|github_pat_|xox[abp]-|AKIA|Bearer\s+)[\w-]{12,}")
_ABSOLUTE = r"(?:file://)?(?:~[\w.-]*(?=[/\\])|(?=/)|[A-Za-z]:(?=[/\\]))"
_WHOLE_PATH = re.compile(_ABSOLUTE + r"(?:[/\\][^/\\\n]+){2,}[/\\]?|~[\w.-]*[/\\][^/\\\n]+[/\\]?")
_PATH_WITHIN = re.compile(r"(?<![\w.:/\\<>)\]}-])" + _ABSOLUTE + r"(?:[/\\][^\s/\\'\"<>,;:|()\[\]{}]+){2,}[/\\]?")
_USER_IN_ADDRESS = re.compile(r"(?<=://)[^/\s@]+@")


def portable(value: Any, name: str = "") -> Any:
    """Rids settings of what only one machine or one person knows.

    Args:
        value: Mappings, sequences and plain values.
        name: The setting's.

    Returns:
        The same, absolute paths cut to their last name, and secrets left out.

    Example:
        >>> portable({"train": "/home/me/data/train.jsonl", "hf_token": "abc", "max_tokens": 8})
        {'train': 'train.jsonl', 'hf_token': '(left out)', 'max_tokens': 8}
    """
    if isinstance(value, Mapping):
        return {str(portable(str(key))): portable(item, str(key)) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [portable(item, name) for item in value]
    if value is None or isinstance(value, bool | int | float):
        return value
    text = str(value)
    if _SECRET_NAME.search(name) and text and not text.startswith("<"):
        return LEFT_OUT
    if _WHOLE_PATH.fullmatch(text):
        return _last_name(text)
    text = _USER_IN_ADDRESS.sub("", text)
    return _SECRET.sub(LEFT_OUT, _PATH_WITHIN.sub(lambda found: _last_name(found[0]), text))


def _last_name(path: str) -> str:
    return re.split(r"[/\\]", path.rstrip("/\\"))[-1]


def yaml_text(value: Mapping[str, Any]) -> str:
    """Writes settings as YAML, block by block; what has no name of its own is written as JSON, which YAML reads."""
    return "\n".join(_yaml_lines(value, ""))


def _yaml_lines(value: Mapping[str, Any], indent: str) -> Iterator[str]:
    for key, item in value.items():
        name = key if re.fullmatch(r"[A-Za-z_][\w.-]*", key) and key.lower() not in _WORDS else json.dumps(key)
        if isinstance(item, Mapping) and item:
            yield f"{indent}{name}:"
            yield from _yaml_lines(item, indent + "  ")
        else:
            yield f"{indent}{name}: {_scalar(item)}"


_WORDS = {"yes", "no", "on", "off", "true", "false", "null", "y", "n"}
"""What YAML takes for something else than text."""


def _scalar(value: Any) -> str:
    # YAML 1.1 reads 1e-05 as text.
    if isinstance(value, float) and "e" in repr(value) and "." not in repr(value):
        return repr(value).replace("e", ".0e")
    if isinstance(value, list):
        return f"[{', '.join(_scalar(item) for item in value)}]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(key)}: {_scalar(item)}" for key, item in value.items()) + "}"
    return json.dumps(value, ensure_ascii=False, default=str)


def table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Sets lines of a table in Markdown."""
    return [
        f"| {' | '.join(map(cell, heading))} |",
        f"|{' --- |' * len(heading)}",
        *(f"| {' | '.join(map(cell, row))} |" for row in rows),
    ]


def cell(text: str) -> str:
    """Writes a text as one cell of a table, or as a heading."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def fenced(text: str, language: str) -> list[str]:
    """Sets a text as a block of code, whatever it holds."""
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall(r"`+", text)), default=0))
    return [f"{fence}{language}", text.strip(), fence]
