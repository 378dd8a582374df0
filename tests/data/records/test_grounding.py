import pytest

from lit_vlm.data.records.grounding import fill_objects
from lit_vlm.data.records.turns import text_turn
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import Answer

TURNS = [text_turn("user", "Find the <ref-object> and the <ref-object>"), text_turn("assistant", "<bbox>, <bbox>")]


def test_names_and_boxes_take_the_place_of_their_marks():
    turns, answer = fill_objects(TURNS, {"ref": ["cup", "pen"], "bbox": [[1, 2, 3, 4], [9, 8, 5, 6.5]]})
    assert [turn.parts[0] for turn in turns] == ["Find the cup and the pen", "[1, 2, 3, 4], [5, 6.5, 9, 8]"]
    assert answer == Answer("boxes", [(1, 2, 3, 4), (5, 6.5, 9, 8)], coords="pixel")


def test_objects_may_be_written_as_text_and_in_shares_of_the_picture():
    objects = "{'ref': ['cup', 'pen'], 'bbox': [[0, 0, 0.5, 1], [0, 0, 1, 1]], 'bbox_type': 'norm1'}"
    assert fill_objects(TURNS, objects)[1].coords == "norm1"


def test_points_are_written_but_are_no_boxes():
    turns, answer = fill_objects([text_turn("assistant", "at <bbox>")], {"bbox": [[3, 4]]})
    assert turns[0].parts == ("at [3, 4]",)
    assert answer is None


def test_without_objects_the_marks_stay():
    assert fill_objects(TURNS, None) == (TURNS, None)


@pytest.mark.parametrize(
    ("objects", "told"),
    [
        ({"ref": ["cup"], "bbox": [[1, 2, 3, 4]] * 2}, "more <ref-object> marks than names"),
        ({"ref": ["cup", "pen"], "bbox": [[1, 2, 3, 4]]}, "more <bbox> marks than boxes"),
        ({"ref": ["cup", "pen"], "bbox": [[1, 2, 3]] * 2}, "give .x1, y1, x2, y2."),
        ({"ref": ["cup", "pen"], "bbox": [[1, 2, 1, 4]] * 2}, "x1 < x2"),
        ({"bbox": [], "bbox_type": "inches"}, "known are real, norm1"),
        ([1], "objects must be"),
    ],
)
def test_objects_that_do_not_fit_are_named(objects, told):
    with pytest.raises(UserError, match=told):
        fill_objects(TURNS, objects)
