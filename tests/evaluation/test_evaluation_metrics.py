import math
from dataclasses import replace

import pytest
import torch

from lit_vlm.evaluation.evaluation_metrics import EvaluationMetrics
from lit_vlm.interfaces.batches import TokenScores
from lit_vlm.interfaces.records import Answer, Completion, RewardOutput, SampleMeta, Verdict


@pytest.fixture
def complete(make_sample):
    def build(task, correct, answer_type="number", formatted=True):
        sample = replace(make_sample("a", "1"), answer=Answer(answer_type, "1"), meta=SampleMeta(category=task))
        return Completion(sample, "prompt", "text", Verdict(correct, "1", formatted))

    return build


def scores(*log_probs, hits=0):
    count = len(log_probs)
    is_top = torch.tensor([index < hits for index in range(count)], dtype=torch.bool)
    return TokenScores(torch.tensor(log_probs), torch.zeros(count, dtype=torch.long), is_top)


def test_the_loss_weighs_tokens_and_not_batches():
    metrics = EvaluationMetrics(["sum"])
    metrics.update_scores(scores(-1.0, -1.0, -1.0, hits=3))
    metrics.update_scores(scores(-5.0))
    figures = metrics.compute()
    assert figures["loss"] == pytest.approx(2.0)  # (1 + 1 + 1 + 5) / 4
    assert figures["perplexity"] == pytest.approx(math.exp(2.0), rel=1e-5)
    assert figures["token_accuracy"] == pytest.approx(0.75)


def test_exact_match_is_told_by_task_and_answer_type(complete):
    metrics = EvaluationMetrics(["sum", "compare", "never"])
    metrics.update_completions(
        [complete("sum", True), complete("sum", False), complete("compare", True, "text", False)]
    )
    figures = metrics.compute()
    assert figures["exact_match"] == pytest.approx(2 / 3)
    assert figures["exact_match_total"] == 3
    assert figures["exact_match/sum"] == 0.5
    assert figures["exact_match_by_type/text"] == 1.0
    assert figures["well_formed"] == pytest.approx(2 / 3)
    assert figures["strict_match"] == pytest.approx(1 / 3)
    assert figures["strict_match/compare"] == 0
    assert figures["strict_match_total"] == 3
    assert figures["exact_match_low"] < 2 / 3 < figures["exact_match_high"]
    assert not any("never" in name for name in figures)


def test_what_was_never_seen_is_left_out(make_sample):
    metrics = EvaluationMetrics(["sum"])
    metrics.update_scores(scores())
    metrics.update_completions([Completion(make_sample("a", "1"), "prompt", "text", None)])
    assert metrics.compute() == {}


def test_a_reset_forgets_everything(complete):
    metrics = EvaluationMetrics(["sum"])
    metrics.update_scores(scores(-1.0))
    metrics.update_completions([complete("sum", True)])
    metrics.reset()
    assert metrics.compute() == {}


def test_rewards_are_averaged_over_completions():
    metrics = EvaluationMetrics(["sum"])
    metrics.update_rewards(RewardOutput(torch.tensor([1.0, 0.0, 0.5])))
    metrics.update_rewards(RewardOutput(torch.tensor([0.5])))
    assert metrics.compute() == {"reward": pytest.approx(0.5), "reward_scored": 1.0}


def test_completions_that_a_reward_does_not_apply_to_are_left_out_of_its_mean_and_counted():
    metrics = EvaluationMetrics(["sum"])
    metrics.update_rewards(RewardOutput.of_scores([1.0, None, 0.0, None]))
    metrics.update_rewards(RewardOutput.of_scores([None]))
    assert metrics.compute() == {"reward": pytest.approx(0.5), "reward_scored": pytest.approx(2 / 5)}
    metrics.reset()
    metrics.update_rewards(RewardOutput.of_scores([None]))
    assert metrics.compute() == {"reward_scored": 0.0}
