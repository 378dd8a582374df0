import itertools
from dataclasses import replace

import pytest

from lit_vlm.interfaces.errors import BadSampleError, UserError
from lit_vlm.interfaces.records import ImagePart, Message, TextPart
from lit_vlm.synthesis.attribute_prompt import AttributePrompt

CARD = {"verbosity": 2, "helpfulness": 4, "coherence": 3, "correctness": 4, "complexity": 2}
STRING = "helpfulness:4,correctness:4,coherence:3,complexity:2,verbosity:2"
WORST = dict.fromkeys(CARD, 0)


def test_the_string_has_one_order_whatever_the_grades_have(graded, candidate):
    for order in itertools.permutations(CARD.items()):
        (built,) = AttributePrompt()(graded(candidate("seven", **dict(order))))
        assert built.question == f"Which digit is this?\n{STRING}"


def test_every_graded_candidate_is_imitated_bad_ones_too(graded, candidate):
    sample = graded(candidate("bad", **WORST), candidate("ungraded"), candidate("good", **CARD), candidate(" ", **CARD))
    built = AttributePrompt()(sample)
    assert [one.messages[-1].text for one in built] == ["bad", "good"]
    assert [one.question.splitlines()[-1] for one in built] == [AttributePrompt().attribute_string(WORST), STRING]
    assert len({one.id for one in (*built, sample)}) == 3


def test_the_string_is_prompt_and_the_completion_alone_is_trained(graded, candidate):
    sample = graded(candidate("good", **CARD))
    (built,) = AttributePrompt()(sample)
    assert [message.train for message in built.messages] == [False, True]
    assert built.messages[0].content[0] == ImagePart(0)
    assert (built.images, built.answer, built.meta) == (sample.images, sample.answer, sample.meta)
    assert (built.candidates, built.preferences) == ((), ())


def test_integers_may_come_as_floats(graded, candidate):
    floats = {name: float(value) for name, value in CARD.items()}
    assert AttributePrompt()(graded(candidate("a", **floats))) == AttributePrompt()(graded(candidate("a", **CARD)))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ((TextPart("Look."), ImagePart(0)), (TextPart("Look."), ImagePart(0), TextPart(f"\n{STRING}"))),
        ((TextPart("Look."),), (TextPart(f"Look.\n{STRING}"),)),
        ((), (TextPart(STRING),)),
    ],
)
def test_the_users_turn_ends_on_the_string(graded, candidate, content, expected):
    sample = replace(graded(candidate("a", **CARD)), messages=(Message("user", content),))
    assert AttributePrompt()(sample)[0].messages[0].content == expected


def test_the_last_user_turn_is_asked(graded, candidate):
    sample = graded(candidate("a", **CARD))
    found = Message("tool", (TextPart("found"),))
    sample = replace(sample, messages=(*sample.messages, *sample.prompt, found))
    question = "Which digit is this?"
    said = [message.text for message in AttributePrompt()(sample)[0].messages]
    assert said == [question, sample.messages[1].text, f"{question}\n{STRING}", "found", "a"]


@pytest.mark.parametrize("reference", ["seven", None])
def test_evaluation_asks_for_the_best(graded, candidate, reference):
    best = "helpfulness:4,correctness:4,coherence:4,complexity:4,verbosity:2"
    sample = graded(candidate("bad", **WORST), reference=reference)
    evaluated = AttributePrompt().for_evaluation(sample)
    assert evaluated.question == f"Which digit is this?\n{best}"
    assert evaluated.messages[1:] == sample.messages[1:]
    assert replace(evaluated, messages=sample.messages) == sample


def test_other_attributes_and_requests_can_be_named(graded, candidate):
    transform = AttributePrompt(attributes=("tone", "care"), lowest=-1, highest=1, requested={"care": 0})
    sample = graded(candidate("a", care=-1, tone=0, helpfulness=9))
    assert transform(sample)[0].question.endswith("\ntone:0,care:-1")
    assert transform.for_evaluation(sample).question.endswith("\ntone:1,care:0")


@pytest.mark.parametrize(("limit", "kept"), [(None, "abcde"), (2, "abcd"), (1, "ac")])
def test_of_completions_with_the_same_grades_the_first_are_taken(graded, candidate, limit, kept):
    candidates = [candidate(text, care=grade) for text, grade in zip("abcde", (1, 1, 4, 4, 1), strict=True)]
    made = AttributePrompt(attributes=("care",), requested={}, limit=limit)(graded(*candidates))
    assert "".join(sample.messages[-1].text for sample in made) == kept
    # Each stands behind its own grade.
    assert [sample.question[-1] for sample in made] == ["4" if text in "cd" else "1" for text in kept]


@pytest.mark.parametrize("value", [3.5, 5, -1, float("nan"), float("inf"), "N/A", "4", None])
def test_a_grade_that_is_no_integer_in_range_is_refused(graded, candidate, value):
    sample = graded(candidate("good", **CARD), candidate("bad", **{**CARD, "coherence": value}))
    with pytest.raises(BadSampleError, match="s: candidate 1 has the grade coherence .*; give an integer of 0 to 4"):
        AttributePrompt()(sample)


def test_a_missing_attribute_is_refused(graded, candidate):
    sample = graded(candidate("good", **{name: value for name, value in CARD.items() if name != "complexity"}))
    with pytest.raises(BadSampleError, match="s: candidate 0 has no grade 'complexity'"):
        AttributePrompt()(sample)


def test_a_sample_without_grades_is_refused(graded, candidate):
    for sample in (graded(), graded(candidate("a", correct=1))):
        with pytest.raises(BadSampleError, match="s: has no candidate with grades for helpfulness, correctness"):
            AttributePrompt()(sample)


def test_a_prompt_without_a_users_turn_is_refused(graded, candidate):
    sample = replace(graded(candidate("a", **CARD)), messages=(Message("system", (TextPart("Be brief."),)),))
    for transform in (AttributePrompt(), AttributePrompt().for_evaluation):
        with pytest.raises(BadSampleError, match="s: has no user's turn"):
            transform(sample)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"attributes": ()}, "attributes is"),
        ({"attributes": ("verbosity", "verbosity")}, "each once"),
        ({"attributes": ("verbosity", "a:b")}, "no colon"),
        ({"attributes": ("tone",)}, "requested names 'verbosity'"),
        ({"limit": 0}, "limit is 0"),
        ({"lowest": 4}, "highest has to be greater"),
        ({"requested": {"verbosity": 5}}, "requested.verbosity is 5; give 0 to 4"),
    ],
)
def test_settings_are_checked(settings, told):
    with pytest.raises(UserError, match=told):
        AttributePrompt(**settings)
