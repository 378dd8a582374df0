import math

import pytest

from lit_vlm.callbacks.difficulty_curriculum import DifficultyCurriculum
from lit_vlm.interfaces.errors import UserError
from tests.callbacks.rollout_fakes import Data, Module, make_iteration, make_rollouts, make_trainer, play

LEVELS = {"1": 10, "2": 10, "4": 10, "9": 10}


def start(curriculum, max_steps=100, levels=LEVELS):
    trainer, module = make_trainer(max_steps, Data(**levels)), Module()
    curriculum.setup(trainer, module, "fit")
    curriculum.on_fit_start(trainer, module)
    return trainer, module


def shares(curriculum, step):
    return list(curriculum.probabilities(step).values())


def tried(level, correct, count=4):
    arms = [level] * count
    return make_iteration(make_rollouts(arms=arms, correct=[correct] * count, by="difficulty"))


def test_levels_open_one_after_the_other():
    curriculum = DifficultyCurriculum(start_step=10, end_step=40)
    start(curriculum)
    third = pytest.approx(1 / 3)
    # Four levels over 30 steps: one each 10.
    assert [shares(curriculum, step) for step in (0, 19, 20, 29, 30, 39, 40, 99)] == [
        [1, 0, 0, 0],
        [1, 0, 0, 0],
        [0.5, 0.5, 0, 0],
        [0.5, 0.5, 0, 0],
        [third, third, third, 0],
        [third, third, third, 0],
        [0.25] * 4,
        [0.25] * 4,
    ]


def test_a_gaussian_window_moves_over_the_levels():
    curriculum = DifficultyCurriculum(window="gaussian", width=0.5, end_step=30)
    start(curriculum)
    # At step 15 the middle, 1.5: weights exp(-4.5), exp(-0.5) and the same again, mirrored.
    far, near = math.exp(-4.5), math.exp(-0.5)
    weights = [far, near, near, far]
    assert shares(curriculum, 15) == pytest.approx([weight / sum(weights) for weight in weights])
    assert [max(range(4), key=shares(curriculum, step).__getitem__) for step in (0, 10, 20, 30)] == [0, 1, 2, 3]


@pytest.mark.parametrize("window", ["up_to", "gaussian"])
@pytest.mark.parametrize("floor", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("first_levels", [1, 2, 4])
def test_shares_add_up_and_the_mean_level_only_rises(window, floor, first_levels):
    curriculum = DifficultyCurriculum(window=window, floor=floor, first_levels=first_levels, width=0.7)
    start(curriculum, max_steps=23)
    means = []
    for step in range(30):
        given = shares(curriculum, step)
        assert sum(given) == pytest.approx(1)
        assert min(given) >= floor / 4 - 1e-12
        means.append(sum(level * share for level, share in enumerate(given)))
    assert all(later >= earlier - 1e-12 for earlier, later in zip(means, means[1:], strict=False))
    assert means[0] < means[-1] or floor == 1 or first_levels == 4


def test_the_next_level_opens_when_the_newest_is_mastered():
    curriculum = DifficultyCurriculum(pacing="success", threshold=0.6, min_attempts=8, smoothing=0.5)
    trainer, module = start(curriculum, max_steps=-1)
    open_levels = []
    for level, correct in (("1", True), ("1", True), ("1", True), ("2", False), ("2", True), ("2", True), ("2", True)):
        play(curriculum, trainer, module, tried(level, correct))
        open_levels.append(sum(share > 0 for share in shares(curriculum, 0)))
    # Four attempts are too few. Of level 2: 0 of 1, (0.25 * 0 + 0.5 * 1) / 0.75 = 2/3 with eight attempts.
    assert open_levels == [1, 2, 2, 2, 3, 3, 3]
    assert trainer.datamodule.calls[-1] == ("difficulty", pytest.approx({"1": 1 / 3, "2": 1 / 3, "4": 1 / 3, "9": 0}))


def test_what_goes_badly_opens_nothing_and_the_hardest_is_the_last():
    curriculum = DifficultyCurriculum(pacing="success", min_attempts=1)
    trainer, module = start(curriculum)
    for _ in range(5):
        play(curriculum, trainer, module, tried("1", False))
    assert curriculum.newest == 0
    for level in ("1", "1", "1", "1", "1", "1", "2", "4", "9", "9"):
        play(curriculum, trainer, module, tried(level, True))
    assert curriculum.newest == 3


@pytest.mark.parametrize("pacing", ["steps", "success"])
def test_a_resumed_run_goes_on_as_the_uninterrupted_one(pacing):
    def make():
        return DifficultyCurriculum(pacing=pacing, min_attempts=4, end_step=5)

    rounds = [tried(level, True) for level in ("1", "2", "4", "9", "9")]
    whole, first, again = make(), make(), make()
    trainer, module = start(whole)
    for iteration in rounds:
        play(whole, trainer, module, iteration)
    expected = trainer.datamodule.calls
    trainer, module = start(first)
    for iteration in rounds[:2]:
        play(first, trainer, module, iteration)
    done = trainer.datamodule.calls
    trainer, module = make_trainer(data=Data(**LEVELS)), Module()
    again.setup(trainer, module, "fit")
    again.load_state_dict(first.state_dict())
    again.on_fit_start(trainer, module)
    trainer.global_step = 2
    for iteration in rounds[2:]:
        play(again, trainer, module, iteration)
    # A resumed run repeats what is in force.
    assert [*done, *trainer.datamodule.calls[1:]] == expected
    assert trainer.datamodule.calls[0] == done[-1]
    assert again.newest == whole.newest


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"pacing": "time"}, "pacing is 'time'; it must be one of steps, success"),
        ({"window": "box"}, "window is 'box'; it must be one of up_to, gaussian"),
        ({"first_levels": 0}, "has first_levels 0 and min_attempts 64; give at least 1"),
        ({"start_step": 5, "end_step": 5}, "goes from start_step 5 to end_step 5"),
        ({"threshold": 0.0}, "has threshold 0.0 and floor 0.0"),
        ({"floor": 1.5}, "has threshold 0.7 and floor 1.5"),
        ({"width": 0.0}, "width is 0.0; give a positive"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, told):
    with pytest.raises(UserError, match=rf"DifficultyCurriculum(\.| ){told}"):
        DifficultyCurriculum(**options)


def test_what_does_not_go_with_the_run_fails_before_training():
    with pytest.raises(UserError, match=r"first_levels is 5, but the data have 4 levels: 1, 2, 4, 9"):
        start(DifficultyCurriculum(first_levels=5))
    with pytest.raises(UserError, match=r"DifficultyCurriculum.end_step is not given, and trainer.max_steps"):
        start(DifficultyCurriculum(), max_steps=-1)
    with pytest.raises(UserError, match=r"start_step is 100, but training ends at 100; lower it"):
        start(DifficultyCurriculum(start_step=100))
    with pytest.raises(UserError, match=r"draws by difficulty, of which the data have 1 \(3\)"):
        start(DifficultyCurriculum(), levels={"3": 5})
