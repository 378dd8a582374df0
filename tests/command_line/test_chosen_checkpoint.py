import pytest

from lit_vlm.command_line.chosen_checkpoint import chosen_checkpoint
from lit_vlm.functional.checkpoint_files import mark_whole, write_checkpoint
from lit_vlm.interfaces.errors import UserError

TRAINER = {"logger": {"init_args": {"save_dir": "runs", "name": "mine"}}, "callbacks": None}


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def save(path, **state):
    write_checkpoint({"global_step": 1, **state}, path)


@pytest.fixture
def runs(workplace):
    folder = workplace / "runs" / "mine"
    for version, step in ((0, 2), (0, 4), (1, 3)):
        best = {"callbacks": {"Checkpointing": {"best": "runs/mine/version_0/checkpoints/step=2.ckpt"}}}
        save(folder / f"version_{version}" / "checkpoints" / f"step={step}.ckpt", **best)
    (folder / "version_2").mkdir()
    return folder


@pytest.mark.parametrize(
    ("given", "found", "continues"),
    [
        ("last", "runs/mine/version_1/checkpoints/step=3.ckpt", True),
        ("best", "runs/mine/version_0/checkpoints/step=2.ckpt", False),
        ("runs/mine", "runs/mine/version_1/checkpoints/step=3.ckpt", True),
        ("runs/mine/version_0", "runs/mine/version_0/checkpoints/step=4.ckpt", True),
        ("runs/mine/version_0/checkpoints", "runs/mine/version_0/checkpoints/step=4.ckpt", True),
        ("runs/mine/version_0/checkpoints/step=2.ckpt", "runs/mine/version_0/checkpoints/step=2.ckpt", False),
        ("hpc", "hpc", False),
    ],
)
def test_words_runs_and_files_are_found(runs, given, found, continues):
    assert chosen_checkpoint(given, TRAINER) == (found, continues)


def test_the_last_is_looked_for_where_the_recipe_saves(workplace):
    save(workplace / "elsewhere" / "checkpoints" / "step=8.ckpt")
    callback = {"class_path": "lit_vlm.callbacks.checkpointing.Checkpointing", "init_args": {}}
    callback["init_args"]["folder"] = "elsewhere/checkpoints"
    options = {**TRAINER, "callbacks": [callback]}
    assert chosen_checkpoint("last", options)[0] == "elsewhere/checkpoints/step=8.ckpt"
    assert chosen_checkpoint("last", {"logger": False, "default_root_dir": "elsewhere"})[0].endswith("step=8.ckpt")


def test_a_file_that_is_cut_is_passed_by_or_named(runs):
    path = runs / "version_1" / "checkpoints" / "step=3.ckpt"
    path.write_bytes(path.read_bytes()[:50])
    assert chosen_checkpoint("last", TRAINER)[0] == "runs/mine/version_0/checkpoints/step=4.ckpt"
    other = runs / "version_0" / "checkpoints" / "step=4.ckpt"
    other.write_bytes(other.read_bytes()[:50])
    with pytest.raises(UserError, match="step=4.ckpt' is no checkpoint, or was cut.*newest.*is .*step=2.ckpt"):
        chosen_checkpoint(str(other), TRAINER)


def test_a_checkpoint_in_pieces_is_a_folder(workplace):
    folder = workplace / "step=1.ckpt"
    folder.mkdir()
    (folder / ".metadata").touch()
    with pytest.raises(UserError, match="was not finished: it lacks complete.json"):
        chosen_checkpoint(str(folder), TRAINER)
    mark_whole(folder)
    assert chosen_checkpoint(str(folder), TRAINER) == (str(folder), False)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("last", "there is no checkpoint in 'runs/mine'; leave --ckpt_path out to begin anew"),
        ("https://example.invalid/a.ckpt", "is a remote address; download it"),
        ("no/such.ckpt", "there is no 'no/such.ckpt'"),
        ("empty", "'empty' is a folder without a checkpoint; give the folder of a run"),
        ("exported", "is an exported model; give it as --model.backbone.checkpoint"),
        ("text.txt", "is no checkpoint, or one that was cut short"),
    ],
)
def test_what_is_none_is_refused(workplace, given, message):
    (workplace / "empty").mkdir()
    (workplace / "exported").mkdir()
    (workplace / "exported" / "config.json").touch()
    (workplace / "text.txt").write_text("words")
    with pytest.raises(UserError, match=message):
        chosen_checkpoint(given, TRAINER)


def test_no_best_is_told(workplace):
    save(workplace / "runs" / "mine" / "version_0" / "checkpoints" / "step=1.ckpt")
    with pytest.raises(UserError, match="knows of no best one; train with Checkpointing.monitor"):
        chosen_checkpoint("best", TRAINER)
