import pytest

from lit_vlm.interfaces.critiques import Critique, StepLabel


@pytest.mark.parametrize(
    ("labels", "first"), [([], None), ([True, True], None), ([True, False, True, False], 2), ([False], 1)]
)
def test_the_first_wrong_step_counts_from_one(labels, first):
    steps = tuple(StepLabel(f"step {number}", label) for number, label in enumerate(labels))
    assert Critique("q", "r", steps=steps).first_wrong_step == first
