import pytest

from lit_vlm.interfaces.errors import BadSampleError, UserError
from lit_vlm.synthesis.critique_unit_prompts import CritiqueUnitPrompts
from tests.synthesis.critic_material import PAGE, criticised, question


def test_each_solution_that_says_something_is_asked_about():
    first, second = CritiqueUnitPrompts()(question("so 5.", " ", "so 6."))
    assert (first.id, second.id) == ("page-1#0", "page-1#2")
    assert second.meta.extra == {"parent": "page-1", "candidate": 2}
    assert second.critique.response == "so 6."
    assert "Question: What do they add up to?\nSolution: so 6." in second.prompt[-1].text
    assert (second.images, second.candidates, [m.role for m in second.messages]) == ((PAGE,), (), ["user"])


@pytest.mark.parametrize(("correct", "verdict"), [(1.0, "right"), (0.0, "wrong"), (0.4, None)])
def test_the_true_verdict_is_known_where_a_verifier_graded(correct, verdict):
    assert CritiqueUnitPrompts()(question("so 5.", correct=correct))[0].critique.verdict == verdict


def test_the_reference_is_told_to_critics_alone():
    prompts = CritiqueUnitPrompts(with_reference=True, task="sums", criteria=("true",))
    (asked,) = prompts(question("so 6."))
    assert "Reference answer: 5" in asked.question
    assert "Reference" not in CritiqueUnitPrompts(instruction="Judge.").anew(asked).question


def test_asking_anew_changes_the_prompt_alone():
    sample = criticised()
    anew = CritiqueUnitPrompts(instruction="Judge.").anew(sample)
    assert anew.question == "Judge.\nQuestion: What do they add up to?\nSolution: 2 + 3 = 6. so 6."
    assert (anew.id, anew.critique, anew.images, anew.meta) == (sample.id, sample.critique, sample.images, sample.meta)


def test_evaluation_asks_about_the_first_solution():
    assert CritiqueUnitPrompts().for_evaluation(question("so 5.", "so 6.")).id == "page-1#0"
    assert CritiqueUnitPrompts().for_evaluation(question()) == question()


def test_a_sample_without_solutions_is_refused():
    with pytest.raises(BadSampleError, match="no candidates"):
        CritiqueUnitPrompts()(question())


def test_an_empty_instruction_is_refused():
    with pytest.raises(UserError, match="instruction"):
        CritiqueUnitPrompts(instruction=" ")
