import json
import math
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pyarrow
import pyarrow.parquet as parquet
import pytest
from PIL import Image

from lit_vlm.functional.ledger_files import (
    LedgerWriter,
    check_header,
    done_samples,
    is_ledger,
    read_columns,
    read_header,
    read_rows,
)
from lit_vlm.functional.media import open_image
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.ledgers import LedgerHeader
from lit_vlm.interfaces.records import Answer, Completion, MediaRef, Sample, SampleMeta, Verdict, user_message

HEADER = LedgerHeader(
    model="tiny",
    model_hash="m" * 32,
    config_hash="c" * 32,
    template_hash="t" * 32,
    completions=2,
    seed=3,
    sampling={"temperature": 1.0, "max_new_tokens": 8},
    version="0.1",
    split="test",
)


def completions(number: int) -> list[Completion]:
    """Both completions of a sample; all fields differ from their defaults."""
    colour = (number % 256, 0, 0)
    sample = Sample(
        id=f"sample-{number}",
        messages=(user_message("which?", images=1),),
        images=(MediaRef(pil=Image.new("RGB", (3, 3), colour)),),
        answer=Answer("number", "7"),
        meta=SampleMeta(category="sum"),
    )
    return [
        Completion(
            sample, "prompt", f"text {index}\n\u2028", Verdict(index == 0, "7" if index == 0 else None, True),
            log_prob_sum=-1.5, token_count=2, seconds=0.25, index=index, token_ids=(5, 6), log_probs=(-0.5, -1.0),
            entropies=(0.25, 0.5), finish_reason="length", seed=2**64 - 1, rewards={"total": 0.5, "format": 1.0},
        )
        for index in range(2)
    ]  # fmt: skip


@pytest.fixture
def folder(tmp_path) -> Path:
    """A ledger of three samples in two parts."""
    writer = LedgerWriter(tmp_path / "ledger", HEADER)
    writer.write([*completions(0), *completions(1)], extra={"turn": 1})
    writer.write(completions(2))
    writer.close()
    return tmp_path / "ledger"


def test_rows_come_back_as_they_were_written(folder):
    rows = list(read_rows(folder))
    wanted = [completion for number in range(3) for completion in completions(number)]
    for row, completion in zip(rows, wanted, strict=True):
        assert replace(row.completion, sample=completion.sample) == completion
        back, given = row.completion.sample, completion.sample
        assert replace(back, images=given.images) == given
        assert open_image(back.images[0]).tobytes() == open_image(given.images[0]).tobytes()
        assert (row.model_hash, row.config_hash) == (HEADER.model_hash, HEADER.config_hash)
        assert row.time > 1.7e9
    assert [row.extra for row in rows] == [{"turn": 1}] * 4 + [{}] * 2
    assert len({row.media_hash for row in rows}) == 3
    assert rows[0].completion.sample is rows[1].completion.sample


def test_bare_completions_come_back(tmp_path):
    writer = LedgerWriter(tmp_path, replace(HEADER, completions=1))
    bare = [
        Completion(Sample("a", ()), "", "", None),
        Completion(Sample("b", ()), "", "", None, log_prob_sum=-math.inf),
    ]
    writer.write(bare)
    assert [row.completion for row in read_rows(tmp_path)] == bare
    assert [row.media_hash for row in read_rows(tmp_path)] == ["", ""]


def test_media_are_kept_once(folder):
    writer = LedgerWriter(folder, HEADER)
    writer.write([replace(one, sample=replace(one.sample, id="other")) for one in completions(0)])
    assert len(list((folder / "media").iterdir())) == 3


def test_a_moved_ledger_needs_nothing_else(folder, tmp_path):
    moved = tmp_path / "elsewhere" / "moved"
    moved.parent.mkdir()
    folder.rename(moved)
    for row in read_rows(moved):
        assert open_image(row.completion.sample.images[0]).size == (3, 3)


