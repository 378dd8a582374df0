import logging

import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lit_vlm.callbacks.entropy_monitor import EntropyBonus, EntropyMonitor
from lit_vlm.interfaces.coefficients import Coefficient
from lit_vlm.interfaces.errors import UserError
from tests.callbacks.rollout_fakes import Module, make_iteration, make_rollouts, make_trainer, on_ranks, play

MIXED = [[0.5, 1.0, 1.5, 2.0], [0.25, 0.75], [3.0]]


def flat(entropy):
    """Two completions of the same entropy everywhere."""
    return make_iteration(make_rollouts([[entropy] * 3, [entropy]]))


def start(monitor, **declared):
    trainer, module = make_trainer(), Module(**declared)
    monitor.setup(trainer, module, "fit")
    return trainer, module


def run(monitor, means, trainer=None, module=None):
    if trainer is None:
        trainer, module = start(monitor)
    for mean in means:
        play(monitor, trainer, module, flat(mean))
    return trainer, module


def test_the_figures_are_those_of_all_sampled_tokens():
    monitor = EntropyMonitor(position_bins=2, high_entropy=1.0)
    trainer, module = start(monitor)
    # Two batches of one round: groups were sampled again.
    play(monitor, trainer, module, *(make_iteration(make_rollouts(rows)) for rows in (MIXED[:1], MIXED[1:])))
    assert module.logged.keys() == {
        *(f"entropy/{name}" for name in ("mean", "high_share", "position_00", "position_01")),
        *(f"entropy/quantile_{percent}" for percent in (10, 50, 90)),
    }
    # 9 nats over 7 tokens; above 1 are 1.5, 2 and 3.
    assert module.logged["entropy/mean"] == pytest.approx(9 / 7)
    assert module.logged["entropy/high_share"] == pytest.approx(3 / 7)
    # The first halves are 0.5, 1; 0.25; 3 (alone, it is at the beginning). The second 1.5, 2; 0.75.
    assert module.logged["entropy/position_00"] == pytest.approx(4.75 / 4)
    assert module.logged["entropy/position_01"] == pytest.approx(4.25 / 3)
    # The fourth of 0.25, 0.5, 0.75, 1, 1.5, 2, 3.
    assert module.logged["entropy/quantile_50"] == pytest.approx(1.0, rel=0.02)


def test_bins_of_tokens_show_what_there_is():
    monitor = EntropyMonitor(positions="absolute", position_bins=4, position_tokens=2)
    trainer, module = start(monitor)
    play(monitor, trainer, module, make_iteration(make_rollouts(MIXED)))
    shown = {name: value for name, value in module.logged.items() if "position" in name}
    # 0.5, 1, 0.25, 0.75, 3 and 1.5, 2; nothing is longer.
    assert shown == {"entropy/position_00": pytest.approx(1.1), "entropy/position_01": pytest.approx(1.75)}


def test_two_ranks_log_the_same_as_one():
    def run(rows):
        def work(rank, make):
            monitor, trainer, module = EntropyMonitor(calibration_rounds=1), make(), Module()
            monitor.setup(trainer, module, "fit")
            for _ in range(2):
                play(monitor, trainer, module, make_iteration(make_rollouts(rows[rank])))
            assert trainer.strategy.calls == (0 if len(rows) == 1 else 2)
            return module.logged, monitor.state_dict()

        return on_ranks(len(rows), work)

    ((logged, state),) = run([MIXED])
    # Cut in two, and all on one of the ranks.
    for rows in ([MIXED[:1], MIXED[1:]], [[], MIXED]):
        for other, other_state in run(rows):
            assert other == pytest.approx(logged)
            assert torch.equal(other_state["beginning"], state["beginning"])
            assert other_state["high_entropy"] == state["high_entropy"]
            assert other_state["floor"] == pytest.approx(state["floor"])


def test_the_threshold_is_that_of_the_runs_beginning():
    monitor = EntropyMonitor(high_entropy_share=0.25, calibration_rounds=2)
    trainer, module = start(monitor)
    for entropies in ([0.1, 0.2], [0.3, 4.0]):
        play(monitor, trainer, module, make_iteration(make_rollouts([entropies])))
        assert "entropy/high_share" not in module.logged
    # Three quarters of the four tokens are at most 0.3.
    assert monitor.high_entropy == pytest.approx(0.3, rel=0.021)
    play(monitor, trainer, module, make_iteration(make_rollouts([[0.1, 0.1, 0.1, 1.0]])))
    assert module.logged["entropy/high_share"] == 0.25


def test_a_collapse_is_told_once_after_enough_rounds_in_a_row(caplog):
    monitor = EntropyMonitor(floor=0.5, patience=2)
    with caplog.at_level(logging.WARNING):
        trainer, module = run(monitor, [0.4, 0.6, 0.4])
        assert caplog.messages == []
        run(monitor, [0.4, 0.3], trainer, module)
    (message,) = caplog.messages
    assert message.startswith("the policy's mean entropy is 0.4 nats, below the floor of 0.5 for 2 rounds in a row")
    assert not trainer.should_stop


def test_a_collapse_stops_training_where_it_is_to(caplog):
    monitor = EntropyMonitor(calibration_rounds=2, floor_share=0.5, patience=2, stop=True)
    # The first rounds' mean is 1.5, so the floor 0.75.
    trainer, module = run(monitor, [1.0, 2.0, 0.7])
    assert not trainer.should_stop
    run(monitor, [0.7], trainer, module)
    assert trainer.should_stop
    assert caplog.messages[-1].startswith("training stops: the policy's mean entropy is 0.7 nats")


