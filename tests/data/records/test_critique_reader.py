import json

import pytest

from lit_vlm.data.records.critique_reader import read_critique
from lit_vlm.interfaces.critiques import CritiqueUnit, StepLabel
from lit_vlm.interfaces.errors import UserError
from lit_vlm.parsing.judge_prompts import judge_request, write_numbered_steps

ASKED = judge_request("q", "s")


@pytest.mark.parametrize(
    ("said", "verdict"), [("Conclusion: right [END]", "right"), ("Conclusion: no [END]", None), ("", None)]
)
def test_critiques_in_words(said, verdict):
    critique = read_critique(ASKED, said)
    assert (critique.question, critique.response, critique.text, critique.verdict) == ("q", "s", said, verdict)


@pytest.mark.parametrize("asked", ["Look.\nSTEPS", judge_request("Look.", "STEPS")])
def test_labels_take_the_steps_of_the_prompt(asked):
    said = json.dumps([{"step": 1, "correct": 1}, {"step": 2, "correct": 0, "error_type": "knowledge"}])
    critique = read_critique(asked.replace("STEPS", write_numbered_steps(("a", "b"))), said)
    assert critique.steps == (StepLabel("a", True), StepLabel("b", False, "knowledge"))
    assert (critique.question, critique.verdict) == ("Look.", "wrong")


def test_labels_that_cannot_be_read_are_no_labels():
    critique = read_critique("Step 1: a", '[{"step": 1, "correct": "maybe"}]')
    assert (critique.steps, critique.verdict) == ((), None)


@pytest.mark.parametrize(
    ("said", "units", "score"),
    [
        ("Fine. Score: 4", (), 4.0),
        ("ACU 1: It is 5.\nACU 2: Too long.", (CritiqueUnit("", "It is 5."), CritiqueUnit("", "Too long.")), None),
        ('[{"flaw": "it is 5"}]', (CritiqueUnit("", "it is 5"),), None),
    ],
)
def test_remarks_and_grades(said, units, score):
    critique = read_critique(ASKED, said)
    assert (critique.units, critique.score) == (units, score)


def test_what_judges_nothing_is_no_critique():
    assert read_critique("What is 2 + 2?", "4") is None


@pytest.mark.parametrize("said", ["Conclusion: wrong [END]", '[{"step": 1, "correct": 1}]'])
def test_a_critique_without_a_solution_is_refused(said):
    with pytest.raises(UserError, match="there is none in its prompt"):
        read_critique("Question: q", said)


def test_each_step_needs_a_label():
    with pytest.raises(UserError, match="labels 1 steps, and the solution has 2"):
        read_critique("Step 1: a\nStep 2: b", '[{"step": 1, "correct": 1}]')


@pytest.mark.parametrize("piece", ["ACU 1:", "Score: 4", "Score: 1.", "[{", "Step 1: a\n"])
def test_hostile_texts_take_linear_time(piece):
    read_critique(ASKED, piece * (100_000 // len(piece)))
