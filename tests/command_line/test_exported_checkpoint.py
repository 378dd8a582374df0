from pathlib import Path

import pytest
import torch

from lit_vlm.command_line.exported_checkpoint import find_exported
from lit_vlm.interfaces.errors import UserError


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with checkpoints after steps 2 and 10, the first of which was the best."""
    folder = tmp_path / "runs" / "name" / "version_3"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "config.yaml").write_text("model: {}")
    for step in (2, 10):
        state = {"Checkpointing": {"kept": [], "best": "elsewhere/checkpoints/step=2.ckpt"}}
        torch.save({"state_dict": {}, "callbacks": state}, folder / "checkpoints" / f"step={step}.ckpt")
    return folder


def test_the_newest_of_a_run_is_found(run):
    for source in (run, run.parent):
        found = find_exported(source)
        assert (found.checkpoint.name, found.run) == ("step=10.ckpt", run)
        assert found.configuration == run / "config.yaml"


def test_the_best_is_found_though_the_run_was_moved(run):
    assert find_exported(run, "best").checkpoint == run / "checkpoints" / "step=2.ckpt"


def test_without_a_best_one_there_is_none(run):
    torch.save({"callbacks": {"ModelCheckpoint{}": {"best_model_path": ""}}}, run / "checkpoints" / "step=11.ckpt")
    with pytest.raises(UserError, match=r"knows of no best one; train with Checkpointing\.monitor"):
        find_exported(run, "best")


def test_half_a_checkpoint_is_passed_by_and_never_taken_itself(run):
    newest = run / "checkpoints" / "step=10.ckpt"
    newest.write_bytes(newest.read_bytes()[:-20])
    assert find_exported(run).checkpoint.name == "step=2.ckpt"
    with pytest.raises(UserError, match="was cut short; give another one"):
        find_exported(newest)


def test_a_configuration_elsewhere_is_taken_where_it_is_named(run, tmp_path):
    (tmp_path / "own.yaml").write_text("model: {}")
    assert find_exported(run, configuration=tmp_path / "own.yaml").run == tmp_path
    with pytest.raises(UserError, match="--config: there is no file"):
        find_exported(run, configuration=tmp_path / "none.yaml")
    lone = tmp_path / "lone.ckpt"
    (run / "checkpoints" / "step=2.ckpt").rename(lone)
    with pytest.raises(UserError, match=r"there is no config\.yaml .* give it with --config"):
        find_exported(lone)


def test_what_is_no_run_is_refused(run, tmp_path):
    for source, told in (
        (tmp_path / "nothing", "there is no"),
        (tmp_path, "there is no checkpoint in"),
        (Path("https://host/x.ckpt"), "there is no"),
    ):
        with pytest.raises(UserError, match=told):
            find_exported(source)
    with pytest.raises(UserError, match="--checkpoint best is for a run's folder"):
        find_exported(run / "checkpoints" / "step=2.ckpt", "best")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").touch()
    with pytest.raises(UserError, match="is an exported model already"):
        find_exported(tmp_path / "model")
