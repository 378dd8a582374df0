import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from lit_vlm.cli import main
from lit_vlm.command_line.data import parse_options
from lit_vlm.interfaces.errors import UserError
from tests.command_line.workplaces import enter

QUICK = ["--config=quickstart", "--data.train_size=6", "--data.validation_size=4", "--data.test_size=3"]
LIMIT = 300
RECIPE = f"""
model:
  class_path: SFTModule
  init_args: {{max_tokens: {LIMIT}}}
data:
  class_path: my_rows.Rows
  init_args: {{system_prompt: Think first.}}
trainer: {{accelerator: gpu, devices: 64, callbacks: [{{class_path: ExportModel}}]}}
"""
HOSTILE = '<script>alert(1)</script> <|im_end|> <|image_pad|> \x1b[2J "&amp;'
ROWS = """
from PIL import Image
from torch.utils.data import Dataset

from lit_vlm.data.vlm_data_module import VLMDataModule
from lit_vlm.interfaces.errors import BadSampleError, UserError
from lit_vlm.interfaces.records import (
    Answer, ImagePart, MediaRef, Message, Sample, SampleMeta, TextPart, assistant_message, user_message,
)

HOSTILE = {hostile!r}
RED, BLUE = (MediaRef(pil=Image.new("RGB", (64, 64), colour)) for colour in ("red", "blue"))
YES = Sample("text only", (user_message("Say yes."), assistant_message("<answer>yes</answer>")),
             answer=Answer("yesno", "yes"), meta=SampleMeta(source="a", category="say"))
TURNS = Sample("turns", (
    Message("user", (ImagePart(0), TextPart("and"), ImagePart(1), TextPart("Which digit?"))),
    assistant_message("seven 🙂"), user_message("Sure?"), assistant_message("yes")),
    images=(RED, BLUE), meta=SampleMeta(source="b", category="digits", difficulty=2))
BAD = BadSampleError("rows.jsonl, line 3", "there is no media file 'gone.png'")
WILD = Sample("wild", (user_message(HOSTILE, 1), assistant_message(HOSTILE)), images=(RED,),
              answer=Answer("text", HOSTILE), meta=SampleMeta(category=HOSTILE, origin="rows.jsonl, line 4"))
LONG = Sample("long", (user_message("digit " * 600), assistant_message("7")),
              meta=SampleMeta(origin="rows.jsonl, line 5"))
UNASKED = Sample("unasked", (user_message("Which digit?", 1),), images=(BLUE,))


class Listed(Dataset):
    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        if isinstance(self.items[index], Exception):
            raise self.items[index]
        return self.items[index]


class Rows(VLMDataModule):
    def __init__(self, encoder=None, **options):
        super().__init__(encoder, **options)

    @property
    def tasks(self):
        return ("say", "digits")

    def samples(self, split):
        if split == "test":
            raise UserError("data.test is not given")
        return Listed([YES, TURNS, BAD, WILD, LONG] if split == "train" else [UNASKED, YES])
"""


class Tokens(HTMLParser):
    """Collects the tokens of each sample that a page shows."""

    def __init__(self, text):
        super().__init__()
        self.rows = []
        self.scripts = 0
        self.inside = False
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        classes = attributes.get("class", "").split()
        self.scripts += tag == "script"
        self.inside = "token" in classes
        if "tokens" in classes:
            self.rows.append([])
        elif self.inside:
            trained = {"trained": True, "masked": False}[classes[1]]
            self.rows[-1].append([int(attributes["data-id"]), int(attributes["data-count"]), trained, ""])

    def handle_endtag(self, tag):
        self.inside = False

    def handle_data(self, data):
        if self.inside:
            self.rows[-1][-1][3] += data


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    """A folder with a recipe and its own data, where no weights can be loaded."""
    (tmp_path / "small.yaml").write_text(RECIPE)
    (tmp_path / "my_rows.py").write_text(ROWS.format(hostile=HOSTILE), encoding="utf-8")
    enter(monkeypatch, tmp_path)
    monkeypatch.delitem(sys.modules, "my_rows", raising=False)

    def refuse(*_, **__):
        raise AssertionError("weights were loaded")

    monkeypatch.setattr("lit_vlm.models.backbone.Backbone.load_model", refuse)
    return tmp_path


