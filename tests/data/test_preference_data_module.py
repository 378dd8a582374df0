import json
from types import SimpleNamespace

import pyarrow
import pyarrow.parquet
import pytest
from datasets import Dataset

from lit_vlm.data.preference_data_module import PreferenceDataModule
from lit_vlm.data.records.preference_conventions import PreferenceColumns
from lit_vlm.functional.media import open_image
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.roles import SampleTransform
from tests.data.preference_material import CANDIDATES, DESCRIPTIONS, PAIRS, QUESTIONS


class Best(SampleTransform):
    def __call__(self, sample):
        return [sample]


def learner(form):
    """A module that asks for batches of a form."""
    return SimpleNamespace(batch_form=form, corruption=None)


def pairs(count, **more):
    return [
        {"id": f"p{n}", "prompt": f"<image>Question {n}?", "chosen": f"Yes {n}.", "rejected": f"No {n}.",
         "image": "a.png", **more}
        for n in range(count)
    ]  # fmt: skip


def module(path, **options):
    return PreferenceDataModule(str(path), **{"validation_share": 0.0, **options})


def told(path, **options):
    with pytest.raises(UserError) as fault:
        module(path, **options).samples("train")
    return str(fault.value)


@pytest.fixture
def info(monkeypatch):
    lines = []
    for name in ("chat_data_module", "preference_data_module"):
        monkeypatch.setattr(f"lit_vlm.data.{name}.rank_zero_info", lines.append)
    return lines


@pytest.mark.parametrize("form", ["json", "jsonl", "parquet", "saved"])
def test_all_forms_of_a_file_give_the_same_pairs(media_folder, write_lines, form):
    records = pairs(8)
    path = media_folder / f"x.{form}"
    if form == "json":
        path.write_text(json.dumps(records))
    elif form == "jsonl":
        write_lines(path, records)
    elif form == "parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records), path, row_group_size=3)
    else:
        Dataset.from_list(records).save_to_disk(path)
    samples = module(path, media_root=str(media_folder)).samples("train")
    assert [samples[index].id for index in range(len(samples))] == [f"p{n}" for n in range(8)]
    (pair,) = samples[5].preferences
    assert (pair.chosen[0].text, pair.rejected[0].text) == ("Yes 5.", "No 5.")
    assert open_image(samples[5].images[0]).size == (28, 28)


@pytest.mark.parametrize("layout", [*PAIRS, *CANDIDATES])
def test_each_layout_is_stated_once_and_served(media_folder, write_lines, info, layout):
    records = {**PAIRS, **CANDIDATES}[layout][:-1]
    data = module(write_lines(media_folder / "x.jsonl", records))
    samples = data.samples("train")
    assert all(samples[n].preferences if layout in PAIRS else samples[n].candidates for n in range(len(records)))
    stated = [line for line in info if "reads" in line]
    assert len(stated) == 1
    assert f"({len(records)} records) as " in stated[0]


