import pytest

from lit_vlm.interfaces.errors import UserError
from lit_vlm.synthesis.pass_rate_filter import PassRateFilter


@pytest.fixture
def samples(graded, candidate):
    """Questions with 0 to 4 of 4 right."""
    return [
        graded(*(candidate(f"{n}", correct=float(n < right)) for n in range(4)), sample_id=f"{right}")
        for right in range(5)
    ]


def ids(samples):
    return [sample.id for sample in samples]


def test_neither_too_easy_nor_too_hard(samples):
    kept, reasons = PassRateFilter(least=0.25, most=0.75).with_reasons(samples)
    assert ids(kept) == ["1", "2", "3"]
    assert reasons == {"samples with a pass rate below 0.25": 1, "samples with a pass rate above 0.75": 1}


def test_any_bound_within_0_and_1_leaves_out_what_teaches_nothing(samples):
    assert ids(PassRateFilter(least=0.01, most=0.99)(samples)) == ["1", "2", "3"]
    assert ids(PassRateFilter()(samples)) == ["0", "1", "2", "3", "4"]


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"least": 0.5, "most": 0.4}, "least is 0.5"),
        ({"least": -0.1}, "from 0 to 1"),
        ({"most": float("nan")}, "from 0 to 1"),
        ({"score": ()}, "score"),
        ({"right_from": float("nan")}, "right_from"),
    ],
)
def test_bad_settings_are_refused(settings, told):
    with pytest.raises(UserError, match=told):
        PassRateFilter(**settings)


def test_a_sample_without_candidates_is_refused(graded):
    with pytest.raises(UserError, match="^q has no candidates"):
        PassRateFilter()([graded(sample_id="q")])
