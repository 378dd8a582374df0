import math

import pytest
import torch

from lit_vlm.callbacks.curriculum import Curriculum
from lit_vlm.interfaces.coefficients import Coefficient
from lit_vlm.interfaces.errors import UserError
from tests.callbacks.rollout_fakes import Data, Module, make_iteration, make_rollouts, make_trainer, on_ranks, play

NAN = math.nan


class Hardest(Curriculum):
    """Draws each arm by how often it failed, and leaves out those that never do."""

    def __init__(self, by="category", **options):
        super().__init__(by, **options)

    def probabilities(self, step):
        failures = 1 - self.success_rates(prior=0.0)
        return {arm: failure for arm, failure in self.by_arm(failures).items() if failure > 0}


def start(curriculum, trainer=None, module=None, **arms):
    trainer = trainer or make_trainer()
    trainer.datamodule = trainer.datamodule or Data(**(arms or {"read": 3, "sum": 2, "max": 1}))
    module = module or Module()
    curriculum.setup(trainer, module, "fit")
    curriculum.on_fit_start(trainer, module)
    return trainer, module


def tried(*pairs, rewards=None, by="category"):
    """A round of attempts: (arm, whether it was right)."""
    arms, correct = [arm for arm, _ in pairs], [right for _, right in pairs]
    return make_iteration(make_rollouts(arms=arms, correct=correct, by=by), rewards=rewards)


def same_state(first, second):
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]) if isinstance(value, torch.Tensor) else value == second[name], name


def test_attempts_are_counted_by_arm_and_steer_the_data():
    curriculum = Hardest(smoothing=0.5)
    trainer, module = start(curriculum)
    data = trainer.datamodule
    assert data.calls == [("category", {"read": 1.0, "sum": 1.0, "max": 1.0})]
    play(curriculum, trainer, module, tried(("read", True), ("sum", False), ("read", False), ("max", None)))
    assert curriculum.attempts.tolist() == [2, 1, 0]
    assert curriculum.successes.tolist() == [1, 0, 0]
    # Averages that begin at 0: 0.5 * 0.5, 0.5 * 0.
    assert data.calls[1:] == [("category", {"read": 0.75, "sum": 1.0, "max": 1.0})]
    assert module.logged == pytest.approx(
        {
            "curriculum/arms_tried": 2 / 3,
            "curriculum/effective_arms": 3.0,
            "curriculum/read": 1 / 3,
            "curriculum/sum": 1 / 3,
            "curriculum/max": 1 / 3,
            "curriculum/success/read": 0.5,
            "curriculum/success/sum": 0.0,
        }
    )


def test_the_data_are_steered_only_where_something_changed():
    curriculum = Hardest()
    trainer, module = start(curriculum)
    play(curriculum, trainer, module, tried(("sum", False)))
    play(curriculum, trainer, module, tried(("max", None), ("read", False)))
    assert len(trainer.datamodule.calls) == 1
    play(curriculum, trainer, module, tried(("sum", True)))
    assert len(trainer.datamodule.calls) == 2


def test_steering_can_wait_for_some_rounds():
    curriculum = Hardest(every_n_rounds=2)
    trainer, module = start(curriculum)
    for calls in (1, 2, 2, 3):
        play(curriculum, trainer, module, tried(("sum", True)))
        assert len(trainer.datamodule.calls) == calls


def test_success_rates_are_moving_averages_of_rounds():
    curriculum = Hardest(smoothing=0.5)
    trainer, module = start(curriculum)
    assert all(map(math.isnan, curriculum.success_rates().tolist()))
    for round_ in ([True], [True, False, False, False]):
        play(curriculum, trainer, module, tried(("max", True), *(("sum", right) for right in round_)))
    # Means of 1 and 0.25. From a prior of 0.5: 0.75, then 0.5. From nothing: (0.5 * 0.5 * 1 + 0.5 * 0.25) / 0.75.
    assert curriculum.success_rates(prior=0.5).tolist() == pytest.approx([0.5, 0.5, 0.875])
    assert curriculum.success_rates().tolist() == pytest.approx([NAN, 0.5, 1.0], nan_ok=True)
    # Rounds that do not try an arm leave it alone.
    before = curriculum.success_rates(0.5)[1:]
    play(curriculum, trainer, module, tried(("read", False)))
    assert torch.equal(curriculum.success_rates(0.5)[1:], before)


def test_a_round_may_take_several_batches_and_counts_once():
    batches = [tried(("sum", True)), tried(("sum", False), ("read", True))]
    parts, whole = Hardest(), Hardest()
    play(parts, *start(parts), *batches)
    play(whole, *start(whole), tried(("sum", True), ("sum", False), ("read", True)))
    same_state(parts.state_dict(), whole.state_dict())
    assert parts.rounds == 1


def test_two_ranks_know_what_one_would():
    attempts = [("sum", True), ("read", False), ("sum", False), ("max", True)]

    def run(parts):
        def work(rank, make):
            curriculum = Hardest()
            trainer, module = start(curriculum, make())
            for _ in range(2):
                play(curriculum, trainer, module, tried(*parts[rank]))
            assert trainer.strategy.calls == (0 if len(parts) == 1 else 2)
            return curriculum.state_dict(), trainer.datamodule.calls, module.logged

        return on_ranks(len(parts), work)

    ((state, calls, logged),) = run([attempts])
    for parts in ([attempts[:1], attempts[1:]], [[], attempts]):
        for other_state, other_calls, other_logged in run(parts):
            same_state(other_state, state)
            assert other_calls == calls
            assert other_logged == logged


