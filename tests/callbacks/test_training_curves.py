from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from lit_vlm.callbacks.training_curves import TrainingCurves, moving_average
from lit_vlm.interfaces.errors import UserError


def trainer(folder, step=0, rank_zero=True, **metrics):
    values = {name.replace("__", "/"): torch.tensor(value) for name, value in metrics.items()}
    return SimpleNamespace(
        log_dir=str(folder),
        default_root_dir=str(folder),
        is_global_zero=rank_zero,
        fast_dev_run=False,
        global_step=step,
        callback_metrics=values,
    )


def run(curves, folder, steps, rank_zero=True):
    for step in steps:
        given = trainer(folder, step, rank_zero, train__correct=0.1 * step, other=1.0)
        curves.on_train_batch_end(given, None, None, None, 0)
    last = trainer(
        folder,
        steps[-1],
        rank_zero,
        validation__strict_match=0.5,
        validation__strict_match_low=0.4,
        validation__strict_match_high=0.6,
    )
    curves.on_validation_end(last, None)
    return last


def test_a_picture_of_what_was_logged_is_drawn(tmp_path):
    curves = TrainingCurves()
    last = run(curves, tmp_path / "run", [1, 2, 3])
    drawn = (tmp_path / "run" / "curves.png").read_bytes()
    (tmp_path / "run" / "curves.png").unlink()
    curves.on_train_end(last, None)
    assert (tmp_path / "run" / "curves.png").read_bytes() == drawn
    with Image.open(tmp_path / "run" / "curves.png") as picture:
        assert picture.size == (1200, 280)
    points = curves.state_dict()["points"]
    assert [step for step, _ in points["train/correct"]] == [1, 2, 3]
    assert points["validation/strict_match_low"] == [[3, pytest.approx(0.4)]]
    assert not points["train/entropy"]


def test_a_resumed_run_goes_on_with_its_curves(tmp_path):
    whole, first, second = TrainingCurves(), TrainingCurves(), TrainingCurves()
    run(whole, tmp_path, [1, 2, 3, 4])
    for step in (1, 2):
        first.on_train_batch_end(trainer(tmp_path, step, train__correct=0.1 * step), None, None, None, 0)
    second.load_state_dict(first.state_dict())
    run(second, tmp_path, [3, 4])
    assert second.state_dict() == whole.state_dict()


def test_a_step_is_kept_once_and_other_ranks_draw_nothing(tmp_path):
    curves = TrainingCurves(["train/correct"])
    run(curves, tmp_path / "none", [1, 1, 2], rank_zero=False)
    assert len(curves.state_dict()["points"]["train/correct"]) == 2
    assert not (tmp_path / "none").exists()


def test_without_figures_there_is_no_picture(tmp_path):
    curves = TrainingCurves(["train/nothing"])
    run(curves, tmp_path, [1])
    assert not list(tmp_path.iterdir())


def test_averages_look_back_only():
    assert moving_average([4.0, 2.0, 6.0], 2) == [4.0, 3.0, 4.0]
    assert moving_average([], 3) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"figures": []}, "figures is empty"),
        ({"file": "a.jpg"}, r"ends with \.png"),
        ({"file": "../a.png"}, "without folders"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        TrainingCurves(**options)
