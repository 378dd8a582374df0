import pytest
import torch

from lit_vlm.interfaces.errors import UserError
from lit_vlm.models.adapters import AdapterSettings
from lit_vlm.objectives.aft_loss import AFTLoss
from lit_vlm.objectives.preference_loss import PreferenceLoss
from lit_vlm.paradigms import halved_batches
from lit_vlm.paradigms.pair_uncertainty import UncertaintyWeights
from lit_vlm.paradigms.reference_policy import ReferenceSettings
from tests.paradigms import preference_material as preferences
from tests.paradigms import test_aft as aft
from tests.paradigms import test_sft as sft
from tests.paradigms.processes import run_script
from tests.paradigms.scarce_memory import Gradients, assert_close, fail_once_in_backward, limit, of_completions

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.*"),
    pytest.mark.filterwarnings("ignore:.*GPU available but not used.*"),
]
ADAPTER = {"adapter": AdapterSettings(rank=4)}
PAIRS = {
    "frozen copy, NLL over tokens": {"objective": PreferenceLoss(nll_weight=0.5)},
    "adapter off, NLL over samples": {
        "objective": PreferenceLoss(nll_weight=0.5, nll_reduction="seq_mean"),
        "backbone": ADAPTER,
    },
    "cached": {"reference": ReferenceSettings("cached")},
    "no reference": {"objective": PreferenceLoss("simpo", beta=2.0)},
    "corrupted images": {"objective": PreferenceLoss("mdpo"), "corruption": preferences.Inverted()},
    "uncertainty": {"uncertainty": UncertaintyWeights(scale=2.0, low=0.1)},
}

SCRIPT = """
import sys
sys.path.insert(0, {root!r})
import os
import pytest
import torch
from tests.paradigms import scarce_memory, test_halved_batches
folder, most, out = sys.argv[1], int(sys.argv[2]), sys.argv[3]
if os.environ.get("LOCAL_RANK") == "1":  # the other rank goes on with whole batches
    scarce_memory.limit(pytest.MonkeyPatch(), "score_rollouts", most, scarce_memory.of_completions)
options = dict(devices=2, strategy="ddp")
model, figures, gradients = test_halved_batches.train_pairs(folder, batch_size=2, trainer=options)
sizes = [None, None]
torch.distributed.all_gather_object(sizes, model.pass_sizes.state_dict())
if model.global_rank == 0:
    torch.save((sizes, figures.steps, gradients.steps), out)
torch.distributed.barrier()
torch.distributed.destroy_process_group()
"""


def train_sft(folder, steps=1, batch_size=4, **options):
    model, gradients = sft.module(folder, rate=1e-5), Gradients()
    losses, _ = sft.fit(model, sft.data(model.encoder, batch_size=batch_size), steps, [gradients], **options)
    return model, losses, gradients


def train_pairs(folder, steps=1, batch_size=4, ckpt_path=None, trainer=None, **settings):
    model, gradients = preferences.module(folder, rate=1e-5, **settings), Gradients()
    options = {"max_epochs": -1, "ckpt_path": ckpt_path, **(trainer or {})}
    figures, _ = preferences.fit(
        model, preferences.data(model.encoder, batch_size=batch_size), steps, [gradients], **options
    )
    return model, figures, gradients


def train_groups(folder, **settings):
    model, gradients = aft.module(folder, rate=1e-5, **settings), Gradients()
    figures, _ = aft.fit(model, aft.ComparedData(model.encoder, aft.samples(), batch_size=4), 1, [gradients])
    return model, figures, gradients


def assert_same_figures(found, wanted):
    assert len(found.steps) == len(wanted.steps) > 0
    for ours, theirs in zip(found.steps, wanted.steps, strict=True):
        assert ours == pytest.approx(theirs, abs=2e-5, rel=1e-4)


def test_training_in_pieces_learns_the_same(random_tiny_folder, monkeypatch):
    _, losses, gradients = train_sft(random_tiny_folder, 2)
    asked = limit(monkeypatch, "score", 3)
    model, halved, same = train_sft(random_tiny_folder, 2)
    assert asked[:3] == [4, 2, 2]
    assert set(asked[3:]) == {2}
    assert model.pass_sizes.state_dict() == {"training": 2}
    assert halved == pytest.approx(losses, abs=1e-5)
    assert_close(same, gradients)


def test_accumulated_micro_batches_in_pieces_learn_the_same(random_tiny_folder, monkeypatch):
    _, losses, gradients = train_sft(random_tiny_folder, batch_size=2, accumulate_grad_batches=2)
    limit(monkeypatch, "score", 1)
    _, halved, same = train_sft(random_tiny_folder, batch_size=2, accumulate_grad_batches=2)
    assert halved == pytest.approx(losses, abs=1e-5)
    assert_close(same, gradients)


def test_a_backward_pass_that_runs_out_of_memory_begins_the_step_anew(random_tiny_folder, monkeypatch):
    _, losses, gradients = train_sft(random_tiny_folder, 2)
    failed = fail_once_in_backward(monkeypatch)
    model, halved, same = train_sft(random_tiny_folder, 2)
    assert model.pass_sizes.state_dict() == {"training": 2}
    assert halved == pytest.approx(losses, abs=1e-5)
    assert_close(same, gradients)
    failed.clear()
    with pytest.raises(UserError, match="backward pass whose gradients are added to those of other micro-batches"):
        train_sft(random_tiny_folder, accumulate_grad_batches=2)


