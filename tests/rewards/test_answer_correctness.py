import pytest

from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import Completion, Verdict
from lit_vlm.rewards.answer_correctness import AnswerCorrectness


def completion(sample, verdict):
    return Completion(sample, "prompt", "text", verdict)


def test_a_right_answer_outweighs_the_form(image_sample):
    verdicts = [
        Verdict(True, "7", True),
        Verdict(True, "7", False),
        Verdict(False, "8", True),
        Verdict(False, None, False),
    ]
    output = AnswerCorrectness(format_weight=0.2)([completion(image_sample, verdict) for verdict in verdicts])
    assert output.total.tolist() == pytest.approx([1.2, 1.0, 0.2, 0.0])
    assert output.details["correct"].tolist() == [1, 1, 0, 0]
    assert output.details["format"].tolist() == [1, 0, 1, 0]


def test_listing_answers_earns_nothing(image_sample):
    verdict = Verdict(True, "7", False)
    listed = "".join(f"<answer>{digit}</answer>" for digit in range(8))
    output = AnswerCorrectness()([Completion(image_sample, "prompt", listed, verdict)])
    assert output.total.tolist() == [0]


def test_no_completion_gives_no_reward():
    assert AnswerCorrectness()([]).total.shape == (0,)


def test_a_sample_without_an_answer_is_named(image_sample):
    with pytest.raises(UserError, match="sample 's' has no answer"):
        AnswerCorrectness()([completion(image_sample, None)])
