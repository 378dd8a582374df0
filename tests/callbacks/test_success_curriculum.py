import pytest
import torch

from lit_vlm.callbacks.success_curriculum import SuccessRateCurriculum, frontier_shares
from lit_vlm.interfaces.errors import UserError
from tests.callbacks.rollout_fakes import Data, Module, make_iteration, make_rollouts, make_trainer, play


def start(curriculum, arms):
    trainer, module = make_trainer(data=Data(**arms)), Module()
    curriculum.setup(trainer, module, "fit")
    curriculum.on_fit_start(trainer, module)
    return trainer, module


def tried(rates, by="category", count=4):
    """Four attempts of each arm, of which a share succeeds."""
    arms = [arm for arm in rates for _ in range(count)]
    correct = [place < rate * count for rate in rates.values() for place in range(count)]
    return make_iteration(make_rollouts(arms=arms, correct=correct, by=by))


def test_shares_follow_the_variance_of_success():
    # 0.25, 0.1875, 0 and 0, each with 0.0625: sums to 0.6875.
    shares = frontier_shares(torch.tensor([0.5, 0.75, 0.0, 1.0]), floor=0.0625, temperature=1.0)
    assert shares.tolist() == pytest.approx([5 / 11, 4 / 11, 1 / 11, 1 / 11])
    # At a temperature of 0.5 the weights are squared: 25, 16, 1, 1.
    shares = frontier_shares(torch.tensor([0.5, 0.75, 0.0, 1.0]), floor=0.0625, temperature=0.5)
    assert shares.tolist() == pytest.approx([25 / 43, 16 / 43, 1 / 43, 1 / 43])


@pytest.mark.parametrize("temperature", [1e-3, 0.3, 1.0, 1e4])
def test_shares_add_up_and_rise_towards_the_frontier(temperature):
    rates = torch.linspace(0, 1, 101, dtype=torch.float64)
    shares = frontier_shares(rates, 0.02, temperature)
    assert float(shares.sum()) == pytest.approx(1)
    assert shares.argmax() == 50
    assert (shares[:51].diff() >= 0).all()
    torch.testing.assert_close(shares, shares.flip(0))
    # Swapping two arms swaps their shares.
    order = torch.randperm(101, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(frontier_shares(rates[order], 0.02, temperature), shares[order])


def test_a_hot_temperature_is_uniform():
    shares = frontier_shares(torch.tensor([0.5, 0.0, 0.9]), 0.02, 1e6)
    assert shares.tolist() == pytest.approx([1 / 3] * 3, rel=1e-4)


def test_what_is_solved_half_of_the_time_is_drawn_most_and_nothing_is_given_up():
    curriculum = SuccessRateCurriculum(prior=0.5)
    trainer, module = start(curriculum, {"easy": 1, "edge": 1, "hard": 1, "untried": 1})
    data = trainer.datamodule
    assert data.calls == [("category", dict.fromkeys(("easy", "edge", "hard", "untried"), 0.25))]
    for _ in range(40):
        play(curriculum, trainer, module, tried({"easy": 1.0, "edge": 0.5, "hard": 0.0}))
    shares = data.calls[-1][1]
    assert sum(shares.values()) == pytest.approx(1)
    # 0.27 for the two at a half, 0.02 for what is always or never solved.
    assert shares["edge"] == pytest.approx(0.27 / 0.58, rel=1e-3)
    assert shares["untried"] == pytest.approx(shares["edge"])
    assert shares["easy"] == pytest.approx(0.02 / 0.58, rel=1e-3)
    assert shares["hard"] == pytest.approx(shares["easy"], rel=1e-3)


def test_it_follows_an_arm_that_is_learnt():
    curriculum = SuccessRateCurriculum()
    trainer, module = start(curriculum, {"a": 1, "b": 1})
    seen = []
    for rate in (0.0, 0.0, 0.0, 0.5, 0.5, 0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0):
        play(curriculum, trainer, module, tried({"a": rate, "b": 0.5}))
        seen.append(curriculum.probabilities(0)["a"])
    assert seen[2] < seen[0] <= 0.5
    assert seen[5] > seen[2]
    assert seen[11] < seen[5]


def test_samples_may_be_arms():
    arms = {f"s{number}": 1 for number in range(5)}
    curriculum = SuccessRateCurriculum("sample")
    trainer, module = start(curriculum, arms)
    play(curriculum, trainer, module, tried({"s1": 1.0, "s3": 0.5}, by="sample"))
    by, shares = trainer.datamodule.calls[-1]
    assert by == "sample"
    assert min(shares, key=shares.get) == "s1"
    assert curriculum.attempts.tolist() == [0, 4, 0, 4, 0]


def test_many_arms_are_steered_in_linear_time(assert_linear):
    def steer(size):
        arms = {f"s{number:06d}": 1 for number in range(size)}
        curriculum = SuccessRateCurriculum("sample")
        trainer, module = start(curriculum, arms)
        play(curriculum, trainer, module, tried({"s000001": 1.0, f"s{size - 1:06d}": 0.5}, by="sample"))
        assert len(trainer.datamodule.calls[-1][1]) == size

    assert_linear(steer, 100_000)


def test_a_resumed_run_goes_on_as_the_uninterrupted_one():
    rounds = [tried({"a": rate, "b": 1 - rate}) for rate in (0.25, 0.5, 1.0, 0.75)]
    whole, first, again = (SuccessRateCurriculum(temperature=0.7) for _ in range(3))
    trainer, module = start(whole, {"a": 1, "b": 1})
    for iteration in rounds:
        play(whole, trainer, module, iteration)
    expected = trainer.datamodule.calls[-1]
    trainer, module = start(first, {"a": 1, "b": 1})
    for iteration in rounds[:2]:
        play(first, trainer, module, iteration)
    trainer, module = start(again, {"a": 1, "b": 1})
    again.load_state_dict(first.state_dict())
    for iteration in rounds[2:]:
        play(again, trainer, module, iteration)
    assert trainer.datamodule.calls[-1] == expected


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"prior": 1.5}, r"\.prior is 1.5; it must lie in \[0, 1\]"),
        ({"floor": 0.0}, " has floor 0.0 and temperature 1.0; give positive"),
        ({"temperature": 0.0}, " has floor 0.02 and temperature 0.0; give positive"),
        ({"by": "colour"}, r"\.by is 'colour'"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, told):
    with pytest.raises(UserError, match=f"SuccessRateCurriculum{told}"):
        SuccessRateCurriculum(**options)
