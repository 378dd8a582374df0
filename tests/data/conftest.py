"""Invented records of each convention in its published layout, with the media they show."""

import io
import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

VIDEO = Path(__file__).parent.parent / "functional" / "grey_steps.mp4"


def png(colour=(200, 30, 30), size=(28, 28)):
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(name="png")
def png_fixture():
    return png


@pytest.fixture
def media_folder(tmp_path):
    """A folder with the pictures a.png, b.png and sub/c.png and the video v.mp4, for data files beside them."""
    for index, name in enumerate(("a.png", "b.png", "sub/c.png")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(png((60 * index, 0, 0)))
    shutil.copy(VIDEO, tmp_path / "v.mp4")
    return tmp_path


def write_lines(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


@pytest.fixture(name="write_lines")
def write_lines_fixture():
    return write_lines


def turn(role, content):
    return {"role": role, "content": content}


# Of each convention: an ordinary record, one with several media, one of text only, one with the main quirk, a broken.
LLAVA = [
    {"id": "s1", "image": "sub/c.png", "conversations": [
        {"from": "human", "value": "<image>\nHow many cups?"}, {"from": "gpt", "value": "Two."}]},
    {"id": "s2", "image": ["a.png", "b.png"], "conversations": [
        {"from": "human", "value": "<image> or <image>?"}, {"from": "gpt", "value": "The first."}]},
    {"id": "s3", "model": "", "conversations": [
        {"from": "human", "value": "Name a prime."}, {"from": "gpt", "value": 7}]},
    # The placeholder repeated in a later turn; the conversation written as text.
    {"id": "s4", "image": "a.png", "conversations": str([
        {"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A cup."},
        {"from": "human", "value": "<image>\nRed?"}, {"from": "gpt", "value": "Yes."}])},
    {"id": "s5", "image": "a.png", "conversations": [
        {"from": "human", "value": "<image><image>\nWhat?"}, {"from": "gpt", "value": "A cup."}]},
]  # fmt: skip
MESSAGES = [
    {"messages": [
        turn("user", [{"type": "image", "text": None}, {"type": "text", "text": "Colour?"}]),
        turn("assistant", [{"type": "text", "text": "Blue."}])], "images": ["a.png"]},
    {"messages": [
        turn("user", "Compare <image> with <image>."), turn("assistant", "Alike.")], "images": ["a.png", "b.png"]},
    {"messages": [turn("user", "Hello."), turn("assistant", "Hi.")], "images": []},
    {"messages": [turn("user", "What is it?"), turn("assistant", "A sky.")], "images": ["a.png"]},  # no placeholder
    {"messages": [turn("user", "<image>What?"), turn("assistant", "A cup.")], "images": []},
]  # fmt: skip
SHAREGPT = [
    {"conversations": [
        {"from": "human", "value": "<image>Describe."}, {"from": "gpt", "value": "A bus."}],
     "images": ["a.png"], "system": "Be brief."},
    {"conversations": [
        {"from": "human", "value": "<image><image>Same?"}, {"from": "gpt", "value": "No."}],
     "images": ["a.png", "b.png"]},
    {"conversations": [{"from": "human", "value": "Hi."}, {"from": "gpt", "value": "Hello."}], "images": []},
    {"conversations": [
        {"from": "human", "value": "Weather?"}, {"from": "function_call", "value": '{"name": "sky", "arguments": {}}'},
        {"from": "observation", "value": "rain"}, {"from": "gpt", "value": "It rains."}], "images": []},
    {"conversations": [{"from": "martian", "value": "Hi."}, {"from": "gpt", "value": "Hello."}], "images": []},
]  # fmt: skip
OPENAI = [
    {"messages": [
        turn("user", [{"type": "text", "text": "Read it."}, {"type": "image_url", "image_url": {"url": "a.png"}}]),
        turn("assistant", "STOP")]},
    {"messages": [
        turn("user", [{"type": "image_url", "image_url": "a.png"}, {"type": "image_url", "image_url": {"url": "b.png"}},
                      {"type": "text", "text": "Which?"}]), turn("assistant", "The left.")]},
    {"messages": [turn("system", "Be kind."), turn("user", "Hi."), turn("assistant", "Hello.")]},
    {"messages": [turn("user", "Time?"),
                  {"role": "assistant", "content": None,
                   "tool_calls": [{"type": "function", "function": {"name": "clock", "arguments": '{"zone": "UTC"}'}}]},
                  {"role": "tool", "content": "12:00"}, turn("assistant", "Noon.")]},
    {"messages": [
        turn("user", [{"type": "image_url", "image_url": {"url": "https://example.invalid/a.png"}}]),
        turn("assistant", "STOP")]},
]  # fmt: skip
SWIFT = [
    {"messages": [turn("user", "<image>Find the <ref-object>"), turn("assistant", "<bbox>")], "images": ["a.png"],
     "objects": {"ref": ["sheep"], "bbox": [[9, 16, 13, 21]]}},
    {"messages": [turn("user", "<image><image>Same?"), turn("assistant", "No")], "images": ["a.png", "b.png"]},
    {"messages": [turn("user", "Hi."), turn("assistant", "Hello.")]},
    {"messages": [turn("user", "One?"), {**turn("assistant", "1"), "loss": False}, turn("user", "Two?"),
                  {**turn("assistant", "2"), "loss": True}]},
    {"messages": [turn("user", "<image>Find it"), turn("assistant", "<bbox><bbox>")], "images": ["a.png"],
     "objects": {"ref": [], "bbox": [[9, 16, 13, 21]]}},
]  # fmt: skip
PROMPT_COMPLETION = [
    {"prompt": [turn("user", "<image>What?")], "completion": [turn("assistant", "A cup.")], "images": ["a.png"]},
    {"prompt": "<image> or <image>?", "completion": "The first.", "images": ["a.png", "b.png"]},
    {"prompt": "2 + 2 =", "completion": "4"},
    {"prompt": [turn("system", "Be brief."), turn("user", "Hi.")], "completion": turn("assistant", "Hello.")},
    {"prompt": "2 + 2 =", "completion": " "},
]
QUESTION_ANSWER = [
    {"images": ["a.png"], "problem": "<image>How many dots?", "answer": "4"},
    {"images": ["a.png", "b.png"], "problem": "<image><image>Alike?", "answer": "yes"},
    {"images": [], "problem": "Largest?", "answer": 2, "options": ["one", "two", "three"]},
    {"images": ["a.png"], "problem": "<image>Angle?", "answer": "<answer> $\\frac{1}{2}$ </answer>"},
    {"images": ["a.png"], "problem": "<image>Largest?", "answer": "D", "options": ["one", "two", "three"]},
]
ALPACA = [
    {"instruction": "<image>Describe.", "input": "", "output": "A cup.", "images": ["a.png"]},
    {"instruction": "<image><image>Compare.", "input": "Briefly.", "output": "Alike.", "images": ["a.png", "b.png"]},
    {"instruction": "Translate.", "input": "chat", "output": "cat", "system": "You know French."},
    {"instruction": "And two?", "output": "deux", "history": [["One?", "un"]]},
    {"instruction": "Translate.", "input": "chat", "output": ""},
]
VERL = [
    {"data_source": "demo", "prompt": [turn("user", "<image>How many dots?")],
     "images": [{"bytes": None, "path": "a.png"}], "ability": "count",
     "reward_model": {"style": "rule", "ground_truth": "4"}, "extra_info": {"index": 0}},
    {"data_source": "demo", "prompt": [turn("user", "<image><image>Which?\nA. left\nB. right")],
     "images": [{"bytes": png(), "path": None}, {"image": "b.png"}],
     "reward_model": {"style": "rule", "ground_truth": "B"}},
    {"data_source": "demo", "prompt": [turn("user", "1 + 1?")], "images": [],
     "reward_model": {"style": "rule", "ground_truth": "2"}},
    {"data_source": "demo", "prompt": [turn("user", "Capital?")], "images": [],
     "reward_model": {"style": "rule", "ground_truth": '["Paris", "paris, France"]'}},
    {"data_source": "demo", "prompt": [turn("user", "<image>Where?")], "images": [],
     "reward_model": {"style": "rule", "ground_truth": "here"}},
]  # fmt: skip

PUBLISHED = {
    "llava": LLAVA,
    "messages": MESSAGES,
    "sharegpt": SHAREGPT,
    "openai": OPENAI,
    "swift": SWIFT,
    "prompt_completion": PROMPT_COMPLETION,
    "question_answer": QUESTION_ANSWER,
    "alpaca": ALPACA,
    "verl": VERL,
}


@pytest.fixture
def published():
    """Records by convention; the last of each is broken."""
    return PUBLISHED
