"""Reads one JSON value with the ``json`` module and says what is wrong with it, where and why."""

from __future__ import annotations

import codecs
import json
from typing import Any

from lit_vlm.interfaces.errors import BadSampleError, UserError

UTF8_MARK = codecs.BOM_UTF8
_OTHER_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)
_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"PK\x03\x04": "zip",
    b"BZh": "bzip2",
    b"\xfd7zX": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
}
DEEPEST = 100
"""Levels of lists and objects that a record may have: far more than any has, and few enough to be walked by calls."""
_SHOWN = 30  # characters around a fault


def refuse_other_encodings(start: bytes, name: str) -> None:
    """Refuses a file that begins with the byte-order mark of another encoding than UTF-8, or is compressed.

    Raises:
        UserError: It does.
    """
    for mark, kind in _COMPRESSED.items():
        if start.startswith(mark):
            raise UserError(f"{name} is compressed with {kind}, which is not read; unpack it first")
    if start.startswith(_OTHER_MARKS):
        raise UserError(f"{name} is encoded as UTF-16 or UTF-32; save it as UTF-8")


def parse_record(data: bytes, origin: str) -> dict[str, Any]:
    """Parses the bytes of one record.

    Raises:
        BadSampleError: They are no JSON object; the reason gives the column, counted in characters from 1.
    """
    try:
        value = json.loads(data.decode("utf-8"))
    except UnicodeDecodeError as fault:
        column = len(data[: fault.start].decode("utf-8")) + 1
        reason = f"column {column}: byte 0x{data[fault.start]:02x} is no UTF-8; save the file as UTF-8"
        raise BadSampleError(origin, reason) from fault
    except json.JSONDecodeError as fault:
        raise BadSampleError(origin, f"column {fault.colno}: {json_reason(fault)}") from fault
    except RecursionError as fault:
        raise BadSampleError(origin, "the JSON is nested too deeply") from fault
    except ValueError as fault:  # an integer of thousands of digits
        raise BadSampleError(origin, "no readable JSON: a number of thousands of digits") from fault
    if data.count(b"[") + data.count(b"{") > DEEPEST and is_deep(value):
        raise BadSampleError(origin, f"the JSON is nested more than {DEEPEST} deep; flatten it")
    if not isinstance(value, dict):
        raise BadSampleError(origin, f"a record must be an object like {{...}}, this is a {kind_of(value)}")
    return value


def is_deep(value: Any) -> bool:
    """Tells whether a JSON value holds lists and objects more than ``DEEPEST`` deep; steps level by level."""
    level = [value]
    for _ in range(DEEPEST):
        inner = (item.values() if isinstance(item, dict) else item for item in level)
        level = [item for items in inner for item in items if isinstance(item, (dict, list))]
        if not level:
            return False
    return True


def json_reason(fault: json.JSONDecodeError) -> str:
    """Says what the parser missed, with the text around it."""
    start = max(0, fault.pos - _SHOWN // 2)
    near = fault.doc[start : fault.pos + _SHOWN // 2]
    return f"no readable JSON, {fault.msg} " + (f"near {near!r}" if near.strip() else "at its end")


def kind_of(value: Any) -> str:
    """Names the type of a JSON value as JSON does."""
    if value is None:
        return "null"
    for kind, name in ((bool, "boolean"), (str, "string"), ((int, float), "number"), (list, "list"), (dict, "object")):
        if isinstance(value, kind):
            return name
    return type(value).__name__
