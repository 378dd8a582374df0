from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from lit_vlm.interfaces.records import Verdict
from lit_vlm.interfaces.rollouts import Rollouts
from lit_vlm.paradigms.rollout_figures import log_distributions, rollout_figures
from tests.advantages.material import alone, make_rewards, make_rollouts


def judged():
    """Three completions, two of them with a verdict, one truncated."""
    rollouts = make_rollouts([1, 3, 2], [0, 0, 1])
    verdicts = [Verdict(True, "7", True), Verdict(False, None, True), None]
    completions = [replace(item, verdict=verdict) for item, verdict in zip(rollouts.completions, verdicts, strict=True)]
    return replace(
        rollouts,
        completions=tuple(completions),
        is_truncated=torch.tensor([False, True, False]),
        entropies=torch.tensor([[1.0, 9, 9], [1, 2, 3], [2, 3, 9]]),
        seconds={"decode": 0.5},
    )


def test_figures_of_completions():
    figures = rollout_figures(judged(), make_rewards([1.0, 0, torch.nan]), alone)
    assert figures["completion_length"] == 2
    assert figures["truncated"] == pytest.approx(1 / 3)
    assert figures["correct"] == 0.5
    assert figures["well_formed"] == 1
    assert figures["entropy"] == 2
    assert figures["reward/mean"] == 0.5
    assert figures["reward/missing"] == pytest.approx(1 / 3)
    assert figures["seconds/decode"] == 0.5


def test_two_ranks_of_the_same_have_the_same_means():
    rewards = make_rewards([1.0, 0, 0.5])
    one = rollout_figures(judged(), rewards, alone)
    two = rollout_figures(judged(), rewards, lambda sums: sums * 2)
    for name in ("completion_length", "truncated", "correct", "entropy", "reward/mean"):
        assert two[name] == one[name]


def test_of_no_completions_nothing_is_told():
    nothing = Rollouts.none(make_rollouts([1], [0]).prompts)
    rewards = make_rewards(torch.zeros(0, 1))
    assert rollout_figures(nothing, rewards, alone) == {}


class Writer:
    def __init__(self):
        self.written = {}

    def add_histogram(self, name, values, step):
        self.written[name] = (values.tolist(), step)


def trainer(writer, batches=0, rank_zero=True):
    loop = SimpleNamespace(epoch_loop=SimpleNamespace(_batches_that_stepped=batches))
    return SimpleNamespace(
        logger=SimpleNamespace(experiment=writer) if writer else None,
        is_global_zero=rank_zero,
        fit_loop=loop,
        log_every_n_steps=2,
        global_step=6,
    )


def test_distributions_are_written_where_the_logger_takes_them():
    writer, rewards = Writer(), make_rewards([1.0, 0, torch.nan])
    log_distributions(trainer(writer), rewards, judged())
    assert writer.written == {
        "distribution/reward": ([1, 0], 6),
        "distribution/reward/a": ([1, 0], 6),
        "distribution/completion_length": ([1, 3, 2], 6),
    }
    for other in (trainer(None), trainer(SimpleNamespace()), trainer(silent := Writer(), batches=1)):
        log_distributions(other, rewards, judged())
    log_distributions(trainer(silent, rank_zero=False), rewards, judged())
    assert silent.written == {}
