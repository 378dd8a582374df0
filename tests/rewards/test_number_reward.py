import pytest

from lit_vlm.interfaces.errors import UserError
from lit_vlm.rewards.number_reward import NumberReward


@pytest.mark.parametrize(
    ("reward", "text", "gold", "score"),
    [
        (NumberReward(), "3.140", "3.14", 1),
        (NumberReward(), "1,000", "1000", 1),
        (NumberReward(), "3", "3.0", 1),
        (NumberReward(same_notation=True), "3", "3.0", 0),
        (NumberReward(same_notation=True), "3.00", "3.0", 1),
        (NumberReward("regression"), "9", "12", 0.75),
        (NumberReward("regression"), "30", "12", 0),
        (NumberReward("regression"), "0", "0", 1),
        (NumberReward("mra"), "9", "10", 0.9),
        (NumberReward("mra"), "7", "10", 0.5),
        (NumberReward("mra"), "4", "10", 0),
        (NumberReward("mra"), "0.3", "0", 0.5),
        (NumberReward("mra", strict=True), "9", "10", 0.8),
        (NumberReward("count"), "7", "7", 1),
        (NumberReward("count"), "7.5", "7.5", 0),
        (NumberReward("count_soft"), "7", "9", 0.777778),
        (NumberReward("count_soft"), "1e300", "9", 0),
    ],
)
def test_the_card_s_numbers(scored, reward, text, gold, score):
    assert scored(reward, text, gold) == pytest.approx(score, abs=1e-6)


@pytest.mark.parametrize("kind", ["exact", "regression", "mra", "count", "count_soft"])
def test_what_is_no_single_number_earns_nothing(scored, kind):
    for text in ("", "nan", "inf", "-inf", "5 or 6", "1 2 3 4 5", "five", "1e999999999"):
        assert scored(NumberReward(kind), text, "5") == 0


def test_the_best_of_several_true_numbers_counts(scored):
    assert scored(NumberReward(), "2", "1", accept=("2",)) == 1


def test_a_true_answer_that_is_no_number_names_the_sample(scored):
    with pytest.raises(UserError, match="sample 's': the true answer 'many' is no number"):
        scored(NumberReward(), "5", "many")


def test_an_unknown_kind_is_refused():
    with pytest.raises(UserError, match="kind is 'close'"):
        NumberReward("close")
