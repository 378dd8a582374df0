import json

import pytest

from lit_vlm.data.records.description_pairs import DescriptionPairs
from lit_vlm.data.records.json_file import JsonFile
from lit_vlm.data.records.json_lines import JsonLines
from lit_vlm.data.records.preference_files import open_preference_file
from lit_vlm.data.records.record_mixture import RecordMixture
from lit_vlm.interfaces.errors import UserError
from tests.data.preference_material import DESCRIPTIONS, PAIRS

ROWS = PAIRS["conversation_pairs"]
TEXTS = [{"text": {"question": "Q", "chosen": "A", "rejected": "B"}}] * 2


@pytest.mark.parametrize(
    ("name", "content", "kind", "count"),
    [
        ("x.json", json.dumps(ROWS), JsonFile, len(ROWS)),
        ("x.json", json.dumps({"data": ROWS}), JsonFile, len(ROWS)),
        ("x.jsonl", "".join(json.dumps(row) + "\n" for row in ROWS), JsonLines, len(ROWS)),
        ("x.json", "".join(json.dumps(row) + "\n" for row in ROWS), JsonLines, len(ROWS)),
        # An object with both halves that belongs to a record, not to an image.
        ("x.json", "".join(json.dumps(row) + "\n" for row in TEXTS), JsonLines, 2),
        ("desc_data.json", json.dumps(DESCRIPTIONS), DescriptionPairs, 3),
    ],
)
def test_the_kind_of_file_is_told_from_its_beginning(tmp_path, name, content, kind, count):
    (tmp_path / name).write_text(content)
    opened = open_preference_file(tmp_path / name)
    assert type(opened) is kind
    assert len(opened) == count


def test_a_mixture_is_told_from_its_first_entry(tmp_path, write_lines):
    write_lines(tmp_path / "a.jsonl", ROWS)
    entry = {"root": ".", "annotation": "a.jsonl", "repeat_time": 2}
    (tmp_path / "meta.json").write_text(json.dumps({"a": entry}))
    opened = open_preference_file(tmp_path / "meta.json", folder=tmp_path)
    assert type(opened) is RecordMixture
    assert len(opened) == 2 * len(ROWS)


def test_other_files_are_refused_as_ever(tmp_path):
    (tmp_path / "x.csv").write_text("a,b")
    with pytest.raises(UserError, match="files named .csv are not read"):
        open_preference_file(tmp_path / "x.csv")
    (tmp_path / "x.json").write_text('{"a": {"root"')
    with pytest.raises(UserError, match="x.json, line 1"):
        open_preference_file(tmp_path / "x.json")
