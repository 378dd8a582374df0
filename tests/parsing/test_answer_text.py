import pytest

from lit_vlm.parsing.answer_text import comparable_items, comparable_text, parse_list, peel, render_list, words_only


@pytest.mark.parametrize(
    ("text", "inner"),
    [
        (" 5 ", "5"),
        ("$5$", "5"),
        ("$$5$$", "5"),
        ("\\(5\\)", "5"),
        ("**5**", "5"),
        ("$\\boxed{\\text{5}}$", "5"),
        ("\\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
        ("$5$ or $6$", "$5$ or $6$"),
        ("\\boxed{5}\\boxed{6}", "\\boxed{5}\\boxed{6}"),
        ("\\boxed{5} + {6}", "\\boxed{5} + {6}"),
        ("$", "$"),
        ("", ""),
    ],
)
def test_only_what_wraps_the_whole_is_peeled_off(text, inner):
    assert peel(text) == inner


def test_case_white_space_quotes_and_final_punctuation_do_not_matter():
    assert comparable_text(' "The  RED\ncup." ') == comparable_text("the red cup")
    assert comparable_text("cafe\u0301") == comparable_text("caf\u00e9")


def test_characters_within_the_text_matter():
    assert comparable_text("5\u00b2") != comparable_text("52")
    assert comparable_text("a-b") != comparable_text("ab")


def test_a_text_of_punctuation_only_stays():
    assert comparable_text("?") == "?"
    assert words_only("?") == "?"


@pytest.mark.parametrize(
    ("text", "items"),
    [
        ("left, up", ["left", "up"]),
        ("left; up, right", ["left", "up, right"]),
        ("1. left\n\n2) up\n- right", ["left", "up", "right"]),
        ('["left", 3, 1e5, true]', ["left", "3", "1e5", "true"]),
        ("[left, up]", ["left", "up"]),
        ("[]", []),
        ("left", ["left"]),
    ],
)
def test_lists_are_read_in_the_forms_models_write(text, items):
    assert parse_list(text) == items


@pytest.mark.parametrize(
    "items", [[], [""], ["a"], ["a", "b"], ["a, b"], ["a;b", "c"], [" a"], ["a\nb"], ["[a"], ["[a]"], ['"a"', "\u00e9"]]
)
def test_a_rendered_list_reads_back(items):
    assert parse_list(render_list(items)) == items


def test_numbers_among_items_compare_as_numbers():
    assert comparable_items(["3.0", "Up."]) == comparable_items(["3", "up"])


@pytest.mark.parametrize(("piece", "end"), [("[", "]"), ("9", ""), ("$", ""), ("{", "")])
def test_hostile_lists_do_not_raise_and_are_read_in_linear_time(assert_linear, piece, end):
    def read(size):
        for text in (piece * size + end * size, f"[{piece * size}]"):
            parse_list(text)
            comparable_text(text)

    assert_linear(read, 100_000)
