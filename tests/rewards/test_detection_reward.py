import json

import pytest

from lit_vlm.interfaces.errors import UserError
from lit_vlm.rewards.detection_reward import DetectionReward

KINDS = ("greedy_iou", "confidence", "weighted", "map", "ap50", "map_length")
GOLD = [(0.0, 0.0, 100.0, 90.0), (205.0, 205.0, 300.0, 300.0), (400.0, 400.0, 450.0, 450.0)]
LABELS = {"labels": ["cat", "Dog", "cat"]}
GIVEN = [([0, 0, 100, 100], "cat"), ([200, 200, 300, 300], "dog"), ([500, 500, 520, 520], "CAT")]


def written(*items, key="bbox_2d"):
    return json.dumps([{key: box, "label": label} for box, label in items])


def confident(*items):
    return json.dumps([{"Position": box, "Confidence": confidence} for box, confidence in items])


@pytest.mark.parametrize(
    ("kind", "score"), [("weighted", 0.620583), ("map", 0.677228), ("ap50", 0.752475), ("map_length", 0.677228)]
)
def test_the_card_s_numbers(scored, kind, score):
    given = scored(DetectionReward(kind), written(*GIVEN), GOLD, type="boxes", extra=LABELS)
    assert given == pytest.approx(score, abs=1e-6)


@pytest.mark.parametrize(
    ("gold", "items", "iou", "confidence"),
    [
        (
            [GOLD[0], GOLD[1], (400.0, 400.0, 500.0, 500.0)],
            [
                ([0, 0, 100, 100], 0.9),
                ([0, 0, 100, 100], 0.5),
                ([200, 200, 300, 300], 0.8),
                ([210, 200, 300, 300], 0.6),
            ],
            0.600833,
            0.7,
        ),
        (
            [(0.0, 0.0, 10.0, 10.0), (20.0, 20.0, 40.0, 40.0)],
            [([0, 0, 10, 9], 0.9), ([50, 50, 60, 60], 0.6), ([20, 20, 40, 36], 0.7)],
            0.566667,
            0.666667,
        ),
    ],
)
def test_visual_rft_s_numbers(scored, gold, items, iou, confidence):
    for kind, score in (("greedy_iou", iou), ("confidence", confidence)):
        assert scored(DetectionReward(kind), confident(*items), gold, type="boxes") == pytest.approx(score, abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_the_true_boxes_earn_all_and_none_nothing(scored, kind):
    perfect = json.dumps([{"bbox_2d": box, "label": label} for box, label in zip(GOLD, LABELS["labels"], strict=True)])
    assert scored(DetectionReward(kind), perfect, GOLD, type="boxes", extra=LABELS) == pytest.approx(1)
    for text in ("", "[]", "no idea", "{}"):
        assert scored(DetectionReward(kind), text, GOLD, type="boxes", extra=LABELS) == 0
    assert scored(DetectionReward(kind), "[]", [], type="boxes") == 1
    assert scored(DetectionReward(kind), written(*GIVEN), [], type="boxes") == 0


@pytest.mark.parametrize("kind", ["greedy_iou", "weighted", "map_length"])
def test_flooding_costs(scored, kind):
    extra = [([x, 0, x + 5, 5], "cat") for x in range(600, 700, 10)]
    few = scored(DetectionReward(kind), written(*GIVEN), GOLD, type="boxes", extra=LABELS)
    many = scored(DetectionReward(kind), written(*GIVEN, *extra), GOLD, type="boxes", extra=LABELS)
    assert many < few


def test_a_wrong_label_stays_matched_without_overlap(scored):
    swapped = [(box, "dog" if label == "cat" else label) for box, label in GIVEN[:1]]
    # One of three true boxes is matched: 0.3 * (1 - (2/3 + 0) / 2).
    given = scored(DetectionReward(), written(*swapped), GOLD, type="boxes", extra=LABELS)
    assert given == pytest.approx(0.3 * (1 - 1 / 3))


def test_a_list_that_was_cut_off_keeps_its_complete_objects(scored):
    cut = written(*GIVEN)[:-30]
    assert scored(DetectionReward("ap50"), cut, GOLD, type="boxes", extra=LABELS) > 0.7


def test_labels_that_do_not_fit_the_boxes_name_the_sample(scored):
    with pytest.raises(UserError, match=r"sample 's' has 3 true boxes and the labels \['cat'\]"):
        scored(DetectionReward(), written(*GIVEN), GOLD, type="boxes", extra={"labels": ["cat"]})
    with pytest.raises(UserError, match="sample 's'.*x1 < x2"):
        scored(DetectionReward(), written(*GIVEN), [(1.0, 1.0, 0.0, 2.0)], type="boxes")


def test_wrong_settings_are_refused():
    with pytest.raises(UserError, match="kind is 'f1'"):
        DetectionReward("f1")
    with pytest.raises(UserError, match="not only 0"):
        DetectionReward(iou_weight=0.0, completeness_weight=0.0)
