import pytest

from lit_vlm.data.records.typed_answers import has_broken_escapes, read_answer, read_options
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import Answer
from lit_vlm.parsing.answers import answers_agree, render_answer

CHOICES = ("a cat", "a dog", "7")


@pytest.mark.parametrize(
    ("value", "answer"),
    [
        ("4", Answer("number", "4")),
        (4, Answer("number", "4")),
        ("3.0", Answer("number", "3.0")),  # as it is written
        ("<answer> 5 </answer>", Answer("number", "5")),
        (r"$\boxed{5}$", Answer("number", "5")),
        ("The answer is 12", Answer("number", "12")),
        ("Yes.", Answer("yesno", "yes")),
        (False, Answer("yesno", "no")),
        ("a red cup", Answer("text", "a red cup")),
        ("A", Answer("text", "A")),  # no options anywhere
        (["Paris", "paris, France"], Answer("text", "Paris", accept=("paris, France",))),
        ("['4', '4.0']", Answer("text", "4", accept=("4.0",))),
        ({"type": "number", "value": "3", "tolerance": 0.1}, Answer("number", "3", tolerance=0.1)),
        (None, None),
        ("  ", None),
        (float("nan"), None),
        ("A long story. " * 30, None),
        ("two\nlines", None),
    ],
)
def test_the_type_is_told_from_the_value(value, answer):
    read = read_answer(value)
    assert read == answer
    if answer is not None:
        assert answers_agree(render_answer(read), read)


@pytest.mark.parametrize(
    ("value", "letter"),
    [("B", "B"), ("(b)", "B"), ("B.", "B"), ("a dog", "B"), (1, "B"), ("1", "B"), ("7", "C"), (0, "A"), (["B"], "B")],
)
def test_a_choice_is_a_letter_a_text_or_an_index(value, letter):
    assert read_answer(value, options=CHOICES) == Answer("choice", letter, CHOICES)


def test_options_lettered_in_the_question_make_a_choice():
    assert read_answer("B", question="Which?\n(A) cat\n(B) dog") == Answer("choice", "B")
    assert read_answer(["A", "C"], options=CHOICES) == Answer("multi_choice", ["A", "C"], CHOICES)


@pytest.mark.parametrize("value", ["D", 3, "a bird", -1])
def test_a_choice_beyond_the_options_is_refused(value):
    with pytest.raises(UserError, match="is none of the 3 options, no letter up to C and no index from 0 to 2"):
        read_answer(value, options=CHOICES)


def test_boxes_need_to_know_what_their_numbers_mean():
    with pytest.raises(UserError, match="set data.coordinates to pixel, norm1"):
        read_answer([1, 2, 3, 4])
    boxes = Answer("boxes", [(1.0, 2.0, 3.0, 4.0)], coords="pixel")
    assert read_answer("[1, 2, 3, 4]", coordinates="pixel") == boxes
    assert read_answer([[1, 2, 3, 4]], coordinates="pixel", answer_type="boxes") == boxes
    with pytest.raises(UserError, match="x1 < x2"):
        read_answer([3, 2, 1, 4], coordinates="pixel")


@pytest.mark.parametrize(
    ("kind", "value", "answer"),
    [
        ("text", "4", Answer("text", "4")),
        ("yesno", 1, Answer("yesno", "yes")),
        ("yesno", "0", Answer("yesno", "no")),
        ("multi_choice", "C, A", Answer("multi_choice", ["A", "C"])),
        ("list", "['left', 'up']", Answer("list", ["left", "up"])),
        ("point", "[3, 4.5]", Answer("point", (3, 4.5), coords="pixel")),
        ("span", [1, 2], Answer("span", (1, 2))),
        ("open", "A long story. " * 30, Answer("open", ("A long story. " * 30).strip())),
    ],
)
def test_the_type_may_be_said(kind, value, answer):
    assert read_answer(value, answer_type=kind, coordinates="pixel") == answer


def test_a_value_that_is_not_of_its_type_is_refused():
    for kind, value, told in (
        ("number", "many", "is no number"),
        ("yesno", "maybe", "'yes' or 'no'"),
        ("boxes", "none", "no list of boxes"),
        (None, {"x": 1}, "cannot be told; set data.answer_type"),
        (None, {"type": "boxes", "value": [[0, 0, 1, 1]], "coords": "metres"}, "coords is 'metres'"),
    ):
        with pytest.raises(UserError, match=told):
            read_answer(value, answer_type=kind, coordinates="pixel")


def test_options_have_many_forms_and_lose_their_letters():
    for value in (["a cat", "a dog"], "['a cat', 'a dog']", {"A": "a cat", "B": "a dog"}, "A. a cat; B. a dog",
                  ["(A) a cat", "(B) a dog"]):  # fmt: skip
        assert read_options(value) == ("a cat", "a dog")
    assert read_options(["Apple", "B. Brecht"]) == ("Apple", "Brecht")
    assert read_options(None) == read_options("") == ()
    for value in ("just text", ["one"], list("abcdefghijklmnopqrstuvwxyz!")):
        with pytest.raises(UserError, match="options must be a list of 2 to 26"):
            read_options(value)


def test_latex_whose_backslash_was_lost_is_noticed():
    assert all(map(has_broken_escapes, ("\frac{1}{2}", "\theta", "\beta", "x \neq y")))
    assert not any(map(has_broken_escapes, (r"\frac{1}{2}", "a\tb", "a\nb", "new\nnews")))
