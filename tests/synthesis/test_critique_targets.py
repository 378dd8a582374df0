from dataclasses import replace

import pytest

from lit_vlm.interfaces.critiques import Critique, StepLabel
from lit_vlm.interfaces.errors import BadSampleError, UserError
from lit_vlm.interfaces.records import Answer, Candidate, Sample, assistant_message, user_message
from lit_vlm.parsing.judge_prompts import read_judge_request, read_numbered_steps
from lit_vlm.parsing.step_judgements import read_step_judgements
from lit_vlm.synthesis.critique_prompts import CritiquePrompts
from lit_vlm.synthesis.critique_targets import CritiqueTargets

CARD = ["It is 2. Conclusion: wrong [END]", "It is (cut", "It is 3. Conclusion: right [END]"]
SOLUTION = Candidate((assistant_message("3"),), {"correct": 0.0})
QUESTION = Sample("q", (user_message("How many?"),), answer=Answer("number", "2"), candidates=(SOLUTION,))


def critic_ledger():
    """A judging question with what critics wrote of it."""
    (asked,) = CritiquePrompts()(QUESTION)
    return replace(asked, candidates=tuple(Candidate((assistant_message(text),)) for text in CARD))


def attached(*critiques):
    """A question whose candidates have critiques."""
    return replace(QUESTION, candidates=tuple(replace(SOLUTION, critique=critique) for critique in critiques))


@pytest.mark.parametrize(("agreement", "kept"), [(False, [0, 2]), (True, [0])])
def test_the_cards_critiques_of_a_wrong_solution(agreement, kept):
    transform = CritiqueTargets(verdict_agreement=agreement)
    wanted = [CARD[index] for index in kept]
    from_ledger = transform(critic_ledger())
    from_attached = transform(attached(*(Critique("", "", text) for text in CARD)))
    for made in (from_ledger, from_attached):
        assert [one.messages[-1].text for one in made] == wanted
        assert [one.critique.text for one in made] == wanted
        for one in made:
            assert read_judge_request(one.question) == ("How many?", "3")
            assert [message.train for message in one.messages] == [False] * (len(one.messages) - 1) + [True]
            assert one.answer is None
            assert not one.candidates


def test_a_judging_questions_own_critique_is_imitated():
    (asked,) = CritiquePrompts()(QUESTION)
    sample = replace(asked, critique=replace(asked.critique, text=CARD[0]))
    (made,) = CritiqueTargets()(sample)
    assert made.messages == (*asked.messages, assistant_message(CARD[0]))
    assert CritiqueTargets()(asked) == ()


def test_labels_of_steps_are_written_as_a_list_of_a_numbered_solution():
    steps = (StepLabel("a", True), StepLabel("b", False, "reasoning"))
    (made,) = CritiqueTargets()(attached(Critique("", "", steps=steps)))
    assert [label.correct for label in read_step_judgements(made.messages[-1].text)] == [True, False]
    assert read_numbered_steps(read_judge_request(made.question)[1])[1] == ("a", "b")
    wrong = (StepLabel("a", True),)
    assert CritiqueTargets(verdict_agreement=True)(attached(Critique("", "", steps=wrong))) == ()


def test_repeats_are_left_out():
    assert len(CritiqueTargets()(attached(*[Critique("", "", CARD[0])] * 3))) == 1


def test_bad_input():
    with pytest.raises(BadSampleError, match="no critique, nor a candidate"):
        CritiqueTargets()(QUESTION)
    with pytest.raises(BadSampleError, match="without the solution"):
        CritiqueTargets()(replace(QUESTION, critique=Critique("q", " ", CARD[0])))
    with pytest.raises(UserError, match="step_rubric is empty"):
        CritiqueTargets(step_rubric="")
