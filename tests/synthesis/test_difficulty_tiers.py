import pytest

from lit_vlm.interfaces.errors import UserError
from lit_vlm.synthesis.difficulty_tiers import DifficultyTiers


@pytest.fixture
def samples(graded, candidate):
    """Questions with 0 to 10 of 10 right."""
    return [
        graded(*(candidate(f"{n}", correct=float(n < right)) for n in range(10)), sample_id=f"{right}")
        for right in range(11)
    ]


def test_the_higher_the_pass_rate_the_lower_the_tier(samples):
    kept = DifficultyTiers()(samples)
    # bounds 1.0, 0.5, 0.1: 10 of 10; 5 to 9; 1 to 4; 0.
    assert [sample.meta.difficulty for sample in kept] == [4, 3, 3, 3, 3, 2, 2, 2, 2, 2, 1]
    assert [sample.meta.extra["pass_rate"] for sample in kept] == [right / 10 for right in range(11)]
    assert samples[0].meta.difficulty is None


def test_tiers_may_be_left_out_and_capped(samples):
    kept, reasons = DifficultyTiers(keep=(2, 3), per_tier=3).with_reasons(samples)
    assert [sample.meta.difficulty for sample in kept].count(2) == 3
    assert [sample.meta.difficulty for sample in kept].count(3) == 3
    assert reasons == {
        "samples of tier 1": 1,
        "samples of tier 4": 1,
        "samples of tier 2 beyond 3": 2,
        "samples of tier 3 beyond 3": 1,
    }


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"bounds": ()}, "bounds"),
        ({"bounds": (0.5, 0.5)}, "each below the last"),
        ({"bounds": (1.5,)}, "up to 1"),
        ({"bounds": (0.0,)}, "above 0"),
        ({"keep": (5,)}, "tiers 1 to 4"),
        ({"keep": ()}, "tiers 1 to 4"),
        ({"per_tier": 0}, "per_tier"),
        ({"score": ("a", "a")}, "each once"),
    ],
)
def test_bad_settings_are_refused(settings, told):
    with pytest.raises(UserError, match=told):
        DifficultyTiers(**settings)
