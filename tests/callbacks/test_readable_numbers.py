import pytest

from lit_vlm.callbacks.readable_numbers import bounds_text, compact_number, duration_text, percent_text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (-3, "0 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (3599, "59 min 59 s"), (3600, "1 h 00 min")],
)
def test_durations_read_as_hours_minutes_and_seconds(seconds, text):
    assert duration_text(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0.0"), (99.96, "100"), (999, "999"), (999.96, "1.0k"), (12345, "12.3k"), (999_960, "1.0M"), (-2500, "-2.5k")],
)
def test_numbers_keep_about_three_digits(value, text):
    assert compact_number(value) == text


def test_a_number_that_is_none_is_written_as_such():
    assert compact_number(float("nan")) == "nan"


def test_shares_read_as_percentages():
    assert percent_text(1 / 3) == "33.3 %"
    assert bounds_text(0.0, 1.0) == "0.0 to 100.0"
