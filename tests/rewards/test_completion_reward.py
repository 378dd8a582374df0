"""What a single answer is, and what holds for every reward that scores completions one by one."""

import math
import random
import time

import pytest

from lit_vlm.interfaces.errors import UserError
from lit_vlm.parsing.ground_truth import true_letter
from lit_vlm.rewards.answer_correctness import AnswerCorrectness
from lit_vlm.rewards.choice_reward import ChoiceReward
from lit_vlm.rewards.class_name_reward import ClassNameReward
from lit_vlm.rewards.completion_reward import answer_text, gold_answer, gold_value
from lit_vlm.rewards.detection_reward import DetectionReward
from lit_vlm.rewards.format_reward import FormatReward
from lit_vlm.rewards.grounding_reward import GroundingReward
from lit_vlm.rewards.interval_reward import IntervalReward
from lit_vlm.rewards.length_reward import CosineLengthReward, SoftOverlongReward
from lit_vlm.rewards.math_reward import MathReward
from lit_vlm.rewards.number_reward import NumberReward
from lit_vlm.rewards.text_overlap_reward import TextOverlapReward

BOXES = {"value": [(0.0, 0.0, 4.0, 4.0)], "type": "boxes"}
TEXT = {"value": "a red fox"}
NUMBER = {"value": "5", "type": "number"}
# Each reward with a sample's answer, the answer's text, and its range.
REWARDS = [
    *((FormatReward(kind), TEXT, "a red fox", 0, 1) for kind in ("strict", "lenient", "think_only", "boxed")),
    *((ChoiceReward(mode), {"value": "B", "type": "choice"}, "B", 0, 1) for mode in ("robust", "first_char", "exact")),
    (MathReward(), NUMBER, "5", 0, 1),
    *((NumberReward(kind), NUMBER, "5", 0, 1) for kind in ("exact", "regression", "mra", "count", "count_soft")),
    *(
        (TextOverlapReward(kind), TEXT, "a red fox", 0, 1)
        for kind in ("ocr_wer", "char_similarity", "anls", "token_f1", "exact_match")
    ),
    *((ClassNameReward(mode), TEXT, "a red fox", 0, 1) for mode in ("equal", "contains")),
    *((GroundingReward(kind), BOXES, "[0, 0, 4, 4]", 0, 1) for kind in ("iou", "iou_threshold", "giou")),
    (GroundingReward("giou_plus_one"), BOXES, "[0, 0, 4, 4]", 0, 2),
    (GroundingReward("point_in_box"), BOXES, "(1, 1)", 0, 1),
    *(
        (DetectionReward(kind), BOXES, '[{"bbox_2d": [0, 0, 4, 4]}]', 0, 1)
        for kind in ("greedy_iou", "confidence", "weighted", "map", "ap50", "map_length")
    ),
    *((IntervalReward(kind), {"value": (1, 5), "type": "span"}, "1 to 5", 0, 1) for kind in ("iou", "recall")),
    (SoftOverlongReward(64, 16), TEXT, "", -1, 0),
    (CosineLengthReward(64), TEXT, "", -1, 1),
    (AnswerCorrectness(), NUMBER, "5", 0, 1.1),
]
NAMES = [f"{type(case[0]).__name__}-{getattr(case[0], 'kind', getattr(case[0], 'mode', ''))}" for case in REWARDS]
PIECES = ["<think>", "</think>", "<answer>", "</answer>", "\\boxed{", "}", "[0, 0, 4, 4]", "(1, 1)", "5", "B", "1 to 5"]
PIECES += ['{"bbox_2d": [0, 0, 4, 4]}', "a red fox", "ß²½٣", "😀", "\n", "\x00", " ", "{", "[", "-1e300", "答え"]


def random_texts(count, seed=0):
    stream = random.Random(seed)
    return ["".join(stream.choices(PIECES, k=stream.randint(0, 12))) for _ in range(count)]


def build(complete, texts, fields):
    return [complete(text, **fields, tokens=len(text), correct=len(text) % 2 == 0) for text in texts]


