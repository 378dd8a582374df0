import json
import multiprocessing
import pickle
from types import SimpleNamespace

import pyarrow
import pyarrow.parquet
import pytest
from datasets import Dataset
from PIL import Image
from torch.utils.data import DataLoader

from lit_vlm.data.chat_data_module import ChatDataModule
from lit_vlm.data.records.columns import ColumnNames
from lit_vlm.data.vlm_data_module import VLMDataModule
from lit_vlm.functional.media import open_image, open_video
from lit_vlm.interfaces.errors import UserError
from lit_vlm.parsing.answers import check_answer


class Sampler:
    """A module that samples completions itself."""

    coefficients = encoder = group_size = sampling_temperature = unfinished_batches = None


def rows(count, **more):
    return [{"id": f"s{n}", "question": f"Question {n}?", "answer": str(n), **more} for n in range(count)]


def conversation(text="<image>What?", answer="A cup.", **more):
    return {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": answer}], **more}


def module(path, **options):
    return ChatDataModule(str(path), **{"validation_share": 0.0, **options})


def told(path, **options):
    """The error of the first sample that cannot be used, from opening the file to decoding its media."""
    with pytest.raises(UserError) as fault:
        decode_all(path, options)
    return str(fault.value)


def decode_all(path, options):
    samples = module(path, **options).samples("train")
    for index in range(len(samples)):
        for image in samples[index].images:
            open_image(image)
        for video in samples[index].videos:
            open_video(video, max_frames=2)


@pytest.fixture
def info(monkeypatch):
    """Lines that are said at the start."""
    lines = []
    monkeypatch.setattr("lit_vlm.data.chat_data_module.rank_zero_info", lines.append)
    return lines


CONVENTIONS = (
    "llava", "messages", "sharegpt", "openai", "swift", "prompt_completion", "question_answer", "alpaca", "verl",
)  # fmt: skip


@pytest.mark.parametrize("form", ["json", "jsonl", "parquet", "saved"])
def test_all_forms_of_a_file_give_the_same_samples(media_folder, write_lines, form):
    records = rows(8, image="a.png")
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
    assert [samples[index].id for index in range(8)] == [f"s{n}" for n in range(8)]
    assert samples[5].question == "Question 5?"
    assert samples[5].answer.value == "5"
    assert open_image(samples[5].images[0]).size == (28, 28)


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_each_convention_is_stated_once_and_served(media_folder, write_lines, published, info, convention):
    path = media_folder / "x.parquet" if convention == "verl" else media_folder / "x.jsonl"
    if convention == "verl":  # published as Parquet, with encoded images
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(published[convention][:-1]), path)
    else:
        write_lines(path, published[convention][:-1])
    data = ChatDataModule(validation=str(path))  # not for training: verl has nothing to learn, only to answer
    samples = data.samples("validation")
    assert [len(samples[index].images) for index in range(3)] == [1, 2, 0]
    assert data.samples("validation") is samples
    stated = [line for line in info if "reads" in line]
    assert len(stated) == 1
    assert stated[0].startswith(f"data.validation: reads {path} (4 records) as ")


def test_mends_are_counted_and_stated(media_folder, write_lines, info):
    path = write_lines(media_folder / "x.jsonl", [conversation("What?", images=["a.png"]) for _ in range(3)])
    module(path).samples("train")
    assert "data.train: of 3 records looked at, 3 mended: media without any placeholder" in info[2]


def test_bad_records_end_the_run_at_its_start_unless_they_are_left_out(media_folder, write_lines, info):
    records = rows(10, image="a.png")
    records[4]["question"] = None
    path = write_lines(media_folder / "x.jsonl", records)
    with pytest.raises(UserError, match="1 cannot be used: .*line 5: its column 'question' .*data.bad_samples=skip"):
        module(path).samples("train")
    samples = module(path, bad_samples="skip").samples("train")
    assert "of 10 records looked at, 1 cannot be used" in info[-1]
    assert "line 5: its column 'question' is empty" in info[-1]
    with pytest.raises(UserError, match="line 5"):
        samples[4]


def test_a_share_is_kept_for_validation_and_no_record_is_in_both(tmp_path, write_lines, info):
    data = ChatDataModule(str(write_lines(tmp_path / "x.jsonl", rows(200))), validation_share=0.1)
    train, validation = data.samples("train"), data.samples("validation")
    names = [{samples[index].id for index in range(len(samples))} for samples in (train, validation)]
    assert len(names[0]) + len(names[1]) == 200
    assert not names[0] & names[1]
    assert 8 <= len(validation) <= 35
    assert f"{len(validation)} records of these are kept for validation" in info[2]


