import pytest

from lit_vlm.interfaces.errors import UserError
from lit_vlm.rewards.math_reward import MathReward

PATIENT = MathReward(timeout=60.0)


@pytest.mark.parametrize(
    ("gold", "text", "reward"),
    [
        (r"\frac{1}{3}", r"so \boxed{\frac{1}{3}}", 1),
        ("0.5", r"\boxed{\frac12}", 1),
        ("1,234", r"\boxed{1234}", 1),
        ("(1,2)", r"\boxed{(1, 2)}", 1),
        ("(1,2)", "<answer>(2,1)</answer>", 0),
        (r"\{1,2\}", r"\boxed{\{2,1\}}", 1),
        ("3", r"\boxed{4} then \boxed{3}", 1),
        ("x=3", r"\boxed{3}", 1),
        ("120", r"<think>\boxed{7}</think><answer>120^\circ</answer>", 1),
        ("-5", r"\boxed{5}", 0),
        ("7", r"\boxed{7", 0),
        ("5", "<think>5</think>", 0),
        ("2", "The answer is $2$.", 0),
        ("4", r"\boxed{4} then \boxed{3}", 0),
        ("5", "<answer></answer>", 0),
    ],
)
def test_the_card_s_table(scored, gold, text, reward):
    assert scored(PATIENT, text, gold, tagged=False) == reward


@pytest.mark.parametrize("text", ["1 2 3 4 5", "1, 2, 3", "1 or 2 or 3", r"\{1, 2, 3\}", "$1$ $2$ $3$"])
def test_listing_all_candidates_earns_nothing(scored, text):
    assert [scored(PATIENT, text, gold, type="number") for gold in "123"] == [0, 0, 0]


def test_a_bomb_is_stopped_and_counted(complete):
    output = MathReward(timeout=0.5)([complete(f"<answer>{'9^' * 8}9</answer>", "5"), complete("\\boxed{5}", "5")])
    assert output.total.tolist() == [0, 1]
    assert output.details["stopped"].tolist() == [1, 0]


def test_other_accepted_answers_count(scored):
    assert scored(PATIENT, "half", "0.5", accept=("half",)) == 1


def test_a_true_number_that_cannot_be_read_names_the_sample(scored):
    with pytest.raises(UserError, match=r"sample 'odd'.*cannot be read as a number"):
        scored(PATIENT, "5", r"\frac{", type="number", sample_id="odd")
    with pytest.raises(UserError, match="sample 's' has no answer"):
        scored(PATIENT, "5", None)


def test_a_timeout_that_is_not_above_zero_is_refused():
    with pytest.raises(UserError, match="timeout is 0"):
        MathReward(timeout=0)
