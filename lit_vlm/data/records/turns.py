"""Reads the turns of a conversation in any of the spellings that files use."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lit_vlm.data.records.json_text import kind_of
from lit_vlm.data.records.structured_values import is_empty, objects, structure
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import Role

ROLES: dict[str, Role] = {
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "model", "bot", "chatgpt", "function_call", "tool_call"), "assistant"),
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("tool", "observation", "tool_response", "function", "function_response"), "tool"),
}
_CALLS = ("function_call", "tool_call")
ROLE_KEYS = ("role", "from")
CONTENT_KEYS = ("content", "value")
_IMAGE_TYPES = ("image", "image_url", "input_image")
_VIDEO_TYPES = ("video", "video_url")
_TEXT_TYPES = ("text", "input_text", "output_text")
_KNOWN_PARTS = (*_TEXT_TYPES, *_IMAGE_TYPES, *_VIDEO_TYPES)


@dataclass(frozen=True)
class MediumMark:
    """Stands where a part of a turn shows an image or a video."""

    kind: str
    """``image`` or ``video``."""
    source: Any = None
    """What the part itself holds; None where it takes the next medium of the record."""


@dataclass(frozen=True)
class Turn:
    """One turn, its placeholders not yet looked for."""

    role: Role
    parts: tuple[str | MediumMark, ...]
    train: bool | None = None
    """What the record says of it; None where it says nothing."""


def read_turns(value: Any, role_key: str | None = None, content_key: str | None = None) -> list[Turn]:
    """Reads a list of turns; one turn alone, text that holds such a list, and an object of lists count as well.

    Raises:
        UserError: A turn has no role, an unknown one, or a content that is neither text nor a list of parts.
    """
    turns = objects(value)
    if turns is None:
        found = structure(value)
        kind = (
            f"list of {kind_of(next(i for i in found if not isinstance(i, dict)))}s"
            if isinstance(found, list)
            else kind_of(value)
        )
        raise UserError(f"a conversation must be a list of turns like {{role, content}}, this is a {kind}")
    if not turns:
        raise UserError("the conversation has no turn")
    return [_turn(turn, number, role_key, content_key) for number, turn in enumerate(turns, start=1)]


def text_turn(role: Role, text: Any) -> Turn:
    """Makes a turn of plain text; numbers are written out."""
    return Turn(role, (plain_text(text),))


def plain_text(value: Any) -> str:
    """Writes a value as text: strings as they are, numbers and structures as JSON.

    Raises:
        UserError: It is, or holds, a number that is not finite.
    """
    if isinstance(value, str):
        return value
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except ValueError as fault:
        raise UserError(
            f"{str(value)[:60]} stands where text should, and is no number; correct or remove it"
        ) from fault


def _turn(turn: Mapping[str, Any], number: int, role_key: str | None, content_key: str | None) -> Turn:
    role_key = role_key or next((key for key in ROLE_KEYS if not is_empty(turn.get(key))), None)
    if role_key is None or is_empty(turn.get(role_key)):
        raise UserError(f"turn {number} has no role; it holds {sorted(turn)}")
    name = str(turn[role_key]).strip().casefold()
    if name not in ROLES:
        raise UserError(f"turn {number} has the role {turn[role_key]!r}; known are {', '.join(sorted(ROLES))}")
    content_key = content_key or next((key for key in CONTENT_KEYS if turn.get(key) is not None), None)
    content = None if content_key is None else turn.get(content_key)
    parts = _parts(content, number)
    if name in _CALLS:
        parts = (_call_text(content),)
    elif not is_empty(turn.get("tool_calls")):
        calls = objects(turn["tool_calls"]) or []
        parts = (*parts, *(_call_text(call.get("function", call)) for call in calls))
    if not parts:
        raise UserError(f"turn {number} ({name}) has no content; it holds {sorted(turn)}")
    return Turn(ROLES[name], parts, _train_flag(turn, number))


def _parts(content: Any, number: int) -> tuple[str | MediumMark, ...]:
    if content is None:
        return ()
    if isinstance(content, (int, float, str)):
        return (plain_text(content),)
    if isinstance(content, (list, tuple)) and all(isinstance(item, str) for item in content):
        return tuple(content)
    parts = objects(content)
    if parts is None:
        raise UserError(f"the content of turn {number} must be text or a list of parts, not a {kind_of(content)}")
    return tuple(_part(part, number) for part in parts)


def _part(part: Mapping[str, Any], number: int) -> str | MediumMark:
    # Arrow gives every part all keys, empty where they do not belong: the type decides, not which keys there are.
    kind = part.get("type") or next((key for key in _KNOWN_PARTS if part.get(key)), None)
    if kind in _TEXT_TYPES:
        return plain_text(part.get("text") or "")
    if kind in _IMAGE_TYPES:
        return MediumMark("image", _source(part, ("image_url", "image", "path", "url", "bytes")))
    if kind in _VIDEO_TYPES:
        return MediumMark("video", _source(part, ("video_url", "video", "path", "url")))
    shown = f"of type {kind!r}" if kind is not None else f"without a type, which holds {sorted(part)}"
    raise UserError(f"turn {number} has a part {shown}; known are {', '.join(_KNOWN_PARTS)}")


def _source(part: Mapping[str, Any], keys: Sequence[str]) -> Any:
    key = next((key for key in keys if not is_empty(part.get(key))), None)
    if key is None:
        return None
    timed = {name: part[name] for name in ("fps", "video_start", "video_end") if not is_empty(part.get(name))}
    return {"video": part[key], **timed} if timed else part[key]


def _call_text(call: Any) -> str:
    call = structure(call)
    if isinstance(call, Mapping):
        call = {name: structure(value) for name, value in call.items() if name in ("name", "arguments")} or call
    return f"<tool_call>\n{plain_text(call)}\n</tool_call>"


def _train_flag(turn: Mapping[str, Any], number: int) -> bool | None:
    for name in ("loss", "train", "loss_scale", "weight"):
        flag = turn.get(name)
        if is_empty(flag):
            continue
        if isinstance(flag, (bool, int, float)) and flag in (0, 1):
            return bool(flag)
        if name == "loss_scale" and isinstance(flag, (int, float)):
            raise UserError(f"turn {number} has loss_scale {flag}; only 0 and 1 are supported")
        if isinstance(flag, (bool, int, float)) or name in ("loss", "train"):
            raise UserError(f"turn {number} has {name} {flag!r}; give true or false")
    return None
