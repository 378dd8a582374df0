import math
from types import SimpleNamespace

import pytest
from torch import nn

from lit_vlm.interfaces.errors import UserError
from lit_vlm.paradigms.optimization import OptimizerSettings, total_optimizer_steps


def trainer(**settings):
    defaults = {"max_epochs": None, "max_steps": -1, "accumulate_grad_batches": 1, "limit_train_batches": 1.0}
    return SimpleNamespace(**{**defaults, **settings})


def test_warm_up_rises_in_a_line_and_cosine_falls_to_its_share():
    share = OptimizerSettings(schedule="cosine", warmup=4, final_share=0.1).multiplier(20)
    # Steps 0 to 3 warm up in fifths; halfway through the rest the cosine is at the middle of 0.1 and 1.
    assert [share(step) for step in range(4)] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert share(4) == 1.0
    assert share(12) == pytest.approx(0.55)
    assert share(20) == pytest.approx(0.1)


def test_linear_and_constant_schedules():
    linear = OptimizerSettings(schedule="linear", warmup=0).multiplier(10)
    assert [linear(step) for step in (0, 5, 10, 15)] == [1.0, 0.5, 0.0, 0.0]
    constant = OptimizerSettings(schedule="constant", warmup=0.1).multiplier(10)
    assert [constant(step) for step in (0, 1, 9)] == [0.5, 1.0, 1.0]


def test_the_rate_never_leaves_its_bounds():
    for schedule in ("constant", "linear", "cosine"):
        share = OptimizerSettings(schedule=schedule, warmup=0.2).multiplier(13)
        assert all(0 <= share(step) <= 1 and math.isfinite(share(step)) for step in range(30))


def test_only_matrices_are_decayed():
    model = nn.ModuleDict({"embedding": nn.Embedding(4, 3), "norm": nn.LayerNorm(3), "linear": nn.Linear(3, 2)})
    optimizer, _ = OptimizerSettings(weight_decay=0.1).build(model, 10)
    decayed, kept = optimizer.param_groups
    assert decayed["weight_decay"] == 0.1
    assert [parameter.shape for parameter in decayed["params"]] == [model["linear"].weight.shape]
    assert kept["weight_decay"] == 0.0
    assert len(kept["params"]) == 4


def test_frozen_parameters_are_left_out_and_an_empty_rest_is_refused():
    model = nn.Linear(2, 2)
    model.bias.requires_grad_(False)
    optimizer, _ = OptimizerSettings().build(model, 1)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 1
    model.weight.requires_grad_(False)
    with pytest.raises(UserError, match="no parameter is trainable"):
        OptimizerSettings().build(model, 1)


@pytest.mark.parametrize(
    ("settings", "batches", "steps"),
    [
        ({"max_epochs": 2}, 10, 20),
        ({"max_epochs": 2, "accumulate_grad_batches": 4}, 10, 6),  # an epoch ends with a short step
        ({"max_steps": 7}, 10, 7),
        ({"max_epochs": 1, "max_steps": 50}, 10, 10),
        ({"max_epochs": 1, "limit_train_batches": 3}, 10, 3),
        ({"max_epochs": 1, "limit_train_batches": 0.5}, 10, 5),
    ],
)
def test_the_steps_of_a_run_are_counted(settings, batches, steps):
    assert total_optimizer_steps(trainer(**settings), batches) == steps


def test_a_run_without_end_or_batches_is_refused():
    with pytest.raises(UserError, match=r"set trainer\.max_steps or trainer\.max_epochs"):
        total_optimizer_steps(trainer(), 10)
    with pytest.raises(UserError, match=r"lower data\.batch_size"):
        total_optimizer_steps(trainer(max_epochs=1), 0)


@pytest.mark.parametrize("settings", [{"learning_rate": 0.0}, {"warmup": -1.0}, {"final_share": 2.0}])
def test_impossible_settings_are_refused(settings):
    with pytest.raises(UserError, match=next(iter(settings))):
        OptimizerSettings(**settings)
