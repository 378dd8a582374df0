import pytest

from lit_vlm.parsing.choices import parse_choice, parse_choices

OPTIONS = ("a cat", "a dog", "Vitamin C", "")


@pytest.mark.parametrize(
    "text",
    [
        *("B", "b", "(B)", "[B]", "B.", "B)", "(b).", "B:", "**B**", "$\\boxed{B}$", "\\text{B}"),
        *("The answer is B", "Option (B)", "answer: B."),
        *("B. a dog", "(B) A Dog.", "B: a dog", "b) a dog", "a dog", "A dog."),
    ],
)
def test_every_way_to_choose_b_reads_as_b(text):
    assert parse_choice(text, OPTIONS) == "B"


@pytest.mark.parametrize("text", ["C. Vitamin C", "C", "vitamin c"])
def test_an_option_that_holds_a_letter_is_read(text):
    assert parse_choice(text, OPTIONS) == "C"


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "A or B or C", "A, B", "A/B", "AB", "(A)(B)", "A and B", "A. B", "A) or B) or C)", "(A) (B) (C)"),
        *("A. a cat, B. a dog", "A. a dog", "a cat or a dog", "neither", "Z. a zebra", "A\nB", "not A", "\u0410"),
    ],
)
def test_several_letters_or_a_contradiction_read_as_no_choice(text):
    assert parse_choice(text, OPTIONS) is None


@pytest.mark.parametrize("text", ["A. a cat", "A) Vitamin C", "A: A dog", "(A) cats and dogs"])
def test_without_options_the_text_after_a_letter_is_free(text):
    assert parse_choice(text) == "A"


@pytest.mark.parametrize(
    "text", ["A. B. C.", "A) or B) or C)", "A: B", "A. cat B. dog", "(A) or (B)", "A. cat, or B", "A. cat / B"]
)
def test_without_options_a_second_label_reads_as_no_choice(text):
    assert parse_choice(text) is None


def test_an_option_text_that_looks_like_a_label_is_found():
    assert parse_choice("B. Jones", ("A. Smith", "B. Jones")) == "B"
    assert parse_choice("B. Jones", ("B. Jones", "A. Smith")) == "A"


def test_an_option_text_that_occurs_twice_chooses_nothing():
    assert parse_choice("red", ("red", "red")) is None


@pytest.mark.parametrize(
    "text", ["A, C", "C and A", "(A), (C)", "AC", "A C", "[A, C]", '["A", "C"]', "A. a cat; C", "A\nC\nA"]
)
def test_every_way_to_choose_a_and_c_reads_as_both(text):
    assert parse_choices(text, ("a cat", "a dog", "a cow")) == frozenset("AC")


@pytest.mark.parametrize("text", ["", ",", "A or C", "A, maybe", "all", "none of these"])
def test_a_part_that_is_no_choice_spoils_the_set(text):
    assert parse_choices(text, ("a cat", "a dog", "a cow")) is None


@pytest.mark.parametrize(
    ("start", "piece", "end"), [("", "A ", ""), ("", "(", ""), ("A. ", " or", ""), ("", ",", ""), ("", " ", "x")]
)
def test_hostile_choices_are_read_in_linear_time(assert_linear, start, piece, end):
    def read(size):
        text = start + piece * size + end
        parse_choice(text)
        parse_choices(text)

    assert_linear(read, 100_000)
