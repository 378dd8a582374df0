from dataclasses import replace

import pytest

from lit_vlm.data import critique_rules
from lit_vlm.data.critique_rules import CritiqueRules
from lit_vlm.data.records.critique_reader import SOLUTION_CORRECT
from lit_vlm.interfaces.critiques import Critique, StepLabel
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import Sample, SampleMeta, user_message


@pytest.fixture
def lines(monkeypatch):
    told = []
    monkeypatch.setattr(critique_rules, "rank_zero_info", told.append)
    return told


def judged(text, solution="s", verdict=None, place=1, **extra):
    critique = Critique("q", solution, text, verdict)
    return Sample("a", (user_message("q"),), meta=SampleMeta(origin=f"f, line {place}", extra=extra), critique=critique)


def test_what_does_not_conclude_is_left_out_unless_it_grades(lines):
    rules = CritiqueRules()
    cut = judged("cut o")
    assert not rules.keeps(cut)
    assert rules.keeps(replace(cut, critique=replace(cut.critique, steps=(StepLabel("a", True),))))
    assert rules.keeps(replace(cut, critique=replace(cut.critique, text="other", score=3.0)))
    assert rules.keeps(replace(cut, critique=None))
    rules.tell("data.train")
    assert lines[0] == f"data.train: 1 of 4 records are left out since {critique_rules.CUT_OFF} (f, line 1)"
    assert CritiqueRules(only_complete=False).keeps(cut)


def test_repeats_go_from_training_alone():
    text = "Conclusion: right [END]"
    for is_training in (True, False):
        rules = CritiqueRules(is_training=is_training)
        assert [rules.keeps(judged(text)) for _ in range(2)] == [True, not is_training]


def test_verdicts_are_compared_where_the_truth_is_known():
    rules = CritiqueRules(verdict_agreement=True)
    text = "Conclusion: right [END]"
    assert not rules.keeps(judged(text, "a", "right", **{SOLUTION_CORRECT: False}))
    assert rules.keeps(judged(text, "b", "right", **{SOLUTION_CORRECT: True}))
    assert rules.keeps(judged(text, "c", "right"))
    unknown = CritiqueRules(verdict_agreement=True)
    unknown.keeps(judged(text))
    with pytest.raises(UserError, match="no critique has an answer"):
        unknown.tell("data.train")


def test_one_solution_is_warned_of_and_two_are_not(lines):
    for solutions in (["a", "a"], ["a", "b"]):
        rules = CritiqueRules()
        for place, solution in enumerate(solutions):
            assert rules.keeps(judged(f"{place}. Conclusion: right [END]", solution, "right"))
        rules.tell("data.train")
    (line,) = lines
    assert line.startswith("warning: data.train: all 2 critiques are of one solution")


def test_only_the_first_places_are_named(lines):
    rules = CritiqueRules()
    assert not any(rules.leaves_out(f"line {place}", "they are blue") for place in range(1, 6))
    rules.tell("data.train")
    assert lines == ["data.train: 5 of 5 records are left out since they are blue (line 1, line 2, line 3 and 2 more)"]
