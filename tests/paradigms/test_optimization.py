import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from lit_vlm.interfaces.errors import UserError
from lit_vlm.paradigms.optimization import OptimizerSettings, PartOptimizer, PartOptimizers, total_optimizer_steps


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
    model.positions = nn.Parameter(torch.zeros(1, 4, 3))
    optimizer, _ = OptimizerSettings(weight_decay=0.1).build(model, 10)
    decayed, kept = optimizer.param_groups
    assert decayed["weight_decay"] == 0.1
    assert [parameter.shape for parameter in decayed["params"]] == [model["linear"].weight.shape]
    assert kept["weight_decay"] == 0.0
    assert len(kept["params"]) == 5


def test_frozen_parameters_are_left_out_and_an_empty_rest_is_refused():
    model = nn.Linear(2, 2)
    model.bias.requires_grad_(False)
    optimizer, _ = OptimizerSettings().build(model, 1)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 1
    model.weight.requires_grad_(False)
    with pytest.raises(UserError, match="no parameter is trainable"):
        OptimizerSettings().build(model, 1)


@pytest.fixture
def two_parts():
    """A model of which each child is a part."""
    return nn.ModuleDict({"vision": nn.Linear(2, 2), "language": nn.Linear(2, 2), "head": nn.Linear(2, 2)})


def first_word(name):
    return name.split(".")[0]


def test_parts_have_rates_and_decays_of_their_own(two_parts):
    parts = PartOptimizers(
        vision=PartOptimizer(learning_rate=1e-6, weight_decay=0.0), head=PartOptimizer(weight_decay=0.5)
    )
    settings = OptimizerSettings(learning_rate=1e-4, weight_decay=0.1, warmup=0, schedule="linear", parts=parts)
    optimizer, scheduler = settings.build(two_parts, 4, first_word)
    found = {group["name"]: (group["initial_lr"], group["weight_decay"]) for group in optimizer.param_groups}
    assert found == {
        "model/decayed": (1e-4, 0.1),
        "model/not_decayed": (1e-4, 0.0),
        "head/decayed": (1e-4, 0.5),
        "head/not_decayed": (1e-4, 0.0),
        "vision/decayed": (1e-6, 0.0),
        "vision/not_decayed": (1e-6, 0.0),
    }
    assert optimizer.param_groups[0]["name"].startswith("model/")
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 6
    optimizer.step()
    scheduler.step()
    for group in optimizer.param_groups:
        assert group["lr"] == pytest.approx(0.75 * group["initial_lr"])


def test_a_part_at_its_own_rate_takes_the_step_of_that_rate(two_parts):
    own = PartOptimizers(vision=PartOptimizer(learning_rate=1e-2))
    optimizer, _ = OptimizerSettings(learning_rate=1e-3, warmup=0, parts=own).build(two_parts, 10, first_word)
    before = {name: value.detach().clone() for name, value in two_parts.named_parameters()}
    sum(value.sum() for value in two_parts.parameters()).backward()
    optimizer.step()
    for name, value in two_parts.named_parameters():
        rate = 1e-2 if name.startswith("vision") else 1e-3
        assert (before[name] - value).detach().numpy() == pytest.approx(rate, rel=1e-2)


def test_a_part_without_anything_to_train_is_refused(two_parts):
    two_parts["vision"].requires_grad_(False)
    settings = OptimizerSettings(parts=PartOptimizers(vision=PartOptimizer(learning_rate=1e-6)))
    with pytest.raises(UserError, match=r"model\.optimizer\.parts\.vision is given"):
        settings.build(two_parts, 1, first_word)


def test_a_part_cannot_have_no_rate_at_all():
    with pytest.raises(UserError, match=r"parts\.head\.learning_rate is 0"):
        OptimizerSettings(parts=PartOptimizers(head=PartOptimizer(learning_rate=0.0)))
    with pytest.raises(UserError, match=r"parts\.head\.weight_decay is -1"):
        OptimizerSettings(parts=PartOptimizers(head=PartOptimizer(weight_decay=-1.0)))


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


@pytest.mark.parametrize(
    "settings",
    [
        {"learning_rate": 0.0},
        {"warmup": -1.0},
        {"final_share": 2.0},
        {"betas": (0.9, 1.0)},
        {"epsilon": 0.0},
        {"weight_decay": -0.1},
    ],
)
def test_impossible_settings_are_refused(settings):
    with pytest.raises(UserError, match=next(iter(settings))):
        OptimizerSettings(**settings)
