from fractions import Fraction

import pytest

from lit_vlm.parsing.plain_numbers import parse_number


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("5", Fraction(5)),
        ("005", Fraction(5)),
        ("+5.", Fraction(5)),
        ("5.0", Fraction(5)),
        ("-0.25", Fraction(-1, 4)),
        (".5", Fraction(1, 2)),
        ("\u22125", Fraction(-5)),
        ("\u2013 5", Fraction(-5)),
        ("1,234,567", Fraction(1234567)),
        ("1.5e3", Fraction(1500)),
        ("2E-2", Fraction(1, 50)),
        ("3/4", Fraction(3, 4)),
        ("-3 / 4", Fraction(-3, 4)),
        ("1 1/2", Fraction(3, 2)),
        ("-1 1/2", Fraction(-3, 2)),
        ("50%", Fraction(1, 2)),
        ("12.5 \\%", Fraction(1, 8)),
        ("1e400", Fraction(10) ** 400),
    ],
)
def test_plain_numbers_are_read_exactly(text, number):
    assert parse_number(text) == number


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            " ",
            ".",
            "-",
            "%",
            "five",
            "5 6",
            "5 or 6",
            "5,6",
            "12,34",
            "1,2345",
            "5 cm",
            "5..6",
            "--5",
            "3/0",
            "3/4/5",
        ),
        *("1e9999", "1e", "nan", "inf", "9**9**9", "5\u00b2", "\u0665", "\u00bd", "0x10", "1_000"),
    ],
)
def test_other_texts_are_no_plain_numbers(text):
    assert parse_number(text) is None


@pytest.mark.parametrize(("piece", "end"), [("9", ""), ("1,", ""), (" ", "x"), ("1", "x"), ("-", "")])
def test_long_texts_are_refused_in_linear_time(assert_linear, piece, end):
    assert parse_number(piece * 100_000 + end) is None
    assert_linear(lambda size: parse_number(piece * size + end), 100_000)
