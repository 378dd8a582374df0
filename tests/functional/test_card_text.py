import math

import pytest
import yaml

from lit_vlm.functional.card_text import LEFT_OUT, cell, fenced, portable, table, yaml_text


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("/home/me/data/train.jsonl", "train.jsonl"),
        ("/home/my name/data of mine/", "data of mine"),
        ("~/data", "data"),
        ("~me/data/x", "x"),
        (r"C:\Users\me\model", "model"),
        ("file:///srv/data/x.json", "x.json"),
        ("lit-vlm fit --data.train /srv/data/x.jsonl --n 3", "lit-vlm fit --data.train x.jsonl --n 3"),
        ("a='/srv/data/x',b", "a='x',b"),
        ("https://user:word@host/v1", "https://host/v1"),
        ("see hf_abcdefghijklmnopqrst", f"see {LEFT_OUT}"),
        ("Bearer abcdefghijklmnopqrst", LEFT_OUT),
    ],
)
def test_what_only_one_machine_or_person_knows_is_left_out(given, kept):
    assert portable({"x": given}) == {"x": kept}
    assert portable([given]) == [kept]


@pytest.mark.parametrize(
    "text",
    [
        "Think in <think></think>, then answer in <answer></answer>.",
        "data/train.jsonl", "runs/a/version_0/model", "Qwen/Qwen2.5-VL-3B-Instruct", "and/or", "5 / 3", "/no_think",
        "http://localhost:8000/v1/chat", "a\n/b", ".*language_model.*\\.(q|k)_proj", "../x", "12/10/2025", "~",
    ],
)  # fmt: skip
def test_other_texts_stay_as_they_are(text):
    assert portable({"x": text}) == {"x": text}


def test_secrets_are_left_out_by_their_names():
    given = {
        "api_key": "k1", "hf_token": "k2", "password": "k3", "nested": [{"secret": "k4"}], "key": "k5",
        "max_tokens": 8, "token": 3, "api_key_variable": "OPENAI_API_KEY", "pad_token": "<pad>", "stop": None,
    }  # fmt: skip
    kept = portable(given)
    assert not any(f"k{number}" in str(kept) for number in range(1, 6))
    assert {name: kept[name] for name in list(given)[5:]} == dict(list(given.items())[5:])


def test_settings_come_back_from_yaml_as_they_went():
    settings = {
        "a": {"b": 1e-8, "c": 1e-05, "d": 2.5, "e": None, "f": True, "empty": {}},
        "list": [1, 1e-06, "x: y", {"deep": [None]}], "text": 'with "quotes", # and\nlines', "on": "yes", "1": "x",
        "unicode": "é", "big": 1 << 40,
    }  # fmt: skip
    assert yaml.safe_load(yaml_text(settings)) == settings
    assert math.isinf(float(str(yaml.safe_load(yaml_text({"x": 1e308}))["x"])) * 10)


def test_cells_and_fences_hold_what_could_break_out():
    assert cell("a | b\nc <x>") == "a \\| b c &lt;x>"
    assert table(("a", "b"), [("1", "2|3")]) == ["| a | b |", "| --- | --- |", "| 1 | 2\\|3 |"]
    assert fenced("x\n````\ny", "yaml")[0] == "`````yaml"
    assert fenced("x", "yaml") == ["```yaml", "x", "```"]
