import itertools
from dataclasses import replace

import pytest

from lit_vlm.interfaces.errors import BadSampleError, UserError
from lit_vlm.interfaces.records import Candidate, assistant_message
from lit_vlm.synthesis.graded_pairs import GradedPairs

CARD = [(4, 3), (2, 2), (4, 4), (1, 3)]


@pytest.fixture
def make(graded):
    """Makes a sample whose candidate ``n`` says ``n`` and has the n-th grades."""

    def build(grades, sample_id="s"):
        named = [{"helpfulness": helpful, "correctness": correct} for helpful, correct in grades]
        texts = [(assistant_message(str(index)),) for index in range(len(grades))]
        return graded(*map(Candidate, texts, named), sample_id=sample_id)

    return build


def test_the_best_is_preferred_to_the_first_of_the_worst(make, texts):
    (built,) = GradedPairs()(make(CARD))  # sums 7, 4, 8, 4: the gap is 4
    assert [texts(pair) for pair in built.preferences] == [("2", "1")]


@pytest.mark.parametrize(("gap", "kept"), [(4.0, True), (4.1, False), (0.0, True)])
def test_a_gap_that_is_too_narrow_gives_no_training_sample(make, gap, kept):
    assert bool(GradedPairs(min_gap=gap)(make(CARD))) is kept


def test_a_tie_is_never_paired(make):
    for rule in ("best_worst", "all"):
        assert GradedPairs(min_gap=0, rule=rule)(make([(2, 2), (1, 3), (3, 1)])) == ()


def test_the_first_of_the_best_is_chosen(make, texts):
    (built,) = GradedPairs()(make([(1, 1), (4, 4), (4, 4)]))
    assert texts(built.preferences[0]) == ("1", "0")


def test_the_mean_halves_the_gap_of_two_grades(make):
    assert GradedPairs(reduction="mean", min_gap=2)(make(CARD))
    assert GradedPairs(reduction="mean", min_gap=2.1)(make(CARD)) == ()


def test_gaps_are_compared_as_written(make):
    sample = make([(0.3, 0.0), (0.1, 0.0)])  # 0.3 - 0.1 is 0.19999999999999998 in binary
    assert GradedPairs(min_gap=0.2)(sample)


def test_all_pairs_that_are_far_enough_apart_share_one_weight(make, texts):
    (built,) = GradedPairs(rule="all", min_gap=3)(make(CARD))  # 8 over 4 and 4, 7 over 4 and 4
    assert sorted(map(texts, built.preferences)) == [("0", "1"), ("0", "3"), ("2", "1"), ("2", "3")]
    assert [pair.weight for pair in built.preferences] == [0.25] * 4


@pytest.mark.parametrize("rule", ["best_worst", "all"])
def test_the_order_of_candidates_and_of_grades_does_not_matter(make, texts, rule):
    transform = GradedPairs(rule=rule, min_gap=1, flip=0.5)
    sample = make([(4, 3), (2, 2), (4, 4), (0, 3)])
    expected = {texts(pair) for pair in transform(sample)[0].preferences}
    for order in itertools.permutations(sample.candidates):
        turned = [Candidate(one.messages, dict(reversed(one.scores.items()))) for one in order]
        (built,) = transform(replace(sample, candidates=tuple(turned)))
        assert {texts(pair) for pair in built.preferences} == expected


def test_candidates_without_a_grade_are_left_out(make, texts, candidate):
    sample = make(CARD)
    ungraded = [
        candidate("none"),
        candidate("half", helpfulness=9),
        candidate("nan", helpfulness=float("nan"), correctness=4),
        candidate("N/A", helpfulness="N/A", correctness=4),
        candidate(" ", helpfulness=9, correctness=9),
    ]
    (built,) = GradedPairs()(replace(sample, candidates=(*ungraded, *sample.candidates)))
    assert texts(built.preferences[0]) == ("2", "1")
    assert GradedPairs()(replace(sample, candidates=tuple(ungraded))) == ()


def test_a_repeat_counts_as_first_graded(graded, candidate, texts):
    best, repeat = candidate("a", score=8), candidate("a ", score=0)
    transform = GradedPairs(grades=("score",), rule="all")
    assert transform(graded(best, repeat)) == ()
    (built,) = transform(graded(best, repeat, candidate("b", score=4)))
    assert [texts(pair) for pair in built.preferences] == [("a", "b")]


def test_noise_turns_its_share_of_the_pairs_round_and_only_in_training(make, texts):
    samples = [make(CARD, sample_id=f"s{index}") for index in range(400)]
    flipped = {}
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        transform = GradedPairs(flip=share)
        pairs = {sample.id: texts(transform(sample)[0].preferences[0]) for sample in samples}
        assert set(pairs.values()) <= {("2", "1"), ("1", "2")}
        flipped[share] = {name for name, pair in pairs.items() if pair == ("1", "2")}
        assert len(flipped[share]) / len(samples) == pytest.approx(share, abs=0.08)
        assert {texts(transform.for_evaluation(sample).preferences[0]) for sample in samples} == {("2", "1")}
    assert flipped[0.25] < flipped[0.5] < flipped[0.75]


def test_noise_repeats_by_seed_and_id(make):
    samples = [make(CARD, sample_id=f"s{index}") for index in range(40)]
    first = [GradedPairs(flip=0.5)(sample) for sample in samples]
    assert first == [GradedPairs(flip=0.5)(sample) for sample in reversed(samples)][::-1]
    assert first != [GradedPairs(flip=0.5, seed=1)(sample) for sample in samples]


def test_evaluation_keeps_the_answer_and_takes_samples_without_a_pair(make, graded, candidate):
    sample = make(CARD)
    evaluated = GradedPairs().for_evaluation(sample)
    assert (evaluated.messages, evaluated.answer) == (sample.messages, sample.answer)
    assert GradedPairs(min_gap=9).for_evaluation(sample).preferences == ()
    assert GradedPairs().for_evaluation(graded(candidate("a"))).preferences == ()
    assert GradedPairs().for_evaluation(graded()).preferences == ()


def test_a_sample_without_candidates_is_bad(graded):
    with pytest.raises(BadSampleError, match="s: has no candidates"):
        GradedPairs()(graded())


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"grades": ()}, "grades is"),
        ({"grades": ("a", "a")}, "each once"),
        ({"min_gap": -1}, "min_gap is -1"),
        ({"min_gap": float("nan")}, "min_gap is nan"),
        ({"flip": 1.5}, r"flip is 1\.5"),
        ({"flip": float("nan")}, "flip is nan"),
    ],
)
def test_settings_are_checked(settings, told):
    with pytest.raises(UserError, match=told):
        GradedPairs(**settings)
