from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from lit_vlm.callbacks.focus_box_evaluation import FocusBoxEvaluation
from lit_vlm.functional.intervals import wilson_interval
from lit_vlm.interfaces.errors import BadSampleError, UserError
from lit_vlm.interfaces.records import Answer, Completion, assistant_message
from lit_vlm.parsing.answers import check_answer
from tests.synthesis.focus_material import focus_sample

GOOD = "<answer>(8, 8, 24, 24)</answer>"
HALF = "<answer>(8, 8, 24, 16)</answer>"  # IoU 0.5 with the true box
RIGHT, WRONG = "<answer>7</answer>", "<answer>3</answer>"


class Policy:
    """Writes the box that a sample's id names, and answers 7."""

    def __init__(self, boxes, answer=RIGHT):
        self.boxes = boxes
        self.answer = answer
        self.asked = []
        self.logged = {}

    def completion_log_probs(self, samples):
        raise AssertionError

    rewards_of = completion_log_probs

    def complete(self, samples):
        torch.rand(3)
        self.asked.append(list(samples))
        texts = [self.boxes[sample.id] if len(sample.messages) == 1 else self.answer for sample in samples]
        return [
            Completion(sample, "", text, check_answer(text, sample.answer))
            for sample, text in zip(samples, texts, strict=True)
        ]

    def log(self, name, value, batch_size):
        self.logged[name] = value


class Data(list):
    """Serves a list as every split."""

    def prepared(self, split):
        return self


def trainer_of(samples, rank=0, ranks=1):
    return SimpleNamespace(
        datamodule=Data(samples),
        global_rank=rank,
        world_size=ranks,
        global_step=0,
        precision_plugin=SimpleNamespace(val_step_context=nullcontext),
    )


def measure(policy, served, **settings):
    callback = FocusBoxEvaluation(**{"coords": "pixel"} | settings)
    trainer = trainer_of(served)
    callback.setup(trainer, policy, "fit")
    callback.on_validation_epoch_end(trainer, policy)
    return policy.logged


def test_right_answers_and_overlaps_are_means_over_all_samples() -> None:
    boxes = {"a": GOOD, "b": HALF, "c": "nowhere", "d": GOOD}
    samples = [focus_sample(name) for name in boxes]
    samples[3] = replace(samples[3], answer=Answer("number", "5"))
    policy = Policy(boxes)
    figures = measure(policy, samples, batch_size=3)
    # a and b are right; c says 7 as well, but without a box of its own; d is wrong.
    low, high = wilson_interval(2, 4)
    assert figures == pytest.approx(
        {
            "validation/focus_match": 2 / 4,
            "validation/focus_match_low": low,
            "validation/focus_match_high": high,
            "validation/focus_match_total": 4,
            "validation/focus_iou": (1 + 0.5 + 0 + 1) / 4,
            "validation/focus_box": 3 / 4,
        }
    )
    assert [len(asked) for asked in policy.asked] == [3, 3, 1, 1]


def test_the_policy_sees_its_own_crop_in_the_size_of_the_samples_own() -> None:
    policy = Policy({"a": HALF})
    sample = focus_sample("a")
    sample.images[0].pil.paste((250, 0, 0), (8, 8, 24, 16))
    measure(policy, [sample])
    (box_step,), (answer_step,) = policy.asked
    assert (len(box_step.messages), len(box_step.images)) == (1, 1)
    assert [message.text for message in answer_step.messages] == [
        sample.messages[0].text,
        HALF,
        sample.messages[2].text,
    ]
    crop = answer_step.images[1].pil
    assert crop.size == (64, 32)
    assert crop.getpixel((32, 16)) == (250, 0, 0)


def test_only_the_first_samples_are_asked() -> None:
    policy = Policy(dict.fromkeys("abc", GOOD))
    assert measure(policy, [focus_sample(name) for name in "abc"], samples=2)["validation/focus_match_total"] == 2
    assert {sample.id for asked in policy.asked for sample in asked} == {"a", "b"}


def test_random_streams_stay_as_they_were() -> None:
    torch.manual_seed(1)
    wanted = torch.rand(1)
    torch.manual_seed(1)
    measure(Policy({"a": GOOD}), [focus_sample("a")])
    assert torch.rand(1) == wanted


def test_the_test_split_has_its_own_prefix() -> None:
    policy = Policy({"a": GOOD})
    FocusBoxEvaluation("pixel").on_test_epoch_end(trainer_of([focus_sample("a")]), policy)
    assert policy.logged["test/focus_match"] == 1


def test_ranks_ask_their_own_samples_equally_often(monkeypatch) -> None:
    sums = []
    monkeypatch.setattr(
        "lit_vlm.callbacks.asked_samples.RolloutCallback.sum_over_ranks",
        lambda trainer, value: sums.append(value) or value.clamp(min=1),
    )
    samples = [focus_sample(name) for name in "abc"]
    calls = []
    for rank in range(2):
        policy = Policy(dict.fromkeys("abc", GOOD))
        FocusBoxEvaluation("pixel", batch_size=1).on_validation_epoch_end(trainer_of(samples, rank, 2), policy)
        calls.append(len(policy.asked))
    assert calls == [4, 4]
    assert [value.tolist() for value in sums] == [[2, 2, 2, 2], [1, 1, 1, 1]]


def test_a_reference_turn_that_is_no_box_is_named() -> None:
    sample = focus_sample("row 3")
    sample = replace(sample, messages=(sample.messages[0], assistant_message("there"), *sample.messages[2:]))
    with pytest.raises(BadSampleError, match="row 3: its own first turn of the assistant, 'there', is no box in pixel"):
        measure(Policy({"row 3": GOOD}), [sample])


@pytest.mark.parametrize(("name", "value"), [("samples", 0), ("batch_size", 0)])
def test_settings_out_of_range_are_refused(name, value) -> None:
    with pytest.raises(UserError, match=f"FocusBoxEvaluation.{name} is 0"):
        FocusBoxEvaluation(**{name: value})


def test_a_module_that_cannot_be_asked_and_data_without_samples_are_refused() -> None:
    with pytest.raises(UserError, match="asks a policy about samples, which object does not offer"):
        FocusBoxEvaluation().setup(trainer_of([]), object(), "fit")
    trainer = trainer_of([])
    trainer.datamodule = object()
    with pytest.raises(UserError, match="reads single samples, which the data"):
        FocusBoxEvaluation().setup(trainer, Policy({}), "fit")
