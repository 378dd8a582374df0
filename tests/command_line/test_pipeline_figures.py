import json
from pathlib import Path

from lit_vlm.command_line.pipeline_figures import figures_table, run_figures, write_figures
from lit_vlm.command_line.pipeline_file import Stage
from lit_vlm.command_line.pipeline_plan import StageRun


def finished(folder, name, number=1, verb="test", seconds=61.0, figures=None):
    run = StageRun(Stage(name, verb, (Path("quickstart"),)), number, folder / f"{number}-{name}", (), ())
    run.folder.mkdir()
    (run.folder / "stage.json").write_text(json.dumps({"settings": "hash", "seconds": seconds}))
    if figures is not None:
        (run.folder / "figures.json").write_text(json.dumps(figures))
    return run


def share(name, mean):
    return {name: mean, f"{name}_low": mean - 0.1, f"{name}_high": mean + 0.1, f"{name}_total": 100.0}


def test_figures_stand_by_round_and_stage(tmp_path) -> None:
    plan = [
        finished(tmp_path, "mix", verb="merge", seconds=1.0),
        finished(tmp_path, "sft", verb="fit", figures={"validation/loss": 0.123456, "train/loss": 9.0}),
        finished(tmp_path, "check", figures=share("test/exact_match", 0.5)),
        finished(tmp_path, "check", 2, figures=share("test/exact_match", 0.75) | {"test/loss": None}),
    ]
    lines = [line.split("  ") for line in figures_table(plan, ["exact_match", "loss", "unknown"]).splitlines()]
    cells = [[cell.strip() for cell in line if cell.strip()] for line in lines]
    assert cells[0] == ["round", "stage", "time", "exact_match", "loss"]
    assert cells[1][3:] == ["-", "-"]
    assert cells[2][3:] == ["-", "0.1235"]
    assert cells[3][:2] + cells[3][3:] == ["1", "check", "50.0 [40.0, 60.0]", "-"]
    assert cells[4][:2] + cells[4][3:] == ["2", "check", "75.0 [65.0, 85.0]", "-"]


def test_runs_that_are_not_done_are_left_out(tmp_path) -> None:
    done = finished(tmp_path, "check", figures={"test/loss": 1.5})
    waiting = StageRun(done.stage, 2, tmp_path / "2-check", (), ())
    assert run_figures(waiting) == {}
    assert len(figures_table([done, waiting], ["loss"]).splitlines()) == 2
    written = json.loads(write_figures([done, waiting], tmp_path).read_text())
    assert written == [{"round": 1, "stage": "check", "verb": "test", "seconds": 61.0, "figures": {"test/loss": 1.5}}]


def test_what_is_told_of_a_ledger_counts_as_a_figure(tmp_path) -> None:
    run = finished(tmp_path, "generate", verb="predict")
    (run.folder / "ledger").mkdir()
    share = {"value": 0.25, "low": 0.2, "high": 0.3, "samples": 8}
    summary = {"samples": 8, "pass@1": share, "expansion": {"k": 2}}
    (run.folder / "ledger" / "summary.json").write_text(json.dumps(summary))
    assert run_figures(run)["predict/samples"] == 8
    assert "25.0 [20.0, 30.0]" in figures_table([run], ["pass@1"])
