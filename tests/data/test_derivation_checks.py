from dataclasses import replace

import pytest

from lit_vlm.data.derivation_checks import NO_ANSWER, NO_SOLUTION, check_derivation, true_derivation
from lit_vlm.data.embedded_candidates import candidate_tasks
from lit_vlm.data.embedded_thoughts import sentences, thought_of
from lit_vlm.interfaces.critiques import StepLabel
from lit_vlm.interfaces.records import Answer, Sample, SampleMeta, assistant_message, user_message
from lit_vlm.parsing.answers import check_answer
from lit_vlm.parsing.step_judgements import ERROR_TYPES

QUESTIONS = 250
SUM = Sample(
    "sum",
    (user_message("Add the digits."), assistant_message("<think>i see 2 3. 2 + 3 = 5.</think><answer>5</answer>")),
    answer=Answer("number", "5"),
    meta=SampleMeta(category="sum", extra={"rows": ((2, 3),)}),
)


def judged(thought, answer):
    return check_derivation(SUM, f"<think>{thought}</think><answer>{answer}</answer>")


def first_wrong(labels):
    return next((place for place, label in enumerate(labels) if not label.correct), None)


@pytest.mark.parametrize("tasks_from", ["digits", "scenes"])
def test_references_are_right_throughout_and_injected_errors_wrong_where_they_begin(tasks_from):
    tasks = candidate_tasks(tasks_from)
    injected = 0
    for index in range(QUESTIONS):
        sample = tasks.sample("train", index)
        reference = sample.messages[-1].text
        truth = sentences(thought_of(reference))
        assert list(true_derivation(sample)[0]) == truth
        labels = check_derivation(sample, reference)
        assert labels is not None
        assert all(label.correct for label in labels)
        assert [label.text for label in labels[:-1]] == truth
        for place, kind in enumerate(reversed(sample.meta.extra["injected_errors"]), 1):
            candidate = sample.candidates[-place]
            labels = check_derivation(sample, candidate.text)
            said = [label.text for label in labels[:-1]]
            where = next((n for n, sentence in enumerate(said) if sentence != truth[n]), len(said))
            # A place that is off by a pixel is no error: there the answer contradicts it.
            where = len(said) if labels[where].correct else where
            assert first_wrong(labels) == where
            assert labels[where].error_type in ("reasoning", "visual interpretation")
            if kind == "perception":
                assert labels[where].error_type == "visual interpretation"
            assert labels[where].explanation
            injected += 1
    assert injected > QUESTIONS


@pytest.mark.parametrize("tasks_from", ["digits", "scenes"])
def test_what_is_judged_right_throughout_has_the_true_answer(tasks_from):
    tasks = candidate_tasks(tasks_from)
    right = wrong = unread = 0
    for index in range(QUESTIONS):
        sample = tasks.sample("train", index)
        for text in {candidate.text for candidate in sample.candidates}:
            labels = check_derivation(sample, text)
            unread += labels is None
            if labels is None:
                continue
            is_right = check_answer(text, sample.answer).correct
            assert labels[-1].correct == is_right
            assert all(label.error_type in (None, *ERROR_TYPES) for label in labels)
            assert all((label.error_type is None and not label.explanation) for label in labels if label.correct)
            right += is_right
            wrong += not is_right
    assert min(right, wrong, unread) > 10


def test_the_steps_of_a_solution_and_its_answer():
    assert judged("i see 2 4. 2 + 4 = 7.", "7") == (
        StepLabel("i see 2 4", False, "visual interpretation", "i see 2 3"),
        StepLabel("2 + 4 = 7", False, "numerical calculation", "2 + 4 = 6"),
        StepLabel("the answer is 7", False, "visual interpretation", "the answer is 5"),
    )


def test_an_answer_that_does_not_follow_is_a_fault_of_reasoning():
    assert judged("i see 2 3. 2 + 3 = 5.", "6")[-1] == StepLabel(
        "the answer is 6", False, "reasoning", "the answer is 5"
    )
    assert judged("i see 2 3.", "6")[-1].error_type == "reasoning"


def test_a_true_answer_is_right_whatever_was_thought():
    assert [label.correct for label in judged("i see 2 4. 2 + 4 = 6.", "5")] == [False, True, True]
    assert judged("", "5") == (StepLabel("the answer is 5", True),)


def test_a_wrong_answer_without_a_thought_does_not_tell_its_kind():
    assert judged("", "6") == (StepLabel("the answer is 6", False, None, "the answer is 5"),)


@pytest.mark.parametrize("text", ["", " \n", "<think>", "<think>i see", "<think></think>"])
def test_nothing_is_no_solution(text):
    assert check_derivation(SUM, text) == (StepLabel(NO_ANSWER, False, NO_SOLUTION, "the answer is 5"),)


@pytest.mark.parametrize("text", ["<think>i see 2 3. 2 +", "<think>i see 2 3.</think>"])
def test_a_solution_that_was_cut_off_keeps_its_whole_sentences(text):
    labels = check_derivation(SUM, text)
    assert labels == (StepLabel("i see 2 3", True), StepLabel(NO_ANSWER, False, NO_SOLUTION, "the answer is 5"))


@pytest.mark.parametrize(
    "text",
    [
        "5",
        "it is <answer>5</answer>",
        "<think>i see 2 3. hm.</think><answer>5</answer>",
        "<think>2 + 3 = 5.</think><answer>5</answer>",
        "<think>i see 2 3. 2 + 3 = 5. 5 + 0 = 5.</think><answer>5</answer>",
        "<think>i see 2 3. 2 + 3 = 5.</think><answer>5</answer></answer>",
        "<think>i see 2 3. 2 + 3 = 5.</think> so 5",
    ],
)
def test_what_is_no_such_derivation_is_left_alone(text):
    assert check_derivation(SUM, text) is None


def test_other_questions_are_refused():
    with pytest.raises(ValueError, match="no answer"):
        check_derivation(replace(SUM, answer=None), "5")
    with pytest.raises(ValueError, match="no question about digits or scenes"):
        check_derivation(replace(SUM, meta=SampleMeta(category="sum")), "")