def test_pairs_that_teach_nothing_are_left_out_and_counted(media_folder, write_lines, info):
    records = pairs(6)
    records[1]["rejected"] = records[1]["chosen"]
    records[4]["rejected"] = None
    records[5]["rejected"] = records[5]["chosen"] + " "
    path = write_lines(media_folder / "x.jsonl", records)
    samples = module(path).samples("train")  # with bad_samples=error
    assert [samples[index].id for index in range(len(samples))] == ["p0", "p2", "p3"]
    (line,) = [line for line in info if "left out" in line]
    assert line == (
        f"data.train: 3 of 6 pairs are left out: 2 since both halves are the same ({path}, line 2, {path}, line 6); "
        f"1 since one half is missing ({path}, line 5)"
    )
    write_lines(path, [records[1], records[1]])
    assert "2 of 2 pairs are left out: 2 since both halves are the same" in told(path)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"rejected": " "}, "line 2: rejected is empty; write the completion, or remove the record"),
        ({"chosen": []}, "line 2: chosen is empty"),
        ({"image": "gone.png"}, "line 2: there is no media file"),
        ({"prompt": ""}, "line 2: its column 'prompt' is empty or missing"),
        ({"image": ["a.png", "b.png"], "prompt": "<image><image><image>?"}, "3 placeholders of images, but 2 images"),
        ({"chosen": {"role": "owl", "content": "Hu"}}, "turn 1 has the role 'owl'"),
        ({"weight": "much"}, "its column 'weight' holds 'much'; give a number from 0 on"),
    ],
)
def test_bad_pairs_are_named_with_their_place_and_mend(media_folder, write_lines, info, change, expected):
    records = pairs(4, weight=1)
    records[1] |= change
    path = write_lines(media_folder / "x.jsonl", records)
    message = told(path)
    assert expected in message
    assert f"{path}, line 2" in message
    assert "\n" not in message
    assert len(module(path, bad_samples="skip").samples("train")) == 4
    assert "1 cannot be used" in info[-1]


def test_pairs_of_one_prompt_are_never_parted(media_folder, write_lines):
    records = [{**row, "chosen": f"Yes {turn}"} for row in pairs(100) for turn in range(3)]
    records[7]["rejected"] = records[7]["chosen"]
    data = PreferenceDataModule(str(write_lines(media_folder / "x.jsonl", records)), validation_share=0.2)
    asked = [{split[n].question for n in range(len(split))} for split in map(data.samples, ("train", "validation"))]
    assert not asked[0] & asked[1]
    assert len(asked[0]) + len(asked[1]) == 100
    assert 8 <= len(asked[1]) <= 35
    assert len(data.samples("train")) + len(data.samples("validation")) == 299


def test_a_mixture_reads_each_entry_from_its_root(tmp_path, write_lines, png):
    home = tmp_path / "MMPR"
    entries = {}
    for name, times in (("ai2d", 2), ("charts", 0.5)):
        (home / "images" / name).mkdir(parents=True)
        (home / "images" / name / "1.png").write_bytes(png())
        rows = [
            {"image": "1.png", "question": f"<image>\n{name} {n}?", "chosen": "A", "rejected": "B"} for n in range(4)
        ]
        rows.append({"question": "No image?", "chosen": "A", "rejected": "A"})
        (home / "annotations").mkdir(exist_ok=True)
        write_lines(home / "annotations" / f"{name}.jsonl", rows)
        entries[name] = {
            "root": f"MMPR/images/{name}", "annotation": f"MMPR/annotations/{name}.jsonl", "repeat_time": times
        }  # fmt: skip
    (home / "meta.json").write_text(json.dumps(entries))
    for options in ({}, {"media_root": str(tmp_path)}):
        data = module(home / "meta.json", validation=str(home / "meta.json"), **options)
        samples = data.samples("train")
        assert len(samples) == 2 * 4 + 2
        assert {samples[index].meta.category for index in range(len(samples))} == {"ai2d", "charts"}
        assert samples[8].images[0].root == str(home / "images" / "charts")
        assert open_image(samples[8].images[0]).size == (28, 28)
        assert data.tasks == ("ai2d", "charts")