def test_the_bonus_grows_under_the_target_and_falls_above_it():
    bonus = EntropyBonus(target=1.0, rate=0.004, highest=0.01)
    monitor = EntropyMonitor(bonus=bonus)
    trainer, module = start(monitor, entropy_bonus=Coefficient(0.0, 0.0, 0.02))
    seen = []
    for mean in (0.5, 0.0, 0.0, 0.0, 1.0, 1.25, 9.0, 9.0, 9.0):
        run(monitor, [mean], trainer, module)
        seen.append(module.coefficients["entropy_bonus"])
    assert seen == pytest.approx([0.002, 0.006, 0.01, 0.01, 0.01, 0.009, 0.005, 0.001, 0.0])


def test_a_bonus_that_the_module_does_not_allow_fails_before_training():
    monitor = EntropyMonitor(bonus=EntropyBonus(target=1.0, highest=0.5))
    with pytest.raises(UserError, match=r"EntropyMonitor.bonus turns .*'entropy_bonus'.*highest_entropy_bonus"):
        start(monitor)
    with pytest.raises(
        UserError, match=r"from 0 to 0.5, but the module allows \[0, 0.1\]; raise objective.highest_ent"
    ):
        start(monitor, entropy_bonus=Coefficient(0.0, 0.0, 0.1))


def test_a_resumed_run_goes_on_as_the_uninterrupted_one():
    def make():
        return EntropyMonitor(calibration_rounds=4, floor_share=0.5, patience=3, stop=True)

    means = [1.0, 2.0, 3.0, 2.0, 0.9, 0.8, 0.7]
    whole, first, again = make(), make(), make()
    _, expected = run(whole, means)
    # Batches of a round that the checkpoint cuts short are sampled again.
    trainer, module = run(first, means[:3])
    first.on_after_rollout(trainer, module, flat(50.0))
    trainer, module = start(again)
    again.load_state_dict(first.state_dict())
    run(again, means[3:], trainer, module)
    assert module.logged == expected.logged
    assert trainer.should_stop
    states = [monitor.state_dict() for monitor in (whole, again)]
    assert torch.equal(states[0].pop("beginning"), states[1].pop("beginning"))
    assert (
        states[0] == states[1] == {"rounds": 7, "low_rounds": 3, "high_entropy": states[0]["high_entropy"], "floor": 1}
    )


def test_options_given_anew_win_over_the_checkpoint():
    first = EntropyMonitor(calibration_rounds=1)
    run(first, [1.0])
    again = EntropyMonitor(floor=0.3, high_entropy=0.7)
    again.load_state_dict(first.state_dict())
    assert (again.floor, again.high_entropy) == (0.3, 0.7)


def test_a_round_without_completions_says_nothing():
    monitor = EntropyMonitor()
    trainer, module = start(monitor)
    play(monitor, trainer, module, make_iteration())
    assert module.logged == {}
    assert monitor.rounds == 0


def test_an_engine_without_entropies_is_refused():
    monitor, rollouts = EntropyMonitor(), make_rollouts([[1.0]])
    rollouts.entropies = None
    with pytest.raises(UserError, match="needs entropies, which this rollout engine does not tell"):
        play(monitor, make_trainer(), Module(), make_iteration(rollouts))


def test_tensorboard_gets_the_histogram_of_all_tokens(tmp_path):
    board = TensorBoardLogger(tmp_path)
    monitor = EntropyMonitor(histogram_every_n_rounds=2)
    trainer, module = start(monitor)
    trainer.loggers = [board]
    for _ in range(4):
        play(monitor, trainer, module, make_iteration(make_rollouts(MIXED)))
    board.experiment.flush()
    events = EventAccumulator(board.log_dir, size_guidance={"histograms": 0}).Reload()
    shown = events.Histograms("entropy/tokens")
    assert [event.step for event in shown] == [1, 3]
    values = shown[0].histogram_value
    assert (values.num, values.sum) == (7, 9)
    assert sum(values.bucket) == 7
    assert values.bucket_limit[-1] == pytest.approx(3.0, rel=0.03)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"positions": "both"}, "positions is 'both'"),
        ({"position_bins": 0}, "position_bins is 0; give at least 1"),
        ({"position_tokens": 0}, "position_tokens is 0"),
        ({"calibration_rounds": 0}, "calibration_rounds is 0"),
        ({"patience": 0}, "patience is 0"),
        ({"floor": -1.0}, "floor is -1.0; give nats"),
        ({"high_entropy": float("inf")}, "high_entropy is inf"),
        ({"high_entropy_share": 1.0}, "high_entropy_share 1.0 and floor_share 0.1"),
        ({"floor_share": 1.0}, "high_entropy_share 0.2 and floor_share 1.0"),
        ({"histogram_every_n_rounds": -1}, "histogram_every_n_rounds is -1"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, told):
    with pytest.raises(UserError, match=rf"EntropyMonitor(\.| has ){told}"):
        EntropyMonitor(**options)


@pytest.mark.parametrize("options", [{"target": 0.0}, {"rate": -1.0}, {"lowest": 0.01}, {"highest": float("inf")}])
def test_a_bonus_that_makes_no_sense_is_refused(options):
    with pytest.raises(UserError, match="bonus has"):
        EntropyBonus(**{"target": 1.0, **options})
