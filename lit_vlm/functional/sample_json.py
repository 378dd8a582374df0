"""Samples as JSON and back: every field, ground truths of any kind, media by reference into a store.

A record is an object with its class under ``!record`` and the fields that differ from their defaults; other values
that JSON lacks have a mark of their own, such as ``{"!tuple": [1, 2]}``. No class is looked up by name but those of a
fixed list, and nothing is executed.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, fields, replace
from decimal import Decimal
from fractions import Fraction
from numbers import Integral, Real
from typing import Any, cast

from lit_vlm.functional.media_store import MediaStore
from lit_vlm.interfaces.critiques import Critique, CritiqueUnit, StepLabel
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import (
    Answer,
    Candidate,
    ImagePart,
    MediaRef,
    Message,
    Preference,
    Sample,
    SampleMeta,
    TextPart,
    VideoPart,
    VideoRef,
)

RECORDS: Mapping[str, type] = {
    record.__name__: record
    for record in (
        Answer,
        Candidate,
        Critique,
        CritiqueUnit,
        ImagePart,
        Message,
        Preference,
        Sample,
        SampleMeta,
        StepLabel,
        TextPart,
        VideoPart,
        VideoRef,
    )
}
"""The classes that are written field by field."""
RECORD, MEDIA = "!record", "!media"


def sample_to_json(sample: Sample, media: MediaStore) -> dict[str, Any]:
    """Writes a sample as an object that ``json`` takes, without losing anything that it says.

    What ``meta.extra`` holds beyond numbers, texts and collections of them becomes text.

    Args:
        sample: Any.
        media: Keeps its images and videos.

    Raises:
        UserError: Its media cannot be read, or its answer has a form that JSON cannot hold.
    """
    readable = replace(sample, meta=replace(sample.meta, extra=cast(dict[str, Any], _texts(sample.meta.extra))))
    return cast(dict[str, Any], _encode(readable, media, sample.id))


def sample_from_json(content: Any, media: MediaStore) -> Sample:
    """Reads what ``sample_to_json`` wrote; media point into the store.

    Raises:
        UserError: It is something else.
    """
    sample = _decode(content, media)
    if not isinstance(sample, Sample):
        raise UserError(f"wanted is the record of a sample; given: {str(content)[:60]!r}")
    return sample


def media_hash(record: Mapping[str, Any]) -> str:
    """Hashes the media of a sample in order, images first.

    Args:
        record: As ``sample_to_json`` gives it.

    Returns:
        SHA-256 over the names of the media, hexadecimal; empty where there are none.
    """
    names = list(_media_names([record.get("images"), record.get("videos")]))
    return hashlib.sha256("\n".join(names).encode()).hexdigest() if names else ""


def _media_names(value: Any) -> Iterator[str]:
    if isinstance(value, dict) and MEDIA in value:
        yield str(value[MEDIA] or value["url"])
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _media_names(item)


def _encode(value: Any, media: MediaStore, owner: str) -> Any:
    match value:
        case None | bool() | str():
            return value
        case Fraction() | Decimal():
            return {f"!{type(value).__name__.lower()}": str(value)}
        case Integral():
            return int(value)
        case Real():
            return float(value) if math.isfinite(value) else {"!float": str(float(value))}
        case bytes():
            return {"!bytes": base64.b64encode(value).decode()}
        case list():
            return [_encode(item, media, owner) for item in value]
        case tuple():
            return {"!tuple": [_encode(item, media, owner) for item in value]}
        case set() | frozenset():
            return {f"!{type(value).__name__}": [_encode(item, media, owner) for item in sorted(value, key=repr)]}
        case Mapping():
            return _encode_mapping(value, media, owner)
        case MediaRef():
            return _encode_media(value, media)
    if RECORDS.get(type(value).__name__) is not type(value):
        raise UserError(
            f"sample {owner!r} holds a {type(value).__name__} ({value!r:.60}), which a ledger cannot keep; "
            "make it a number, a text or a list of them"
        )
    told = {name: getattr(value, name) for name in _told(value)}
    return {RECORD: type(value).__name__, **{name: _encode(item, media, owner) for name, item in told.items()}}


def _encode_mapping(value: Mapping[Any, Any], media: MediaStore, owner: str) -> Any:
    if all(isinstance(key, str) and not key.startswith("!") for key in value):
        return {key: _encode(item, media, owner) for key, item in value.items()}
    return {"!map": [[_encode(key, media, owner), _encode(item, media, owner)] for key, item in value.items()]}


def _encode_media(value: MediaRef, media: MediaStore) -> Any:
    about = {"size": None if value.size is None else list(value.size), "max_pixels": value.max_pixels}
    about = {name: item for name, item in about.items() if item is not None}
    return {MEDIA: None, "url": value.url, **about} if value.url is not None else {MEDIA: media.put(value), **about}


def _told(value: Any) -> list[str]:
    return [field.name for field in fields(value) if not _is_default(value, field)]


def _is_default(value: Any, field: Field[Any]) -> bool:
    if field.default is not MISSING:
        default = field.default
    elif field.default_factory is not MISSING:
        default = field.default_factory()
    else:
        return False
    given = getattr(value, field.name)
    return type(given) is type(default) and bool(given == default)


def _decode(value: Any, media: MediaStore) -> Any:
    if isinstance(value, list):
        return [_decode(item, media) for item in value]
    if not isinstance(value, dict):
        return value
    if RECORD in value:
        return _decode_record(value, media)
    if MEDIA in value:
        return _decode_media(value, media)
    mark = next((key for key in value if key.startswith("!")), None)
    if mark is None:
        return {key: _decode(item, media) for key, item in value.items()}
    return _decode_marked(mark, value[mark], media)


def _decode_record(value: dict[str, Any], media: MediaStore) -> Any:
    record = RECORDS.get(str(value[RECORD]))
    if record is None:
        raise UserError(f"{value[RECORD]!r} is no record that this version knows; read it with the one that wrote it")
    given = {name: _decode(item, media) for name, item in value.items() if name != RECORD}
    unknown = sorted(set(given) - {field.name for field in fields(record)})
    if unknown:
        raise UserError(f"{value[RECORD]} has no {', '.join(unknown)}; read it with the version that wrote it")
    try:
        return record(**given)
    except (TypeError, ValueError) as fault:
        raise UserError(f"this is no {value[RECORD]}: {fault}") from fault


def _decode_media(value: dict[str, Any], media: MediaStore) -> MediaRef:
    size, most = value.get("size"), value.get("max_pixels")
    reference = MediaRef(url=str(value.get("url"))) if value[MEDIA] is None else media.reference(str(value[MEDIA]))
    return replace(reference, size=None if size is None else (int(size[0]), int(size[1])), max_pixels=most)


def _decode_marked(mark: str, held: Any, media: MediaStore) -> Any:
    match mark:
        case "!float":
            return float(held)
        case "!fraction":
            return Fraction(held)
        case "!decimal":
            return Decimal(held)
        case "!bytes":
            return base64.b64decode(held)
        case "!tuple":
            return tuple(_decode(item, media) for item in held)
        case "!set":
            return {_decode(item, media) for item in held}
        case "!frozenset":
            return frozenset(_decode(item, media) for item in held)
        case "!map":
            return {_decode(key, media): _decode(item, media) for key, item in held}
    raise UserError(f"{mark!r} marks nothing that this version knows; read it with the one that wrote it")


def _texts(value: Any) -> Any:
    """Makes text of what neither JSON nor a record holds."""
    match value:
        case None | bool() | str() | Real() | Decimal() | bytes() | MediaRef():
            return value
        case list():
            return [_texts(item) for item in value]
        case tuple():
            return tuple(_texts(item) for item in value)
        case set() | frozenset():
            return type(value)(_texts(item) for item in value)
        case Mapping():
            return {_texts(key): _texts(item) for key, item in value.items()}
    return value if RECORDS.get(type(value).__name__) is type(value) else str(value)