def test_descriptions_and_questions_of_one_folder_are_read_together(tmp_path, png):
    for name in ("VG_100K/2345.jpg", "VG_100K_2/77.jpg"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(png())
    folder = tmp_path / "hadpo"
    folder.mkdir()
    (folder / "desc_data.json").write_text(json.dumps(DESCRIPTIONS))
    (folder / "pope_data.json").write_text(json.dumps(QUESTIONS))
    samples = module(folder, media_root=str(tmp_path)).samples("train")
    read = [samples[index] for index in range(len(samples))]
    assert [sample.question for sample in read[2:4]] == ["Describe this image in detail.", "Is there a dog?"]
    assert [sample.images[0].path for sample in read] == [
        "VG_100K/2345.jpg", "VG_100K/2345.jpg", "VG_100K_2/77.jpg", "VG_100K/2345.jpg", "VG_100K_2/77.jpg"
    ]  # fmt: skip
    assert {sample.meta.extra.get("group") for sample in read[:4]} == {"2345", "77"}
    (tmp_path / "VG_100K/2345.jpg").unlink()
    assert "line 1 pair 1 of image 2345: there is no image '2345.jpg' in" in told(folder, media_root=str(tmp_path))


@pytest.mark.parametrize(
    ("records", "form", "expected"),
    [
        (
            CANDIDATES["graded"][:2],
            "pairs",
            "holds graded completions, and the model learns pairs; say with data.transform",
        ),
        (CANDIDATES["graded"][:2], "completions", "holds graded completions, and the model learns single completions"),
        (pairs(2), "groups", "holds pairs, and the model learns from several graded completions"),
        (pairs(2), "completions", "holds pairs, and the model learns single completions"),
        (CANDIDATES["graded"][:2], "groups", None),
        (pairs(2), "pairs", None),
        (pairs(2), "prompts", None),
    ],
)
def test_records_that_do_not_suit_the_model_are_refused(media_folder, write_lines, records, form, expected):
    path = write_lines(media_folder / "x.jsonl", records)
    data = module(path)
    data.serve(learner(form))
    if expected is None:
        data.setup("fit")
        return
    with pytest.raises(UserError, match=expected) as fault:
        data.setup("fit")
    assert "lit_vlm.synthesis.graded_pairs.GradedPairs" in str(fault.value) or form != "pairs"
    data = module(path, transform=Best())
    data.serve(learner(form))
    data.setup("fit")


def test_answers_are_compared_where_they_are_named_and_nowhere_else(media_folder, write_lines):
    path = write_lines(media_folder / "x.jsonl", pairs(3, answer="4"))
    assert module(path).samples("train")[0].answer is None
    answer = module(path, columns=PreferenceColumns(answer="answer")).samples("train")[0].answer
    assert (answer.type, answer.value, answer.place) == ("number", "4", "any")
    named = module(path, columns=PreferenceColumns(answer="answer"), answer_place="tags")
    assert named.samples("train")[0].answer.place == "tags"
    assert (
        module(path, columns=PreferenceColumns(answer="answer"), answer_type="none").samples("train")[0].answer is None
    )


def test_columns_and_conventions_may_be_named(media_folder, write_lines):
    records = [{"ask": "Q", "good": "A", "bad": "B", "kind": kind} for kind in ("x", "y")]
    path = str(write_lines(media_folder / "x.jsonl", records))
    columns = PreferenceColumns(question="ask", chosen="good", rejected="bad", category="kind")
    data = PreferenceDataModule(validation=path, columns=columns)
    assert data.tasks == ("x", "y")
    assert data.samples("validation")[1].preferences[0].rejected[0].text == "B"
    assert PreferenceDataModule(validation=path, columns=columns, convention="question_pairs").tasks == ("x", "y")
    with pytest.raises(UserError, match="data.convention is 'llava'; choose one of prompt_pairs, question_pairs"):
        PreferenceDataModule(path, convention="llava")
    assert "preferences need two" in told(write_lines(media_folder / "y.jsonl", [{"question": "Q", "answer": "A"}]))


def test_its_batches_hold_pairs(media_folder, write_lines, random_tiny_encoder):
    path = write_lines(media_folder / "x.jsonl", pairs(4, weight=0.5))
    data = module(path, encoder=random_tiny_encoder, batch_size=2, num_workers=0)
    data.serve(learner("pairs"))
    data.setup("fit")
    batches = list(data.train_dataloader())
    assert [len(batch) for batch in batches] == [2, 2]
    assert all(batch.weights.tolist() == [0.5, 0.5] for batch in batches)
    assert all(int(batch.token_counts.min()) > 0 for batch in batches)
