import logging
from functools import partial

import lightning
import pytest
import torch

from lit_vlm.interfaces.errors import UserError
from lit_vlm.paradigms.halved_passes import PassSizes
from lit_vlm.paradigms.policy_update import UpdateSettings
from tests.paradigms import on_policy_material as on_policy
from tests.paradigms import test_sft as sft
from tests.paradigms.scarce_memory import Gradients, assert_close, limit, of_completions

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.*"),
    pytest.mark.filterwarnings("ignore:.*GPU available but not used.*"),
]


@pytest.fixture
def scarce(monkeypatch):
    return partial(limit, monkeypatch)


def train_grpo(folder, steps=1, **settings):
    model, gradients = on_policy.module(folder, rate=1e-5, **settings), Gradients()
    watch, _ = on_policy.fit(model, on_policy.data(model.encoder), steps, [gradients])
    return model, watch, gradients


def test_sizes_halve_until_they_fit_and_stay(caplog):
    sizes, tried = PassSizes(), []

    def run(rows):
        tried.append(len(rows))
        if len(rows) > 3:
            raise torch.OutOfMemoryError("no memory\nand a long story")
        return list(rows)

    with caplog.at_level(logging.WARNING):
        assert sizes.in_pieces("rollout", 10, run) == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]
    assert tried == [10, 5, 2, 2, 2, 2, 2]
    assert "pass of rollout over 10 prompts (no memory); from now on it has 5 at most" in caplog.text
    tried.clear()
    assert sizes.in_pieces("rollout", 3, run) == [[0, 1], [2]]
    assert sizes.in_pieces("evaluation", 3, run) == [[0, 1, 2]]  # another kind of pass
    other = PassSizes()
    other.load_state_dict(sizes.state_dict())
    assert other.most("rollout", 10) == 2
    assert other.most("update", 10) == 10
    assert sizes.in_pieces("rollout", 0, run) == [[]]


def test_what_cannot_be_cut_ends_the_run():
    def run(rows):
        raise torch.OutOfMemoryError("no memory")

    with pytest.raises(
        UserError,
        match=r"over 1 rows, pairs or groups \(no memory\), which cannot be cut any further; lower data.batch",
    ):
        PassSizes().in_pieces("training", 4, run)
    with pytest.raises(UserError, match="other ranks take part in it, so that it cannot be cut here alone"):
        PassSizes().in_pieces("training", 4, run, together=True)


def test_other_errors_are_not_tried_again():
    calls = []

    def run(rows):
        calls.append(rows)
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        PassSizes().in_pieces("training", 4, run)
    assert len(calls) == 1


def test_what_can_be_done_without_is_tried_once():
    sizes, calls = PassSizes(), []

    def run():
        calls.append(1)
        raise torch.OutOfMemoryError("no memory")

    assert sizes.unless_too_large("features", run) is None
    assert sizes.unless_too_large("features", run) is None
    assert len(calls) == 1
    assert PassSizes().unless_too_large("features", lambda: 3) == 3


@pytest.mark.parametrize("epochs", [1, 2])
def test_updates_in_smaller_passes_learn_the_same(random_tiny_folder, scarce, epochs):
    settings = {"update": UpdateSettings(epochs=epochs)}
    _, watch, gradients = train_grpo(random_tiny_folder, epochs, **settings)
    asked = scarce("score_rollouts", 5, of_completions)
    model, halved, same = train_grpo(random_tiny_folder, epochs, **settings)
    assert asked[0] > 5
    assert asked[-1] <= 5
    assert model.pass_sizes.most("update", 10**6) < 10**6
    assert halved.figure("loss") == pytest.approx(watch.figure("loss"), abs=1e-5)
    assert_close(same, gradients)


def test_rollouts_of_fewer_prompts_at_a_time_are_the_same(random_tiny_folder, scarce):
    _, wanted, _ = train_grpo(random_tiny_folder, 2)
    asked = scarce("prefill", 2)
    model, found, _ = train_grpo(random_tiny_folder, 2)
    assert asked == [4, 2, 2, 2, 2]
    assert model.pass_sizes.most("rollout", 4) == 2
    for mine, theirs in zip(found.iterations, wanted.iterations, strict=True):
        ours, others = mine.rollouts, theirs.rollouts
        assert torch.equal(ours.token_ids, others.token_ids)
        assert torch.equal(ours.prompt_of, others.prompt_of)
        torch.testing.assert_close(ours.log_probs, others.log_probs, atol=1e-4, rtol=0)
        assert [c.text for c in ours.completions] == [c.text for c in others.completions]


def test_features_that_do_not_fit_are_made_by_each_pass(random_tiny_folder, scarce):
    _, watch, gradients = train_grpo(random_tiny_folder)
    scarce("encode_media", 0)
    _, other, same = train_grpo(random_tiny_folder)
    assert torch.equal(other.iterations[0].rollouts.token_ids, watch.iterations[0].rollouts.token_ids)
    assert_close(same, gradients)


def test_evaluation_in_pieces_tells_the_same(random_tiny_folder, scarce):
    def figures():
        model = sft.module(random_tiny_folder)
        trainer = lightning.Trainer(
            accelerator="cpu", logger=False, enable_progress_bar=False, use_distributed_sampler=False
        )
        return trainer.validate(model, sft.data(model.encoder), verbose=False)[0]

    wanted = figures()
    asked, scored = scarce("generate", 3), scarce("score", 1)
    assert figures() == pytest.approx(wanted, abs=1e-5)
    assert scored == [4, 2, 1, 1, 1, 1]
    assert asked == [1, 1, 1, 1]  # the size is kept


def test_sizes_go_into_checkpoints(random_tiny_folder):
    model = sft.module(random_tiny_folder)
    model.pass_sizes.load_state_dict({"training": 3})
    checkpoint = {"state_dict": {}}
    model.on_save_checkpoint(checkpoint)
    other = sft.module(random_tiny_folder)
    other.on_load_checkpoint(checkpoint)
    assert other.pass_sizes.most("training", 8) == 3
    other.on_load_checkpoint({"state_dict": {}})  # of an earlier version
    assert other.pass_sizes.most("training", 8) == 8
