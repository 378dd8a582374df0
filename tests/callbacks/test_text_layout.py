import pytest

from lit_vlm.callbacks.text_layout import ELLIPSIS, sans_font, set_text

SIZE = 13


@pytest.mark.parametrize(
    "text", ["one two three " * 9, "a" * 300, "x <think>" + "b" * 90 + "</think> y " * 20, "日本語" * 40]
)
@pytest.mark.parametrize("most_lines", [1, 2, 5])
def test_lines_keep_to_width_and_number(text, most_lines):
    lines = set_text(text, SIZE, 120, most_lines)
    assert 1 <= len(lines) <= most_lines
    assert all(sans_font(SIZE).getlength(line) <= 120 for line in lines)


def test_words_are_kept_whole_and_in_order_where_there_is_room():
    text = "add the digits of the first row\nthen\tanswer"
    lines = set_text(text, SIZE, 100, 20)
    assert len(lines) > 1
    assert " ".join(lines) == " ".join(text.split())


def test_of_too_long_a_text_the_middle_is_left_out():
    lines = set_text("first " + "middle " * 2000 + "last", SIZE, 100, 3)
    assert lines[0].startswith("first")
    assert lines[1].endswith(ELLIPSIS)
    assert lines[2].endswith("last")


def test_blank_text_has_no_line():
    assert set_text(" \n ", SIZE, 100, 3) == []


def test_letters_of_european_languages_have_shapes_of_their_own():
    missing = bytes(sans_font(SIZE).getmask("\uffff"))
    assert all(bytes(sans_font(SIZE).getmask(letter)) != missing for letter in "aüßñøłčžЖΩ≤∑→")
