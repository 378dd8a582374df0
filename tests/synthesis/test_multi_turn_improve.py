import math
from dataclasses import replace

import pytest
import torch

from lit_vlm.functional.next_turn import EARLIER_REWARDS
from lit_vlm.interfaces.batches import StepTotals, TokenScores
from lit_vlm.interfaces.errors import BadSampleError, UserError
from lit_vlm.objectives.sft_loss import SFTLoss
from lit_vlm.synthesis.multi_turn_improve import MultiTurnImprove
from lit_vlm.synthesis.next_turn_prompts import NextTurnPrompts


@pytest.fixture
def ledgers(graded, candidate):
    """Makes the samples of a dialogue's turns of texts and rewards, as the turns' ledgers give them back."""

    def make(*turns):
        samples, asked = [], graded()
        for place, (text, reward) in enumerate(turns):
            samples.append(replace(asked, candidates=(candidate(text, correct=reward),)))
            if place + 1 < len(turns):
                (asked,) = NextTurnPrompts()(samples[-1])
        return samples

    return make


def learnt(transform, samples):
    return [made for sample in samples for made in transform(sample)]


def actions(samples):
    return [sample.messages[-1].text for sample in samples]


@pytest.mark.parametrize(
    ("criterion", "kept"),
    [("all", ["a", "b", "c"]), ("better", ["a", "c"]), ("best", ["a", "b", "c"]), ("success", ["c"])],
)
def test_the_criteria_keep_what_the_card_says(criterion, kept, ledgers):
    samples = learnt(MultiTurnImprove(criterion=criterion), ledgers(("a", 0), ("b", 0), ("c", 1)))
    assert actions(samples) == kept


def test_best_leaves_a_turn_out_that_is_worse_than_an_earlier_one(ledgers):
    turns = ledgers(("a", 0.2), ("b", 0.6), ("c", 0.4))
    assert actions(learnt(MultiTurnImprove(criterion="best"), turns)) == ["a", "b"]
    assert actions(learnt(MultiTurnImprove(criterion="better"), ledgers(("a", 0.6), ("b", 0.2), ("c", 0.4)))) == [
        "a",
        "c",
    ]


def test_weights_and_loss_are_those_of_the_card(ledgers):
    failure, success = learnt(MultiTurnImprove(tau=0.4), ledgers(("a", 0), ("b", 1)))
    assert failure.weight == 1.0
    assert success.weight == pytest.approx(12.1825, abs=1e-4)
    # (1.0 * 1.2 + 12.1825 * 0.8) / 2 = 5.473; row 0 has two tokens with mean 1.2, row 1 has one.
    scores = TokenScores(
        log_probs=-torch.tensor([1.0, 1.4, 0.8]),
        rows=torch.tensor([0, 0, 1]),
        is_top=torch.zeros(3, dtype=torch.bool),
        weights=torch.tensor([failure.weight, success.weight]),
    )
    loss = SFTLoss(reduction="seq_mean")(scores, StepTotals(labels=3, sequences=2))
    assert float(loss) == pytest.approx(5.473, abs=1e-3)


def test_only_the_last_action_is_trained_behind_all_that_was_said(ledgers):
    third = learnt(MultiTurnImprove(), ledgers(("a", 0), ("b", 0), ("c", 1)))[2]
    assert [message.role for message in third.messages] == ["user", *["assistant", "user"] * 2, "assistant"]
    assert [message.text for message in third.messages if message.role == "assistant"] == ["a", "b", "c"]
    assert [message.train for message in third.messages] == [False] * 5 + [True]


def test_repeated_actions_are_removed_first(ledgers):
    turns = ledgers(("a", 0), (" a\n", 0), ("b", 1))
    samples = learnt(MultiTurnImprove(criterion="better"), turns)
    assert actions(samples) == ["a", "b"]
    assert [message.text for message in samples[1].messages if message.role == "assistant"] == ["a", "b"]
    assert len(samples[1].messages) == 4
    # What the last turn repeats is no sample, whatever the criterion.
    assert actions(learnt(MultiTurnImprove(), ledgers(("a", 0), ("a", 0)))) == ["a"]


def test_the_best_of_later_completions_is_the_improved_action_and_ties_go_to_the_first(ledgers, candidate):
    (_, second) = ledgers(("a", 0), ("b", 0))
    several = replace(
        second,
        candidates=tuple(candidate(text, correct=grade) for text, grade in zip("wxyz", (0, 1, 1, 0), strict=True)),
    )
    (made,) = MultiTurnImprove()(several)
    assert made.messages[-1].text == "x"
    assert made.weight == pytest.approx(math.exp(2.5))
    wrong = replace(second, candidates=tuple(candidate(text, correct=0) for text in "wx"))
    assert actions(MultiTurnImprove()(wrong)) == ["w"]


def test_every_completion_of_the_first_turn_is_a_dialogue_of_its_own(graded, candidate):
    sample = graded(*(candidate(text, correct=grade) for text, grade in (("a", 0), ("b", 1), ("", 0))))
    made = MultiTurnImprove()(sample)
    assert actions(made) == ["a", "b"]
    assert len({one.id for one in made}) == 2


def test_a_teacher_writes_the_later_actions_alone(ledgers, candidate):
    first, second = ledgers(("a", 0), ("b", 0))
    by_both = replace(
        second,
        candidates=(candidate("own", correct=1), candidate("taught", "teacher", correct=0), candidate("t", "teacher")),
    )
    graded_both = replace(by_both, candidates=by_both.candidates[:2])
    transform = MultiTurnImprove(teacher="teacher")
    assert actions(learnt(transform, [first, graded_both])) == ["a", "taught"]
    with pytest.raises(BadSampleError, match="teacher 'teacher'"):
        transform(second)
    with pytest.raises(BadSampleError, match="correct is None"):
        transform(by_both)


@pytest.mark.parametrize("tau", [0.0, -1.0, float("nan"), float("inf")])
def test_a_temperature_that_is_not_above_0_is_refused(tau):
    with pytest.raises(UserError, match="tau is"):
        MultiTurnImprove(tau=tau)


@pytest.mark.parametrize("reward", [1.5, -0.1, float("nan")])
def test_rewards_outside_0_to_1_are_refused(reward, graded, candidate):
    with pytest.raises(BadSampleError, match=r"\[0, 1\]"):
        MultiTurnImprove()(graded(candidate("a", correct=reward)))


def test_a_dialogue_that_goes_on_after_success_is_refused(ledgers):
    _, second = ledgers(("a", 0), ("b", 0))
    broken = replace(second, meta=replace(second.meta, extra={EARLIER_REWARDS: [1.0]}))
    with pytest.raises(BadSampleError, match="after a right attempt"):
        MultiTurnImprove()(broken)


def test_samples_without_completions_and_nameless_scores_are_refused(graded):
    with pytest.raises(BadSampleError, match="no candidates"):
        MultiTurnImprove()(graded())
    with pytest.raises(UserError, match="score"):
        MultiTurnImprove(score=())
