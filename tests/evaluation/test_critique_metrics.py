import pytest

from lit_vlm.evaluation.critique_metrics import CritiqueMetrics
from lit_vlm.interfaces.critiques import Critique, StepLabel
from lit_vlm.interfaces.records import Answer, Completion, Sample, Verdict, assistant_message, user_message

SEEN = StepLabel("i see 2 and 3.", True)
SUM = StepLabel("2 + 3 = 6.", False, "numerical calculation")
WRONG, RIGHT = "Step 2 is wrong. Conclusion: wrong [END]", "Conclusion: right [END]"


def completion(text, verdict=None, steps=(), written=None):
    turns = () if written is None else (assistant_message(written),)
    critique = Critique("2 + 3?", "a solution", verdict=verdict, steps=tuple(steps))
    return Completion(Sample("s", (user_message("Is it right?"), *turns), critique=critique), "prompt", text, None)


def figures(*completions):
    metrics = CritiqueMetrics()
    metrics.update(completions)
    return metrics.compute()


def test_unreadable_verdicts_are_wrong_and_their_share_is_told():
    found = figures(
        completion(WRONG, "wrong"), completion(RIGHT, "right"), completion("hm", "right"), completion(WRONG, "right")
    )
    assert found["verdict_accuracy"] == 0.5
    assert found["verdict_accuracy_total"] == 4
    assert found["verdict_accuracy_low"] < 0.5 < found["verdict_accuracy_high"]
    assert found["verdict_unreadable"] == 0.25
    assert found["verdict_accuracy/right"] == pytest.approx(1 / 3)
    assert found["verdict_accuracy/wrong"] == 1
    assert "first_wrong_step_accuracy" not in found
    assert "step_accuracy" not in found


def test_figures_come_by_kind_of_the_first_error():
    found = figures(
        completion(WRONG, "wrong", [SEEN, SUM], written=WRONG),
        completion(RIGHT, "wrong", [StepLabel("i see 9.", False, "visual interpretation"), SUM], written=WRONG),
        completion(RIGHT, "right", [SEEN, SEEN], written=RIGHT),
        completion(WRONG, "wrong"),
    )
    assert found["verdict_accuracy/numerical_calculation"] == 1
    assert found["verdict_accuracy/visual_interpretation"] == 0
    assert found["verdict_accuracy/unnamed"] == 1
    assert found["verdict_accuracy/wrong_total"] == 3
    assert found["first_wrong_step_accuracy"] == pytest.approx(2 / 3)
    assert found["first_wrong_step_accuracy/right"] == 1
    assert found["first_wrong_step_accuracy/numerical_calculation"] == 1
    assert "step_accuracy" not in found  # these critiques label no steps


def test_labels_of_steps_are_counted_where_they_are_asked_for():
    text = '[{"step": 1, "correct": 1}, {"step": 2, "correct": 0, "error_type": "reasoning"}]'
    found = figures(completion(text, None, [SEEN, SUM]), completion("no list", None, [SEEN, SUM]))
    assert found["verdict_accuracy"] == 0.5  # the truth follows from the labels
    assert found["step_accuracy"] == 0.5
    assert found["step_accuracy_total"] == 4
    assert found["error_type_accuracy"] == 0
    assert found["first_wrong_step_accuracy"] == 0.5


def test_solved_samples_and_unknown_truths_do_not_count():
    solved = Completion(
        Sample("q", (user_message("2 + 3?"),), answer=Answer("number", "5")), "prompt", "5", Verdict(True, "5", True)
    )
    assert figures(solved, completion(WRONG)) == {}


def test_figures_are_forgotten_at_a_reset():
    metrics = CritiqueMetrics()
    metrics.update([completion(WRONG, "wrong", [SEEN, SUM])])
    metrics.reset()
    assert metrics.compute() == {}


def test_all_counters_are_sums_over_ranks():
    # What torchmetrics adds up over ranks are the registered states.
    metrics = CritiqueMetrics()
    reduced = {
        name
        for metric in (metrics.judged, metrics.unreadable, metrics.steps.shares)
        for name, reduction in metric._reductions.items()
        if reduction.__name__ == "dim_zero_sum"
    }
    assert reduced == {"correct", "total"}
