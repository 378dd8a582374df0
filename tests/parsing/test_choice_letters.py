import pytest

from lit_vlm.parsing.choice_letters import choice_letter

OPTIONS = ["a red car", "a blue car", "a green car", "none"]


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"),
        ("(B)", "B"),
        ("b.", "B"),
        ("B. a blue car", "B"),
        ("a blue car", "B"),
        ("A Blue  Car.", "B"),
        ("The answer is C", "C"),
        ("I think option (D)", "D"),
        ("B: because it shines", "B"),
        ("A cat sits", None),
        ("E", None),
        ("Answer: b", None),
        ("A. B. C. D.", None),
        ("A, B, C, D", None),
        ("(A) or (B)", None),
        ("option A, option B", None),
        ("a car", None),
        ("", None),
    ],
)
def test_the_card_s_table(text, letter):
    assert choice_letter(text, OPTIONS) == letter


def test_without_options_any_letter_counts_but_no_text():
    assert choice_letter("E") == "E"
    assert choice_letter("a blue car") is None


def test_equal_options_choose_none():
    assert choice_letter("red", ["red", "red"]) is None
    assert choice_letter("B", ["red", "red"]) == "B"


def test_an_option_beyond_the_alphabet_is_none():
    assert choice_letter("number 30", [f"number {index}" for index in range(40)]) is None
