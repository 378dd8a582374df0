import itertools
from dataclasses import replace

import pytest

from lit_vlm.interfaces.errors import BadSampleError, UserError
from lit_vlm.synthesis.correctness_pairs import CorrectnessPairs


@pytest.fixture
def sample(graded, candidate):
    """Two right and two wrong candidates, one with an injected error, and the reference."""
    return graded(
        candidate("wrong 1", correct=0),
        candidate("right 1", correct=1),
        candidate("wrong 2", correct=0.0),
        candidate("right 2", correct=True),
        candidate("spoilt", model="injected_error", correct=0),
        reference="gold",
    )


def pairs_of(transform, sample, texts):
    return [texts(pair) for built in transform(sample) for pair in built.preferences]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("own", {(f"right {one}", f"wrong {other}") for one in (1, 2) for other in (1, 2)}),
        ("corrected", {("gold", "wrong 1"), ("gold", "wrong 2")}),
        ("injected", {("gold", "spoilt")}),
    ],
)
def test_each_source_pairs_what_it_says(sample, texts, source, expected):
    found = pairs_of(CorrectnessPairs((source,), pairs_per_sample=9), sample, texts)
    assert len(found) == len(set(found))
    assert set(found) == expected


def test_sources_are_drawn_on_by_turns(sample, texts):
    assert pairs_of(CorrectnessPairs(), sample, texts) == [("right 1", "wrong 1")]
    turned = CorrectnessPairs(("injected", "corrected", "own"), pairs_per_sample=4)
    assert pairs_of(turned, sample, texts) == [
        ("gold", "spoilt"),
        ("gold", "wrong 1"),
        ("right 1", "wrong 1"),
        ("gold", "wrong 2"),
    ]


def test_a_completion_comes_back_as_late_as_possible(sample, texts):
    found = pairs_of(CorrectnessPairs(("own",), pairs_per_sample=2), sample, texts)
    assert found == [("right 1", "wrong 1"), ("right 2", "wrong 2")]


@pytest.mark.parametrize("most", [1, 2, 3, 5, 9])
def test_the_cap_holds_and_pairs_share_one_weight(sample, most):
    (built,) = CorrectnessPairs(pairs_per_sample=most)(sample)
    assert len(built.preferences) == min(most, 7)
    assert sum(pair.weight for pair in built.preferences) == pytest.approx(1)


def test_without_a_cap_the_order_of_candidates_does_not_matter(sample, texts):
    transform = CorrectnessPairs(pairs_per_sample=9)
    expected = set(pairs_of(transform, sample, texts))
    for order in itertools.permutations(sample.candidates):
        assert set(pairs_of(transform, replace(sample, candidates=order), texts)) == expected


def test_a_sample_without_a_reference_has_its_own_pairs_alone(sample, texts):
    bare = replace(sample, messages=sample.prompt)
    assert len(pairs_of(CorrectnessPairs(pairs_per_sample=9), bare, texts)) == 4
    assert CorrectnessPairs(("corrected", "injected"))(bare) == ()


def test_equal_texts_are_never_paired(graded, candidate, texts):
    sample = graded(
        candidate("same", correct=1),
        candidate("same ", correct=0),
        candidate("gold", correct=0),
        candidate(" gold", model="injected_error", correct=0),
        reference="gold",
    )
    assert pairs_of(CorrectnessPairs(pairs_per_sample=9), sample, texts) == [("same", "gold"), ("gold", "same ")]


def test_what_the_reference_and_a_candidate_both_say_is_paired_once(graded, candidate, texts):
    sample = graded(candidate("gold", correct=1), candidate("wrong", correct=0), reference="gold")
    assert pairs_of(CorrectnessPairs(pairs_per_sample=9), sample, texts) == [("gold", "wrong")]


def test_empty_and_ungraded_candidates_are_left_out(graded, candidate):
    odd = [candidate(" ", correct=0), candidate("a"), candidate("b", correct=0.5), candidate("c", correct=float("nan"))]
    assert CorrectnessPairs()(graded(*odd)) == ()
    assert CorrectnessPairs()(graded(candidate("", model="injected_error", correct=0))) == ()


def test_evaluation_keeps_the_sample_and_adds_the_same_pairs(sample):
    transform = CorrectnessPairs(pairs_per_sample=3)
    evaluated = transform.for_evaluation(sample)
    assert evaluated.preferences == transform(sample)[0].preferences
    assert replace(evaluated, preferences=()) == sample
    bare = replace(sample, messages=sample.prompt, candidates=())
    assert transform.for_evaluation(bare) == bare


def test_a_sample_without_candidates_is_bad(graded):
    with pytest.raises(BadSampleError, match="s: has no candidates"):
        CorrectnessPairs()(graded())


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"sources": ()}, "sources is"),
        ({"sources": ("own", "own")}, "each once"),
        ({"sources": ("guessed",)}, "'guessed'.*'corrected'"),
        ({"pairs_per_sample": 0}, "pairs_per_sample is 0"),
    ],
)
def test_settings_are_checked(settings, told):
    with pytest.raises(UserError, match=told):
        CorrectnessPairs(**settings)