# Some seconds a batch, for symbolic comparison.
PACED = [pytest.param(*case, marks=pytest.mark.slow) if type(case[0]) is MathReward else case for case in REWARDS]


@pytest.mark.parametrize(("reward", "fields", "right", "low", "high"), PACED, ids=NAMES)
def test_random_text_stays_in_range_whatever_its_order(complete, reward, fields, right, low, high):
    completions = build(complete, [*random_texts(60), *random_texts(5)], fields)
    scores = reward(completions).total.tolist()
    assert all(low - 1e-6 <= score <= high + 1e-6 for score in scores)
    assert scores[60:] == scores[:5]
    backwards = reward(completions[::-1]).total.tolist()
    assert backwards[::-1] == scores


ANSWERING = [case for case in REWARDS if case[2] and not isinstance(case[0], (FormatReward, AnswerCorrectness))]


@pytest.mark.parametrize(
    ("reward", "fields", "right", "low", "high"), ANSWERING, ids=[NAMES[REWARDS.index(case)] for case in ANSWERING]
)
def test_the_right_answer_earns_all_and_none_or_several_nothing(complete, reward, fields, right, low, high):
    thought = f"<think>{right}</think>"
    texts = [
        f"{thought}<answer>{right}</answer>",
        f"{thought}<answer> </answer>",
        f"{thought}",
        right,
        f"{thought}<answer>other</answer><answer>{right}</answer>",
        f"{thought}<answer>{right}</answer><answer>other</answer>",
    ]
    scores = reward(build(complete, texts, fields)).total.tolist()
    assert scores[0] == pytest.approx(high)
    assert scores[1:] == [0] * 5


LONG = {
    "spaces": " " * 100_000,
    "opened boxes": "\\boxed{" * 14_000,
    "braces": "{" * 100_000,
    "brackets": "[" * 100_000,
    "blocks": "<answer>" * 12_000,
    "closed": "<think>" + "</think><answer>" * 6_000 + "x",
    "digits": "1" * 100_000,
    "commas": "1," * 50_000,
    "boxes": "<think></think><answer>" + "[0, 0, 4, 4]," * 7_500 + "</answer>",
    "objects": "<think></think><answer>" + '{"bbox_2d": [0, 0, 4, 4]},' * 3_800 + "</answer>",
    "words": "<think></think><answer>" + "red fox " * 12_000 + "</answer>",
    "option": "<answer>" + "answer is " * 10_000 + "</answer>",
    "numbers": "<answer>" + "1 " * 50_000 + "</answer>",
    "letters": "<answer>" + "A. " * 33_000 + "</answer>",
    "dollars": "<answer>" + "$" * 100_000 + "</answer>",
}


@pytest.mark.parametrize("text", LONG.values(), ids=LONG)
def test_long_text_is_scored_in_bounded_time(complete, text):
    for reward, fields, *_ in REWARDS:
        completions = build(complete, [text], fields)
        started = time.perf_counter()
        assert math.isfinite(reward(completions).total.item())
        assert time.perf_counter() - started < 60, reward


def test_the_answer_stands_where_the_sample_says(complete):
    text = "<think>\\boxed{1}</think>Answer: 4 \\boxed{3}"
    places = {"tags": "3", "boxed": "3", "stated": "4 \\boxed{3}", "whole": "Answer: 4 \\boxed{3}"}
    for place, wanted in places.items():
        assert answer_text(complete(text, "3", place=place)) == wanted
    assert answer_text(complete("<answer>2</answer>", None)) == "2"
    assert answer_text(complete("<think>\\boxed{5}</think>", "5", place="boxed")) is None


def test_a_missing_answer_names_the_sample(complete):
    with pytest.raises(UserError, match="sample 's7' has no answer"):
        gold_answer(complete(sample_id="s7"))
    with pytest.raises(UserError, match="sample 's7': the true value"):
        gold_value(complete("", "AB CD", sample_id="s7", type="choice"), true_letter)
