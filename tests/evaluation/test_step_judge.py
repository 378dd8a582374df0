import pytest

from lit_vlm.evaluation.step_judge import StepJudge, compare_steps, error_group, verdict_of_steps
from lit_vlm.interfaces.critiques import StepLabel

GOLD = tuple(
    StepLabel(f"step {number}", bool(right), kind)
    for number, (right, kind) in enumerate([(1, None), (1, None), (0, "reasoning"), (0, "knowledge")], 1)
)
PREDICTED = tuple(
    StepLabel("", bool(right), kind) for right, kind in [(1, None), (0, "reasoning"), (0, "reasoning"), (1, None)]
)


def labels(*right):
    return tuple(StepLabel("", bool(label), None if label else "reasoning") for label in right)


def test_the_check_of_the_card_is_reproduced():
    agreement = compare_steps(PREDICTED, GOLD)
    assert agreement.step_accuracy == 0.5  # steps 1 and 3
    assert agreement.types == (("reasoning", True), ("knowledge", False))  # 0.5
    assert not agreement.first_wrong  # 2 instead of 3


def test_steps_that_are_missing_are_wrong_and_those_beyond_are_ignored():
    assert compare_steps(labels(1, 1), GOLD).agreed == (True, True, False, False)
    assert compare_steps(labels(1, 1, 0, 0, 0, 0), GOLD) == compare_steps(labels(1, 1, 0, 0), GOLD)


def test_unreadable_labels_are_wrong_at_every_step():
    agreement = compare_steps(None, GOLD)
    assert agreement.agreed == (False,) * 4
    assert [found for _, found in agreement.types] == [False, False]
    assert not agreement.first_wrong


def test_the_first_error_may_be_found_before_the_list_breaks_off():
    assert compare_steps(labels(1, 1, 0), GOLD).first_wrong
    assert not compare_steps(labels(1, 1), GOLD).first_wrong


def test_that_nothing_is_wrong_takes_a_word_on_every_step():
    assert compare_steps(labels(1, 1, 1), labels(1, 1, 1)).first_wrong
    assert not compare_steps(labels(1, 1), labels(1, 1, 1)).first_wrong
    assert not compare_steps(labels(1, 0, 1), labels(1, 1, 1)).first_wrong
    assert compare_steps(labels(1, 1, 1, 0), labels(1, 1, 1)).first_wrong


def test_errors_of_no_known_kind_are_not_compared_by_kind():
    true = (StepLabel("", False, None), StepLabel("", False, "typing"), StepLabel("", False, "Knowledge Error"))
    assert compare_steps(labels(0, 0, 0), true).types == (("knowledge", False),)


def test_nothing_can_be_compared_with_no_steps():
    with pytest.raises(ValueError, match="no true label"):
        compare_steps(labels(1), ())


@pytest.mark.parametrize(
    ("judged", "count", "verdict"),
    [
        ((1, 1), None, "right"),
        ((1, 0), None, "wrong"),
        ((1, 1), 2, "right"),
        ((1, 1), 3, None),
        ((1, 0), 3, "wrong"),
        ((1, 1, 0), 2, "right"),
        ((), None, None),
    ],
)
def test_a_verdict_follows_from_labels_where_they_say_enough(judged, count, verdict):
    assert verdict_of_steps(labels(*judged), count) == verdict


def test_a_solution_belongs_to_the_kind_of_its_first_error():
    assert error_group(GOLD) == "reasoning"
    assert error_group(labels(1, 1)) == "right"
    assert error_group((StepLabel("", False, "visual interpretation"),)) == "visual_interpretation"
    assert error_group((StepLabel("", False),)) == "unnamed"


def test_figures_are_shares_over_all_steps():
    judge = StepJudge()
    judge.update(PREDICTED, GOLD)
    judge.update(labels(1, 1), labels(1, 1))
    figures = judge.compute()
    assert figures["step_accuracy"] == pytest.approx(4 / 6)
    assert figures["step_accuracy_total"] == 6
    assert figures["error_type_accuracy"] == 0.5
    assert figures["error_type_accuracy/reasoning"] == 1
    assert figures["error_type_accuracy/knowledge"] == 0
    judge.reset()
    assert judge.compute() == {}
