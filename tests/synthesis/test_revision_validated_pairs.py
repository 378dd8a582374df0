import pytest

from lit_vlm.interfaces.errors import BadSampleError, UserError
from lit_vlm.synthesis.critique_unit_prompts import CritiqueUnitPrompts
from lit_vlm.synthesis.revision_validated_pairs import RevisionValidatedPairs, validated_preference
from tests.synthesis.critic_material import FALSE, TRUE, critic, criticised


def revised(units, *scores):
    return critic(units, **{f"revision/{agent}": score for agent, score in enumerate(scores)})


def test_the_check_of_the_card():
    # Differences 2, 2, -1: mean 1.0, two of three agree.
    assert validated_preference([7, 8, 6], [5, 6, 7], delta=0.5) == 1.0
    assert validated_preference([5, 6, 7], [7, 8, 6], delta=0.5) == -1.0
    assert validated_preference([7, 8, 6], [7, 8, 6], delta=0.5) is None


@pytest.mark.parametrize(
    ("first", "second", "delta", "preference"),
    [
        ([1, 1, 1], [0.5, 0.5, 0.5], 0.5, 0.5),  # as large as delta is enough
        ([1, 1, 1], [0.6, 0.6, 0.6], 0.5, None),  # 0.4
        ([10, 0, 0], [0, 1, 1], 0.5, None),  # mean 2.67, but one of three agrees
        ([3, 3, 0], [0, 3, 0], 0.5, None),  # mean 1, one agrees and two say nothing
        ([2, 2, 2, 2], [1, 1, 1, 4], 0.1, 0.25),  # three of four, where ceil(8 / 3) = 3
        ([2, 2, 2, 2], [1, 1, 2, 2], 0.1, None),  # two of four
        ([2], [1], 0.5, 1.0),
        ([0.1 + 0.2], [0.3], 1e-12, None),  # equal on paper
    ],
)
def test_both_conditions_must_hold(first, second, delta, preference):
    assert validated_preference(first, second, delta) == preference
    mirrored = validated_preference(second, first, delta)
    assert mirrored == (None if preference is None else -preference)


@pytest.mark.parametrize(("first", "second"), [([], []), ([1, 2], [1])])
def test_unequal_numbers_of_revisions_cannot_be_compared(first, second):
    with pytest.raises(ValueError, match="scores against"):
        validated_preference(first, second, 0.5)


def test_the_critique_that_helps_is_preferred():
    sample = criticised(revised([FALSE], 5, 6, 7), revised([TRUE], 7, 8, 6))
    (made,) = RevisionValidatedPairs(prompt=CritiqueUnitPrompts(instruction="Judge."))(sample)
    (pair,) = made.preferences
    assert pair.chosen[0].text == sample.candidates[1].text
    assert pair.rejected[0].text == sample.candidates[0].text
    assert pair.weight == 1.0
    assert made.question.startswith("Judge.\nQuestion: What do they add up to?")
    assert made.messages[-1].role == "user"


def test_identical_critiques_and_scores_make_no_pair():
    assert RevisionValidatedPairs()(criticised(revised([TRUE], 7, 8, 6), revised([], 7, 8, 6))) == ()
    assert RevisionValidatedPairs()(criticised(revised([TRUE], 7, 8, 6), revised([TRUE], 1, 1, 1))) == ()


def test_the_pairs_that_differ_most_stay_and_share_one_weight():
    sample = criticised(revised([], 1, 1, 1), revised([FALSE], 3, 3, 3), revised([TRUE], 9, 9, 9))
    pairs = RevisionValidatedPairs(pairs_per_sample=2)(sample)[0].preferences
    texts = [candidate.text for candidate in sample.candidates]
    assert [(texts.index(pair.chosen[0].text), texts.index(pair.rejected[0].text)) for pair in pairs] == [
        (2, 0),
        (2, 1),
    ]
    assert [pair.weight for pair in pairs] == [0.5, 0.5]
    assert len(RevisionValidatedPairs(pairs_per_sample=None)(sample)[0].preferences) == 3


def test_a_critique_with_too_few_revisions_is_left_out():
    sample = criticised(revised([FALSE], 1, 1), revised([TRUE], 9, 9, 9), revised([], 5, 5, float("nan")))
    assert RevisionValidatedPairs()(sample) == ()
    assert len(RevisionValidatedPairs(agents=2, pairs_per_sample=None)(sample)[0].preferences) == 3


def test_a_sample_without_scores_is_named():
    with pytest.raises(BadSampleError, match="page-1#0: has no critique with the scores of 3 revisions.*attach.revis"):
        RevisionValidatedPairs()(criticised(critic([TRUE]), critic([])))
    with pytest.raises(BadSampleError, match="no candidates"):
        RevisionValidatedPairs()(criticised())


def test_evaluation_asks_as_training_does_and_keeps_the_truth():
    transform = RevisionValidatedPairs(prompt=CritiqueUnitPrompts(instruction="Judge."))
    sample = criticised(revised([FALSE], 5, 6, 7), revised([TRUE], 7, 8, 6), verdict="wrong")
    made = transform.for_evaluation(sample)
    assert (made.question.splitlines()[0], len(made.preferences), made.critique.verdict) == ("Judge.", 1, "wrong")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"agents": 0}, "agents"),
        ({"delta": 0}, "delta"),
        ({"delta": float("nan")}, "delta"),
        ({"pairs_per_sample": 0}, "pairs_per_sample"),
    ],
)
def test_settings_out_of_range_are_refused(options, told):
    with pytest.raises(UserError, match=told):
        RevisionValidatedPairs(**options)
