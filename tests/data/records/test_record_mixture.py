import json
from collections import Counter

import pytest

from lit_vlm.data.records.preference_conventions import MIXTURE_ENTRY
from lit_vlm.data.records.record_mixture import RecordMixture
from lit_vlm.interfaces.errors import UserError


@pytest.fixture
def mixture(tmp_path, write_lines):
    """Writes two files of ten records and the mixture that names them, whose entries may be changed."""
    home = tmp_path / "MMPR"
    for name in ("images/ai2d", "images/charts", "annotations"):
        (home / name).mkdir(parents=True)
    for name in ("ai2d", "charts"):
        rows = [{"question": f"{name} {n}", "chosen": "A", "rejected": "B"} for n in range(10)]
        write_lines(home / "annotations" / f"{name}.jsonl", rows)

    def write(prefix="", folder=None, **changes):
        entries = {
            name: {"root": f"{prefix}images/{name}", "annotation": f"{prefix}annotations/{name}.jsonl", "length": 10,
                   "data_augment": False, "max_dynamic_patch": 6, "repeat_time": 1, **changes.get(name, {})}
            for name in ("ai2d", "charts")
        }  # fmt: skip
        (home / "meta.json").write_text(json.dumps(entries))
        return RecordMixture(home / "meta.json", folder=folder)

    return write


def test_each_entry_has_its_own_root_and_name(mixture, tmp_path):
    records = mixture()
    assert len(records) == 20
    assert [records[index].values["question"] for index in (0, 9, 10, 19)] == [
        "ai2d 0",
        "ai2d 9",
        "charts 0",
        "charts 9",
    ]
    assert [records[index].values[MIXTURE_ENTRY] for index in (0, 10)] == ["ai2d", "charts"]
    assert [records[index].media_folder for index in (0, 10)] == [
        tmp_path / "MMPR" / "images" / name for name in ("ai2d", "charts")
    ]
    assert records.origin(12) == records[12].origin == f"{tmp_path}/MMPR/annotations/charts.jsonl, line 3"
    with pytest.raises(IndexError):
        records[20]


@pytest.mark.parametrize(
    ("times", "counts"),
    [
        (0, [0] * 10),
        (0.5, [1, 0] * 5),
        (0.2, [1, 0, 0, 0, 0] * 2),
        (1, [1] * 10),
        (3, [3] * 10),
        (2.5, [3, 2] * 5),
    ],
)
def test_records_are_repeated_or_a_share_of_them_is_taken(mixture, times, counts):
    records = mixture(ai2d={"repeat_time": times})
    found = Counter(record.values["question"] for record in records)
    assert [found[f"ai2d {n}"] for n in range(10)] == counts
    assert sum(found.values()) == len(records) == sum(counts) + 10


def test_paths_may_begin_with_the_folder_of_the_file_or_a_named_one(mixture, tmp_path):
    assert len(mixture("MMPR/")) == 20
    assert len(mixture("MMPR/", folder=tmp_path)) == 20
    with pytest.raises(UserError, match="the annotation 'annotations/ai2d.jsonl' of the entry 'ai2d' is not in"):
        mixture(folder=tmp_path)


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ({"repeat_time": -1}, "the entry 'charts' has the repeat_time -1; give a number from 0 to 1,000"),
        ({"repeat_time": "all"}, "repeat_time 'all'"),
        ({"repeat_time": True}, "repeat_time True"),
        ({"repeat_time": float("nan")}, "repeat_time nan"),
        (
            {"annotation": "gone.jsonl"},
            "the annotation 'gone.jsonl' of the entry 'charts' is not in .* data.media_root",
        ),
        ({"root": "gone"}, "the root 'gone' of the entry 'charts' is not in"),
        ({"root": "/etc"}, "the root '/etc' of the entry 'charts' is not in"),
        ({"annotation": "../../../../../etc/hostname"}, "the annotation .* is not in"),
        ({"root": None}, "the entry 'charts' needs a root and an annotation"),
    ],
)
def test_a_wrong_entry_is_named(mixture, entry, told):
    with pytest.raises(UserError, match=told):
        mixture(charts=entry)


def test_a_broken_file_is_named(tmp_path):
    (tmp_path / "meta.json").write_text('{"a": ')
    with pytest.raises(UserError, match="meta.json: column 7: no readable JSON"):
        RecordMixture(tmp_path / "meta.json")
