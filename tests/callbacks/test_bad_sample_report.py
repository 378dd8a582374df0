import json
from dataclasses import replace

import pytest
from torch.utils.data import DataLoader

from lit_vlm.callbacks.bad_sample_report import BadSampleReport, summary_lines
from lit_vlm.interfaces.batches import EvaluationBatch
from lit_vlm.interfaces.errors import TooManyBadSamplesError
from lit_vlm.interfaces.records import BadSample

FIRST, SECOND = BadSample("data.jsonl, line 3", "it has no messages"), BadSample("data.jsonl, line 9", "no such file")


@pytest.fixture
def make_lossy_loader(make_loader):
    """Makes a loader whose first batch names samples as dropped."""

    def make(count, dropped, training=False):
        loader = make_loader(count, training=training)
        collate = loader.collate_fn

        def lossy(samples):
            batch = collate(samples)
            if samples[0].id != "sample-0":
                return batch
            if isinstance(batch, EvaluationBatch):
                return replace(batch, complete=replace(batch.complete, dropped=dropped))
            return replace(batch, dropped=dropped)

        return DataLoader(loader.dataset, batch_size=2, collate_fn=lossy)

    return make


def read(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def row(split, bad):
    return {"split": split, "origin": bad.origin, "reason": bad.reason}


def test_what_was_left_out_is_listed_once_by_split(answers, make_trainer, make_lossy_loader, tmp_path, capsys):
    trainer = make_trainer(BadSampleReport(), max_epochs=3)
    trainer.fit(answers, make_lossy_loader(8, (FIRST, SECOND), training=True), make_lossy_loader(6, (SECOND,)))
    path = tmp_path / "bad_samples.jsonl"
    assert read(path) == [row("train", FIRST), row("train", SECOND), row("validation", SECOND)]
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == f"3 bad samples were left out, listed in {path}"
    assert shown[1:] == [f"  {bad.origin}: {bad.reason}" for bad in (FIRST, SECOND, SECOND)]


@pytest.mark.parametrize("verb", ["test", "predict"])
def test_samples_of_the_test_split_are_named_as_such(verb, answers, make_trainer, make_lossy_loader, tmp_path):
    answers.test_step = answers.predict_step
    getattr(make_trainer(BadSampleReport()), verb)(answers, make_lossy_loader(4, (FIRST,)))
    assert read(tmp_path / "bad_samples.jsonl") == [row("test", FIRST)]


def test_a_clean_run_leaves_no_trace(fit, tmp_path, capsys):
    fit(BadSampleReport())
    assert "bad sample" not in capsys.readouterr().out
    assert not list(tmp_path.rglob("*.jsonl"))


def test_a_run_that_met_too_many_lists_them_all(answers, make_trainer, make_lossy_loader, tmp_path, monkeypatch):
    def failing_step(batch, batch_idx):
        raise TooManyBadSamplesError("2 of 8 samples are bad", (FIRST, SECOND))

    monkeypatch.setattr(answers, "training_step", failing_step)
    with pytest.raises(TooManyBadSamplesError, match="2 of 8"):
        make_trainer(BadSampleReport()).fit(
            answers, make_lossy_loader(8, (FIRST,), training=True), make_lossy_loader(6, ())
        )
    assert read(tmp_path / "bad_samples.jsonl") == [row("train", FIRST), row("train", SECOND)]


def test_a_resumed_run_goes_on_with_the_list(answers, make_trainer, make_lossy_loader, tmp_path):
    first = make_trainer(BadSampleReport(), max_steps=2)
    first.fit(answers, make_lossy_loader(8, (FIRST,), training=True), make_lossy_loader(6, ()))
    first.save_checkpoint(tmp_path / "half.ckpt")
    again = make_trainer(BadSampleReport(), max_epochs=3)
    loader = make_lossy_loader(8, (SECOND,), training=True)
    again.fit(answers, loader, make_lossy_loader(6, ()), ckpt_path=tmp_path / "half.ckpt")
    assert read(tmp_path / "bad_samples.jsonl") == [row("train", FIRST), row("train", SECOND)]


def test_a_trial_run_writes_nothing(answers, make_trainer, make_lossy_loader, tmp_path, capsys):
    make_trainer(BadSampleReport(), fast_dev_run=1).fit(
        answers, make_lossy_loader(8, (FIRST,), training=True), make_lossy_loader(6, ())
    )
    assert "1 bad sample was left out" in capsys.readouterr().out
    assert not list(tmp_path.rglob("*.jsonl"))


def test_a_long_list_is_cut_short_and_counted():
    many = [BadSample(f"line {number}", "bad") for number in range(1012)]
    lines = summary_lines(many)
    assert lines[0] == "  line 0: bad"
    assert lines[-1] == "  and 1,002 more"
    assert len(lines) == 11
