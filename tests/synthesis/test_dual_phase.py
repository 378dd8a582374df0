from dataclasses import replace

import pytest

from lit_vlm.data.transformed_samples import ExpandedSamples, PreparedSamples
from lit_vlm.interfaces.critiques import Critique, StepLabel
from lit_vlm.interfaces.errors import BadSampleError, UserError
from lit_vlm.interfaces.records import Candidate, Sample, SampleMeta, assistant_message, user_message
from lit_vlm.parsing.judge_prompts import judge_request, read_judge_request
from lit_vlm.parsing.step_judgements import read_step_judgements
from lit_vlm.synthesis.dual_phase import DIRECT, SOLVE_FIRST, DualPhase

STEPS = (StepLabel("i see 2 3.", True), StepLabel("2 + 3 = 6.", False, "numerical calculation", "2 + 3 = 5."))
CRITIQUE = Critique("what is the sum?", "i see 2 3. 2 + 3 = 6.", verdict="wrong", steps=STEPS)
RIGHT = "i see 2 3. 2 + 3 = 5."


def labelled(sample_id="s", **extra):
    return Sample(
        sample_id,
        (user_message("what is the sum?", images=1),),
        meta=SampleMeta(extra={"solution": RIGHT, **extra}),
        critique=CRITIQUE,
    )


def with_candidates():
    wrong = Candidate((assistant_message("i see 2 3. 2 + 3 = 6."),), critique=CRITIQUE)
    unknown = Candidate((assistant_message("hm"),))
    turns = (user_message("what is the sum?", images=1), assistant_message(RIGHT))
    return Sample("q", turns, candidates=(unknown, wrong, wrong))


def test_a_direct_judgement_is_the_list_alone():
    (made,) = DualPhase(probability=0)(labelled())
    *prompt, completion = made.messages
    assert completion.train
    assert completion.text.startswith('[{"step": 1, "correct": 1}')
    assert [step.correct for step in read_step_judgements(completion.text)] == [True, False]
    assert prompt[0].text == judge_request("what is the sum?", "Step 1: i see 2 3.\nStep 2: 2 + 3 = 6.", DIRECT)
    assert read_judge_request(prompt[0].text) is not None
    assert prompt[0].content[0] == labelled().messages[0].content[0]  # the picture
    assert made.critique == CRITIQUE
    assert made.answer is None


def test_a_judge_that_solves_first_learns_the_whole_completion():
    (made,) = DualPhase(probability=1)(labelled())
    assert made.messages[0].text.startswith(SOLVE_FIRST)
    solution, _, labels = made.messages[-1].text.partition("</solution>\n")
    assert solution == f"<solution>{RIGHT}"
    assert made.messages[-1].train
    assert [step.error_type for step in read_step_judgements(made.messages[-1].text)] == [None, "numerical calculation"]
    assert labels.startswith("[")


def test_every_judged_candidate_is_a_question_of_its_own():
    made = DualPhase(probability=1)(with_candidates())
    assert [question.id for question in made] == ["q#1", "q#2"]
    assert [question.meta.extra for question in made] == [
        {"parent": "q", "candidate": 1},
        {"parent": "q", "candidate": 2},
    ]
    assert all(f"<solution>{RIGHT}</solution>" in question.messages[-1].text for question in made)
    assert all(len(question.messages) == 2 and not question.candidates for question in made)


def test_the_draw_depends_on_the_id_and_the_epoch_alone():
    transform = DualPhase()
    first = [transform.in_epoch(labelled(str(number)), 3) for number in range(20)]
    again = [transform.in_epoch(labelled(str(number), note="other"), 3) for number in reversed(range(20))]
    assert [made[0].messages for made in first] == [made[0].messages for made in reversed(again)]
    phases = {epoch: [transform.phase(str(number), epoch) for number in range(20)] for epoch in range(2)}
    assert phases[0] != phases[1]


@pytest.mark.parametrize("probability", [0.0, 0.25, 0.5, 1.0])
def test_the_probability_is_that_of_solving_first(probability):
    transform = DualPhase(probability=probability)
    drawn = [transform.phase(str(number), epoch) == "solve_first" for number in range(1000) for epoch in range(2)]
    assert sum(drawn) / len(drawn) == pytest.approx(probability, abs=0.035)  # 3 deviations of 2000 draws at 0.5


def test_lengths_are_counted_of_the_longest_form():
    transform = DualPhase(probability=0.1)
    (longest,) = transform(labelled())
    for epoch in range(30):
        (made,) = transform.in_epoch(labelled(), epoch)
        assert len(made.messages[-1].text) <= len(longest.messages[-1].text)


def test_the_data_hand_the_epoch_on():
    transform = DualPhase()
    expanded = ExpandedSamples([labelled(str(number)) for number in range(8)], transform)
    prepared = PreparedSamples(expanded, "be brief")
    for epoch in range(3):
        made = [prepared.at(index, epoch) for index in range(8)]
        assert [("<solution>" in one.messages[-1].text) for one in made] == [
            transform.phase(str(number), epoch) == "solve_first" for number in range(8)
        ]
        assert made[0].messages[0].role == "system"


def test_evaluation_judges_in_one_form_and_leaves_the_rest_to_be_solved():
    assert DualPhase(probability=1).for_evaluation(labelled()).messages[0].text.startswith(DIRECT)
    solving = DualPhase(evaluated="solve_first").for_evaluation(labelled())
    assert "<solution>" in solving.messages[-1].text
    assert DualPhase().for_evaluation(with_candidates()) == with_candidates()


def test_questions_to_be_solved_stay_as_they_are():
    solved = replace(with_candidates(), candidates=())
    assert DualPhase()(solved) == DualPhase().in_epoch(solved, 4) == (solved,)


def test_solutions_without_separate_steps_are_shown_whole():
    steps = tuple(replace(step, text="") for step in STEPS)
    (made,) = DualPhase(probability=0)(replace(labelled(), critique=replace(CRITIQUE, steps=steps)))
    assert made.messages[0].text.endswith("Solution:\ni see 2 3. 2 + 3 = 6.")


@pytest.mark.parametrize(
    ("sample", "reason"),
    [
        (replace(with_candidates(), candidates=with_candidates().candidates[:1]), "none with a critique"),
        (replace(labelled(), critique=replace(CRITIQUE, steps=())), "labels no steps"),
        (labelled(solution=" "), "no right solution"),
    ],
)
def test_samples_that_lack_something_are_refused(sample, reason):
    with pytest.raises(BadSampleError, match=reason):
        DualPhase()(sample)


def test_a_judge_that_never_solves_needs_no_solution():
    assert DualPhase(probability=0)(labelled(solution=""))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"probability": 1.5}, "probability is 1.5"),
        ({"evaluated": "both"}, "evaluated is 'both'"),
        ({"direct": " "}, "direct is empty"),
        ({"solve_first": ""}, "solve_first is empty"),
    ],
)
def test_settings_out_of_range_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        DualPhase(**options)
