import pytest

from lit_vlm.functional.schedules import adapted_weight, scheduled_value

STEPS = (0, 50, 100, 200, 300)


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("constant", [0.0] * 5),
        # A quarter, a half, all of 0.04.
        ("linear", [0.0, 0.01, 0.02, 0.04, 0.04]),
        # (1 - cos(pi / 4)) / 2 = 0.146447 of 0.04.
        ("cosine", [0.0, 0.005858, 0.02, 0.04, 0.04]),
    ],
)
def test_the_courses_are_those_of_the_card(kind, values):
    assert [scheduled_value(kind, 0.0, 0.04, step, 200) for step in STEPS] == pytest.approx(values, abs=5e-7)


@pytest.mark.parametrize("kind", ["linear", "cosine"])
@pytest.mark.parametrize(("start", "end"), [(0.0, 0.04), (0.3, 0.1), (0.1, 0.1), (0.1, 0.7)])
def test_a_course_is_monotone_within_its_ends_and_meets_them_exactly(kind, start, end):
    values = [scheduled_value(kind, start, end, step, 37) for step in range(80)]
    assert (values[0], values[37], values[79]) == (start, end, end)
    assert values == sorted(values, reverse=start > end)
    assert all(min(start, end) <= value <= max(start, end) for value in values)


def test_the_adapted_weight_is_that_of_the_formula():
    # Twice the target is clipped to an error of 0.2: 0.1 * (1 + 0.2 * 500 / 10000).
    assert adapted_weight(0.1, 0.2, 0.1, 500, 10_000) == pytest.approx(0.101)
    # 5 % below it: 0.1 * (1 - 0.05 * 500 / 10000).
    assert adapted_weight(0.1, 0.095, 0.1, 500, 10_000) == pytest.approx(0.09975)
    assert adapted_weight(0.1, 0.0, 0.1, 500, 10_000) == pytest.approx(0.099)
    assert adapted_weight(0.1, float("inf"), 0.1, 500, 10_000) == pytest.approx(0.101)
    assert adapted_weight(0.1, 0.1, 0.1, 500, 10_000) == 0.1
