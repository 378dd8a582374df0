import pytest

from lit_vlm.interfaces.errors import UserError
from lit_vlm.rewards.grounding_reward import GroundingReward

GOLD = [(20.0, 20.0, 60.0, 60.0)]


@pytest.mark.parametrize(
    ("kind", "score"), [("iou", 0.5), ("iou_threshold", 1), ("giou", 0.73), ("giou_plus_one", 1.46)]
)
def test_the_card_s_overlap(scored, kind, score):
    for text in ("[10, 10, 50, 60]", '{"bbox_2d": [10, 10, 50, 60]}', "It (the cup) is at [10, 10, 50, 60]."):
        assert scored(GroundingReward(kind), text, GOLD, type="boxes") == pytest.approx(score)


def test_published_giou_and_a_box_far_away(scored):
    gold = [(0.3, 0.1, 0.7, 0.5)]
    given = scored(GroundingReward("giou_plus_one"), "[.1, .1, .5, .5]", gold, type="boxes")
    assert given == pytest.approx(4 / 3)
    far = scored(GroundingReward("giou"), "[0, 0, 10, 10]", [(20.0, 20.0, 30.0, 30.0)], type="boxes")
    assert far == pytest.approx((1 - 0.777778) / 2, abs=1e-6)


@pytest.mark.parametrize("kind", ["iou", "iou_threshold", "giou", "giou_plus_one", "point_in_box"])
def test_what_is_no_box_or_point_earns_nothing(scored, kind):
    for text in ("", "60, 60", "[60, 60, 20, 20]", "[20, 20, 20, 60]", "nowhere", "[1e999, 0, 1, 1]", "[1, 2, 3]"):
        if not (kind == "point_in_box" and text == "60, 60"):
            assert scored(GroundingReward(kind), text, GOLD, type="boxes") == 0


def test_one_point_in_any_true_box(scored):
    reward = GroundingReward("point_in_box")
    several = [*GOLD, (100.0, 100.0, 110.0, 110.0)]
    assert scored(reward, "(105, 110)", several, type="boxes") == 1
    assert scored(reward, '{"point_2d": [30.5, 20]}', GOLD[0], type="point_in_box") == 1
    assert scored(reward, "(61, 30)", GOLD, type="boxes") == 0
    assert scored(reward, "(105, 105) (30, 30)", several, type="boxes") == 0


def test_coordinates_are_brought_into_the_true_space(scored):
    fields = {"type": "boxes", "coords": "pixel", "size": (200, 100)}
    gold = [(20.0, 20.0, 60.0, 60.0)]
    assert scored(GroundingReward(coords="norm1000"), "[100, 200, 300, 600]", gold, **fields) == 1
    assert scored(GroundingReward(coords="norm1"), "[.1, .2, .3, .6]", gold, **fields) == pytest.approx(1)
    assert scored(GroundingReward(coords="pixel"), "[20, 20, 60, 60]", gold, **fields) == 1


@pytest.mark.parametrize(
    ("gold", "told"),
    [([(2.0, 2.0, 1.0, 3.0)], "sample 's'.*x1 < x2"), (GOLD * 2, "sample 's': there are 2 true boxes")],
)
def test_a_true_box_that_cannot_be_used_names_the_sample(scored, gold, told):
    with pytest.raises(UserError, match=told):
        scored(GroundingReward(), "[1, 2, 3, 4]", gold, type="boxes")


def test_wrong_settings_are_refused():
    with pytest.raises(UserError, match="kind is 'diou'"):
        GroundingReward("diou")
    with pytest.raises(UserError, match="threshold is 0"):
        GroundingReward(threshold=0.0)
