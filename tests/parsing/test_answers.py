import pytest

from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import Answer, Verdict
from lit_vlm.parsing import answers as answers_module
from lit_vlm.parsing.answers import answers_agree, check_answer, render_answer
from lit_vlm.parsing.math_equivalence import math_equal

BOX = (10, 10, 20, 20)
OTHER_BOX = (50, 50, 60, 70)
NUMBER = Answer("number", "5")
CHOICE = Answer("choice", "A", options=("a cat", "a dog", "a cow"))
YES = Answer("yesno", "yes")
ROLES = Answer("assignment", {"Ella": "knight", "Bo": "knave"})
ALL_KINDS = [
    NUMBER,
    Answer("number", "3/4"),
    Answer("number", "\\sqrt{2}"),
    Answer("number", "5", tolerance=0.1),
    CHOICE,
    Answer("choice", "C"),
    Answer("multi_choice", ["C", "A"]),
    YES,
    Answer("yesno", "No"),
    Answer("text", "The red cup."),
    Answer("text", "x^2", grader="math"),
    Answer("text", "red cup", grader="contains"),
    Answer("list", ["left", "up, then right", "3.0"]),
    Answer("list", []),
    Answer("list", ["b", "a"], grader="set"),
    Answer("steps", ["correct", "wrong"]),
    Answer("boxes", [BOX, OTHER_BOX]),
    Answer("boxes", [(0.1, 0.2, 0.30000000000000004, 0.4)], tolerance=1.0),
    Answer("point", (3, 4.5), tolerance=0.0),
    Answer("point_in_box", BOX),
    Answer("span", (3, 7.25)),
    Answer("text_span", "the cat's hat"),
    ROLES,
]


@pytest.fixture(scope="module")
def helper():
    """Starts the process that compares formulas outside the tests' own time."""
    math_equal("x", "y", timeout_seconds=60)


@pytest.fixture
def asked(monkeypatch):
    """Replaces the comparison of formulas, which has tests of its own, by one that finds them equal and notes them."""
    pairs = []
    monkeypatch.setattr(answers_module, "math_equal", lambda prediction, gold: pairs.append((prediction, gold)) or True)
    return pairs


@pytest.mark.parametrize("answer", ALL_KINDS, ids=lambda answer: f"{answer.type}-{answer.value}")
def test_the_rendered_truth_agrees_with_itself(answer):
    assert answers_agree(render_answer(answer), answer)
    verdict = check_answer(f"<think>so</think><answer>{render_answer(answer)}</answer>", answer)
    assert verdict == Verdict(correct=True, parsed=render_answer(answer), formatted=True)


@pytest.mark.parametrize("answer", ALL_KINDS, ids=lambda answer: f"{answer.type}-{answer.value}")
@pytest.mark.parametrize("text", ["", " ", "?", "I do not know", "(" * 5000, "9" * 5000, "\x00", "\ud800", "A" * 5000])
def test_hostile_text_is_wrong_and_never_raises(helper, answer, text):
    assert not answers_agree(text, answer)


def test_a_completion_without_an_answer_is_wrong():
    assert check_answer("It is 5.", NUMBER) == Verdict(correct=False, parsed=None, formatted=False)


def test_a_right_answer_in_the_wrong_form_is_right_and_not_formatted():
    assert check_answer("<answer>5</answer>!", NUMBER) == Verdict(correct=True, parsed="5", formatted=False)


def test_of_several_answers_only_the_last_counts():
    completion = "<think>so</think><answer>5</answer><answer>6</answer>"
    assert check_answer(completion, NUMBER) == Verdict(correct=False, parsed="6", formatted=False)
    assert check_answer(completion, Answer("number", "6")).correct


@pytest.mark.parametrize("text", ["5", "5.0", " 05 ", "+5", "10/2", "$5$", "\\boxed{5}", "5.", "500%", "0.5e1"])
def test_numbers_of_the_same_value_agree(text):
    assert answers_agree(text, NUMBER)