def test_the_header_comes_back(folder):
    assert read_header(folder) == HEADER
    assert is_ledger(folder)
    assert not is_ledger(folder / "media")


def test_done_samples_are_those_whose_part_is_there(folder):
    assert done_samples(folder) == {"sample-0", "sample-1", "sample-2"}
    (folder / ".part-0000-000009.parquet").write_bytes(b"left by a kill")
    assert done_samples(folder) == {"sample-0", "sample-1", "sample-2"}
    (folder / "part-0000-000001.parquet").unlink()
    assert done_samples(folder) == {"sample-0", "sample-1"}


def test_a_writer_goes_on_behind_the_parts_that_are_there(folder):
    before = {path.name: path.read_bytes() for path in folder.glob("part-*")}
    writer = LedgerWriter(folder, HEADER)
    writer.write([])
    writer.write(completions(3))
    writer.close()
    other = LedgerWriter(folder, HEADER, rank=1)
    other.write(completions(4))
    assert {name: (folder / name).read_bytes() for name in before} == before
    assert sorted(path.name for path in folder.glob("part-*")) == [
        *before, "part-0000-000002.parquet", "part-0001-000000.parquet",
    ]  # fmt: skip
    assert [row["sample_id"] for row in read_columns(folder, ["sample_id"])][::2] == [f"sample-{n}" for n in range(5)]


def test_a_part_that_fails_to_be_written_is_not_there(folder, monkeypatch):
    writer = LedgerWriter(folder, HEADER)

    def full(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr(parquet, "write_table", full)
    with pytest.raises(OSError, match="disk full"):
        writer.write(completions(3))
    assert done_samples(folder) == {"sample-0", "sample-1", "sample-2"}
    monkeypatch.undo()
    writer.write(completions(3))
    assert len(done_samples(folder)) == 4


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model_hash": "x"}, "other weights"),
        ({"config_hash": "x"}, "another configuration"),
        ({"template_hash": "x"}, "another chat template"),
        ({"completions": 4}, "another number of completions .completions 2, now 4"),
        ({"seed": 4}, "another seed"),
        ({"sampling": {"temperature": 0.5}}, "other sampling"),
        ({"split": "train"}, "another split"),
        ({"model": "x"}, "another model"),
    ],
)
def test_a_ledger_of_something_else_is_not_gone_on_with(folder, change, words):
    with pytest.raises(UserError, match=f"{words}.*give another CompletionLedger.path") as caught:
        LedgerWriter(folder, replace(HEADER, **change))
    assert "\n" not in str(caught.value)


def test_a_newer_version_goes_on(folder):
    check_header(folder, replace(HEADER, version="0.2"))
    LedgerWriter(folder, replace(HEADER, version="0.2")).close()
    assert read_header(folder) == HEADER


def test_two_runs_do_not_write_to_one_ledger(folder):
    """Of the same rank; a run that ends, however it ends, and its own workers do not stand in the way."""
    script = f"""
import fcntl, os, sys, time
file = open({str(folder / ".rank-0000.lock")!r}, "r+")
fcntl.lockf(file, fcntl.LOCK_EX)
if os.fork() == 0:  # a loader's worker
    os.close(1)
    time.sleep(30)
print("held", os.getpid(), flush=True)
time.sleep(30)
"""
    run = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, start_new_session=True)
    try:
        run.stdout.readline()
        with pytest.raises(UserError, match="another run writes to the ledger"):
            LedgerWriter(folder, HEADER)
        LedgerWriter(folder, HEADER, rank=1).close()  # another rank of the same run
        run.kill()
        run.wait()
        LedgerWriter(folder, HEADER).close()
    finally:
        os.killpg(run.pid, signal.SIGKILL)
        run.stdout.close()


def test_a_folder_with_other_things_is_not_written_into(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"holds 'notes.txt' and no ledger.json; give CompletionLedger.path a folder"):
        LedgerWriter(tmp_path, HEADER)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_another_rank_needs_the_ledger_of_the_first(tmp_path):
    with pytest.raises(UserError, match="is no ledger"):
        LedgerWriter(tmp_path, HEADER, rank=1)