def test_the_splits_may_have_files_of_their_own(tmp_path, write_lines):
    files = {
        split: str(write_lines(tmp_path / f"{split}.jsonl", rows(n)))
        for n, split in ((5, "train"), (4, "validation"), (3, "test"))
    }
    data = ChatDataModule(**files, max_samples=4)
    assert [len(data.samples(split)) for split in ("train", "validation", "test")] == [4, 4, 3]


def test_tasks_come_from_the_category_alone_if_it_is_named(tmp_path, write_lines):
    records = [{**row, "kind": "ab"[index % 2]} for index, row in enumerate(rows(6))]
    path = str(write_lines(tmp_path / "x.jsonl", records))
    assert ChatDataModule(validation=path).tasks == ()
    data = ChatDataModule(validation=path, columns=ColumnNames(category="kind"))
    assert data.tasks == ("a", "b")
    assert data.samples("validation")[1].meta.category == "b"


def test_samples_without_a_completion_may_be_evaluated_but_not_learnt(media_folder, write_lines, published):
    path = str(write_lines(media_folder / "x.jsonl", published["verl"][:1]))
    assert ChatDataModule(validation=path).samples("validation")[0].messages[-1].role == "user"
    assert "there is a prompt and no completion to learn" in told(path)


def collate(samples):
    return samples


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_several_workers_read_what_one_process_reads(tmp_path, write_lines, form, method):
    path = tmp_path / f"x.{form}"
    if form == "jsonl":
        write_lines(path, rows(40))
    else:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows(40)), path, row_group_size=7)
    samples = module(path).samples("train")
    order = [(index * 17) % 40 for index in range(40)]
    alone = [samples[index] for index in order]
    context = multiprocessing.get_context(method)
    loader = DataLoader(
        samples, batch_size=3, sampler=order, num_workers=2, collate_fn=collate, multiprocessing_context=context
    )
    assert [sample for batch in loader for sample in batch] == alone
    assert pickle.loads(pickle.dumps(samples))[5] == samples[5]


# A name, the records or the text of the file, the options, and what is said.
FAULTS = {
    "a broken line": ('{"question": "Q", "answer": 1\n', {}, "line 1: column 30: no readable JSON"),
    "no object": ("[1, 2]\n", {}, "line 1: a record must be an object like {...}, this is a list"),
    "no known columns": ([{"caption": "A cup."}], {}, "no known convention fits its columns ['caption']"),
    "an unknown column": (rows(1), {"columns": ColumnNames(answer="truth")}, "data.columns.answer is 'truth', but the"),
    "two conventions": ([{**conversation("Hi"), "question": "Q", "answer": "A"}], {}, "say which with data.convention"),
    "two columns": ([{"question": "Q", "problem": "P", "answer": "A"}], {}, "could both be the question and differ"),
    "an unknown role": ([{"messages": [{"role": "owl", "content": "Hu"}]}], {}, "turn 1 has the role 'owl'; known are"),
    "a missing image": ([conversation(images=["gone.png"])], {}, "there is no media file"),
    "too many placeholders": ([conversation(images=[])], {}, "1 placeholder of images, but 0 images"),
    "a path that leaves its root": ([conversation(images=["../a.png"])], {}, "leaves its folder"),
    "an absolute path": ([conversation(images=["/etc/hostname"])], {}, "is absolute and lies outside"),
    "a remote image": ([conversation(images=["https://x.invalid/a.png"])], {}, "is a remote address; nothing is"),
    "a truncated image": ([conversation(images=["cut.png"])], {}, "cannot decode the image 'cut.png'"),
    "an empty image": ([conversation(images=["empty.png"])], {}, "the media file 'empty.png' is empty"),
    "an image bomb": ([conversation(images=["large.png"])], {"max_image_pixels": 9999}, "100 x 100 pixels, more than"),
    "a long video": (
        [conversation("<video>What?", videos=["v.mp4"])],
        {"max_video_seconds": 1.5},
        "is 2.0 s long, more than the 1.5 s allowed",
    ),
    "a broken video": ([conversation("<video>What?", videos=["cut.mp4"])], {}, "cannot decode the video 'cut.mp4'"),
    "nothing to learn": ([conversation("Hi", "")], {}, "an assistant's turn that is to be learnt is empty"),
    "an answer beyond the options": ([{"question": "Q", "answer": "E", "options": ["x", "y"]}], {}, "none of the 2"),
    "boxes of unknown unit": ([{"question": "Where?", "answer": [1, 2, 3, 4]}], {}, "set data.coordinates to pixel"),
    "a media token in the text": ([conversation("<|image_pad|>Hi")], {}, "a model's own token"),
    "an endless line": (rows(1), {"longest_record": 10}, "bytes, more than the 10 allowed for a record"),
    "no records": ("\n\n", {}, "data.train: there are no records in"),
}  # fmt: skip


