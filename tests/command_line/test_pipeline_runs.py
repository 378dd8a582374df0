import json
import shlex
from pathlib import Path

import pytest

from lit_vlm.command_line.pipeline_file import Stage
from lit_vlm.command_line.pipeline_plan import StageRun
from lit_vlm.command_line.pipeline_runs import (
    command_of,
    first_changed,
    launcher,
    locked,
    read_marker,
    run_stage,
    set_aside,
    settings_hashes,
)
from lit_vlm.interfaces.errors import UserError


def run_of(folder, name="sft", verb="fit", number=1, words=(), needs=(), hands_over=()):
    stage = Stage(name, verb, (Path("quickstart"),))
    return StageRun(stage, number, folder / f"{number}-{name}", tuple(words), tuple(needs), tuple(hands_over))


def works(*made):
    """Stands in for a stage that ends well and leaves folders."""

    def launch(run):
        for kind in made:
            (run.folder / kind).mkdir()
        return 0, ""

    return launch


def test_a_stage_that_ends_is_marked_with_its_settings(tmp_path) -> None:
    run = run_of(tmp_path, words=[f"--data.ledgers={tmp_path}/1-generate/ledger"], hands_over=["model"])
    assert read_marker(run) is None
    run_stage(run, "hash", tmp_path, works("model"))
    marker = read_marker(run)
    assert marker["settings"] == "hash"
    assert marker["words"] == ["--data.ledgers=./1-generate/ledger"]
    assert marker["seconds"] >= 0


def test_a_stage_that_fails_is_not_marked_and_told_with_its_command(tmp_path) -> None:
    run = run_of(tmp_path, words=["--data.train=my file.jsonl"])
    said = "reading\nlit-vlm: error: --data.train: there is no such file.\nnoise\n"
    with pytest.raises(UserError, match="stage 1-sft failed: --data.train: there is no such file; repeat it") as failed:
        run_stage(run, "hash", tmp_path, lambda run: (2, said))
    assert shlex.split(str(failed.value).partition("repeat it with: ")[2]) == [
        "lit-vlm",
        "fit",
        "--data.train=my file.jsonl",
    ]
    assert read_marker(run) is None
    with pytest.raises(UserError, match="ended with exit status 9 and said nothing"):
        run_stage(run, "hash", tmp_path, lambda run: (9, ""))
    with pytest.raises(UserError, match="failed: ValueError: no"):
        run_stage(run, "hash", tmp_path, lambda run: (1, "Traceback\n  x\nValueError: no\n"))


def test_a_stage_that_makes_nothing_for_those_after_it_has_failed(tmp_path) -> None:
    run = run_of(tmp_path, hands_over=["model", "folder"])
    with pytest.raises(UserError, match="ended without .*1-sft/model"):
        run_stage(run, "hash", tmp_path, works())
    assert read_marker(run) is None


def test_what_an_interrupted_run_left_is_set_aside_but_a_ledger_is_gone_on_with(tmp_path) -> None:
    for verb, kept in (("fit", False), ("predict", True), ("merge", True)):
        run = run_of(tmp_path, name=verb, verb=verb)
        run.folder.mkdir()
        (run.folder / "ledger").mkdir()
        (run.folder / "config.yaml").write_text("old")
        run_stage(run, "hash", tmp_path, works())
        assert (run.folder / "ledger").exists() == kept
        assert (run.folder / "config.yaml").exists() == (verb == "merge")
        assert run.folder.with_name(f"1-{verb}.old-1").exists() != kept
    assert (tmp_path / "1-fit.old-1" / "ledger").is_dir()


def test_folders_are_set_aside_under_free_names(tmp_path) -> None:
    for number in (1, 2):
        (tmp_path / "x").mkdir()
        assert set_aside(tmp_path / "x") == tmp_path / f"x.old-{number}"


def test_hashes_change_with_the_command_the_recipe_and_what_is_given_but_not_with_the_place(tmp_path) -> None:
    def hashes(folder, resolved="a", options=("--data.batch_size=2",)):
        plan = [
            run_of(folder, "generate", "predict", words=[*options, f"--x={folder}/1-generate"]),
            run_of(folder, needs=[("1-generate", "ledger")]),
            run_of(folder, "check", "test"),
        ]
        return list(settings_hashes(plan, {"generate": resolved, "sft": "s", "check": "c"}, folder).values())

    first = hashes(tmp_path / "a")
    assert first == hashes(tmp_path / "b")
    for other in (hashes(tmp_path, resolved="b"), hashes(tmp_path, options=["--data.batch_size=3"])):
        assert [one == two for one, two in zip(first, other, strict=True)] == [False, False, True]


def test_the_first_stage_that_was_done_otherwise_is_found(tmp_path) -> None:
    plan = [run_of(tmp_path, words=["--a=1"]), run_of(tmp_path, number=2, words=["--a=1"])]
    before = {"1-sft": "one", "2-sft": "two"}
    for run in plan:
        run_stage(run, before[run.label], tmp_path, works())
    assert first_changed(plan, before, tmp_path) is None
    run, difference = first_changed(plan, {"1-sft": "one", "2-sft": "other"}, tmp_path)
    assert run.label == "2-sft"
    assert "has changed" in difference
    changed = [plan[0], run_of(tmp_path, number=2, words=["--a=2"])]
    assert first_changed(changed, {"1-sft": "one", "2-sft": "x"}, tmp_path)[1] == "--a=1 is now --a=2"


@pytest.mark.parametrize("text", ["{", "[]", "{}"])
def test_a_broken_mark_is_named(text, tmp_path) -> None:
    run = run_of(tmp_path)
    run.folder.mkdir()
    (run.folder / "stage.json").write_text(text)
    with pytest.raises(UserError, match="stage.json: this is no"):
        read_marker(run)


def test_two_processes_do_not_share_a_folder(tmp_path) -> None:
    with locked(tmp_path), pytest.raises(UserError, match="is in use"), locked(tmp_path):
        pass
    with locked(tmp_path):
        pass


def test_stages_run_in_processes_of_their_own_and_their_errors_are_kept(tmp_path, capfd) -> None:
    with locked(tmp_path) as lock:
        launch = launcher(lock)
        assert launch(run_of(tmp_path, verb="recipes", words=["--names"]))[0] == 0
        status, said = launch(run_of(tmp_path, verb="recipes", words=["nonsense"]))
    assert status == 2
    assert said.startswith("lit-vlm: error: recipes nonsense")
    shown = capfd.readouterr()
    assert "quickstart" in shown.out
    assert said.strip() in shown.err


def test_a_command_can_be_pasted_into_a_shell(tmp_path) -> None:
    words = ["--data={a: 'b c'}", "--x=$HOME"]
    assert shlex.split(command_of(run_of(tmp_path, words=words))) == ["lit-vlm", "fit", *words]


def test_marks_are_json(tmp_path) -> None:
    run = run_of(tmp_path)
    run_stage(run, "hash", tmp_path, works())
    assert json.loads((run.folder / "stage.json").read_text())["label"] == "1-sft"
