import itertools
from dataclasses import replace

import pytest

from lit_vlm.interfaces.errors import BadSampleError, UserError
from lit_vlm.synthesis.candidate_groups import CandidateGroups


@pytest.fixture
def sample(graded, candidate):
    """Two positive and two negative chains, with repeats, an empty one, an ungraded one and one of another making."""
    return graded(
        candidate("p1", correct=1),
        candidate("n1", correct=0),
        candidate(" p1 ", correct=1),
        candidate("", correct=0),
        candidate("ungraded"),
        candidate("spoilt", model="injected_error", correct=0),
        candidate("p2", correct=1),
        candidate("n2", correct=0),
        reference="gold",
    )


def texts_of(sample):
    return [candidate.text for candidate in sample.candidates]


def test_usable_chains_are_kept_once_beside_the_one_to_imitate(sample):
    (built,) = CandidateGroups()(sample)
    assert texts_of(built) == ["p1", "n1", "p2", "n2"]
    assert built.messages[:-1] == sample.prompt
    assert (built.messages[-1].text, built.messages[-1].train) == ("gold", True)
    assert (built.id, built.images, built.answer, built.meta) == (sample.id, sample.images, sample.answer, sample.meta)


def test_errors_that_were_injected_count_where_that_is_asked_for(sample):
    assert texts_of(CandidateGroups(injected=True)(sample)[0]) == ["p1", "n1", "spoilt", "p2", "n2"]


@pytest.mark.parametrize("limit", [1, 2, 3, 9])
def test_the_first_ones_stay_under_the_limit(sample, limit):
    assert texts_of(CandidateGroups(limit=limit)(sample)[0]) == ["p1", "n1", "p2", "n2"][:limit]


def test_evaluation_pairs_every_positive_with_every_negative(sample, texts):
    evaluated = CandidateGroups().for_evaluation(sample)
    expected = [("p1", "n1"), ("p1", "n2"), ("p2", "n1"), ("p2", "n2")]
    assert [texts(pair) for pair in evaluated.preferences] == expected
    assert {pair.weight for pair in evaluated.preferences} == {1.0}
    assert (evaluated.messages, evaluated.answer) == (sample.messages, sample.answer)


def test_the_order_of_candidates_does_not_matter_under_the_limit(graded, candidate, texts):
    sample = graded(*(candidate(f"{index}", correct=index % 2) for index in range(5)))
    expected = {texts(pair) for pair in CandidateGroups().for_evaluation(sample).preferences}
    assert len(expected) == 6
    for order in itertools.permutations(sample.candidates):
        turned = replace(sample, candidates=order)
        assert {texts(pair) for pair in CandidateGroups().for_evaluation(turned).preferences} == expected


def test_chains_with_more_than_two_grades_are_paired_in_their_order(graded, candidate, texts):
    sample = graded(*(candidate(text, correct=grade) for text, grade in (("c", 0), ("a", 1), ("b", 0.5))))
    pairs = CandidateGroups().for_evaluation(sample).preferences
    assert {texts(pair) for pair in pairs} == {("a", "b"), ("a", "c"), ("b", "c")}


def test_a_group_of_one_kind_is_trained_on_and_has_no_pair(graded, candidate):
    sample = graded(candidate("a", correct=1), candidate("b", correct=1))
    assert len(CandidateGroups()(sample)) == 1
    assert CandidateGroups().for_evaluation(sample).preferences == ()


def test_a_sample_without_a_chain_to_imitate_is_bad(sample):
    for messages in (sample.prompt, (*sample.prompt, replace(sample.messages[-1], content=()))):
        with pytest.raises(BadSampleError, match="s: has no chain to imitate"):
            CandidateGroups()(replace(sample, messages=messages))


def test_a_sample_without_graded_chains_is_bad(graded, candidate):
    for candidates in ((), (candidate("a"),), (candidate(" ", correct=1),)):
        with pytest.raises(BadSampleError, match="s: has no candidate with a score 'correct'"):
            CandidateGroups()(graded(*candidates))


def test_evaluation_never_raises(graded):
    for sample in (graded(), graded(reference=None)):
        assert CandidateGroups().for_evaluation(sample) == sample


def test_settings_are_checked():
    with pytest.raises(UserError, match="limit is 0"):
        CandidateGroups(limit=0)


def test_ties_are_broken_by_a_grade_without_lifting_a_wrong_chain_to_a_right_one(graded, candidate):
    grades = {"best": (1, 4), "good": (1, 0), "near": (0, 4000), "far": (0, 1)}
    given = graded(*(candidate(text, correct=right, correctness=grade) for text, (right, grade) in grades.items()))
    (built,) = CandidateGroups(ties_by="correctness")(given)
    scores = {candidate.text: candidate.scores["correct"] for candidate in built.candidates}
    assert sorted(scores, key=scores.get, reverse=True) == list(grades)
    assert scores["best"] == 1.4
    assert scores["near"] < 0.5 < scores["good"]
    assert CandidateGroups(ties_by="correctness").for_evaluation(given) == CandidateGroups().for_evaluation(given)


def test_a_chain_without_the_grade_that_breaks_ties_is_refused(sample):
    with pytest.raises(BadSampleError, match="without a grade 'correctness' of 0 or more"):
        CandidateGroups(ties_by="correctness")(sample)
