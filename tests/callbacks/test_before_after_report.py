import json

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from PIL import Image

from lit_vlm.callbacks.before_after_report import BeforeAfterReport
from lit_vlm.interfaces.errors import UserError


def strict_json(path):
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


def test_the_report_compares_the_sanity_check_with_the_last_validation(fit, tmp_path, capsys):
    fit(BeforeAfterReport(next_commands=["lit-vlm recipes [all]"]), num_sanity_val_steps=-1)
    report = strict_json(tmp_path / "report.json")
    # Of samples 0 to 5 all but 0 and 3 are right in the end: 4 of 6; read has 0, 2, 4 and sum 1, 3, 5: 2 of 3 each.
    overall = report["comparison"]["overall"]
    assert overall["before"]["mean"] == 0.0
    assert overall["after"]["mean"] == pytest.approx(4 / 6)
    assert overall["gain_points"] == pytest.approx(400 / 6, abs=1e-4)
    assert overall["intervals_apart"] is True
    assert list(report["comparison"]) == ["overall", "read", "sum"]
    assert report["comparison"]["sum"]["after"]["total"] == 3
    assert (report["before"]["step"], report["after"]["step"], report["steps"]) == (0, 4, 4)
    assert (report["tokens"], report["samples"]) == (12, 8)
    assert report["tokens_per_second"] > 0
    printed = capsys.readouterr().out
    assert "66.7 [56.7, 76.7]" in printed
    assert "+66.7" in printed
    assert "Held-out exact match on 6 samples, in % with 95 % intervals" in printed
    assert f"report: {tmp_path / 'report.json'}\n" in printed
    assert f"before | after: {tmp_path / 'contact_sheet.png'}\n" in printed
    assert "next:\n  lit-vlm recipes [all]\n" in printed


def test_other_shares_stand_below(fit, tmp_path, capsys):
    fit(BeforeAfterReport(also=["exact_match/sum"]), num_sanity_val_steps=-1)
    report = strict_json(tmp_path / "report.json")
    assert list(report["comparison"]) == ["overall", "read", "sum", "exact match/sum"]
    assert report["comparison"]["exact match/sum"] == report["comparison"]["sum"]
    assert "exact match/sum" in capsys.readouterr().out
    with pytest.raises(UserError, match="also is 'f2'"):
        fit(BeforeAfterReport(also=["f2"]), num_sanity_val_steps=-1)


def test_the_picture_shows_the_first_rows(fit, tmp_path):
    report = BeforeAfterReport(rows=3, contact_sheet="rows.png")
    fit(report, num_sanity_val_steps=-1)
    assert [completion.sample.id for completion in report._rows] == ["sample-0", "sample-1", "sample-2"]
    assert list(report._before_rows) == ["sample-0", "sample-1", "sample-2"]
    with Image.open(tmp_path / "rows.png") as sheet:
        assert sheet.width > 1500


def test_a_run_without_a_later_validation_says_so(fit, tmp_path, capsys):
    fit(BeforeAfterReport(), num_sanity_val_steps=-1, max_steps=1, max_epochs=None)
    report = strict_json(tmp_path / "report.json")
    assert report["after"] is None
    assert report["comparison"]["overall"]["gain_points"] is None
    assert "no validation ran in these 1 steps" in capsys.readouterr().out
    assert not (tmp_path / "contact_sheet.png").exists()


def test_an_early_last_validation_is_dated(fit, capsys):
    fit(BeforeAfterReport(), num_sanity_val_steps=-1, max_steps=3, max_epochs=None, val_check_interval=2)
    assert '"after" was measured at step 2 of 3' in capsys.readouterr().out


def test_figures_that_are_no_numbers_become_null(fit, answers, tmp_path):
    original = answers.on_validation_epoch_end

    def diverged():
        original()
        answers.log("validation/perplexity", float("inf"), batch_size=1)

    answers.on_validation_epoch_end = diverged
    fit(BeforeAfterReport(), num_sanity_val_steps=-1)
    assert strict_json(tmp_path / "report.json")["after"]["metrics"]["perplexity"] is None


@pytest.mark.filterwarnings("ignore:.*exists and is not empty.*")
def test_before_is_kept_over_a_resume(fit, answers, tmp_path):
    def saver():
        return ModelCheckpoint(tmp_path / "saved", save_last=True)

    options = {"num_sanity_val_steps": -1, "enable_checkpointing": True}
    fit(BeforeAfterReport(rows=2), saver(), **options)
    first = strict_json(tmp_path / "report.json")
    # A checkpoint is read without running code from it: the state is plain.
    saved = torch.load(tmp_path / "saved" / "last.ckpt", weights_only=True)["callbacks"]["BeforeAfterReport"]
    report = BeforeAfterReport(rows=2)
    fit(report, saver(), ckpt_path=tmp_path / "saved" / "last.ckpt", max_epochs=2, **options)
    second = strict_json(tmp_path / "report.json")
    assert second["before"] == first["before"]
    assert (second["before"]["step"], second["after"]["step"]) == (0, 8)
    # Twice the 12 tokens of an epoch.
    assert second["tokens"] == 24
    assert second["training_seconds"] > saved["tally"]["seconds"] > 0
    assert report._before_rows["sample-1"]["verdict"]["correct"] is False


@pytest.mark.filterwarnings("ignore:.*exists and is not empty.*")
def test_figures_of_a_resume_are_dated_where_there_are_none_from_before(fit, answers, tmp_path, capsys):
    fit(ModelCheckpoint(tmp_path / "saved", save_last=True), enable_checkpointing=True)
    options = {"max_epochs": 2, "num_sanity_val_steps": -1, "enable_checkpointing": True}
    saver = ModelCheckpoint(tmp_path / "saved", save_last=True)
    fit(BeforeAfterReport(), saver, ckpt_path=tmp_path / "saved" / "last.ckpt", **options)
    assert '"before" was measured where the run resumed, at step 4' in capsys.readouterr().out


@pytest.mark.parametrize("steps", [0, 2])
def test_a_partial_sanity_check_is_refused(fit, steps):
    with pytest.raises(UserError, match=rf"num_sanity_val_steps is {steps}; set it to -1"):
        fit(BeforeAfterReport(), num_sanity_val_steps=steps)


def test_a_run_without_validation_is_refused(fit):
    with pytest.raises(UserError, match=r"limit_val_batches is 0\); turn it on or remove"):
        fit(BeforeAfterReport(), limit_val_batches=0)


def test_an_unknown_metric_is_refused_before_the_first_step(fit, answers):
    with pytest.raises(UserError, match=r"metric is 'f1', .* choose one of \['exact_match', 'exact_match/read'"):
        fit(BeforeAfterReport(metric="f1"), num_sanity_val_steps=-1)
    assert answers.global_step == 0


def test_a_trial_run_reports_nothing(fit, tmp_path):
    fit(BeforeAfterReport(), fast_dev_run=True)
    assert not list(tmp_path.iterdir())


def test_no_rows_are_refused():
    with pytest.raises(UserError, match=r"BeforeAfterReport\.rows is 0; give at least 1"):
        BeforeAfterReport(rows=0)
