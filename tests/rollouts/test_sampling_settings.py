import math

import pytest

from lit_vlm.interfaces.errors import UserError
from lit_vlm.rollouts.sampling_settings import SamplingSettings


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("max_new_tokens", (0, -1)),
        ("temperature", (-0.5, 1e-6, math.inf, math.nan)),
        ("top_p", (0.0, -0.1, 1.1, math.nan)),
        ("top_k", (-1,)),
        ("min_p", (-0.1, 1.0, math.nan)),
        ("repetition_penalty", (0.0, -1.0, math.inf, math.nan)),
        ("stop_strings", (("",), ("a", ""), "a text")),
    ],
)
def test_a_value_out_of_range_is_refused_by_its_name(field, values):
    for value in values:
        with pytest.raises(UserError, match=f"sampling.{field} is"):
            SamplingSettings(**{field: value})


@pytest.mark.parametrize(
    "options",
    [{"temperature": 0.0}, {"top_p": 1e-3}, {"min_p": 0.99}, {"repetition_penalty": 0.5}, {"stop_strings": ("a", " ")}],
)
def test_values_within_range_are_taken(options):
    assert SamplingSettings(**options).is_greedy is ("temperature" in options)
