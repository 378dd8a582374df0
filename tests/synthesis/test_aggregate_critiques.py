from dataclasses import replace

import pytest

from lit_vlm.interfaces.critiques import Critique, CritiqueUnit
from lit_vlm.interfaces.errors import BadSampleError, UserError
from lit_vlm.parsing.critique_units import read_units
from lit_vlm.parsing.critique_verdict import read_verdict
from lit_vlm.synthesis.aggregate_critiques import AggregateCritiques, merge_units
from lit_vlm.synthesis.critique_unit_prompts import CritiqueUnitPrompts
from tests.synthesis.critic_material import FALSE, TRUE, critic, criticised

OTHER = CritiqueUnit("the answer", "no unit is given", 1.0)


def learnt(sample, **options):
    (made,) = AggregateCritiques(**options)(sample)
    return made.messages[-1].text


def test_the_union_of_the_correct_remarks_is_learnt():
    sample = criticised(
        critic([TRUE, FALSE], ["correct", "wrong"]), critic([FALSE], ["wrong"]), critic([OTHER], ["correct"])
    )
    text = learnt(sample)
    assert read_units(text) == (TRUE, OTHER)
    assert "There are 2 flaws. First wrong step: 2." in text
    assert read_verdict(text) == "wrong"


def test_near_duplicates_are_merged_with_the_gravest_severity_and_the_longest_words():
    again = CritiqueUnit("Step 2", "2 + 3 is 5", 3.0, "write 2 + 3 = 5")
    text = learnt(criticised(critic([TRUE], ["correct"]), critic([again], ["correct"])))
    assert read_units(text) == (CritiqueUnit("step 2", "2 + 3 is 5, not 6", 3.0, "write 2 + 3 = 5"),)


def test_the_same_words_about_another_step_are_another_remark():
    other = replace(TRUE, location="step 3")
    assert merge_units([TRUE, other], 0.6) == (TRUE, other)


def test_another_flaw_at_the_same_place_is_another_remark():
    other = CritiqueUnit("step 2", "carries the wrong digit")
    assert merge_units([TRUE, other], 0.6) == (TRUE, other)


def test_the_same_flaw_with_a_place_in_other_words_is_merged():
    one = CritiqueUnit("the sum 2 + 3", "is 5, not 6")
    other = CritiqueUnit("sum 2 + 3", "is 5, not 6")
    assert len(merge_units([one, other], 0.6)) == 1
    assert len(merge_units([one, other], 1.0)) == 2


def test_merging_again_changes_nothing():
    merged = merge_units([TRUE, OTHER, replace(TRUE, description="2 + 3 is 5")], 0.6)
    assert merge_units(merged, 0.6) == merged


def test_a_remark_that_lacks_detail_is_kept_only_where_that_is_said():
    sample = criticised(critic([TRUE, OTHER], ["missing detail", "correct"]))
    assert read_units(learnt(sample)) == (OTHER,)
    assert read_units(learnt(sample, keep_missing_detail=True)) == (TRUE, OTHER)


def test_where_no_remark_is_correct_the_solution_is_called_right():
    text = learnt(criticised(critic([FALSE], ["wrong"]), critic([])))
    assert (read_units(text), read_verdict(text)) == ((), "right")
    assert "There is no flaw." in text


def test_the_conclusion_may_have_to_agree_with_the_truth():
    missed = criticised(critic([FALSE], ["wrong"]), verdict="wrong")
    assert len(AggregateCritiques()(missed)) == 1
    assert AggregateCritiques(agree=True)(missed) == ()
    assert len(AggregateCritiques(agree=True)(replace(missed, critique=replace(missed.critique, verdict="right")))) == 1
    assert len(AggregateCritiques(agree=True)(replace(missed, critique=replace(missed.critique, verdict=None)))) == 1


def test_the_learner_is_not_told_what_critics_may_know():
    made = AggregateCritiques(prompt=CritiqueUnitPrompts(instruction="Judge."))(
        criticised(critic([TRUE], ["correct"]))
    )[0]
    assert [message.role for message in made.messages] == ["user", "assistant"]
    assert made.question == "Judge.\nQuestion: What do they add up to?\nSolution: 2 + 3 = 6. so 6."
    assert made.messages[-1].train
    assert not made.messages[0].train
    assert made.candidates == ()


def test_critiques_that_cannot_be_used_are_left_out_of_the_union():
    unreadable = critic(None, text="all wrong")
    garbled = replace(critic([OTHER]), critique=Critique("", "", "[{"))
    sample = criticised(unreadable, critic([OTHER]), garbled, critic([TRUE], ["correct"]))
    assert read_units(learnt(sample)) == (TRUE,)


@pytest.mark.parametrize(
    ("critiques", "told"),
    [
        ([critic(None, text="all wrong")], "no critique with remarks that can be read"),
        ([critic([TRUE])], "no critique with labels.*attach.critiques"),
        ([critic([TRUE], ["correct", "correct"])], "no critique with labels"),
        ([], "no candidates"),
    ],
)
def test_a_sample_without_a_usable_critique_is_named(critiques, told):
    with pytest.raises(BadSampleError, match=f"page-1#0: has {told}"):
        AggregateCritiques()(criticised(*critiques))


def test_evaluation_compares_with_the_aggregated_critique_and_keeps_the_truth():
    transform = AggregateCritiques(agree=True)
    sample = criticised(critic([FALSE], ["wrong"]), verdict="wrong")
    made = transform.for_evaluation(sample)
    assert read_verdict(made.messages[-1].text) == "right"
    assert made.critique.verdict == "wrong"
    assert transform.for_evaluation(criticised()).messages == transform.prompt.anew(criticised()).messages


@pytest.mark.parametrize(("options", "told"), [({"similarity": 0}, "similarity"), ({"fatal_severity": 0.5}, "fatal")])
def test_settings_out_of_range_are_refused(options, told):
    with pytest.raises(UserError, match=told):
        AggregateCritiques(**options)