@pytest.mark.parametrize("keep", [0, 3, 200, -1])
def test_a_truncated_part_is_named_and_the_rest_is_kept(folder, keep):
    part = folder / "part-0000-000000.parquet"
    part.write_bytes(part.read_bytes()[:keep])
    for read in (lambda: list(read_rows(folder)), lambda: done_samples(folder)):
        with pytest.raises(
            UserError, match=r"part-0000-000000.parquet: it is truncated or no Parquet: .*; move it out"
        ):
            read()
    part.rename(folder.parent / "aside")
    assert done_samples(folder) == {"sample-2"}


def test_damaged_pages_are_named(folder):
    part = folder / "part-0000-000000.parquet"
    content = bytearray(part.read_bytes())
    content[4 : len(content) // 2] = b"\xff" * (len(content) // 2 - 4)
    part.write_bytes(bytes(content))
    with pytest.raises(UserError, match=r"part-0000-000000.parquet: .*move it out"):
        list(read_rows(folder))


def test_foreign_parquet_is_named(folder):
    parquet.write_table(pyarrow.table({"question": ["?"]}), folder / "part-0000-000005.parquet")
    with pytest.raises(UserError, match="it has no column sample_id, index, task, so that it is no part of a ledger"):
        list(read_rows(folder))
    table = parquet.read_table(folder / "part-0000-000001.parquet")
    at = table.schema.get_field_index("index")
    wrong = table.set_column(at, "index", pyarrow.array(["0", "1"]))
    parquet.write_table(wrong, folder / "part-0000-000005.parquet")
    with pytest.raises(UserError, match="its column index is string"):
        done_samples(folder)


def test_a_part_of_another_ledger_is_named(folder, tmp_path):
    writer = LedgerWriter(tmp_path / "other", replace(HEADER, model_hash="x"))
    writer.write(completions(7))
    shutil.copy(tmp_path / "other" / "part-0000-000000.parquet", folder / "part-0000-000007.parquet")
    with pytest.raises(UserError, match="part-0000-000007.parquet: row 1 was written by another model"):
        list(read_rows(folder))


def test_a_part_that_is_there_twice_is_noticed(folder):
    shutil.copy(folder / "part-0000-000000.parquet", folder / "part-0000-000007.parquet")
    with pytest.raises(UserError, match="holds 4 completions of sample 'sample-0' in the place of 2"):
        done_samples(folder)


def test_a_row_that_leaves_the_folder_is_refused(folder):
    part = folder / "part-0000-000001.parquet"
    table = parquet.read_table(part)
    bent = [json.loads(text) for text in table["sample"].to_pylist()]
    for sample in bent:
        sample["images"]["!tuple"][0]["!media"] = "../../secret"
    at = table.schema.get_field_index("sample")
    parquet.write_table(table.set_column(at, "sample", pyarrow.array([json.dumps(one) for one in bent])), part)
    with pytest.raises(UserError, match=r"part-0000-000001.parquet: row 1 is damaged: '../../secret' is no name"):
        list(read_rows(folder))


@pytest.mark.parametrize(
    ("text", "words"),
    [("{", "is no JSON"), ("[]", "another layout"), ('{"format": 2}', "another layout"), ('{"format": 1}', "fields")],
)
def test_a_broken_header_is_named(folder, text, words):
    (folder / "ledger.json").write_text(text)
    with pytest.raises(UserError, match=f"ledger.json.*{words}"):
        read_header(folder)


def test_a_folder_without_header_is_no_ledger(tmp_path):
    for read in (read_header, done_samples, lambda folder: list(read_rows(folder))):
        with pytest.raises(
            UserError, match="is no ledger: it has no ledger.json; give a folder that predict has written"
        ):
            read(tmp_path)
