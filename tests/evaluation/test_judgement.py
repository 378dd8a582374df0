from dataclasses import replace

import pytest

from lit_vlm.evaluation.judgement import asks_for_steps, judged_verdict, read_judgement, true_verdict
from lit_vlm.interfaces.critiques import Critique, StepLabel
from lit_vlm.interfaces.records import Answer, Sample, assistant_message, user_message

STEPS = (StepLabel("i see 2 and 3.", True), StepLabel("2 + 3 = 6.", False, "numerical calculation"))
JSON = '[{"step": 1, "correct": 1}, {"step": 2, "correct": 0, "error_type": "numerical calculation"}]'


def truth(verdict="wrong", steps=STEPS, **fields):
    return Critique("2 + 3?", "i see 2 and 3. 2 + 3 = 6.", verdict=verdict, steps=steps, **fields)


def sample(critique, written=None):
    turns = () if written is None else (assistant_message(written),)
    return Sample("s", (user_message("Is this right?"), *turns), answer=Answer("number", "5"), critique=critique)


def test_a_conclusion_and_a_named_step_are_read():
    judgement = read_judgement("Step 1 is right. Step 2 is wrong: it is 5. Conclusion: wrong [END]")
    assert (judgement.verdict, judgement.steps, judgement.first_wrong_step) == ("wrong", None, 2)


def test_labels_say_the_verdict_where_none_is_stated():
    assert read_judgement(JSON).verdict == "wrong"
    assert read_judgement('[{"step": 1, "correct": 1}]', steps=2).verdict is None
    assert read_judgement('[{"step": 1, "correct": 1}] Conclusion: wrong [END]', steps=1).verdict == "wrong"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Step 2 is wrong. Conclusion: wrong [END]", True),
        ("Step 1 is wrong. Conclusion: wrong [END]", False),
        ("Step 2 is wrong. Conclusion: right [END]", False),
        ("Step 2 is wrong.", False),
        ("Conclusion: wrong [END]", False),
        (JSON, True),
        ("", False),
    ],
)
def test_the_first_wrong_step_takes_a_verdict_and_the_right_number(text, found):
    assert read_judgement(text, 2).finds_first_wrong_step(truth()) is found


def test_a_right_solution_has_no_wrong_step():
    right = truth("right", (STEPS[0],))
    assert read_judgement("Conclusion: right [END]").finds_first_wrong_step(right)
    assert not read_judgement("Step 1 is wrong. Conclusion: wrong [END]").finds_first_wrong_step(right)


def test_the_true_verdict_is_stated_or_follows_from_the_steps():
    assert true_verdict(truth("right")) == "right"
    assert true_verdict(truth(None)) == "wrong"
    assert true_verdict(truth(None, ())) is None


def test_a_judge_is_right_where_it_says_so_of_the_solution():
    wrong = judged_verdict(sample(truth()), "Conclusion: wrong [END]")
    assert (wrong.correct, wrong.parsed, wrong.formatted) == (True, "wrong", True)
    right = judged_verdict(sample(truth()), "Conclusion: right [END]")
    assert (right.correct, right.parsed, right.formatted) == (False, "right", True)
    # Also where it repeats the answer of the question that the solution is about.
    nothing = judged_verdict(sample(truth()), "<answer>5</answer>")
    assert (nothing.correct, nothing.parsed, nothing.formatted) == (False, None, False)
    assert judged_verdict(sample(truth(None, ())), "Conclusion: right [END]") is None
    assert judged_verdict(replace(sample(truth()), critique=None), "Conclusion: right [END]") is None


def test_steps_are_asked_for_where_the_critique_labels_them_or_nothing_is_written():
    assert asks_for_steps(sample(truth(), JSON))
    assert asks_for_steps(sample(truth(text=JSON)))
    assert asks_for_steps(sample(truth()))
    assert not asks_for_steps(sample(truth(), "Step 2 is wrong. Conclusion: wrong [END]"))
    assert not asks_for_steps(sample(truth(steps=()), JSON))
    assert not asks_for_steps(sample(None))
