import pytest

from lit_vlm.data.records.columns import ColumnNames
from lit_vlm.data.records.conventions import TITLES, detect
from lit_vlm.interfaces.errors import UserError


@pytest.mark.parametrize("convention", list(TITLES))
def test_each_convention_is_told_from_its_columns(convention, published):
    assert detect(published[convention], ColumnNames()).convention == convention
    assert detect(published[convention], ColumnNames(), convention).convention == convention


def test_what_was_found_is_said_in_a_line(published):
    assert detect(published["llava"], ColumnNames()).describe() == (
        "LLaVA conversations: text from 'conversations', images from 'image'"
    )
    assert detect(published["question_answer"], ColumnNames()).describe() == (
        "questions and answers: text from 'problem', images from 'images', answer from 'answer', options from 'options'"
    )


def test_two_conventions_at_once_must_be_told_apart(published):
    records = [{**record, "question": "Q", "answer": "A"} for record in published["messages"]]
    told = r"x.jsonl could be read as messages \('messages'\) or question_answer \('question'\); .* data.convention"
    with pytest.raises(UserError, match=told):
        detect(records, ColumnNames(), where="x.jsonl")
    assert detect(records, ColumnNames(), "question_answer").columns["question"] == "question"
    assert detect(records, ColumnNames(messages="messages")).convention == "messages"


@pytest.mark.parametrize(
    ("record", "told"),
    [
        (
            {"caption": "A cup.", "file": "a.png"},
            r"no known convention fits its columns \['caption', 'file'\]; name them",
        ),
        (
            {"prompt": "Q", "chosen": "A", "rejected": "B"},
            "preference pairs; .*PreferenceDataModule, or .* data.columns.completion to chosen",
        ),
        ({"role": "user", "content": "Hi"}, "seems to hold single turns"),
        ({"question": "Q"}, "no known convention"),
    ],
)
def test_nothing_that_fits_lists_the_columns(record, told):
    with pytest.raises(UserError, match=told):
        detect([record], ColumnNames())


def test_the_chosen_side_of_a_pair_may_be_learnt():
    record = {"prompt": "Q", "chosen": "A", "rejected": "B"}
    assert detect([record], ColumnNames(completion="chosen")).convention == "prompt_completion"


def test_a_convention_that_lacks_its_column_is_refused():
    with pytest.raises(
        UserError, match="data.convention is 'llava', which needs a column of messages; the columns are"
    ):
        detect([{"question": "Q", "answer": "A"}], ColumnNames(), "llava")


def test_a_label_beside_a_conversation_is_no_answer(published):
    records = [{**record, "label": True} for record in published["messages"]]
    assert "answer" not in detect(records, ColumnNames()).columns
    assert detect(records, ColumnNames(answer="label")).columns["answer"] == "label"


def test_a_column_of_other_objects_is_left_alone(published):
    records = [{**record, "objects": [{"name": "cup"}]} for record in published["messages"]]
    reading = detect(records, ColumnNames())
    assert reading.convention == "messages"
    assert "objects" not in reading.columns
