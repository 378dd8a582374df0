import pytest

from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import INJECTED_ERROR
from lit_vlm.synthesis.pass_rates import check_right_from, pass_rates


def test_it_is_the_share_of_right_candidates(graded, candidate):
    sample = graded(candidate("a", correct=1), candidate("b", correct=0), candidate("a", correct=1))
    assert pass_rates([sample], ["correct"], 1.0) == [2 / 3]


def test_injected_errors_say_nothing_of_the_model(graded, candidate):
    sample = graded(candidate("a", correct=1), candidate("b", model=INJECTED_ERROR, correct=0))
    assert pass_rates([sample], ["correct"], 1.0) == [1.0]


def test_grades_add_up_and_the_bound_is_the_users(graded, candidate):
    sample = graded(candidate("a", help=2, truth=2), candidate("b", help=2, truth=3))
    assert pass_rates([sample], ["help", "truth"], 5.0) == [0.5]


def test_what_nobody_graded_is_refused(graded, candidate):
    ungraded = graded(candidate("a", correct=1), candidate("b"), sample_id="x")
    with pytest.raises(UserError, match=r"x \(and 1 more\) .*without a grade 'correct'"):
        pass_rates([graded(candidate("a", correct=1)), ungraded, graded()], ["correct"], 1.0)


def test_a_bound_that_is_no_number_is_refused():
    with pytest.raises(UserError, match="right_from"):
        check_right_from(float("nan"))
