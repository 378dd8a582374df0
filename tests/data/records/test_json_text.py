import gzip

import pytest

from lit_vlm.data.records.json_text import kind_of, parse_record, refuse_other_encodings
from lit_vlm.interfaces.errors import BadSampleError, UserError


def test_an_object_is_read_as_python_objects_of_mixed_types():
    assert parse_record(b'{"a": [1, "x", null, {"b": 2.5}]}', "f") == {"a": [1, "x", None, {"b": 2.5}]}


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b'{"a": 1,}', r"column 9: no readable JSON, .* near"),
        (b'{"a": "x', "column 7: no readable JSON, Unterminated string"),
        ('{"ä": 1'.encode() + b"\xff}", "column 8: byte 0xff is no UTF-8"),
        (b"[1]", "must be an object .* this is a list"),
        (b"null", "this is a null"),
        (b'{"a": ' + b"[" * 100_000, "nested too deeply"),
        (b'{"a": ' + b"1" * 5000 + b"}", "no readable JSON"),
    ],
)
def test_a_broken_record_says_where_and_why(data, reason):
    with pytest.raises(BadSampleError, match=reason) as fault:
        parse_record(data, "f.jsonl, line 3")
    assert fault.value.origin == "f.jsonl, line 3"
    assert len(str(fault.value)) < 300


def test_other_encodings_are_refused_by_their_mark():
    refuse_other_encodings(b'{"a"', "f")
    with pytest.raises(UserError, match="UTF-16 or UTF-32; save it as UTF-8"):
        refuse_other_encodings("{}".encode("utf-16"), "f")
    with pytest.raises(UserError, match="f is compressed with gzip, which is not read; unpack it first"):
        refuse_other_encodings(gzip.compress(b"{}")[:4], "f")


def test_kinds_have_the_names_of_json():
    assert list(map(kind_of, (None, True, 1, 1.5, "a", [], {}))) == [
        "null", "boolean", "number", "number", "string", "list", "object",
    ]  # fmt: skip
