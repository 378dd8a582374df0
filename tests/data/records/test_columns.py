import pytest

from lit_vlm.data.records.columns import ColumnNames, all_columns, find_columns
from lit_vlm.interfaces.errors import UserError


def test_usual_names_are_found_and_empty_columns_do_not_count():
    records = [
        {"problem": "Q", "images": [], "image": "a.png", "gt": "4", "other": 1},
        {"problem": "R", "choices": ["a", "b"]},
    ]
    found = find_columns(records, ColumnNames())
    assert found == {"question": "problem", "images": "image", "answer": "gt", "options": "choices"}
    assert all_columns(records) == ["problem", "images", "image", "gt", "other", "choices"]


def test_what_the_user_says_wins():
    records = [{"question": "Q", "text": "R", "answer": "A", "image": "a", "image_path": "b"}]
    found = find_columns(records, ColumnNames(question="text", images="image_path"))
    assert (found["question"], found["images"]) == ("text", "image_path")


def test_two_columns_with_different_values_must_be_told_apart():
    with pytest.raises(UserError, match="'question' and 'problem' could both be the question .* data.columns.question"):
        find_columns([{"question": "Q", "problem": "P"}], ColumnNames())
    assert find_columns([{"images": ["a"], "image": "a"}], ColumnNames()) == {"images": "images"}
    assert find_columns([{"images": ["a"]}, {"image": "b"}], ColumnNames()) == {"images": "images"}


def test_a_solution_is_the_answer_unless_there_is_one():
    assert find_columns([{"problem": "Q", "solution": "5"}], ColumnNames())["answer"] == "solution"
    found = find_columns([{"problem": "Q", "solution": "2 + 3 = 5", "answer": "5"}], ColumnNames())
    assert (found["completion"], found["answer"]) == ("solution", "answer")
    assert "completion" not in find_columns([{"messages": [1], "solution": "x", "answer": "5"}], ColumnNames())


def test_a_named_column_must_be_there():
    with pytest.raises(UserError, match=r"data.columns.answer is 'truth', but the columns are \['gt', 'question'\]"):
        find_columns([{"question": "Q", "gt": "A"}], ColumnNames(answer="truth"))
