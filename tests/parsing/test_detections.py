import pytest

from lit_vlm.parsing.detections import Detection, parse_detections, parse_first_box

BOX = (0.0, 0.0, 2.0, 1.0)


@pytest.mark.parametrize("key", ["bbox_2d", "bbox", "Position", "box"])
def test_objects_are_read_in_either_quotes(key):
    assert parse_detections(f'[{{"{key}": [0, 0, 2, 1], "label": "Cup "}}]') == [Detection(BOX, "cup")]
    assert parse_detections(f"[{{'{key}': [0, 0, 2, 1], 'Confidence': 0.5}}]") == [Detection(BOX, "", 0.5)]


def test_a_list_that_is_cut_off_keeps_its_complete_objects():
    text = '[{"bbox_2d": [0, 0, 2, 1], "label": "cup"}, {"bbox_2d": [0, 0'
    assert parse_detections(text) == [Detection(BOX, "cup")]


@pytest.mark.parametrize(
    "fields",
    [
        '"bbox_2d": [2, 0, 0, 1]',
        '"bbox_2d": [0, 0, 2]',
        '"bbox_2d": "wide"',
        '"bbox_2d": [0, 0, true, 1]',
        '"x": 1',
        "x",
    ],
)
def test_a_malformed_object_counts_without_a_box(fields):
    (detection,) = parse_detections(f"[{{{fields}}}]")
    assert detection.box is None


def test_a_confidence_is_clipped():
    found = parse_detections('{"bbox": [0,0,2,1], "confidence": 7} {"bbox": [0,0,2,1], "confidence": -1}')
    assert [item.confidence for item in found] == [1, 0]


def test_bare_boxes_and_an_empty_list():
    assert parse_detections("[[0, 0, 2, 1], [0, 0, 2, 1]]") == [Detection(BOX)] * 2
    assert parse_detections(" [ ] ") == []
    assert parse_detections("nothing (2) [here]") is None


def test_the_first_box_counts():
    assert parse_first_box("The cup (red) is at [0, 0, 2, 1], not [5, 5, 6, 6].") == BOX
    assert parse_first_box("[2, 0, 0, 1] [0, 0, 2, 1]") is None
    assert parse_first_box("") is None
