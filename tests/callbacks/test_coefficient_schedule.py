import math

import pytest

from lit_vlm.callbacks.coefficient_schedule import CoefficientSchedule, check_reach
from lit_vlm.interfaces.coefficients import Coefficient, Coefficients
from lit_vlm.interfaces.errors import UserError
from tests.callbacks.rollout_fakes import Module, make_iteration, make_trainer, play


def start(callback, module=None, **options):
    module = module or Module(kl=Coefficient(0.04, 0.0, 1.0), **{"reward/format": Coefficient(1.0)})
    trainer = make_trainer(**options)
    callback.setup(trainer, module, "fit")
    return trainer, module


def test_the_coefficient_holds_the_value_of_the_step_before_the_round():
    callback = CoefficientSchedule("reward/format", start=1.0, end=0.0, steps=4)
    trainer, module = start(callback)
    seen = []
    for step in (0, 1, 2, 6):
        play(callback, trainer, module, make_iteration(step=step))
        seen.append(module.coefficients["reward/format"])
        assert module.logged == {"train/coefficient/reward/format": seen[-1]}
    assert seen == [1.0, 0.75, 0.5, 0.0]
    assert module.coefficients["kl"] == 0.04


def test_nothing_is_logged_twice():
    callback = CoefficientSchedule("kl", "constant", start=0.3)
    trainer, module = start(callback)
    play(callback, trainer, module, make_iteration(**{"coefficient/kl": 0.3}))
    assert module.coefficients["kl"] == 0.3
    assert module.logged == {}


def test_batches_that_are_sampled_again_do_not_move_the_schedule():
    callback = CoefficientSchedule("kl", start=0.0, end=1.0, steps=10)
    trainer, module = start(callback)
    play(callback, trainer, module, *[make_iteration(step=5)] * 3)
    assert module.coefficients["kl"] == 0.5


def test_without_a_length_it_is_that_of_the_run():
    callback = CoefficientSchedule("kl", start=0.0, end=1.0)
    trainer, module = start(callback, max_steps=8)
    play(callback, trainer, module, make_iteration(step=2))
    assert module.coefficients["kl"] == 0.25
    with pytest.raises(UserError, match=r"CoefficientSchedule.steps is not given"):
        start(CoefficientSchedule("kl", start=0.0, end=1.0), max_steps=-1)
    start(CoefficientSchedule("kl", "constant", start=0.5), max_steps=-1)


def test_a_resumed_run_goes_on_where_it_stopped():
    whole, first = (CoefficientSchedule("kl", "cosine", start=0.1, end=0.9, steps=9) for _ in range(2))
    expected = []
    trainer, module = start(whole)
    for step in range(9):
        play(whole, trainer, module, make_iteration(step=step))
        expected.append((module.coefficients["kl"], whole.state_dict()))
    trainer, module = start(first)
    for step in range(4):
        play(first, trainer, module, make_iteration(step=step))
    again = CoefficientSchedule("kl", "cosine", start=0.1, end=0.9, steps=9)
    trainer, module = start(again)
    again.load_state_dict(first.state_dict())
    assert again.state_dict() == first.state_dict() == expected[3][1]
    for step in range(4, 9):
        play(again, trainer, module, make_iteration(step=step))
        assert (module.coefficients["kl"], again.state_dict()) == expected[step]


def test_schedules_of_two_coefficients_keep_their_states_apart():
    keys = {CoefficientSchedule(name, "constant", start=0.1).state_key for name in ("kl", "reward/format")}
    assert len(keys) == 2


def test_nothing_is_asked_of_modules_that_do_not_train():
    CoefficientSchedule("nothing", start=0.0, end=1.0).setup(make_trainer(max_steps=-1), object(), "test")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"kind": "square", "end": 1.0}, "kind is 'square'; it must be one of constant, linear, cosine"),
        ({}, "end is not given; a linear schedule needs it"),
        ({"end": math.nan}, "goes from start 0.0 to end nan; give finite"),
        ({"end": 1.0, "steps": 0}, "steps is 0; give at least 1"),
    ],
)
def test_options_that_make_no_schedule_are_refused(options, told):
    with pytest.raises(UserError, match=f"CoefficientSchedule.{told}"):
        CoefficientSchedule("kl", start=0.0, **options)


def test_a_wrong_name_fails_before_training_with_those_there_are():
    with pytest.raises(UserError, match=r"CoefficientSchedule turns the coefficient 'beta'.* it has kl, reward/format"):
        start(CoefficientSchedule("beta", "constant", start=0.1))


def test_values_beyond_the_bounds_fail_before_training_and_name_the_option():
    bounded = Coefficients({"clip_low": Coefficient(0.2, 0.0, 0.9), "kl": Coefficient(0.04, 0.0, 1.0)})
    with pytest.raises(UserError, match=r"X takes .* 'kl' from 0 to 2, but .* \[0, 1\]; raise highest_kl of the obj"):
        check_reach(bounded, "kl", 0.0, 2.0, "X")
    with pytest.raises(UserError, match=r"'clip_low' from 0 to 1, but the module allows \[0, 0.9\]; stay within"):
        check_reach(bounded, "clip_low", 0.0, 1.0, "X")
    with pytest.raises(UserError, match=r"from -1 to 0.5, but the module allows \[0, 1\]; stay within"):
        check_reach(bounded, "kl", -1.0, 0.5, "X")
    with pytest.raises(UserError, match=r"'entropy_bonus'.* it has clip_low, kl; .*highest_entropy_bonus to at least"):
        check_reach(bounded, "entropy_bonus", 0.0, 0.5, "X")
    check_reach(bounded, "kl", 0.0, 1.0, "X")
    with pytest.raises(UserError, match="takes the coefficient 'kl' from 0 to 5"):
        start(CoefficientSchedule("kl", start=5.0, end=0.0))


class Comparing:
    """A module that samples nothing."""

    def __init__(self, **declared):
        self.coefficients = Coefficients(declared)


def test_a_module_that_samples_nothing_is_turned_at_each_optimizer_step():
    module = Comparing(beta=Coefficient(0.1))
    callback = CoefficientSchedule("beta", start=0.1, end=0.5, steps=4)
    trainer = make_trainer()
    callback.setup(trainer, module, "fit")
    seen = []
    for step in (0, 0, 2, 9):
        trainer.global_step = step
        callback.on_train_batch_start(trainer, module, None, 0)
        seen.append(module.coefficients["beta"])
    assert seen == pytest.approx([0.1, 0.1, 0.3, 0.5])
    assert callback.state_dict()["step"] == 9


def test_batches_of_a_module_with_rollouts_leave_the_round_alone():
    callback = CoefficientSchedule("kl", start=0.0, end=1.0, steps=10)
    trainer, module = start(callback)
    trainer.global_step = 5
    callback.on_train_batch_start(trainer, module, None, 0)
    assert module.coefficients["kl"] == 0.04


def test_a_module_without_coefficients_is_refused():
    with pytest.raises(UserError, match="leave it out"):
        CoefficientSchedule("beta", start=0.1, end=0.5).setup(make_trainer(), object(), "fit")
