from contextlib import contextmanager

import pytest
import torch
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy

from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.rollouts import Loss, PolicyTotals
from lit_vlm.models.completion_scoring import CompletionScores
from lit_vlm.paradigms.policy_update import Material, PolicyUpdate, UpdateSettings, policy_totals
from tests.advantages.material import alone, make_rollouts

GROUPS = [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]


def rollouts():
    return make_rollouts([3, 1, 2, 2, 4, 1, 1, 1, 2, 3], GROUPS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, r"model\.update\.epochs is 0"),
        ({"minibatches": 0}, r"model\.update\.minibatches is 0"),
        ({"micro_batch_tokens": 0}, r"micro_batch_tokens is 0"),
        ({"max_gradient_norm": 0.0}, "max_gradient_norm is 0"),
        ({"max_gradient_norm": float("nan")}, "max_gradient_norm is nan"),
        ({"prefix": "both"}, "give shared or naive"),
    ],
)
def test_settings_out_of_range_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        UpdateSettings(**options)


def test_more_mini_batches_than_a_batch_has_prompts_are_refused():
    settings = UpdateSettings(epochs=3, minibatches=4)
    settings.check(4)
    settings.check(None)  # batches of a token budget differ
    with pytest.raises(UserError, match=r"model\.update\.minibatches is 4, but .*data\.batch_size 3.*at most 3"):
        settings.check(3)


@pytest.mark.parametrize(("epochs", "minibatches"), [(1, 1), (2, 2), (1, 3), (3, 5)])
def test_each_epoch_deals_out_every_completion_once_and_groups_stay_together(epochs, minibatches):
    settings = UpdateSettings(epochs=epochs, minibatches=minibatches)
    parts = list(settings.minibatch_rows(rollouts(), seed=0, step=7))
    assert len(parts) == settings.steps == epochs * minibatches
    for epoch in range(epochs):
        dealt = parts[epoch * minibatches : (epoch + 1) * minibatches]
        assert sorted(torch.cat(dealt).tolist()) == list(range(10))
        sizes = [len(part) for part in dealt]
        assert max(sizes) - min(sizes) <= 2
        for part in dealt:
            owners = [GROUPS[row] for row in part.tolist()]
            assert all(owners.count(owner) == 2 for owner in owners)


def test_epochs_and_steps_have_orders_of_their_own_that_a_seed_repeats():
    settings = UpdateSettings(epochs=2, minibatches=2)

    def dealt(seed, step):
        return [part.tolist() for part in settings.minibatch_rows(rollouts(), seed, step)]

    assert dealt(0, 1) == dealt(0, 1)
    orders = [str(dealt(seed, step)[:2]) for seed in range(3) for step in range(3)]
    assert len(set(orders)) > 3
    assert any(dealt(0, step)[:2] != dealt(0, step)[2:] for step in range(5))


def test_more_minibatches_than_prompts_leave_some_empty():
    parts = list(UpdateSettings(minibatches=8).minibatch_rows(rollouts(), 0, 0))
    assert [len(part) for part in parts] == [2, 2, 2, 2, 2, 0, 0, 0]


def test_passes_hold_every_completion_that_counts_once():
    given = rollouts()
    mask = given.mask.clone()
    mask[3] = 0
    rows = torch.tensor([0, 1, 2, 3, 8])
    passes = UpdateSettings(micro_batch_tokens=4).micro_batch_rows(given, mask, rows, shares_prompts=True)
    assert sorted(torch.cat(passes).tolist()) == [0, 1, 2, 8]
    assert len(passes) > 1


def test_there_is_a_pass_even_of_nothing():
    given = rollouts()
    (nothing,) = UpdateSettings().micro_batch_rows(given, given.mask * 0, torch.arange(10), shares_prompts=True)
    assert nothing.shape == (0,)


def test_totals_count_tokens_and_sequences():
    mask = torch.tensor([[1, 1, 0], [0, 0, 0], [1, 0, 0]])
    assert policy_totals(mask, 9, alone) == PolicyTotals(tokens=3, sequences=3, active_sequences=2, max_tokens=9)
    doubled = policy_totals(mask, 9, lambda counts: counts * 2)
    assert doubled == PolicyTotals(tokens=6, sequences=6, active_sequences=4, max_tokens=9)


class TwoRanks(DDPStrategy):
    """Two ranks that hold the same, without processes."""

    world_size = 2

    def __init__(self):
        super().__init__()
        self.unsynchronised = []

    @contextmanager
    def block_backward_sync(self):
        self.unsynchronised.append(True)
        yield
        self.unsynchronised.append(False)

    def reduce(self, tensor, group=None, reduce_op="mean"):
        return {"sum": tensor * 2, "max": tensor}[reduce_op]


def never(rows, error):
    raise error


