from collections import Counter

import pytest

from lit_vlm.data.derivation_checks import check_derivation
from lit_vlm.data.embedded_critiques import JUDGE, EmbeddedCritiques, critique_text
from lit_vlm.interfaces.critiques import StepLabel
from lit_vlm.interfaces.errors import UserError
from lit_vlm.models.backbone import Backbone
from lit_vlm.parsing.critique_verdict import read_verdict
from lit_vlm.parsing.first_wrong_step import read_first_wrong_step
from lit_vlm.parsing.judge_prompts import read_judge_request, read_numbered_steps
from lit_vlm.parsing.step_judgements import read_step_judgements


def first(count, split="train", **options):
    samples = EmbeddedCritiques(**options).samples(split)
    return [samples[index] for index in range(count)]


@pytest.mark.parametrize("tasks_from", ["digits", "scenes"])
def test_a_critique_says_what_is_true_of_its_solution(tasks_from):
    for sample in first(60, tasks_from=tasks_from):
        critique, said = sample.critique, sample.messages[-1].text
        assert (sample.meta.category, sample.answer) == (JUDGE, None)
        assert read_judge_request(sample.question) == (critique.question, critique.response)
        assert said == critique.text
        assert read_verdict(said) == critique.verdict
        assert read_first_wrong_step(said) == critique.first_wrong_step
        assert (critique.verdict == "right") == (critique.first_wrong_step is None)
        assert sample.id == f"{sample.meta.extra['parent']}#{sample.meta.extra['candidate']}"
        assert [message.train for message in sample.messages] == [False, True]
        assert len(sample.images) == 1


def test_json_critiques_label_the_numbered_steps():
    for sample in first(20, form="json"):
        question, shown = read_judge_request(sample.question)
        labels = read_step_judgements(sample.messages[-1].text)
        assert question == sample.critique.question
        assert read_numbered_steps(shown)[1] == tuple(step.text for step in sample.critique.steps)
        assert [label.correct for label in labels] == [step.correct for step in sample.critique.steps]
        assert [label.error_type for label in labels] == [step.error_type for step in sample.critique.steps]


def test_half_of_what_is_judged_is_right_and_errors_are_of_several_kinds():
    samples = first(300)
    verdicts = Counter(sample.critique.verdict for sample in samples)
    assert 0.4 < verdicts["right"] / len(samples) < 0.6
    kinds = Counter(
        sample.critique.steps[sample.critique.first_wrong_step - 1].error_type
        for sample in samples
        if sample.critique.first_wrong_step
    )
    assert {"visual interpretation", "reasoning", "numerical calculation"} <= set(kinds)


def test_one_problem_has_many_solutions():
    samples = first(80, problem=1, solutions=40)
    assert len({sample.critique.question for sample in samples}) == 1
    assert len({sample.meta.extra["parent"] for sample in samples}) == 1
    assert len({sample.critique.response for sample in samples}) > 15


def test_some_training_samples_are_solved():
    samples = first(200, solving_share=0.25)
    solved = [sample for sample in samples if sample.critique is None]
    assert 0.15 < len(solved) / len(samples) < 0.35
    assert all(sample.answer is not None and sample.meta.category != JUDGE for sample in solved)
    assert not any(sample.candidates for sample in samples)


@pytest.mark.parametrize("split", ["validation", "test"])
def test_evaluation_asks_each_question_twice(split):
    module = EmbeddedCritiques(validation_size=24, test_size=24)
    samples = [module.samples(split)[index] for index in range(24)]
    for judged, solved in zip(samples[::2], samples[1::2], strict=True):
        assert (judged.critique is not None, solved.critique) == (True, None)
        assert judged.meta.extra["parent"] == solved.id
        assert judged.meta.extra["solution"] == solved.messages[-1].text
    assert len({sample.id for sample in samples}) == 24
    assert {sample.meta.category for sample in samples} <= set(module.tasks)


def test_samples_depend_on_split_and_index_alone():
    one, other = EmbeddedCritiques(train_size=50), EmbeddedCritiques(train_size=9)
    for index in (8, 3):
        first, second = one.samples("train")[index], other.samples("train")[index]
        assert (first.id, first.messages, first.critique) == (second.id, second.messages, second.critique)


def test_a_wrong_solution_with_the_true_answer_is_not_judged():
    module = EmbeddedCritiques(solutions=20)
    tasks = module._generators[0]
    for problem in range(6):
        sample = tasks.candidates.generator.sample("train", problem)
        for solution in tasks.judged_solutions("train", problem):
            labels = check_derivation(sample, solution.text)
            assert labels == solution.steps
            assert all(label.correct for label in labels) == labels[-1].correct


def test_prompt_and_critique_are_short_for_the_bundled_model():
    encoder = Backbone("tiny").load_encoder()
    assert max(encoder.count_tokens(sample).total for sample in first(40)) <= 256


def test_a_critique_names_what_should_stand_at_a_wrong_step():
    steps = [StepLabel("a", True), StepLabel("b", False, "reasoning", "c")]
    assert critique_text(steps) == "a, so step 1 is right. c, so step 2 is wrong. Conclusion: wrong [END]"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"problem": -1}, "problem is -1"),
        ({"problem": 10**6}, "problem is 1000000"),
        ({"solving_share": 1.0}, "solving_share is 1.0"),
        ({"solutions": 0}, "solutions is 0"),
        ({"form": "verse"}, "form is 'verse'"),
        ({"tasks_from": "puzzles"}, "tasks_from"),
    ],
)
def test_settings_out_of_range(options, message):
    with pytest.raises(UserError, match=message):
        EmbeddedCritiques(**options)