@pytest.mark.parametrize("text", ["6", "-5", "5.0000001", "1e400", "5%", "5/2", "5,000", "1" * 999])
def test_numbers_of_another_value_disagree(text):
    assert not answers_agree(text, NUMBER)


def test_a_tolerance_is_relative_and_includes_its_bounds():
    # 0.3 x 100 = 30 away at most.
    answer = Answer("number", "100", tolerance=0.3)
    assert answers_agree("130", answer)
    assert answers_agree("70", answer)
    assert not answers_agree("130.0001", answer)
    assert not answers_agree("0.1", Answer("number", "0", tolerance=0.3))


def test_other_accepted_numbers_agree():
    assert answers_agree("5.2", Answer("number", "5", accept=("5.2",)))


def test_formulas_are_compared_as_formulas_unless_the_grader_is_exact(asked):
    assert answers_agree("\\sqrt{25}", NUMBER)
    assert asked == [("\\sqrt{25}", "5")]
    assert not answers_agree("\\sqrt{25}", Answer("number", "5", grader="exact"))
    assert answers_agree("(x+1)^2", Answer("text", "x^2+2x+1", grader="math"))
    assert asked[1:] == [("(x+1)^2", "x^2+2x+1")]


@pytest.mark.parametrize("text", ["A", "(a)", "A.", "A) a cat", "A cat.", "The answer is A"])
def test_the_right_choice_agrees_in_every_form(text):
    assert answers_agree(text, CHOICE)


@pytest.mark.parametrize("text", ["B", "A or B or C", "A, B, C", "ABC", "A. a dog", "(A)(B)(C)", "a cat or a dog"])
def test_another_choice_or_several_are_wrong(text):
    assert not answers_agree(text, CHOICE)


def test_several_choices_agree_as_a_set():
    answer = Answer("multi_choice", ["A", "C"])
    assert answers_agree("C and A", answer)
    assert not answers_agree("A", answer)
    assert not answers_agree("A, B, C", answer)


@pytest.mark.parametrize("text", ["yes", "Yes.", "YES, it is.", "**Yes**"])
def test_a_clear_yes_agrees(text):
    assert answers_agree(text, YES)


@pytest.mark.parametrize("text", ["no", "yes and no", "yes or no", "yesno", "not yes", "Maybe yes", "Yes. No."])
def test_anything_but_a_clear_yes_is_wrong(text):
    assert not answers_agree(text, YES)


def test_text_agrees_in_any_case_and_with_other_accepted_strings():
    answer = Answer("text", "Red cup", accept=("crimson cup",))
    assert answers_agree("  red   CUP. ", answer)
    assert answers_agree("Crimson cup", answer)
    assert not answers_agree("a red cup", answer)
    assert not answers_agree("red cup or blue cup", answer)


def test_contained_text_must_be_whole_words():
    answer = Answer("text", "cat", grader="contains")
    assert answers_agree("It is a (black) cat!", answer)
    assert not answers_agree("concatenate", answer)


def test_a_located_text_may_differ_in_case_and_punctuation_only():
    answer = Answer("text_span", "two dogs, barking")
    assert answers_agree('"Two dogs barking."', answer)
    assert not answers_agree("two dogs", answer)
    assert not answers_agree("there are two dogs barking", answer)


def test_lists_keep_their_order_unless_they_are_sets():
    assert answers_agree('["Left", 3]', Answer("list", ["left", "3.0"]))
    assert not answers_agree("3, left", Answer("list", ["left", "3"]))
    assert not answers_agree("left, 3, 3", Answer("list", ["left", "3"]))
    assert answers_agree("3, left", Answer("list", ["left", "3"], grader="set"))
    assert not answers_agree("3, left, up", Answer("list", ["left", "3"], grader="set"))
    assert answers_agree("1. up\n2. left", Answer("steps", ["up", "left"]))


