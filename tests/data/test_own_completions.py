import json
import lzma
from dataclasses import replace

import pytest

from lit_vlm.data.digits_reasoning import DigitsReasoningGenerator
from lit_vlm.data.own_completions import (
    BUNDLED_FOLDER,
    Origin,
    OwnCompletions,
    describe_generator,
    questions_fingerprint,
    read_completions,
    write_completions,
)
from lit_vlm.data.shape_scenes import ShapeSceneGenerator
from lit_vlm.interfaces.errors import UserError

BUNDLED = {"digits": DigitsReasoningGenerator(), "scenes": ShapeSceneGenerator()}
SIZES = {"digits": {"train": 4096, "validation": 768}, "scenes": {"train": 2048, "validation": 512}}
ORIGIN = Origin({"name": "x", "seed": 0}, "tiny", "ab", "0", "Think.", {"temperature": 1.0}, {"train": "cd"})


def lines_of(path):
    return lzma.decompress(path.read_bytes()).decode().splitlines()


def write_lines(path, lines):
    path.write_bytes(lzma.compress("\n".join(lines).encode()))


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "own.jsonl.xz"
    write_completions(path, OwnCompletions(ORIGIN, {"train": [("a", "b"), ("ü\u2028\n", "")], "validation": [("c",)]}))
    return path


def test_what_is_written_is_read(file):
    read = read_completions(file)
    assert read.origin == ORIGIN
    assert read.texts == {"train": [("a", "b"), ("ü\u2028\n", "")], "validation": [("c",)]}
    assert [read.size(split) for split in ("train", "validation", "test")] == [2, 1, 0]


@pytest.mark.parametrize(
    ("line", "text", "told"),
    [
        (0, "{}", "line 1: it is not the header"),
        (0, "[1]", "line 1: it is no JSON object"),
        (1, "{", "line 2: it is no JSON"),
        (1, '{"split": "train", "index": 1, "texts": []}', "line 2: index is 1, where 0 comes next"),
        (2, '{"split": "train", "index": 1, "texts": ["a", 1]}', "line 3: texts is no list of texts"),
        (2, '{"split": "dev", "index": 1, "texts": []}', "line 3: split is 'dev'"),
    ],
)
def test_a_line_of_another_form_is_refused(file, line, text, told):
    lines = lines_of(file)
    lines[line] = text
    write_lines(file, lines)
    with pytest.raises(UserError, match=told):
        read_completions(file)


def test_a_header_of_another_form_is_refused(file):
    header, *rest = lines_of(file)
    for change, told in (
        ({"more": 1}, "it holds"),
        ({"weights": 3}, "weights is 3"),
        ({"sampling": "x"}, "sampling is"),
    ):
        write_lines(file, [json.dumps({**json.loads(header), **change}), *rest])
        with pytest.raises(UserError, match=told):
            read_completions(file)


def test_a_file_that_is_none_is_refused(tmp_path):
    with pytest.raises(UserError, match="cannot be read as completions"):
        read_completions(tmp_path / "none.xz")
    (tmp_path / "text.xz").write_text("{}")
    with pytest.raises(UserError, match="cannot be read as completions"):
        read_completions(tmp_path / "text.xz")
    with pytest.raises(UserError, match="cannot be written"):
        write_completions(tmp_path / "none" / "a.xz", OwnCompletions(ORIGIN, {}))


@pytest.mark.parametrize("name", BUNDLED)
def test_the_bundled_files_tell_what_made_them_and_no_place(name):
    path = BUNDLED_FOLDER / f"{name}.jsonl.xz"
    read = read_completions(path)
    assert path.stat().st_size < 300_000
    assert {split: read.size(split) for split in read.texts} == SIZES[name]
    assert read.origin.model == "tiny"
    assert read.origin.generator == describe_generator(BUNDLED[name])
    assert "/" not in json.dumps(lines_of(path)[0]).replace("</", "<")
    assert all(len(texts) == read.origin.sampling["completions"] for texts in read.texts["train"])


@pytest.mark.parametrize("name", BUNDLED)
def test_the_bundled_files_belong_to_the_questions_that_the_generators_ask(name):
    origin = read_completions(BUNDLED_FOLDER / f"{name}.jsonl.xz").origin
    size = SIZES[name]["validation"]
    assert questions_fingerprint(BUNDLED[name], "validation", size) == origin.questions["validation"]


@pytest.mark.slow
@pytest.mark.parametrize("name", BUNDLED)
def test_the_bundled_files_belong_to_the_training_questions_too(name):
    origin = read_completions(BUNDLED_FOLDER / f"{name}.jsonl.xz").origin
    assert questions_fingerprint(BUNDLED[name], "train", SIZES[name]["train"]) == origin.questions["train"]


def test_the_fingerprint_of_questions_sees_every_setting():
    generator = BUNDLED["digits"]
    same = questions_fingerprint(generator, "train", 8)
    assert same == questions_fingerprint(DigitsReasoningGenerator(), "train", 8)
    others = [replace(generator, seed=1), replace(generator, levels=(1,)), replace(generator, tasks=("sum",))]
    fingerprints = {questions_fingerprint(other, "train", 8) for other in others}
    fingerprints |= {questions_fingerprint(generator, "validation", 8), questions_fingerprint(generator, "train", 9)}
    assert len(fingerprints) == 5
    assert same not in fingerprints