@pytest.mark.parametrize("fault", list(FAULTS))
def test_bad_data_are_named_in_one_line(fault, media_folder, write_lines):
    content, options, expected = FAULTS[fault]
    (media_folder / "empty.png").touch()
    (media_folder / "cut.png").write_bytes((media_folder / "a.png").read_bytes()[:60])
    (media_folder / "cut.mp4").write_bytes((media_folder / "v.mp4").read_bytes()[:400])
    Image.new("RGB", (100, 100)).save(media_folder / "large.png")
    path = media_folder / "x.jsonl"
    if isinstance(content, str):
        path.write_text(content)
    else:
        write_lines(path, content)
    message = told(path, **options)
    assert expected in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"validation_share": 1.5}, "data.validation_share is 1.5; give a share from 0 to below 1"),
        ({"max_samples": 0}, "data.max_samples is 0; give a number above 0"),
        ({"max_video_seconds": -1}, "data.max_video_seconds is -1"),
        ({"convention": "lava"}, "data.convention is 'lava'; choose one of llava, sharegpt"),
        ({"train_on": "first"}, "data.train_on is 'first'; choose one of all, last"),
        ({"answer_type": "digits"}, "data.answer_type is 'digits'; choose one of choice"),
        ({"coordinates": "inches"}, "data.coordinates is 'inches'; choose one of pixel, norm1, norm1000"),
        ({"media_root": "/no/such/folder"}, "data.media_root: there is no folder '/no/such/folder'"),
        ({"roots": {"coco/": "/no/such/folder"}}, "data.roots.coco/: there is no folder '/no/such/folder'"),
    ],
)
def test_a_wrong_option_is_refused_at_once(options, expected):
    with pytest.raises(UserError) as fault:
        ChatDataModule("x.jsonl", **options)
    assert expected in str(fault.value)


def test_splits_that_are_not_given_are_named(tmp_path, write_lines):
    data = module(write_lines(tmp_path / "x.jsonl", rows(3)))
    for split in ("validation", "test"):
        with pytest.raises(UserError, match=f"there are no {split} data; set data.{split} to a file or folder"):
            data.samples(split)
    with pytest.raises(UserError, match="there are no train data; set data.train"):
        ChatDataModule().samples("train")
    with pytest.raises(UserError, match="of 3 records none is left for validation with data.validation_share 0.0001"):
        module(tmp_path / "x.jsonl", validation_share=0.0001).samples("train")
    with pytest.raises(UserError, match="data.train: there is no file or folder"):
        module(tmp_path / "none.jsonl").setup("fit")


def test_media_may_be_looked_for_ahead(media_folder, write_lines, info):
    path = write_lines(media_folder / "x.jsonl", [*rows(3, image="a.png"), *rows(1, image="gone.png")])
    with pytest.raises(UserError, match="of 4 records looked at, 1 cannot be used: .*line 4: there is no media file"):
        module(path).samples("train")
    far = [*rows(299, image="a.png"), *rows(1, image="gone.png"), *rows(301, image="a.png")]
    write_lines(path, far)
    assert len(module(path).samples("train")) == 601
    with pytest.raises(UserError, match="of 601 records looked at, 1 cannot be used: .*line 300"):
        module(path, check_media=True).samples("train")
    write_lines(path, [*rows(3, image="a.png"), *rows(1, image="gone.png")])
    assert len(module(path, check_media=True, bad_samples="skip").samples("train")) == 4
    assert "1 cannot be used" in info[-1]


def test_it_is_a_data_module_whose_loaders_the_base_builds(media_folder, write_lines, random_tiny_encoder):
    records = [conversation("<image>Which digit?", "7", images=["a.png"]) for _ in range(4)]
    data = module(
        write_lines(media_folder / "x.jsonl", records), encoder=random_tiny_encoder, batch_size=2, num_workers=0
    )
    assert isinstance(data, VLMDataModule)
    data.setup("fit")
    (batch, _) = list(data.train_dataloader())
    assert len(batch) == 2
    assert int((batch.labels != -100).sum()) > 0
    assert batch.visual


def verdict(data, split, text, index=0):
    return check_answer(text, data.samples(split)[index].answer)


