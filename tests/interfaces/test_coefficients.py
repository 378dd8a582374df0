import math

import pytest

from lit_vlm.interfaces.coefficients import Coefficient, Coefficients
from lit_vlm.interfaces.errors import UserError


@pytest.fixture
def coefficients():
    return Coefficients({"kl": Coefficient(0.04, 0.0, 1.0), "reward/format": Coefficient(0.5)})


def test_a_coefficient_is_turned_within_its_bounds(coefficients):
    assert coefficients.set("kl", 0.2) == coefficients["kl"] == 0.2
    assert coefficients.set("kl", 7.0) == 1.0
    assert coefficients.set("kl", -1.0) == 0.0
    assert coefficients.set("reward/format", 1e9) == 1e9
    assert dict(coefficients) == {"kl": 0.0, "reward/format": 1e9}


def test_the_bounds_are_those_declared(coefficients):
    assert coefficients.bounds("kl") == (0.0, 1.0)
    assert coefficients.bounds("reward/format") == (0.0, math.inf)


def test_a_wrong_name_is_told_with_those_there_are(coefficients):
    with pytest.raises(UserError, match=r"KLScheduler turns the coefficient 'beta'.* it has kl, reward/format"):
        coefficients.require("beta", "KLScheduler")
    with pytest.raises(UserError, match="'beta'"):
        coefficients.set("beta", 1.0)


def test_what_is_no_number_is_refused(coefficients):
    with pytest.raises(UserError, match="'kl' cannot be set to nan"):
        coefficients.set("kl", math.nan)
    with pytest.raises(UserError, match=r"2 lies outside \[0.0, 1.0\]"):
        Coefficient(2, 0.0, 1.0)


def test_the_values_survive_a_checkpoint(coefficients):
    coefficients.set("kl", 0.3)
    again = Coefficients({"kl": Coefficient(0.04, 0.0, 1.0), "reward/format": Coefficient(0.5)})
    again.load_state_dict(coefficients.state_dict())
    assert dict(again) == dict(coefficients)
    with pytest.raises(UserError, match="'entropy'"):
        again.load_state_dict({"entropy": 1.0})


class Part:
    def __init__(self, **declared):
        self._declared = declared

    def coefficients(self):
        return {name: Coefficient(value) for name, value in self._declared.items()}


def test_parts_are_collected_and_may_not_share_a_name():
    assert dict(Coefficients.of(Part(a=1.0), Part(b=2.0), Part())) == {"a": 1.0, "b": 2.0}
    with pytest.raises(UserError, match="Part and another part of the model both weigh a"):
        Coefficients.of(Part(a=1.0), Part(a=1.0, c=2.0))