@pytest.mark.parametrize("every", [1, 3])
def test_a_resumed_run_steers_as_the_uninterrupted_one(every):
    rounds = [tried((arm, place % 3 == 0)) for place, arm in enumerate(["sum", "read", "max", "sum", "sum", "read"])]
    whole, first, again = (Hardest(every_n_rounds=every) for _ in range(3))
    trainer, module = start(whole)
    for iteration in rounds:
        play(whole, trainer, module, iteration)
    expected = trainer.datamodule.calls
    trainer, module = start(first)
    for iteration in rounds[:4]:
        play(first, trainer, module, iteration)
    # Batches of a round that the checkpoint cuts short are sampled again.
    first.on_after_rewards(trainer, module, rounds[4])
    in_force = trainer.datamodule.calls[-1]

    trainer, module = make_trainer(data=Data(read=3, sum=2, max=1)), Module()
    again.setup(trainer, module, "fit")
    again.load_state_dict(first.state_dict())
    again.on_fit_start(trainer, module)
    trainer.global_step = 4
    resumed = trainer.datamodule.calls
    weights = [resumed[0][1][arm] for arm in ("read", "sum", "max")]
    assert weights == [in_force[1].get(arm, 0.0) for arm in ("read", "sum", "max")]
    for iteration in rounds[4:]:
        play(again, trainer, module, iteration)
    same_state(again.state_dict(), whole.state_dict())
    assert resumed[-1] == expected[-1]


def test_a_state_that_comes_late_steers_at_once():
    first, again = Hardest(), Hardest()
    trainer, module = start(first)
    play(first, trainer, module, tried(("sum", True)))
    wanted = trainer.datamodule.calls[-1]
    trainer, _ = start(again)
    again.load_state_dict(first.state_dict())
    assert trainer.datamodule.calls[-1] == wanted


def test_a_state_of_other_arms_is_refused():
    first, again = Hardest(), Hardest()
    start(first)
    start(again, read=3, sum=2)
    with pytest.raises(UserError, match=r"checkpoint's Hardest knows 3 arms, which are not the 2 of the data"):
        again.load_state_dict(first.state_dict())


def test_a_reward_may_be_the_success():
    curriculum = Hardest(success="task")
    trainer, module = start(curriculum, module=Module(**{"reward/task": Coefficient(1.0)}))
    play(curriculum, trainer, module, tried(("sum", None), ("sum", True), ("max", None), rewards=[0.25, 0.5, NAN]))
    assert curriculum.attempts.tolist() == [0, 2, 0]
    assert curriculum.successes.tolist() == [0, 0.75, 0]
    with pytest.raises(UserError, match=r"Hardest.success is 'task', which gives s 1.5; a success lies in \[0, 1\]"):
        play(curriculum, trainer, module, tried(("sum", None), rewards=[1.5]))


def test_a_reward_that_is_not_there_is_refused():
    with pytest.raises(UserError, match=r"Hardest.success is 'tasks'; give correct or a reward: format, task"):
        start(
            Hardest(success="tasks"),
            module=Module(**{f"reward/{name}": Coefficient(1.0) for name in ("format", "task")}),
        )
    curriculum = Hardest(success="tasks")
    trainer, module = start(curriculum)
    with pytest.raises(UserError, match=r"Hardest.success is 'tasks'; give correct or a reward: task"):
        play(curriculum, trainer, module, tried(("sum", True)))


def test_samples_without_answers_need_another_success():
    curriculum = Hardest()
    trainer, module = start(curriculum)
    with pytest.raises(UserError, match=r"no success or failure \(correct\) in the first round's 2 completions"):
        play(curriculum, trainer, module, tried(("sum", None), ("max", None)))


def test_no_completions_at_all_are_no_fault():
    curriculum = Hardest()
    trainer, module = start(curriculum)
    play(curriculum, trainer, module, tried())
    assert curriculum.rounds == 1
    assert "curriculum/success/sum" not in module.logged


def test_many_arms_are_summed_up_in_the_log():
    arms = {f"s{number:04d}": 1 for number in range(2000)}
    curriculum = Hardest("sample")
    trainer, module = start(curriculum, **arms)
    play(curriculum, trainer, module, tried(("s0007", True), ("s0009", False), by="sample"))
    assert module.logged == {"curriculum/arms_tried": 0.001, "curriculum/effective_arms": pytest.approx(2000)}


def test_data_that_cannot_be_steered_fail_before_training():
    with pytest.raises(UserError, match=r"Hardest steers which samples are drawn, but there is no DataModule; give"):
        Hardest().setup(make_trainer(), Module(), "fit")
    with pytest.raises(UserError, match=r"but Strategy cannot; give data with arms and steer"):
        Hardest().setup(make_trainer(data=make_trainer().strategy), Module(), "fit")
    with pytest.raises(UserError, match=r"draws by category, of which the data have 1 \(sum\); it needs two"):
        start(Hardest(), sum=3)
    Hardest().setup(make_trainer(), Module(), "validate")


def test_an_unknown_arm_is_told():
    curriculum = Hardest()
    trainer, module = start(curriculum)
    with pytest.raises(UserError, match="s belongs to the category 'min', which the DataModule does not list"):
        play(curriculum, trainer, module, tried(("min", True)))


def test_a_member_that_draws_unknown_arms_is_told():
    class Wrong(Hardest):
        def probabilities(self, step):
            return {"min": 1.0}

    with pytest.raises(UserError, match="Wrong draws 'min', which the DataModule does not list"):
        start(Wrong())


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"by": "colour"}, "by is 'colour'; it must be one of category, difficulty, sample"),
        ({"smoothing": 0.0}, r"smoothing is 0.0; it must lie in \(0, 1\]"),
        ({"every_n_rounds": 0}, "every_n_rounds is 0; give at least 1"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, told):
    with pytest.raises(UserError, match=f"Hardest.{told}"):
        Hardest(**options)
