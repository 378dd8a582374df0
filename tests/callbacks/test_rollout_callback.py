from types import SimpleNamespace

import pytest
import torch

from lit_vlm.callbacks.rollout_callback import RolloutCallback
from lit_vlm.interfaces.capabilities import RolloutObserver
from lit_vlm.interfaces.errors import UserError
from tests.callbacks.rollout_fakes import Module, make_iteration, make_trainer, on_ranks, play


def test_the_hooks_do_nothing_and_are_those_that_modules_call():
    callback, module = RolloutCallback(), Module()
    iteration = make_iteration()
    before = dict(vars(iteration))
    assert isinstance(callback, RolloutObserver)
    play(callback, make_trainer(), module, iteration)
    assert vars(iteration) == before
    assert module.logged == {}
    assert callback.state_dict() == {}


def test_a_module_without_rollouts_is_refused_before_training():
    callback, module = RolloutCallback(), SimpleNamespace(coefficients={})
    with pytest.raises(UserError, match=r"trainer.callbacks has RolloutCallback, .* SimpleNamespace makes none"):
        callback.setup(make_trainer(), module, "fit")
    callback.setup(make_trainer(), module, "validate")
    callback.setup(make_trainer(), Module(), "fit")


def test_a_module_without_coefficients_is_refused():
    assert RolloutCallback.coefficients_of(Module())["kl"] == 0.04
    with pytest.raises(UserError, match="SimpleNamespace has no coefficients"):
        RolloutCallback.coefficients_of(SimpleNamespace())


@pytest.mark.parametrize("count", [1, 2, 3])
def test_sums_over_ranks_leave_the_given_tensor_alone(count):
    def run(rank, make):
        value = torch.tensor([1.0, float(rank)], dtype=torch.float64)
        summed = RolloutCallback.sum_over_ranks(make(), value)
        assert value.tolist() == [1.0, rank]
        assert summed.data_ptr() != value.data_ptr()
        return summed

    for summed in on_ranks(count, run):
        assert summed.dtype == torch.float64
        assert summed.tolist() == [count, sum(range(count))]


def test_the_length_of_a_run_is_that_of_the_trainer():
    assert RolloutCallback().steps_of_run(make_trainer(max_steps=7), "steps") == 7
    with pytest.raises(UserError, match=r"RolloutCallback.steps is not given, and trainer.max_steps.* give either"):
        RolloutCallback().steps_of_run(make_trainer(max_steps=-1), "steps")