def record(folder):
    return json.loads((Path(folder) / "data.json").read_text())


def test_a_recipe_is_looked_into_without_its_weights(capsys):
    assert main(["data", *QUICK]) == 0
    folder = Path("runs/quickstart/data")
    splits = record(folder)["splits"]
    assert {split: figures["usable"] for split, figures in splits.items()} == {"train": 6, "validation": 4, "test": 3}
    assert splits["train"]["images_per_sample"] == {"1": 6}
    assert splits["train"]["tokens"]["image"]["minimum"] == 16
    assert (folder / "bad_samples.jsonl").read_text() == ""
    for split in splits:
        with Image.open(folder / f"{split}_samples.png") as sheet:
            assert min(sheet.size) > 100
    shown = capsys.readouterr().out
    assert "no row is longer than 512 tokens" in shown
    assert "<|image_pad|> x" in shown
    assert "⟦<think>" in shown


def test_a_model_that_samples_its_completions_gets_prompts_alone(workplace, capsys):
    lines = [{"question": f"How much is {index} + 1?", "answer": str(index + 1)} for index in range(6)]
    (workplace / "asked.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    words = ["--data", "ChatDataModule", "--data.train", "asked.jsonl", "--data.validation_share", "0"]
    options = ["--split", "train", "--data.convention", "question_answer", "--model.max_tokens", "300"]
    assert main(["data", "--model", "GRPOModule", *words, *options]) == 0
    alone = record("runs/data/data")["splits"]["train"]
    assert (alone["usable"], alone["tokens"]["trained"]["maximum"]) == (6, 0)
    shown = capsys.readouterr().out
    assert shown.count(", 0 trained") == 4
    assert "<|im_start|>assistant" in shown
    assert main(["data", "--model", "SFTModule", *words, *options]) == 0
    trained = record("runs/data/data")["splits"]["train"]
    assert trained["tokens"]["trained"]["minimum"] > 0
    assert trained["tokens"]["row"]["maximum"] > alone["tokens"]["row"]["maximum"]


def test_prompts_without_a_completion_are_bad_only_where_one_is_learnt(workplace, capsys):
    lines = [{"messages": [{"role": "user", "content": f"Say {index}."}]} for index in range(4)]
    (workplace / "asked.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    words = ["--data", "ChatDataModule", "--data.train", "asked.jsonl", "--data.validation_share", "0"]
    assert main(["data", "--model", "GRPOModule", *words, "--split", "train"]) == 0
    assert main(["data", "--model", "SFTModule", *words, "--split", "train"]) == 2
    assert "training needs an assistant's turn at the end" in capsys.readouterr().err


def test_bad_samples_are_told_and_end_in_status_1(workplace, capsys):
    assert main(["data", "--config", "small.yaml"]) == 1
    folder = Path("runs/small/data")
    found = record(folder)
    train = found["splits"]["train"]
    assert (train["total"], train["read"], train["usable"], train["bad"]) == (5, 4, 3, 2)
    assert (train["beyond_max_tokens"], train["refused"]) == (1, 1)
    assert found["overlaps"] == {"train/validation": 1}
    assert found["absent_splits"] == {"test": "data.test is not given"}
    lines = [json.loads(line) for line in (folder / "bad_samples.jsonl").read_text().splitlines()]
    assert [(line["split"], line["index"], line["origin"]) for line in lines] == [
        ("train", 2, "rows.jsonl, line 3"),
        ("train", 4, "rows.jsonl, line 5"),
    ]
    assert lines[0]["reason"] == "there is no media file 'gone.png'"
    shown = capsys.readouterr().out
    assert "rows.jsonl, line 3: there is no media file 'gone.png'" in shown
    assert "1 question with the same media in both train and validation" in shown
    assert "\x1b" not in shown


def test_bad_samples_that_a_run_leaves_out_are_no_failure(capsys):
    assert main(["data", "--config", "small.yaml", "--data.bad_samples", "skip", "--split", "train"]) == 0
    assert record("runs/small/data")["bad_samples_policy"] == "skip"


def test_the_page_shows_exactly_what_the_model_gets(workplace, capsys):
    main(["data", "--config", "small.yaml", "--shown", "9"])
    page = Tokens((Path("runs/small/data") / "data_report.html").read_text(encoding="utf-8"))
    assert page.scripts == 0

    from lit_vlm.models.backbone import Backbone

    encoder = Backbone().load_encoder(LIMIT)
    rows = sys.modules["my_rows"]
    prepared = rows.Rows(encoder, system_prompt="Think first.")
    train, validation = prepared.prepared("train"), prepared.prepared("validation")
    batches = [
        *(encoder.encode([train[index]]) for index in (0, 1, 3)),
        *(encoder.encode_evaluation([validation[index]]).complete for index in (0, 1)),
    ]
    assert len(page.rows) == len(batches)
    for shown, batch in zip(page.rows, batches, strict=True):
        ids, labels = batch.input_ids[0].tolist(), batch.labels[0].tolist()
        assert [token for token, count, *_ in shown for _ in range(count)] == ids
        assert [trained for _, count, trained, _ in shown for _ in range(count)] == [label != -100 for label in labels]
        decoded = encoder.tokenizer.decode(ids, skip_special_tokens=False)
        collapsed = re.sub(
            r"(?:<\|image_pad\|>)+",
            lambda found: f"\0{found.group().count('<')}\0",
            decoded.replace("\x1b", "\\x1b").replace(" ", "·").replace("\n", "↵\n"),
        )
        expected = re.sub("\0(\\d+)\0", r"<|image_pad|> x \1", collapsed)
        assert "".join(text for *_, text in shown).replace("⋯", "") == expected
    wild = "".join(text for *_, text in page.rows[2])
    assert wild.count("<script>alert(1)</script>·<·|im_end|>·<·|image_pad|>") == 2  # broken up, so that they are text


def test_samples_are_limited_and_splits_chosen(capsys):
    words = ["--split", "validation", "--samples", "2", "--shown", "1", "--out", "elsewhere"]
    assert main(["data", *QUICK, *words]) == 0
    found = record("elsewhere")
    assert list(found["splits"]) == ["validation"]
    assert (found["splits"]["validation"]["total"], found["splits"]["validation"]["looked_at"]) == (4, 2)
    assert len(Tokens(Path("elsewhere/data_report.html").read_text()).rows) == 1
    assert "4, 2 looked at, evenly spaced" in capsys.readouterr().out
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--split", "dev"], ("--split", "'dev'", "'validation'")),
        (["--split", "test"], ("data.test is not given",)),
        (["--samples", "0"], ("--samples: '0'", "or 'all'")),
        (["--shown", "-1"], ("--shown", "-1")),
        (["--shown"], ("--shown", "expected one argument")),
        (["--sample", "3"], ("--sample: there is no such option", "'samples'")),
        (["--out", "small.yaml"], ("--out small.yaml", "name a folder")),
        (["--data.bad_sample", "skip"], ("--data.bad_sample", "'bad_samples'")),
        (["--model.optimizer.lrr", "1"], ("--model.optimizer.lrr", "learning_rate")),
        (["--config", "missing.yaml"], ("--config missing.yaml", "lit-vlm recipes")),
    ],
)
def test_a_mistake_ends_in_one_line(words, told, capsys):
    assert main(["data", "--config", "small.yaml", *words]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("lit-vlm: error: ")]
    assert len(lines) == 1
    assert all(part in lines[0] for part in told), lines[0]


def test_help_is_brief(capsys):
    assert main(["data", "--help"]) == 0
    shown = capsys.readouterr().out
    assert len(shown.splitlines()) < 25
    assert all(option in shown for option in ("--split", "--samples", "--shown", "--out", "--config"))


def test_own_options_are_taken_out_and_the_rest_is_left():
    options, rest = parse_options(
        ["--config", "x", "--split=test", "--samples", "all", "--model.a=--split", "--split", "train", "-c", "y"]
    )
    assert options.splits == ("train", "test")
    assert options.samples is None
    assert rest == ["--config", "x", "--model.a=--split", "-c", "y"]
    with pytest.raises(UserError, match="--splits: there is no such option; did you mean 'split'"):
        parse_options(["--splits", "train"])
