import pytest

from lit_vlm.parsing.time_spans import parse_time_span


@pytest.mark.parametrize(
    ("text", "span"),
    [
        ("[3, 7.5]", (3, 7.5)),
        ("3s to 7.5 seconds", (3, 7.5)),
        ("1:05 - 2:10", (65, 130)),
        ("from 0:59:59 to 1:00:01.5", (3599, 3601.5)),
        ("(00:10, 20)", (10, 20)),
        ("5 to 5", None),
        ("7 to 3", None),
        ("3", None),
        ("1 to 2 to 3", None),
        ("[0, 1], [2, 3]", None),
        ("soon", None),
        ("", None),
    ],
)
def test_one_span_is_read_in_seconds(text, span):
    assert parse_time_span(text) == span
