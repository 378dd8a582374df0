import numpy
import pytest

from lit_vlm.data.records.columns import ColumnNames
from lit_vlm.data.records.conventions import detect
from lit_vlm.data.records.placeholders import NO_PLACEHOLDER
from lit_vlm.data.records.record_files import open_records
from lit_vlm.data.records.record_samples import (
    RecordSamples,
    first_readable,
    review,
    shown_faults,
    some_readable,
    split_off,
)
from lit_vlm.data.records.sample_reader import SampleReader
from lit_vlm.interfaces.errors import BadSampleError
from lit_vlm.interfaces.records import BadSample

ROWS = [
    {"id": n, "question": f"Question {n}?", "answer": str(n), "image": "a.png", "kind": f"k{n % 3}"} for n in range(300)
]


def opened(folder, rows, write_lines, name="x.jsonl", **columns):
    records = open_records(str(write_lines(folder / name, rows)), "data.train")
    return records, detect([record.values for record in first_readable(records)], ColumnNames(**columns))


def questions(records, indices):
    return {records[int(index)].values["question"] for index in indices}


def test_samples_are_read_by_index_from_all_records_or_some(media_folder, write_lines):
    records, reading = opened(media_folder, ROWS, write_lines)
    samples = RecordSamples(records, SampleReader(reading), numpy.array([7, 3]))
    assert [samples[index].id for index in range(len(samples))] == ["7", "3"]
    assert samples.origin(1) == samples[1].meta.origin == f"{media_folder}/x.jsonl, line 4"
    assert len(RecordSamples(records, SampleReader(reading))) == 300
    for index in (2, -1):
        with pytest.raises(IndexError):
            samples[index]


def test_a_share_is_split_off_by_content_alone(media_folder, write_lines):
    records, reading = opened(media_folder, ROWS, write_lines)
    rest, off = split_off(records, SampleReader(reading).content, 0.2)
    assert sorted([*rest, *off]) == list(range(300))
    assert 40 <= len(off) <= 80  # 60 expected, deviation 7
    # Reversed, doubled and renamed, every record falls where it fell before.
    other = [{**row, "id": f"copy {row['id']}"} for row in (*reversed(ROWS), *ROWS)]
    again, reading = opened(media_folder, other, write_lines, "y.jsonl")
    rest_again, off_again = split_off(again, SampleReader(reading).content, 0.2)
    assert questions(again, off_again) == questions(records, off)
    assert not questions(again, rest_again) & questions(again, off_again)
    assert len(off_again) == 2 * len(off)


def test_a_broken_record_stays_where_it_is_reported(media_folder, write_lines):
    path = write_lines(media_folder / "x.jsonl", ROWS[:30])
    path.write_text(path.read_text() + "broken\n")
    records = open_records(str(path), "data.train")
    rest, _ = split_off(records, SampleReader(detect([ROWS[0]], ColumnNames())).content, 0.5)
    assert 30 in rest


def test_tasks_are_those_of_the_named_column(media_folder, write_lines):
    records, reading = opened(media_folder, ROWS, write_lines, category="kind")
    samples = RecordSamples(records, SampleReader(reading), numpy.array([0, 3, 4]))
    assert samples.categories() == ["k0", "k1"]
    assert samples[2].meta.category == "k1"
    records, reading = opened(media_folder, ROWS, write_lines)
    assert RecordSamples(records, SampleReader(reading)).categories() == []


def test_a_review_counts_mends_and_faults_without_decoding(media_folder, write_lines):
    (media_folder / "empty.png").touch()
    rows = [*ROWS[:2], {**ROWS[2], "question": ""}, {**ROWS[3], "image": "gone.png"}, {**ROWS[4], "image": "empty.png"}]
    records, reading = opened(media_folder, rows, write_lines)
    samples = RecordSamples(records, SampleReader(reading))
    found = review(samples, None)
    assert (found.looked_at, found.repairs[NO_PLACEHOLDER], len(found.bad)) == (5, 2, 3)
    assert [bad.origin[-1] for bad in found.bad] == ["3", "4", "5"]
    assert "column 'question' is empty" in shown_faults(found.bad)
    assert "no media file" in found.bad[1].reason
    assert "'empty.png' is empty" in found.bad[2].reason
    assert review(samples, 2).looked_at == 2


def test_faults_with_one_reason_are_written_once():
    bad = [BadSample(f"x, line {n}", "no image" if n < 5 else f"broken {n}") for n in range(1, 9)]
    assert shown_faults(bad) == "x, line 1: no image (3 more likewise); x, line 5: broken 5; x, line 6: broken 6"


def test_some_samples_are_read_past_bad_ones(media_folder, write_lines):
    records, reading = opened(
        media_folder, [{**row, "question": row["question"] * (row["id"] != 4)} for row in ROWS[:8]], write_lines
    )
    samples = RecordSamples(records, SampleReader(reading))
    assert [sample.id for sample in some_readable(samples, 4)] == ["0", "2", "6"]


def test_the_first_records_are_read_past_broken_ones(media_folder, write_lines):
    path = write_lines(media_folder / "x.jsonl", ROWS[:3])
    path.write_text("broken\n" + path.read_text())
    assert [record.values["id"] for record in first_readable(open_records(str(path), "data.train"))] == [0, 1, 2]
    path.write_text("broken\n")
    with pytest.raises(BadSampleError, match="line 1"):
        first_readable(open_records(str(path), "data.train"))


def test_levels_are_those_of_the_named_column(media_folder, write_lines):
    rows = [{**row, "level": level} for row, level in zip(ROWS, (3, "2", 1.0, None, "hard", 2.5), strict=False)]
    records, reading = opened(media_folder, rows, write_lines, difficulty="level")
    samples = RecordSamples(records, SampleReader(reading))
    assert [samples[index].meta.difficulty for index in range(4)] == [3, 2, 1, None]
    for index, told in ((4, "'hard'"), (5, "2.5")):
        with pytest.raises(BadSampleError, match=f"column 'level' holds {told}, not a whole number"):
            samples[index]
    records, reading = opened(media_folder, rows, write_lines)
    assert RecordSamples(records, SampleReader(reading))[0].meta.difficulty is None
