import pytest

from lit_vlm.data.records.preference_conventions import (
    MIXTURE_ENTRY,
    PREFERENCE_TITLES,
    PreferenceColumns,
    detect_preferences,
)
from lit_vlm.interfaces.errors import UserError
from tests.data.preference_material import CANDIDATES, PAIRS

NOTHING = PreferenceColumns()


@pytest.mark.parametrize("convention", list(PAIRS))
def test_each_layout_of_pairs_is_told_from_its_columns(convention):
    reading = detect_preferences(PAIRS[convention][:1], NOTHING)
    assert reading.convention == convention
    assert reading.holds_pairs
    assert detect_preferences(PAIRS[convention][:1], NOTHING, convention) == reading
    assert reading.describe().startswith(PREFERENCE_TITLES[convention])


@pytest.mark.parametrize("layout", list(CANDIDATES))
def test_graded_completions_are_told_from_their_columns(layout):
    reading = detect_preferences(CANDIDATES[layout], NOTHING)
    assert reading.convention == "candidates"
    assert not reading.holds_pairs
    assert detect_preferences(CANDIDATES[layout], NOTHING, "candidates") == reading


def test_what_was_found_is_said_in_a_line():
    assert detect_preferences(PAIRS["question_pairs"], NOTHING).describe() == (
        "questions with a chosen and a rejected answer: text from 'question' and 'chosen' and 'rejected', images from "
        "'image'"
    )


def test_an_image_wins_over_the_path_it_was_taken_from():
    assert detect_preferences(PAIRS["question_pairs"], NOTHING).columns["images"] == "image"
    record = {"question": "Q", "chosen": "A", "rejected": "B", "image": "a.png", "image_path": "b.png"}
    with pytest.raises(UserError, match="could both be the images and differ; say which with data.columns.images"):
        detect_preferences([record], NOTHING)


def test_named_columns_win():
    record = {"ask": "Q", "good": "A", "bad": "B", "how_much": 2}
    names = PreferenceColumns(question="ask", chosen="good", rejected="bad", weight="how_much")
    reading = detect_preferences([record], names)
    assert reading.convention == "question_pairs"
    assert reading.columns["weight"] == "how_much"
    two = {"prompt": "P", "question": "Q", "chosen": "A", "rejected": "B"}
    with pytest.raises(UserError, match=r"prompt_pairs \('prompt', .* or question_pairs .* say which with data.conv"):
        detect_preferences([two], NOTHING)
    assert detect_preferences([two], PreferenceColumns(question="question")).convention == "question_pairs"
    assert detect_preferences([two], NOTHING, "prompt_pairs").convention == "prompt_pairs"


def test_the_entry_of_a_mixture_is_the_category():
    record = {"question": "Q", "chosen": "A", "rejected": "B", MIXTURE_ENTRY: "m"}
    assert detect_preferences([record], NOTHING).columns["category"] == MIXTURE_ENTRY
    named = detect_preferences([{**record, "kind": "k"}], PreferenceColumns(category="kind"))
    assert named.columns["category"] == "kind"


@pytest.mark.parametrize(
    ("record", "told"),
    [
        ({"chosen": "A", "rejected": "B"}, "no column that says what was asked; name it with data.columns.prompt"),
        ({"completions": [{"text": "A"}]}, "no column that says what was asked; name it with data.columns.prompt"),
        ({"question": "Q", "chosen": "A", "rejected": None}, "nothing in the column 'rejected' of its first 1 records"),
        ({"caption": "C", "chosen": "1.mp4", "rejected": "2.mp4"}, "pairs of images or videos for a caption"),
        (
            {"caption": "C", "jpg_0": "1.jpg", "jpg_1": "2.jpg", "label_0": 1},
            "pairs of images, and only pairs of texts",
        ),
        ({"question": "Q", "answer": "A"}, "holds one completion a record, and preferences need two"),
        ({"file": "a.png"}, r"no known convention of preferences fits its columns \['file'\]"),
        (
            {"prompt": "Q", "chosen": "A", "rejected": "B", "completions": ["A", "B"]},
            "prompt_pairs .* or candidates .*; say which with data.convention",
        ),
    ],
)
def test_what_does_not_fit_is_named_with_its_mend(record, told):
    with pytest.raises(UserError, match=told):
        detect_preferences([record], NOTHING, where="x.jsonl")


@pytest.mark.parametrize("convention", list(PREFERENCE_TITLES))
def test_a_convention_that_lacks_its_column_is_refused(convention):
    with pytest.raises(UserError, match=f"data.convention is '{convention}', which needs a column of"):
        detect_preferences([{"file": "a.png"}], NOTHING, convention)
