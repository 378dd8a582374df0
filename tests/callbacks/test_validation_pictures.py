import pytest
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lit_vlm.callbacks.validation_pictures import TAG, MixedSelection, ValidationPictures
from lit_vlm.interfaces.errors import UserError


def chosen(make_completion, count, verdicts):
    selection = MixedSelection(count)
    for index, correct in enumerate(verdicts):
        selection.add([make_completion(index, correct)])
    return [int(completion.sample.id.removeprefix("sample-")) for completion in selection.chosen()]


@pytest.mark.parametrize(
    ("count", "verdicts", "indices"),
    [
        # Half of four are the first two right ones (0, 1), half the first two wrong ones (4, 6), in order.
        (4, [True, True, True, True, False, True, False, False], [0, 1, 4, 6]),
        (3, [True, True, False, False], [0, 2, 3]),  # the odd one is a wrong one
        (4, [True, True, True, True, True, False], [0, 1, 2, 5]),  # one wrong one only
        (4, [False, False, False, False, False], [0, 1, 2, 3]),
        (4, [True, False], [0, 1]),
        (2, [None, True, None], [0, 1]),  # no verdict is held to be not right
        (2, [], []),
    ],
)
def test_right_and_wrong_completions_are_mixed(make_completion, count, verdicts, indices):
    assert chosen(make_completion, count, verdicts) == indices


def test_a_selection_holds_no_more_than_it_may_show(make_completion):
    selection = MixedSelection(2)
    selection.add([make_completion(index, index % 2 == 0) for index in range(50)])
    assert sum(len(kept) for kept in selection._first.values()) == 4
    assert (selection.seen, selection.judged, selection.right) == (50, 50, 25)


def test_a_validation_is_drawn_into_the_runs_folder(fit, tmp_path):
    fit(ValidationPictures(rows=4))
    (path,) = (tmp_path / "validation_pictures").iterdir()
    assert path.name == "step_000004.png"
    with Image.open(path) as sheet:
        assert sheet.width > 1000


def test_a_whole_sanity_check_is_drawn_and_a_partial_one_is_not(fit, tmp_path):
    fit(ValidationPictures(), num_sanity_val_steps=1)
    assert not (tmp_path / "validation_pictures" / "step_000000.png").exists()
    fit(ValidationPictures(), num_sanity_val_steps=-1)
    assert (tmp_path / "validation_pictures" / "step_000000.png").is_file()


def test_with_tensorboard_the_picture_goes_there(fit, tmp_path):
    trainer = fit(ValidationPictures(), logger=TensorBoardLogger(tmp_path, name="run"))
    events = EventAccumulator(trainer.log_dir).Reload()
    assert [image.step for image in events.Images(TAG)] == [4]
    assert not list(tmp_path.rglob("*.png"))


def test_every_second_validation_is_drawn_over_a_resume_too(fit, tmp_path):
    pictures = ValidationPictures(every_n_validations=2)
    fit(pictures, val_check_interval=1)  # after steps 1, 2, 3, 4: the first and the third
    names = {path.name for path in (tmp_path / "validation_pictures").iterdir()}
    assert names == {"step_000001.png", "step_000003.png"}
    later = ValidationPictures(every_n_validations=2)
    later.load_state_dict(pictures.state_dict())
    assert later.validations == 4


@pytest.mark.parametrize("option", ["rows", "every_n_validations", "columns"])
def test_a_setting_below_one_is_refused(option):
    with pytest.raises(UserError, match=rf"ValidationPictures\.{option} is 0; give at least 1"):
        ValidationPictures(**{option: 0})
