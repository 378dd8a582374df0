import pytest

from lit_vlm.parsing.judge_prompts import (
    RUBRIC,
    STEP_RUBRIC,
    judge_request,
    read_judge_request,
    read_numbered_steps,
    write_numbered_steps,
)


@pytest.mark.parametrize("rubric", [RUBRIC, STEP_RUBRIC, "Judge."])
def test_what_is_asked_is_read_back(rubric):
    question, solution = "How many?\nA. one\nB. two", "<think>1 + 1.</think>\n\nSolution: two"
    assert read_judge_request(judge_request(question, solution, rubric)) == (question, solution)


@pytest.mark.parametrize(
    "text",
    [
        "Question:\nq\n\nSolution:\ns",
        "Criticise.\n Question: q\n Student's Solution: s",
        "Query: q\nResponse: s\nCriteria: it is short",
        "Problem:\nq\nStudent’s Solution:\n s \n",
    ],
)
def test_published_layouts(text):
    assert read_judge_request(text) == ("q", "s")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Question: q",
        "Solution: s",
        "Question:\nSolution: s",
        "Question: q\nSolution:\n ",
        "Solution: s\nQuestion: q",
    ],
)
def test_without_a_question_or_a_solution_nothing_is_judged(text):
    assert read_judge_request(text) is None


def test_numbered_steps_are_read_back():
    steps = ("i see 2 3", "2 + 3 = 6,\nso 6")
    assert read_numbered_steps(f"Add.\n{write_numbered_steps(steps)}") == ("Add.", steps)


@pytest.mark.parametrize("text", ["", "Step 2: a", "Step 1: a\nStep 3: b", "Step 1:\nStep 2: b", "see Step 1: a"])
def test_steps_must_be_numbered_in_order_and_say_something(text):
    assert read_numbered_steps(text) is None


@pytest.mark.parametrize("piece", ["Question:", "\n", " ", "Question:\nSolution:", "Step 1:", "\n \t"])
def test_hostile_texts_take_linear_time(piece):
    text = piece * (200_000 // len(piece))
    read_judge_request(text)
    read_numbered_steps(text)
