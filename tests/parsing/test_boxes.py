import pytest

from lit_vlm.parsing.boxes import parse_boxes, parse_point, parse_span

BOX = (1.0, 2.0, 3.5, 4.0)
OTHER = (5.0, 6.0, 7.0, 8.0)


@pytest.mark.parametrize(
    "text",
    [
        "(1, 2, 3.5, 4)",
        "[1,2,3.5,4]",
        "1, 2, 3.5, 4",
        "1 2 3.5 4",
        "[[1, 2, 3.5, 4]]",
        '[{"bbox_2d": [1, 2, 3.50, 4]}]',
    ],
)
def test_one_box_is_read_in_every_form(text):
    assert parse_boxes(text) == [BOX]


@pytest.mark.parametrize("text", ["(1,2,3.5,4), (5,6,7,8)", "[[1,2,3.5,4],[5,6,7,8]]", "[1,2,3.5,4] and [5,6,7,8]"])
def test_several_boxes_keep_their_order(text):
    assert parse_boxes(text) == [BOX, OTHER]


def test_a_repeated_box_stays_repeated():
    assert parse_boxes("(1,2,3.5,4) (1,2,3.5,4)") == [BOX, BOX]


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "no box",
            "(1, 2, 3)",
            "(1, 2, 3, 4, 5)",
            "(3, 2, 1, 4)",
            "(1, 2, 1, 4)",
            "(1, 2, x, 4)",
            "(1, 2, 3.5, 4",
        ),
        *(
            "(1, 2, 1e999, 4)",
            "(nan, 2, 3, 4)",
            "(1,2,3.5,4), (1,2)",
            "1, 2, 3.5, 4, 5, 6, 7, 8",
            "(1, 2, 3**9, 4)",
            "()",
        ),
    ],
)
def test_what_is_no_box_reads_as_none(text):
    assert parse_boxes(text) is None


def test_a_point_is_read_and_two_points_are_not():
    assert parse_point("(3, 4)") == parse_point("3 4") == parse_point('{"point_2d": [3, 4.0]}') == (3.0, 4.0)
    assert parse_point("\u22123, 4") == (-3.0, 4.0)
    assert parse_point("(3, 4) (3, 4)") is None
    assert parse_point("(1, 2, 3)") is None
    assert parse_point("") is None


@pytest.mark.parametrize(
    "text", ["[3, 7.5]", "3 to 7.5", "3s - 7.5s", "3-7.5", "3 seconds to 7.5 seconds", "3\u20137.5", "(3,7.5)"]
)
def test_a_span_is_read_in_every_form(text):
    assert parse_span(text) == (3.0, 7.5)


@pytest.mark.parametrize("text", ["", "3", "7 to 3", "3 to 3", "3 to 7 or 8 to 9", "[1, 2], [3, 4]", "-1e999 to 1e999"])
def test_what_is_no_span_reads_as_none(text):
    assert parse_span(text) is None


@pytest.mark.parametrize(("piece", "end"), [("(", ""), ("(1,2,3,4)", ""), ("9", ""), ("1 ", ""), ("[(", "1")])
def test_hostile_boxes_are_read_in_linear_time(assert_linear, piece, end):
    def read(size):
        text = piece * size + end
        parse_boxes(text)
        parse_point(text)
        parse_span(text)

    assert_linear(read, 50_000)
