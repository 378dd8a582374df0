import pytest

from lit_vlm.data.derivation_slots import derived
from lit_vlm.data.scene_derivations import scene_derivation

SCENE = [
    {"size": "small", "colour": "red", "shape": "circle", "row": 1, "column": 2, "box": [20, 4, 28, 12]},
    {"size": "large", "colour": "blue", "shape": "star", "row": 3, "column": 1, "box": [1, 33, 15, 47]},
    {"size": "large", "colour": "red", "shape": "star", "row": 3, "column": 4, "box": [50, 34, 64, 48]},
]


@pytest.mark.parametrize(
    ("task", "question", "steps", "conclusion"),
    [
        ("count", "count the stars.", ["blue star 1, red star 2", "so 2"], "2"),
        ("count", "how many small blue objects do you see?", ["none", "so 0"], "0"),
        (
            "existence",
            "is there a red star?",
            ["red circle, blue star, red star", "red star is there", "so yes"],
            "yes",
        ),
        (
            "compare",
            "are there more red objects than blue objects?",
            ["red objects: red circle 1, red star 2", "blue objects: blue star 1", "2 > 1", "so yes"],
            "yes",
        ),
        (
            "compare",
            "which are more, circles or squares, or are they equal?",
            ["circles: red circle 1", "squares: none", "1 > 0", "so circles"],
            "circles",
        ),
        (
            "spatial_relation",
            "is the red circle left or right of the blue star?",
            ["red circle column 2", "blue star column 1", "2 > 1", "so right"],
            "right",
        ),
        (
            "spatial_relation",
            "does the red circle stand below the blue star?",
            ["red circle row 1", "blue star row 3", "1 < 3", "above", "so no"],
            "no",
        ),
        (
            "locate_box",
            "box the red circle.",
            ["red circle in row 1 column 2", "left 20, top 4, right 28, bottom 12"],
            "(20, 4, 28, 12)",
        ),
        (
            "locate_point",
            "where is the middle of the red circle?",
            ["red circle in row 1 column 2", "left 20, right 28, middle 24", "top 4, bottom 12, middle 8"],
            "(24, 8)",
        ),
        (
            "describe",
            "list the objects.",
            [
                "row 1: -, small red circle, -, -",
                "row 2: -, -, -, -",
                "row 3: large blue star, -, -, large red star",
                "row 4: -, -, -, -",
            ],
            "small red circle, large blue star, large red star",
        ),
    ],
)
def test_derivations(task, question, steps, conclusion):
    assert derived(scene_derivation(task, question, SCENE)) == (steps, conclusion)


def first_label(task, question, *said):
    """The kind of error of the last sentence, and what should stand there."""
    derivation = scene_derivation(task, question, SCENE)
    slot = next(derivation)
    for sentence in said[:-1]:
        slot = derivation.send(slot.form.fullmatch(sentence))
    found = slot.form.fullmatch(said[-1])
    return None if slot.is_right(found) else (slot.error_of(found), slot.mended(found))


PLACE = "red circle in row 1 column 2"


@pytest.mark.parametrize(
    ("task", "question", "said", "label"),
    [
        ("count", "count the stars.", ["blue star 1"], ("visual interpretation", "blue star 1, red star 2")),
        ("count", "count the stars.", ["blue star 1, red star 3"],
         ("numerical calculation", "blue star 1, red star 2")),
        ("count", "count the stars.", ["red circle 1"], ("question understanding", "blue star 1, red star 2")),
        ("count", "count the stars.", ["blue star 1", "so 1"], None),
        ("count", "count the stars.", ["blue star 1", "so 2"], ("reasoning", "so 1")),
        ("existence", "is there a red square?", ["red square", "red square is there"], None),
        ("existence", "is there a red square?", ["red star", "red star is there"],
         ("question understanding", "no red square")),
        ("existence", "is there a red star?", ["", "no red star"], None),
        ("compare", "do you see more circles than stars?", ["stars: none"],
         ("question understanding", "circles: red circle 1")),
        ("spatial_relation", "is the red circle above the blue star?", ["red circle column 2"],
         ("question understanding", "red circle row 1")),
        ("spatial_relation", "is the red circle above the blue star?", ["red circle row 2"],
         ("visual interpretation", "red circle row 1")),
        ("locate_box", "box the red circle.", [PLACE, "left 21, top 4, right 29, bottom 12"], None),
        ("locate_box", "box the red circle.", [PLACE, "left 29, top 4, right 21, bottom 12"],
         ("visual interpretation", "left 20, top 4, right 28, bottom 12")),
        ("locate_point", "point at the red circle.", [PLACE, "left 21, right 29, middle 25"], None),
        ("locate_point", "point at the red circle.", [PLACE, "left 21, right 29, middle 27"],
         ("numerical calculation", "left 21, right 29, middle 25")),
        ("locate_point", "point at the red circle.", [PLACE, "left 1, right 9, middle 5"],
         ("visual interpretation", "left 20, right 28, middle 24")),
    ],
)  # fmt: skip
def test_each_sentence_is_judged_by_the_scene_and_those_before(task, question, said, label):
    assert first_label(task, question, *said) == label


def test_what_is_no_question_about_scenes_is_refused():
    with pytest.raises(ValueError, match="no task 'sum'"):
        scene_derivation("sum", "", SCENE)
    with pytest.raises(ValueError, match="does not ask"):
        next(scene_derivation("count", "box the red circle.", SCENE))
