from dataclasses import replace

import pytest
import torch

from lit_vlm.interfaces.batches import StepTotals
from lit_vlm.interfaces.comparisons import PairLogProbs, PairScores
from lit_vlm.interfaces.errors import BadSampleError, UserError
from lit_vlm.interfaces.records import Candidate, ImagePart, Message, TextPart, assistant_message
from lit_vlm.objectives.preference_loss import PreferenceLoss
from lit_vlm.synthesis.focus_box_pairs import FocusBoxPairs
from lit_vlm.synthesis.trace_filter import TraceFilter
from tests.synthesis.focus_material import focus_sample, traced

SCORES = ((0.9, 0.7), (0.9, 0.9), (0.1, 0.3), (0.1, 0.1))  # the good trace is 1, the bad one 3


def shown(sample, messages):
    """The images that messages show, as objects."""
    return [
        sample.images[part.index] for message in messages for part in message.content if isinstance(part, ImagePart)
    ]


def test_the_first_stage_learns_the_box_alone() -> None:
    sample = traced(*SCORES)
    (made,) = FocusBoxPairs(stage="box")(sample)
    (pair,) = made.preferences
    assert pair.weight == 1
    assert [message.text for message in pair.chosen] == ["<answer>(1, 1, 9, 17)</answer>"]
    assert [message.text for message in pair.rejected] == ["<answer>(3, 3, 11, 19)</answer>"]
    assert pair.prompt == made.messages == sample.messages[:1]
    assert made.images == sample.images[:1]
    assert made.candidates == ()
    assert pair.chosen[0].train
    assert pair.rejected[0].train


def test_the_second_stage_learns_both_steps_with_half_the_weight_each() -> None:
    sample = traced(*SCORES)
    (made,) = FocusBoxPairs()(sample)
    box, answer = made.preferences
    assert (box.weight, answer.weight) == (0.5, 0.5)
    assert box.prompt == sample.messages[:1]
    # Both answers stand behind the image, the question, the good box and its crop, in this order.
    assert [message.text for message in answer.prompt] == [
        "which digit is in the red square?",
        "<answer>(1, 1, 9, 17)</answer>",
        "Which digit is this?",
    ]
    assert not any(message.train for message in answer.prompt)
    assert ["".join(message.text for message in side) for side in (answer.chosen, answer.rejected)] == [
        "<answer>1</answer>",
        "<answer>3</answer>",
    ]
    # The crop is that of the good trace; those of the others are gone.
    crop_of_trace_1 = sample.images[2 + 1]
    assert shown(made, answer.prompt) == [sample.images[0], crop_of_trace_1]
    assert shown(made, box.prompt) == [sample.images[0]]
    assert made.images == (sample.images[0], crop_of_trace_1)


def test_a_system_turn_stands_before_every_step() -> None:
    system = Message("system", (TextPart("Look closely."),))
    sample = focus_sample()
    sample = traced(*SCORES, sample=replace(sample, messages=(system, *sample.messages)))
    (made,) = FocusBoxPairs()(sample)
    assert [preference.prompt[0] for preference in made.preferences] == [system, system]
    assert made.messages == sample.messages[:2]


def test_losses_of_the_two_steps_add_up_to_their_mean() -> None:
    (made,) = FocusBoxPairs()(traced(*SCORES))
    weights = torch.tensor([pair.weight for pair in made.preferences])
    wanted = torch.tensor([0.6, 0.4], dtype=torch.float64)
    # The sigmoid loss is log(1 + exp(-margin)) with beta 1: its inverse gives the margins of losses 0.6 and 0.4.
    margins = -(wanted.exp() - 1).log()
    none, yes = torch.zeros(2, dtype=torch.bool), torch.ones(2, dtype=torch.bool)
    zeros, counts = torch.zeros(2, dtype=torch.float64), torch.ones(2, dtype=torch.long)
    scores = PairScores(
        PairLogProbs(margins, zeros), PairLogProbs(zeros, zeros), counts, counts, weights.double(), yes, none
    )
    objective = PreferenceLoss(beta=1.0)
    coefficients = {name: coefficient.value for name, coefficient in objective.coefficients().items()}
    loss = objective(scores, StepTotals(labels=2, sequences=1), coefficients)
    assert loss.share.item() == pytest.approx(0.5)


def test_traces_that_are_too_alike_give_nothing() -> None:
    assert FocusBoxPairs()(traced((0.7, 0.9), (0.1, 0.1))) == ()
    assert FocusBoxPairs(filter=TraceFilter(highest_answer=0.7))(traced((0.7, 0.9), (0.1, 0.1))) != ()
    sample = traced((1.0, 1.0), (0.0, 0.0))
    first, second = sample.candidates
    same_box = replace(second, messages=(first.messages[0], *second.messages[1:]))
    assert FocusBoxPairs()(replace(sample, candidates=(first, same_box))) == ()


def test_validation_keeps_the_question_its_crop_and_the_answer_beside_the_pairs() -> None:
    sample = traced(*SCORES)
    made = FocusBoxPairs().for_evaluation(sample)
    assert [message.text for message in made.messages] == [message.text for message in sample.messages]
    assert made.answer == sample.answer
    assert shown(made, made.messages) == list(sample.images[:2])
    assert shown(made, made.preferences[1].prompt) == [sample.images[0], sample.images[3]]
    assert len(made.images) == 3
    assert FocusBoxPairs().for_evaluation(focus_sample()) == focus_sample()
    assert FocusBoxPairs().for_evaluation(traced((1.0, 1.0))).preferences == ()


@pytest.mark.parametrize(
    ("candidates", "message"),
    [
        ((), "no candidates"),
        ((Candidate((assistant_message("7"),), {"answer": 1.0, "box": 1.0}),), "candidate 0 has the turns assistant"),
    ],
)
def test_a_sample_without_traces_is_bad(candidates, message) -> None:
    with pytest.raises(BadSampleError, match=message):
        FocusBoxPairs()(replace(focus_sample(), candidates=candidates))


@pytest.mark.parametrize("scores", [{"answer": 1.0}, {"answer": float("nan"), "box": 1.0}, {"answer": 1.0, "box": 2.0}])
def test_a_missing_score_or_one_out_of_range_is_bad(scores) -> None:
    sample = traced((1.0, 1.0), (0.0, 0.0))
    first, second = sample.candidates
    with pytest.raises(BadSampleError, match="candidate 1 has .* score"):
        FocusBoxPairs()(replace(sample, candidates=(first, replace(second, scores=scores))))


def test_an_unknown_stage_is_refused() -> None:
    with pytest.raises(UserError, match="stage is 'crop'"):
        FocusBoxPairs(stage="crop")  # type: ignore[arg-type]
