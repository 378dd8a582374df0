import pytest

from lit_vlm.interfaces.errors import UserError
from lit_vlm.rewards.interval_reward import IntervalReward


def test_the_card_s_numbers(scored):
    assert scored(IntervalReward(), "10 to 20", (12, 30), type="span") == pytest.approx(0.4)
    assert scored(IntervalReward("recall"), "[0:10, 0:20]", (12, 30), type="span") == pytest.approx(8 / 18)
    assert scored(IntervalReward(), "(0, 5)", (5, 9), type="span") == 0
    assert scored(IntervalReward("recall"), "(0, 5)", (5, 9), type="span") == 0


@pytest.mark.parametrize("kind", ["iou", "recall"])
def test_what_is_no_span_earns_nothing(scored, kind):
    for text in ("", "20 to 10", "5 - 5", "soon", "1 to 2 to 3", "[0, 10] [10, 20]"):
        assert scored(IntervalReward(kind), text, (0, 20), type="span") == 0


def test_a_true_span_without_length_names_the_sample(scored):
    with pytest.raises(UserError, match="sample 's'"):
        scored(IntervalReward(), "1 to 2", (5, 5), type="span")


def test_an_unknown_kind_is_refused():
    with pytest.raises(UserError, match="kind is 'overlap'"):
        IntervalReward("overlap")