@pytest.mark.parametrize("kind", PAIRS)
def test_pairs_in_pieces_learn_the_same(random_tiny_folder, tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    _, figures, gradients = train_pairs(random_tiny_folder, **PAIRS[kind])
    for file in tmp_path.iterdir():
        file.unlink()  # log-probabilities of the reference are made in pieces too
    asked = limit(monkeypatch, "score_rollouts", 6, of_completions)
    model, halved, same = train_pairs(random_tiny_folder, **PAIRS[kind])
    assert max(asked) > 6 >= asked[-1]
    assert model.pass_sizes.most("training", 4) == 2
    assert_same_figures(halved, figures)
    assert_close(same, gradients)


@pytest.mark.parametrize("objective", [AFTLoss(), AFTLoss(constraint="detached", ranked=True)])
def test_groups_in_pieces_learn_the_same(random_tiny_folder, monkeypatch, objective):
    _, figures, gradients = train_groups(random_tiny_folder, objective=objective)
    limit(monkeypatch, "score_rollouts", 10, of_completions)
    model, halved, same = train_groups(random_tiny_folder, objective=objective)
    assert model.pass_sizes.state_dict() == {"training": 2}
    assert_same_figures(halved, figures)
    assert_close(same, gradients)


def test_accumulated_pairs_in_pieces_learn_the_same(random_tiny_folder, monkeypatch):
    options = {"batch_size": 2, "trainer": {"accumulate_grad_batches": 2}, **PAIRS["frozen copy, NLL over tokens"]}
    _, figures, gradients = train_pairs(random_tiny_folder, **options)
    limit(monkeypatch, "score_rollouts", 2, of_completions)
    _, halved, same = train_pairs(random_tiny_folder, **options)
    assert_same_figures(halved, figures)
    assert_close(same, gradients)


def test_a_backward_pass_over_pairs_that_runs_out_of_memory_begins_the_step_anew(random_tiny_folder, monkeypatch):
    _, figures, gradients = train_pairs(random_tiny_folder)
    failed = fail_once_in_backward(monkeypatch)
    model, halved, same = train_pairs(random_tiny_folder)
    assert model.pass_sizes.state_dict() == {"training": 2}
    assert_same_figures(halved, figures)
    assert_close(same, gradients)
    failed.clear()
    with pytest.raises(UserError, match="backward pass whose gradients are added to those of other micro-batches"):
        train_pairs(random_tiny_folder, trainer={"accumulate_grad_batches": 2})


@pytest.mark.parametrize("train", [train_pairs, train_groups])
def test_a_pair_or_group_that_does_not_fit_ends_the_run(random_tiny_folder, monkeypatch, train):
    limit(monkeypatch, "score_rollouts", 0, of_completions)
    with pytest.raises(UserError, match="over 1 rows, pairs or groups .* lower data.batch_size"):
        train(random_tiny_folder)
    monkeypatch.setattr(halved_batches, "moves_together", lambda policy: True)
    with pytest.raises(UserError, match="over 4 rows, pairs or groups .* other ranks take part in it"):
        train(random_tiny_folder)


def test_a_resumed_run_keeps_the_size(random_tiny_folder, tmp_path, monkeypatch):
    _, figures, gradients = train_pairs(random_tiny_folder, steps=2)
    limit(monkeypatch, "score_rollouts", 5, of_completions)
    first, _, _ = train_pairs(random_tiny_folder)
    first.trainer.save_checkpoint(tmp_path / "one.ckpt")
    monkeypatch.undo()
    asked = limit(monkeypatch, "score_rollouts", 100, of_completions)
    second, resumed, same = train_pairs(random_tiny_folder, steps=2, ckpt_path=tmp_path / "one.ckpt")
    assert second.pass_sizes.most("training", 4) == 2
    assert 0 < max(asked) <= 5
    assert resumed.steps[-1] == pytest.approx(figures.steps[-1], abs=2e-5, rel=1e-4)
    same.steps = [gradients.steps[0], *same.steps]
    assert_close(same, gradients)


def test_pairs_are_evaluated_in_pieces(random_tiny_folder, monkeypatch):
    def figures():
        model = preferences.module(random_tiny_folder)
        trainer = preferences.trainer(limit_val_batches=1.0)
        return trainer.validate(model, preferences.data(model.encoder), verbose=False)[0]

    wanted = figures()
    asked = limit(monkeypatch, "score_rollouts", 3, of_completions)
    assert figures() == pytest.approx(wanted, abs=1e-5)
    assert max(asked) > 3 >= asked[-1]


@pytest.mark.slow
def test_one_of_two_ranks_cuts_its_pairs(random_tiny_folder, tmp_path):
    _, figures, gradients = run_script(SCRIPT, tmp_path / "whole.pt", random_tiny_folder, 100)
    sizes, halved, same = run_script(SCRIPT, tmp_path / "cut.pt", random_tiny_folder, 2)
    assert sizes == [{}, {"training": 1}]
    for ours, theirs in zip(halved, figures, strict=True):
        assert ours == pytest.approx(theirs, abs=2e-5, rel=1e-4)
    for ours, theirs in zip(same, gradients, strict=True):
        for name in theirs:
            torch.testing.assert_close(ours[name], theirs[name], atol=2e-5, rtol=1e-3, msg=name)