def update(strategy, passes, backward, smaller=never):
    given = rollouts()
    weight = torch.tensor(2.0, requires_grad=True)

    def score(rows):
        length = int(given.mask[rows].sum(1).max())
        return CompletionScores(weight * given.mask[rows, :length])

    material = Material(given, given.mask.float(), given.mask, torch.zeros(given.mask.shape))
    totals = PolicyTotals(tokens=20, sequences=10, active_sequences=10, max_tokens=4)
    run = PolicyUpdate(
        material, passes, totals, score=score, manual_backward=backward, strategy=strategy, smaller=smaller
    )
    return run, material, weight


@pytest.mark.parametrize(("strategy", "ranks"), [(SingleDeviceStrategy(torch.device("cpu")), 1), (TwoRanks(), 2)])
def test_figures_and_gradients_add_up_over_passes_and_ranks(strategy, ranks):
    passes = [torch.arange(4), torch.arange(4, 10)]
    run, material, weight = update(strategy, passes, lambda loss: loss.backward())
    for batch in run:
        assert batch.old_log_probs.equal(batch.log_probs.detach())
        tokens = (batch.log_probs * batch.mask).sum()
        run.backward(Loss(tokens / 20, {"ones": batch.mask.sum().float()}, {"length": batch.mask.sum(1).max().float()}))
    # 20 tokens in all, each with the weight as its log-probability; a strategy divides by the ranks.
    assert weight.grad == pytest.approx(ranks)
    assert run.figures() == {"loss": 2.0 * ranks, "ones": 1.0, "length_max": 4.0}
    assert torch.equal(material.log_probs, 2.0 * material.mask)


def test_ranks_synchronise_at_the_last_pass_only():
    strategy = TwoRanks()
    seen = []
    passes = [torch.tensor([0]), torch.tensor([2]), torch.tensor([4])]

    def backward(loss):
        seen.append(bool(strategy.unsynchronised) and strategy.unsynchronised[-1])

    run, *_ = update(strategy, passes, backward)
    for batch in run:
        run.backward(Loss(batch.log_probs.sum()))
    assert seen == [True, True, False]


def test_an_update_whose_losses_were_not_handed_back_has_no_figures():
    run, *_ = update(SingleDeviceStrategy(torch.device("cpu")), [torch.arange(2)], lambda loss: None)
    with pytest.raises(RuntimeError, match="handed to backward"):
        run.figures()


@pytest.mark.parametrize("fails_in", ["forward", "backward"])
def test_a_step_in_which_memory_runs_out_begins_anew_with_smaller_passes(fails_in):
    asked = []

    def smaller(rows, error):
        asked.append((rows.tolist(), str(error)))
        weight.grad = None
        return [torch.arange(2), torch.arange(2, 4), torch.arange(4, 10)]

    def backward(loss):
        loss.backward()
        if fails_in == "backward" and not asked and len(run._rows) == 6:
            raise torch.OutOfMemoryError("no memory in the midst of it")

    strategy = SingleDeviceStrategy(torch.device("cpu"))
    passes = [torch.arange(4), torch.arange(4, 10)]
    run, material, weight = update(strategy, passes, backward, smaller)
    score = run._score

    def scarce(rows):
        if fails_in == "forward" and not asked and len(rows) == 6:
            raise torch.OutOfMemoryError("no memory")
        return score(rows)

    run._score = scarce
    seen = []
    for batch in run:
        seen.append(len(batch.mask))
        tokens = (batch.log_probs * batch.mask).sum()
        run.backward(Loss(tokens / 20, {"ones": batch.mask.sum().float()}))
    assert [rows for rows, _ in asked] == [list(range(4, 10))]
    assert seen == ([4, 2, 2, 6] if fails_in == "forward" else [4, 6, 2, 2, 6])
    # As though nothing had happened.
    assert weight.grad == pytest.approx(1.0)
    assert run.figures() == {"loss": 2.0, "ones": 1.0}
    assert torch.equal(material.log_probs, 2.0 * material.mask)


def test_memory_that_runs_out_where_ranks_add_up_ends_the_run():
    def backward(loss):
        raise torch.OutOfMemoryError("no memory")

    run, _, _ = update(TwoRanks(), [torch.arange(10)], backward)
    batch = next(iter(run))
    with pytest.raises(UserError, match="ranks add their gradients up.*micro_batch_tokens"):
        run.backward(Loss(batch.log_probs.sum()))


def test_other_errors_are_not_tried_again():
    def backward(loss):
        raise RuntimeError("shapes differ")

    run, _, _ = update(SingleDeviceStrategy(torch.device("cpu")), [torch.arange(10)], backward)
    batch = next(iter(run))
    with pytest.raises(RuntimeError, match="shapes differ"):
        run.backward(Loss(batch.log_probs.sum()))