def test_boxes_agree_one_to_one_in_any_order():
    answer = Answer("boxes", [BOX, OTHER_BOX])
    assert answers_agree("[[50, 50, 60, 70], [10, 10, 20, 20]]", answer)
    # Moved by 3 of 10: shared 70, covered 130, IoU 0.538; by 4: 60 / 140 = 0.429.
    assert answers_agree("(13, 10, 23, 20), (50, 50, 60, 70)", answer)
    assert not answers_agree("(14, 10, 24, 20), (50, 50, 60, 70)", answer)
    assert not answers_agree("(13, 10, 23, 20), (50, 50, 60, 70)", Answer("boxes", [BOX, OTHER_BOX], tolerance=0.6))


def test_too_many_repeated_or_missing_boxes_are_wrong():
    answer = Answer("boxes", [BOX, OTHER_BOX])
    assert not answers_agree("(10, 10, 20, 20)", answer)
    assert not answers_agree("(10, 10, 20, 20), (10, 10, 20, 20)", answer)
    assert not answers_agree("(10, 10, 20, 20), (50, 50, 60, 70), (0, 0, 5, 5)", answer)


def test_a_point_agrees_within_its_distance():
    # (3, 4) lies 5 from the origin.
    assert answers_agree("(3, 4)", Answer("point", (0, 0), tolerance=5))
    assert not answers_agree("(3, 4.01)", Answer("point", (0, 0), tolerance=5))
    assert not answers_agree("(0, 0), (1, 1)", Answer("point", (0, 0), tolerance=5))


def test_a_point_in_a_box_may_lie_on_its_edge():
    answer = Answer("point_in_box", BOX)
    assert answers_agree("(10, 15)", answer)
    assert not answers_agree("(9.9, 15)", answer)
    assert not answers_agree("(10, 10, 20, 20)", answer)


def test_a_span_agrees_with_enough_overlap():
    # 2 to 6 against 3 to 7: shared 3, covered 5, IoU 0.6.
    assert answers_agree("3s to 7s", Answer("span", (2, 6)))
    assert not answers_agree("3s to 7s", Answer("span", (2, 6), tolerance=0.7))
    assert not answers_agree("0 to 1000", Answer("span", (2, 6)))


def test_every_name_needs_its_role_exactly_once():
    assert answers_agree("Ella is a knight, and Bo is a knave.", ROLES)
    assert not answers_agree("Ella is a knight.", ROLES)
    assert not answers_agree("Ella is a knave, and Bo is a knight.", ROLES)
    assert not answers_agree("Ella is a knight, Ella is a knave, Bo is a knave, Bo is a knight", ROLES)


@pytest.mark.parametrize("answer", [Answer("open", "a nice day"), Answer("open", None), Answer("route", [])])
def test_answers_without_a_rule_ask_for_a_judge(answer):
    for decide in (lambda: check_answer("no answer", answer), lambda: answers_agree("x", answer)):
        with pytest.raises(UserError, match="need a judge or a grader of their own"):
            decide()
    with pytest.raises(UserError, match="need a judge"):
        render_answer(answer)


def test_an_unknown_grader_or_type_is_named_with_those_there_are():
    with pytest.raises(UserError, match=r"unknown grader 'rouge' .* 'text'; there are exact, math, contains"):
        check_answer("no answer", Answer("text", "x", grader="rouge"))
    with pytest.raises(UserError, match=r"unknown answer type 'poem'; there are choice, .*, open"):
        answers_agree("x", Answer("poem", "x"))


def test_a_true_value_that_cannot_be_read_is_the_users_mistake_and_not_a_wrong_answer():
    with pytest.raises(UserError, match="'yes' or 'no'"):
        answers_agree("yes", Answer("yesno", "maybe"))
    with pytest.raises(UserError, match="largest distance"):
        answers_agree("nonsense", Answer("point", (1, 2)))
