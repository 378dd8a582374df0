import json
import pickle
import tracemalloc

import pytest

from lit_vlm.data.records import json_lines
from lit_vlm.data.records.json_lines import JsonLines
from lit_vlm.interfaces.errors import BadSampleError, UserError


def write(path, data):
    path.write_bytes(data)
    return path


def test_marks_windows_line_ends_and_blank_lines_are_tolerated(tmp_path):
    file = JsonLines(write(tmp_path / "a.jsonl", b'\xef\xbb\xbf{"n": 0}\r\n\r\n  \t\n {"n": 1}\n\n{"n": 2}'))
    assert [record.values for record in file] == [{"n": 0}, {"n": 1}, {"n": 2}]
    assert [file.origin(index).rpartition(", ")[2] for index in range(3)] == ["line 1", "line 4", "line 6"]
    assert file[1].origin == file.origin(1) == f"{tmp_path}/a.jsonl, line 4"
    assert file[1].folder == tmp_path


@pytest.mark.parametrize("data", [b"", b"\n", b" \r\n\n", b"\xef\xbb\xbf", b"\xef\xbb\xbf\n"])
def test_a_file_without_records_is_empty(tmp_path, data):
    assert len(JsonLines(write(tmp_path / "a.jsonl", data))) == 0


@pytest.mark.parametrize("block", [1, 2, 3, 7, 64, 1 << 20])
def test_the_size_of_the_blocks_does_not_matter(tmp_path, monkeypatch, block):
    lines = ['{"n": 0}', "", " ", '{"text": "ä\\u2028"}', '   {"n": 2}   ', "", '{"n": 3}']
    path = write(tmp_path / "a.jsonl", "\n".join(lines).encode())
    monkeypatch.setattr(json_lines, "READ_AT_ONCE", block)
    file = JsonLines(path)
    assert [record.values for record in file] == [json.loads(line) for line in lines if line.strip()]
    assert [record.origin[-1] for record in file] == ["1", "4", "5", "7"]


def test_a_broken_line_spoils_only_itself(tmp_path):
    file = JsonLines(write(tmp_path / "a.jsonl", b'{"n": 0}\n{"n": 1\n{"n": 2}\n'))
    with pytest.raises(BadSampleError, match=r"a\.jsonl, line 2: column 8: no readable JSON"):
        file[1]
    assert (file[0].values, file[2].values) == ({"n": 0}, {"n": 2})


def test_an_endless_line_is_refused_without_being_read(tmp_path):
    path = tmp_path / "a.jsonl"
    with path.open("wb") as file:
        file.write(b'{"n": 0}\n{"text": "')
        file.truncate(1 << 28)  # a hole: 256 MiB that take no room
    tracemalloc.start()
    lines = JsonLines(path)
    with pytest.raises(BadSampleError, match=r"line 2: the line has 268,435,447 bytes, more than the 67,108,864"):
        lines[1]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 26
    assert lines[0].values == {"n": 0}


def test_another_encoding_is_refused(tmp_path):
    with pytest.raises(UserError, match="save it as UTF-8"):
        JsonLines(write(tmp_path / "a.jsonl", '{"n": 0}'.encode("utf-16")))


def test_a_copy_in_another_process_reads_the_same(tmp_path):
    file = JsonLines(write(tmp_path / "a.jsonl", b'{"n": 0}\n{"n": 1}\n'))
    assert pickle.loads(pickle.dumps(file))[1] == file[1]


@pytest.mark.slow
def test_two_hundred_megabytes_are_indexed_in_little_memory(tmp_path):
    path = tmp_path / "a.jsonl"
    count = 200_000
    with path.open("w") as file:
        for index in range(count):
            file.write(json.dumps({"n": index, "text": "x" * 1000}) + "\n")
    tracemalloc.start()
    lines = JsonLines(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert path.stat().st_size > 200e6
    assert peak < 80e6  # a few blocks of 8 MiB and their comparisons
    assert len(lines) == count
    assert all(lines[index].values["n"] == index for index in (0, 1, 77_777, count - 1))
