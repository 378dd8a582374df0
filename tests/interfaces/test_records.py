import pytest
import torch

from lit_vlm.interfaces.batches import EvaluationBatch, PromptBatch, StepTotals
from lit_vlm.interfaces.records import (
    Completion,
    MediaRef,
    RewardOutput,
    Sample,
    Verdict,
    VideoRef,
    assistant_message,
    user_message,
)


def batch(labels=None):
    ids = torch.arange(6).reshape(2, 3)
    return PromptBatch(ids, torch.ones_like(ids), {"pixels": torch.zeros(4)}, labels=labels)


def test_labels_are_counted_after_the_shift():
    # The first column is never predicted: 2 labels of row 0 are left, none of row 1.
    labels = torch.tensor([[5, 6, 7], [8, -100, -100]])
    assert batch(labels).count() == StepTotals(labels=2, sequences=1)
    assert batch().count() == StepTotals(labels=0, sequences=0)


def test_moving_a_batch_moves_every_tensor_and_keeps_the_rest():
    moved = batch(torch.zeros(2, 3)).to(torch.float64)
    assert {tensor.dtype for tensor in (moved.input_ids, moved.labels, moved.visual["pixels"])} == {torch.float64}
    assert len(moved) == 2
    pair = EvaluationBatch(batch(), batch()).to("cpu")
    assert len(pair) == 2


def test_the_prompt_leaves_the_last_answer_out():
    sample = Sample(id="s", messages=(user_message("one"), assistant_message("first"), user_message("two")))
    assert sample.prompt == sample.messages
    answered = Sample(id="s", messages=(*sample.messages, assistant_message("second")))
    assert answered.prompt == sample.messages
    assert answered.question == "two"


def test_media_have_exactly_one_source():
    with pytest.raises(ValueError, match="exactly one of path, bytes, url, pil; given: none"):
        MediaRef()
    with pytest.raises(ValueError, match="either a file or frames"):
        VideoRef()


def test_a_completion_becomes_a_flat_record(image_sample):
    record = Completion(image_sample, "prompt", "text", Verdict(True, "7", True), -1.5, 3, 0.1).to_json()
    assert record["sample_id"] == "s"
    assert record["answer"] == "7"
    assert record["correct"] is True
    assert record["log_prob_sum"] == -1.5
    unjudged = Completion(image_sample, "prompt", "text", None).to_json()
    assert unjudged["correct"] is None


def test_a_score_of_none_does_not_apply_and_one_of_nan_does():
    output = RewardOutput.of_scores([1, None, float("nan")])
    assert output.total.isnan().tolist() == [False, True, True]
    assert output.applies.tolist() == [True, False, True]
    assert output.total.dtype == torch.float32
    assert RewardOutput.of_scores([]).total.shape == (0,)
