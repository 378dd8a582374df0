import json

import pyarrow
import pyarrow.parquet
import pytest

from lit_vlm.data.records.record_files import find_files, open_records
from lit_vlm.interfaces.errors import BadSampleError, UserError


@pytest.fixture
def folder(tmp_path, write_lines):
    write_lines(tmp_path / "a.jsonl", [{"n": 0}, {"n": 1}])
    write_lines(tmp_path / "b.jsonl", [])
    write_lines(tmp_path / "c.jsonl", [{"n": 2}])
    return tmp_path


@pytest.mark.parametrize("name", ["", "*.jsonl", "**/*.jsonl"])
def test_a_folder_and_a_pattern_give_their_files_in_order(folder, name):
    records = open_records(str(folder / name), "data.train")
    assert len(records) == 3
    assert [record.values["n"] for record in records] == [0, 1, 2]
    assert [records[index].values["n"] for index in (2, 0)] == [2, 0]
    assert records.origin(2) == f"{folder}/c.jsonl, line 1"
    assert records.name == "3 files"
    with pytest.raises(IndexError):
        records[3]


def test_a_list_keeps_its_order_and_may_mix_formats(folder):
    (folder / "d.json").write_text(json.dumps([{"n": 7}]))
    pyarrow.parquet.write_table(pyarrow.table({"n": [8, 9]}), folder / "e.parquet")
    names = [str(folder / name) for name in ("e.parquet", "d.json", "a.jsonl")]
    assert [record.values["n"] for record in open_records(names, "data.train")] == [8, 9, 7, 0, 1]


def test_lines_in_a_file_named_json_are_read_as_lines(folder, write_lines):
    write_lines(folder / "lines.json", [{"n": 5}, {"n": 6}])
    assert [record.values["n"] for record in open_records(str(folder / "lines.json"), "data.train")] == [5, 6]
    (folder / "whole.json").write_text('{"data":\n [{"n": 5}]}')
    assert [record.values["n"] for record in open_records(str(folder / "whole.json"), "data.train")] == [5]


def test_what_is_not_there_or_not_readable_is_named(folder, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    (folder / "notes.txt").write_text("n")
    for name, told in (
        (str(folder / "none.jsonl"), "data.train: there is no file or folder '.*none.jsonl'"),
        (str(folder / "*.parquet"), "data.train: no file matches"),
        (str(empty), "holds no file named .json or .jsonl"),
        (str(folder / "b.jsonl"), "data.train: there are no records in .*b.jsonl"),
        (str(folder / "notes.txt"), r"files named .txt are not read; save it as one of .json"),
        ([], "data.train is an empty list"),
        ([str(folder / "a.jsonl"), str(folder / "*.jsonl")], "data.train names .*a.jsonl twice"),
    ):
        with pytest.raises(UserError, match=told):
            open_records(name, "data.train")


def test_a_folder_of_several_splits_or_kinds_must_be_made_clear(tmp_path, write_lines):
    for name in ("train-0.jsonl", "train-1.jsonl", "test-0.jsonl"):
        write_lines(tmp_path / name, [{"n": 0}])
    with pytest.raises(UserError, match="several splits, test, train; name one, as .*/test"):
        find_files(str(tmp_path), "data.train")
    assert len(find_files(f"{tmp_path}/train*", "data.train")) == 2
    (tmp_path / "test-0.jsonl").rename(tmp_path / "trainer.json")
    with pytest.raises(UserError, match=".json and .jsonl files"):
        find_files(str(tmp_path), "data.train")


@pytest.mark.parametrize("form", ["jsonl", "json", "parquet"])
def test_a_scan_yields_what_reading_by_index_does(tmp_path, form):
    records = [{"n": n, "text": "ä" * n} for n in range(200)]
    path = tmp_path / f"x.{form}"
    if form == "parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records), path, row_group_size=90)
    else:
        path.write_text(json.dumps(records) if form == "json" else "\n\n".join(map(json.dumps, records)))
    opened = open_records(str(path), "data.train")
    assert list(opened.scan()) == [opened[index] for index in range(200)]


def test_a_scan_goes_on_after_a_broken_record(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"n": 1}\nbroken\n{"n": 3}\n')
    first, broken, last = open_records(str(tmp_path / "x.jsonl"), "data.train").scan()
    assert (first.values, last.values) == ({"n": 1}, {"n": 3})
    assert isinstance(broken, BadSampleError)
    assert broken.origin.endswith("line 2")
