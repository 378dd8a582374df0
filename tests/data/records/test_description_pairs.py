import json

import pytest

from lit_vlm.data.records.description_pairs import DESCRIBE, DescriptionPairs
from lit_vlm.interfaces.errors import UserError
from tests.data.preference_material import DESCRIPTIONS


@pytest.fixture
def written(tmp_path):
    def write(content, **options):
        path = tmp_path / "desc_data.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content, indent=1))
        return DescriptionPairs(path, **options)

    return write


def test_paraphrases_are_paired_in_order_and_the_shorter_side_begins_again(written):
    records = list(written(DESCRIPTIONS))
    assert [(record.values["chosen"], record.values["rejected"]) for record in records] == [
        ("A dog lies on a rug.", "Two dogs lie on a rug."),
        ("A rug bears a dog.", "Two dogs lie on a rug."),
        ("A cup.", "Two cups."),
    ]
    assert [record.values["image"] for record in records] == ["2345.jpg", "2345.jpg", "77.jpg"]
    assert {record.values["question"] for record in records} == {DESCRIBE}


def test_records_say_where_they_stand(written):
    file = written(DESCRIPTIONS)
    assert file.origin(1) == file[1].origin == f"{file.path}, line 2 pair 2 of image 2345"
    assert file.origin(2).endswith("pair 1 of image 77")
    for index in (3, -1):
        with pytest.raises(IndexError):
            file[index]


def test_an_image_without_descriptions_remains_to_be_reported(written):
    (record,) = written({"1": {"chosen": [], "rejected": []}})
    assert (record.values["chosen"], record.values["rejected"]) == ("", "")
    (record,) = written({"1": {"chosen": ["A"], "rejected": None}})
    assert record.values["rejected"] is None
    assert len(written({})) == 0


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (
            '{"1": {"chosen": ["A"], "rejected": ["B"]}, "2": ["A"]}',
            "line 1: the image '2' needs an object with chosen",
        ),
        ('{"1": {"chosen": ["A"], "rejected": ["B"]}', "line 1: expected ',' or '}', found the end of the file"),
        ('{"1": {"chosen": ["A", "rejected": ["B"]}}', "line 1, column"),
    ],
)
def test_a_broken_file_is_named(written, content, told):
    with pytest.raises(UserError, match="desc_data.json, ") as fault:
        written(content)
    assert told in str(fault.value)
    with pytest.raises(UserError, match="more than the 20 characters allowed"):
        written(json.dumps({"1": {"chosen": ["A" * (1 << 21)], "rejected": "B"}}), longest_record=20)
