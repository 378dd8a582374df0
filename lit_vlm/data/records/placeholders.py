"""Puts media where a conversation shows them, and mends the usual disagreements between placeholders and media.

The mends are few and counted by name; anything else is an error. A placeholder in an assistant's turn is ordinary text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from lit_vlm.data.records.turns import MediumMark, Turn
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import ImagePart, Message, Part, TextPart, VideoPart

NO_PLACEHOLDER = "media without any placeholder (put before the first question)"
MISSING_PLACEHOLDER = "fewer placeholders than media (the missing ones put before the first question)"
REPEATED_PLACEHOLDER = "one medium with a placeholder in several turns (the first kept)"
ASSISTANT_PLACEHOLDER = "a placeholder in an assistant's turn (left as ordinary text)"

_PLACEHOLDER = re.compile(r"<(image|video) ?([0-9]{1,3})?>", re.IGNORECASE)
_TEMPLATED = re.compile(r"<\|(?:image|video|vision)_(?:pad|start|end)\|>|<start_of_image>|<image_soft_token>")
_AUDIO = re.compile(r"<audio>", re.IGNORECASE)


@dataclass(frozen=True)
class _Shown:
    """A place at which a medium is shown; ``index`` is None until media are dealt out."""

    kind: str
    index: int | None = None
    source: Any = None


_Piece = str | _Shown


@dataclass(frozen=True)
class PlacedMedia:
    """A conversation whose parts point at media."""

    messages: tuple[Message, ...]
    images: list[Any]
    """What the record holds for each image, in the order of their indices."""
    videos: list[Any]
    repairs: tuple[str, ...]
    """Names of the mends that were made."""


def place_media(
    turns: Sequence[Turn], images: Sequence[Any], videos: Sequence[Any], *, prepend_missing: bool = True
) -> PlacedMedia:
    """Splits texts at their placeholders and deals out the media.

    Args:
        turns: The conversation.
        images: Images of the record's own column, in order.
        videos: Videos of the record's own column, in order.
        prepend_missing: Whether media that no placeholder shows are put before the first question, if others are
            shown; else that is an error.

    Raises:
        UserError: Placeholders and media disagree in a way that is not mended.
    """
    repairs: list[str] = []
    pieces = [_pieces(turn, turns, repairs) for turn in turns]
    placed: dict[str, list[Any]] = {}
    for kind, media in (("image", list(images)), ("video", list(videos))):
        pieces, placed[kind] = _deal(kind, turns, pieces, media, repairs, prepend_missing)
    messages = tuple(
        Message(turn.role, _content(parts), train=bool(turn.train)) for turn, parts in zip(turns, pieces, strict=True)
    )
    return PlacedMedia(messages, placed["image"], placed["video"], tuple(dict.fromkeys(repairs)))


def _pieces(turn: Turn, turns: Sequence[Turn], repairs: list[str]) -> list[_Piece]:
    """Splits the texts of a turn, unless the record marks its media with parts of their own."""
    marked = {part.kind for other in turns for part in other.parts if isinstance(part, MediumMark)}
    pieces: list[_Piece] = []
    for part in turn.parts:
        if isinstance(part, MediumMark):
            if turn.role == "assistant":
                raise UserError(f"an assistant's turn shows {_a(part.kind)}, which a model of text cannot learn")
            pieces.append(_Shown(part.kind, source=part.source))
        elif turn.role == "assistant":
            if _PLACEHOLDER.search(part):
                repairs.append(ASSISTANT_PLACEHOLDER)
            pieces.append(part)
        else:
            pieces.extend(_split(part, marked))
    return pieces


def _split(text: str, marked: set[str]) -> list[_Piece]:
    if found := _TEMPLATED.search(text):
        raise UserError(f"the text holds {found[0]}, a model's own token; write <image> or <video> for a medium")
    if _AUDIO.search(text):
        raise UserError("the text holds <audio>; only images and videos are read")
    pieces: list[_Piece] = []
    done = 0
    for found in _PLACEHOLDER.finditer(text):
        kind = found[1].casefold()
        if kind in marked:
            continue
        pieces += [text[done : found.start()], _Shown(kind, None if found[2] is None else int(found[2]) - 1)]
        done = found.end()
    return [*pieces, text[done:]]


def _deal(
    kind: str,
    turns: Sequence[Turn],
    pieces: list[list[_Piece]],
    media: list[Any],
    repairs: list[str],
    prepend_missing: bool,
) -> tuple[list[list[_Piece]], list[Any]]:
    """Gives each place of a kind its index and returns the media in that order."""
    places = [piece for parts in pieces for piece in parts if isinstance(piece, _Shown) and piece.kind == kind]
    own = [place.source for place in places if place.source is not None]
    if own and (media or len(own) < len(places)):
        raise UserError(
            f"{len(own)} of {len(places)} {kind} parts hold their own {kind} and the record has {len(media)} more; "
            "use parts or the column, not both"
        )
    media = own or media
    numbered = [place for place in places if place.index is not None]
    if numbered and len(numbered) < len(places):
        raise UserError(f"some placeholders of {kind}s have a number and some have none; write all one way")
    if numbered:
        return pieces, _check_numbers(kind, numbered, media, turns, pieces, repairs, prepend_missing)
    if len(media) == 1 and len(places) > 1:
        _keep_first(kind, pieces)
        repairs.append(REPEATED_PLACEHOLDER)
        places = places[:1]
    if len(places) > len(media):
        raise UserError(f"{_count(len(places), 'placeholder')} of {kind}s, but {_count(len(media), kind)}")
    missing = len(media) - len(places)
    if missing:
        _prepend(kind, range(missing), len(places), turns, pieces, repairs, prepend_missing)
    order = iter(range(missing, len(media)))
    dealt = [
        [
            replace(piece, index=next(order))
            if isinstance(piece, _Shown) and piece.kind == kind and piece.index is None
            else piece
            for piece in parts
        ]
        for parts in pieces
    ]
    return dealt, media


def _check_numbers(
    kind: str,
    numbered: Sequence[_Shown],
    media: list[Any],
    turns: Sequence[Turn],
    pieces: list[list[_Piece]],
    repairs: list[str],
    prepend_missing: bool,
) -> list[Any]:
    shown = {place.index for place in numbered if place.index is not None}
    beyond = [index + 1 for index in sorted(shown) if not 0 <= index < len(media)]
    if beyond:
        raise UserError(f"placeholder <{kind} {beyond[0]}>, but {_count(len(media), kind)}")
    missing = [index for index in range(len(media)) if index not in shown]
    if missing:
        _prepend(kind, missing, len(shown), turns, pieces, repairs, prepend_missing)
    return media


def _keep_first(kind: str, pieces: list[list[_Piece]]) -> None:
    """Deletes all places of the kind but the first; refuses two within one turn."""
    seen = False
    for parts in pieces:
        here = [piece for piece in parts if isinstance(piece, _Shown) and piece.kind == kind]
        if len(here) > 1:
            raise UserError(f"{len(here)} placeholders of {kind}s in one turn, but 1 {kind}")
        if here and seen:
            parts.remove(here[0])
        seen = seen or bool(here)


def _prepend(
    kind: str,
    indices: Sequence[int] | range,
    already: int,
    turns: Sequence[Turn],
    pieces: list[list[_Piece]],
    repairs: list[str],
    prepend_missing: bool,
) -> None:
    if already and not prepend_missing:
        raise UserError(f"{_count(already + len(indices), kind)}, but {_count(already, 'placeholder')}")
    first = next((position for position, turn in enumerate(turns) if turn.role == "user"), None)
    if first is None:
        raise UserError(f"{_count(len(indices), kind)}, but no user turn that could show it")
    pieces[first][:0] = [_Shown(kind, index) for index in indices]
    repairs.append(MISSING_PLACEHOLDER if already else NO_PLACEHOLDER)


def _content(pieces: Sequence[_Piece]) -> tuple[Part, ...]:
    parts: list[Part] = []
    for piece in pieces:
        if isinstance(piece, str):
            if piece:
                parts.append(TextPart(piece))
        elif piece.index is not None:
            parts.append(ImagePart(piece.index) if piece.kind == "image" else VideoPart(piece.index))
    return tuple(parts)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _a(kind: str) -> str:
    return "an image" if kind == "image" else "a video"
