import json

import pytest

from lit_vlm.data.records import json_file
from lit_vlm.data.records.json_file import JsonFile
from lit_vlm.interfaces.errors import UserError

RECORDS = [
    {"n": 0, "text": 'a "quoted" ] } brace'},
    {"n": 1, "deep": [[{"x": [1, 2]}]]},
    {"n": 2, "text": "äöü\u2028🙂"},
]


def write(path, text, encoding="utf-8"):
    path.write_text(text, encoding=encoding)
    return path


@pytest.mark.parametrize("block", [4, 7, 1 << 20])
@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("wrapped", [False, True])
def test_records_are_read_by_their_place(tmp_path, monkeypatch, block, indent, wrapped):
    monkeypatch.setattr(json_file, "READ_AT_ONCE", block)
    whole = {"version": [1, 2], "about": {"n": 1}, "data": RECORDS, "none": []} if wrapped else RECORDS
    file = JsonFile(write(tmp_path / "a.json", json.dumps(whole, indent=indent, ensure_ascii=False), "utf-8-sig"))
    assert [record.values for record in file] == RECORDS
    assert file[2].values == RECORDS[2]  # in any order
    assert file[0].values == RECORDS[0]


def test_a_record_knows_the_line_on_which_it_begins(tmp_path):
    path = write(tmp_path / "a.json", '[\n{"n": 0},\n\n  {"n":\n 1},\n{"n": 2}]')
    assert [record.origin.rpartition(", ")[2] for record in JsonFile(path)] == ["line 2", "line 4", "line 6"]
    path = write(tmp_path / "b.json", '[{"n": 0}, {"n": 1}]')
    assert [record.origin.rpartition(", ")[2] for record in JsonFile(path)] == ["record 1", "record 2"]


def test_an_empty_list_has_no_records(tmp_path):
    assert len(JsonFile(write(tmp_path / "a.json", " [ ] \n"))) == 0


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "the file is empty"),
        ("7", "expected a list of records"),
        ('[{"n": 0},\n {"n": 1]', "line 2, column 9: no readable JSON"),
        ('[{"n": 0}\n {"n": 1}]', r"line 2: expected ',' or '\]', found '\{'"),
        ('[{"n": 0}, 5]', "must be an object .* this is a number"),
        ('[{"n": 0}', r"found the end of the file"),
        ('[{"n": "never ends', "no readable JSON, Unterminated string"),
        ('[{"n": 0}] [', "more after the end of the JSON"),
        ('{"a": [{"n": 0}], "b": [{"n": 1}]}', r"several lists of records, \['a', 'b'\]"),
        ('{"a": 1, "b": [1]}', r"no list of records, only \['a', 'b'\]"),
    ],
)
def test_a_broken_file_says_what_is_wrong(tmp_path, text, told):
    with pytest.raises(UserError, match=told) as fault:
        JsonFile(write(tmp_path / "a.json", text))
    assert str(fault.value).startswith(f"{tmp_path}/a.json")


def test_a_fault_is_found_without_reading_on(tmp_path, monkeypatch):
    monkeypatch.setattr(json_file, "READ_AT_ONCE", 1000)
    path = tmp_path / "a.json"
    with path.open("w") as file:
        file.write('[{"n": 0},\n{"n" 1},\n' + " " * 5000)
        file.truncate(1 << 30)
    with pytest.raises(UserError, match="line 2, column 6: no readable JSON, Expecting ':'"):
        JsonFile(path)


def test_an_endless_record_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(json_file, "READ_AT_ONCE", 100)
    path = write(tmp_path / "a.json", '[{"n": 0}, {"text": "' + "x" * 10_000 + '"}]')
    with pytest.raises(UserError, match="more than the 2,000 characters"):
        JsonFile(path, longest_record=2000)
    assert len(JsonFile(path, longest_record=20_000)) == 2
