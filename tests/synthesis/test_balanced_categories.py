from collections import Counter
from dataclasses import replace

import pytest

from lit_vlm.interfaces.critiques import Critique
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import SampleMeta
from lit_vlm.synthesis.balanced_categories import BalanceCategories


@pytest.fixture
def samples(make_sample):
    """Ten of a, four of b, two of c."""
    return [
        replace(make_sample("", kind, sample_id=f"{kind}{number}"), meta=SampleMeta(category=kind, difficulty=number))
        for kind, count in [("a", 10), ("b", 4), ("c", 2)]
        for number in range(count)
    ]


def sizes(samples):
    return Counter(sample.meta.category for sample in samples)


def test_no_kind_outweighs_the_rarest(samples):
    kept, reasons = BalanceCategories().with_reasons(samples)
    assert sizes(kept) == {"a": 2, "b": 2, "c": 2}
    assert reasons == {"samples of category a beyond 2": 8, "samples of category b beyond 2": 2}
    assert sizes(BalanceCategories(ratio=1.5)(samples)) == {"a": 3, "b": 3, "c": 2}
    assert sizes(BalanceCategories(most=5)(samples)) == {"a": 5, "b": 4, "c": 2}


def test_it_is_a_draw_by_seed(samples):
    first, other = BalanceCategories()(samples), BalanceCategories(seed=1)(samples)
    assert first != other
    assert first != [*samples[:2], *samples[10:12], *samples[14:]]


def test_kinds_may_be_answers_levels_and_verdicts(samples):
    assert sizes(BalanceCategories(by="answer")(samples)) == {"a": 2, "b": 2, "c": 2}
    levels = Counter(sample.meta.difficulty for sample in BalanceCategories(by="difficulty")(samples))
    assert set(levels.values()) == {1}
    judged = [
        replace(sample, critique=Critique("?", "!", verdict="right" if place < 3 else "wrong"))
        for place, sample in enumerate(samples)
    ]
    verdicts = Counter(sample.critique.verdict for sample in BalanceCategories(by="verdict")(judged))
    assert verdicts == {"right": 3, "wrong": 3}


def test_a_sample_that_does_not_say_its_kind_is_refused(samples):
    with pytest.raises(UserError, match=r"a0 \(and 15 more\) has no source"):
        BalanceCategories(by="source")(samples)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"by": "colour"}, "category, difficulty"),
        ({"most": 0}, "most is 0"),
        ({"ratio": 0.5}, "1 or more"),
        ({"ratio": float("nan")}, "1 or more"),
        ({"most": 3, "ratio": 2.0}, "one of them"),
    ],
)
def test_bad_settings_are_refused(settings, told):
    with pytest.raises(UserError, match=told):
        BalanceCategories(**settings)