@pytest.mark.parametrize(
    ("completion", "place"),
    [
        ("<think>so</think><answer>{}</answer>", "tags"),
        (r"So \boxed{{{}}}.", "boxed"),
        ("We count.\nThe answer is {}.", "stated"),
        ("{}", "whole"),
    ],
)
@pytest.mark.parametrize("with_answers", [True, False])
def test_answers_are_looked_for_where_the_training_completions_have_them(
    tmp_path, write_lines, info, completion, place, with_answers
):
    records = [
        {"question": f"Question {n}?", "response": completion.format(n), **({"answer": str(n)} if with_answers else {})}
        for n in range(40)
    ]
    data = module(write_lines(tmp_path / "x.jsonl", records), validation_share=0.3)
    samples = data.samples("validation")
    assert {samples[index].answer.place for index in range(len(samples))} == {place}
    for index in range(len(samples)):
        number = samples[index].answer.value
        assert check_answer(completion.format(number), samples[index].answer).correct
        assert not check_answer(completion.format("41"), samples[index].answer).correct
    assert any("answers are looked for" in line for line in info)


def test_free_text_has_no_verdict(tmp_path, write_lines, info):
    long = "A long description of what there is to see in the picture, number {}, with all its people."
    for records in (
        [{"question": f"Describe {n}.", "answer": long.format(n)} for n in range(20)],
        [{"prompt": f"Describe {n}.", "completion": long.format(n)} for n in range(20)],
    ):
        path = write_lines(tmp_path / "x.jsonl", records)
        samples = module(path).samples("train")
        assert {samples[index].answer for index in range(20)} == {None}
        assert "answers are not checked: the completions are free text" in info[-1]
        compared = module(path, answer_type="text").samples("train")
        assert compared[3].answer.value == long.format(3)
        assert compared[3].answer.place == "whole"


def test_an_answer_that_no_completion_shows_is_not_checked(tmp_path, write_lines, info):
    records = [{**row, "response": f"We see {row['answer']} of them there."} for row in rows(20)]
    path = write_lines(tmp_path / "x.jsonl", records)
    assert module(path).samples("train")[3].answer is None
    assert "do not show theirs where it could be found" in info[-1]
    assert module(path, answer_place="any").samples("train")[3].answer.place == "any"


def test_test_data_follow_the_training_completions(tmp_path, write_lines):
    boxed = [{**row, "response": rf"So \boxed{{{row['answer']}}}."} for row in rows(20)]
    train, test = write_lines(tmp_path / "train.jsonl", boxed), write_lines(tmp_path / "test.jsonl", rows(5))
    data = module(train, test=str(test))
    assert verdict(data, "test", r"\boxed{3}", 3).correct
    assert not verdict(data, "test", "3", 3).correct
    alone = module(tmp_path / "gone.jsonl", test=str(test))
    assert verdict(alone, "test", "3", 3).correct


def test_no_answers_are_checked_where_the_user_says_so(tmp_path, write_lines):
    path = write_lines(tmp_path / "x.jsonl", rows(5))
    assert module(path, answer_place="none").samples("train")[0].answer is None
    with pytest.raises(UserError, match="data.answer_place is 'nose'; choose one of tags"):
        module(path, answer_place="nose")


def test_without_validation_data_there_is_nothing_to_validate_on(tmp_path, write_lines, random_tiny_encoder):
    data = module(write_lines(tmp_path / "x.jsonl", rows(8)), encoder=random_tiny_encoder, num_workers=0)
    data.setup("fit")
    assert data.val_dataloader() == []
    with pytest.raises(UserError, match="there are no validation data; set data.validation"):
        data.setup("validate")


def test_prompts_need_no_completion_where_the_module_samples_them(media_folder, published, write_lines):
    path = write_lines(media_folder / "verl.jsonl", [{**row, "level": 2} for row in published["verl"][2:4]])
    with pytest.raises(UserError, match="there is a prompt and no completion to learn"):
        module(path).samples("train")
    data = module(path, columns=ColumnNames(difficulty="level"))
    data.trainer = SimpleNamespace(lightning_module=Sampler())
    samples = data.samples("train")
    assert [samples[index].messages[-1].role for index in range(2)] == ["user"] * 2
    assert samples[0].answer.value == "2"
    assert data.arms("difficulty") == {"2": 2}


def test_what_is_computed_once_lies_beside_the_training_records(tmp_path):
    (tmp_path / "inner").mkdir()
    path = tmp_path / "inner" / "train.jsonl"
    path.write_text(json.dumps(rows(1)[0]) + "\n", encoding="utf-8")
    assert module(path).cache_file("a.bin") == tmp_path / "inner" / "train.a.bin"
    assert module(tmp_path / "inner" / "*.jsonl").cache_file("a.bin") == path.with_name("train.a.bin")
    with pytest.raises(UserError, match=r"data\.train"):
        module(tmp_path / "nothing.jsonl").cache_file("a.bin")
