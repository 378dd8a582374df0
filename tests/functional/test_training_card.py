import json

import pytest
import yaml

from lit_vlm import __version__
from lit_vlm.functional.training_card import TrainedModel, read_report, training_card, versions

FIGURE = {"mean": 0.5, "low": 0.4, "high": 0.6, "total": 100}
REPORT = {
    "metric": "exact_match",
    "comparison": {
        "overall": {
            "before": FIGURE,
            "after": {**FIGURE, "mean": 0.75, "low": 0.65, "high": 0.83},
            "gain_points": 25.0,
            "intervals_apart": True,
        },
        "sum": {"before": None, "after": {"mean": 0.25}, "gain_points": None, "intervals_apart": None},
    },
}


@pytest.fixture
def configuration():
    return {
        "about": {"method": "Dr. GRPO", "paper": "Liu et al., arXiv 2503.20783", "fidelity": "confirmed-in-code",
                  "summary": "Trains by reward."},
        "seed_everything": 3,
        "model": {
            "class_path": "lit_vlm.paradigms.grpo.GRPOModule",
            "init_args": {
                "backbone": {"checkpoint": "Qwen/Qwen2.5-VL-3B-Instruct", "dtype": "bfloat16",
                             "adapter": {"kind": "lora", "rank": 16, "alpha": 32, "parts": ["language"]}},
                "reward": {"class_path": "a.b.MyReward", "init_args": {"weight": 0.5, "none": None}},
                "optimizer": {"learning_rate": 1e-05},
                "group_size": 8,
            },
        },
        "data": {"class_path": "a.Chat", "init_args": {"train": "/home/me/pages.jsonl", "api_key": "hunter2"}},
        "trainer": {"max_steps": -1, "max_epochs": 2, "precision": None, "default_root_dir": "/home/me",
                    "logger": {"init_args": {"name": "my_run", "save_dir": "/home/me/runs"}}, "callbacks": None},
        "ckpt_path": "/home/me/x.ckpt",
    }  # fmt: skip


def parts(card):
    _, front, body = card.split("---\n", 2)
    return yaml.safe_load(front), body


def test_the_hub_reads_what_it_is_and_of_what(configuration):
    front, body = parts(training_card(TrainedModel(configuration, "adapter")))
    assert front == {
        "library_name": "peft",
        "pipeline_tag": "image-text-to-text",
        "base_model": ["Qwen/Qwen2.5-VL-3B-Instruct"],
        "base_model_relation": "adapter",
        "tags": ["lit-vlm", "dr-grpo", "lora"],
    }
    assert body.startswith("\n# my_run\n")
    front, _ = parts(training_card(TrainedModel({**configuration, "about": {"datasets": ["a/b"]}}, title="x | y")))
    assert (front["library_name"], front["base_model_relation"]) == ("transformers", "finetune")
    assert front["datasets"] == ["a/b"]
    assert front["tags"] == ["lit-vlm"]


def test_a_model_of_this_machine_is_no_model_of_the_hub(configuration, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for checkpoint in ("tiny", "/srv/models/mine", "local/model"):
        (tmp_path / "local" / "model").mkdir(parents=True, exist_ok=True)
        configuration["model"]["init_args"]["backbone"]["checkpoint"] = checkpoint
        front, body = parts(training_card(TrainedModel(configuration)))
        assert "base_model" not in front
        assert "/srv" not in body


def test_figures_are_told_with_their_intervals(configuration):
    card = training_card(TrainedModel(configuration, report=REPORT, steps=140))
    assert "| overall | 50.0 [40.0, 60.0] | 75.0 [65.0, 83.0] | +25.0 | apart | 100 |" in card
    assert "| sum |  | 25.0 |  |  |  |" in card
    assert "| optimizer steps done | 140 |" in card
    assert "compared nothing" in training_card(TrainedModel(configuration, report={"comparison": {}}))


def test_settings_data_and_versions_are_there(configuration):
    card = training_card(TrainedModel(configuration))
    for line in (
        "| method | Dr. GRPO |", "| paper | Liu et al., arXiv 2503.20783 |", "| fidelity | confirmed-in-code |",
        "| class | Chat |", "| train | pages.jsonl |", "| module | GRPOModule |", "| reward | MyReward: weight 0.5 |",
        "| adapter | kind lora, rank 16, alpha 32, parts language |", "| seed | 3 |", "| max_epochs | 2 |",
        f"| lit-vlm | {__version__} |",
    ):  # fmt: skip
        assert line in card.splitlines()
    assert [name for name, _ in versions()] == ["lit-vlm", "torch", "transformers", "peft", "lightning"]


def test_it_holds_no_path_of_the_machine_and_no_secret(configuration):
    card = training_card(TrainedModel(configuration))
    assert "/home" not in card
    assert "hunter2" not in card


def test_the_recipe_in_it_can_be_run_again(configuration):
    card = training_card(TrainedModel(configuration))
    recipe = yaml.safe_load(card.split("```yaml\n")[1].split("```")[0])
    assert recipe["model"] == configuration["model"]
    assert recipe["trainer"] == {"max_steps": -1, "max_epochs": 2, "callbacks": None}
    assert "lit-vlm fit --config recipe.yaml" in card


def test_a_report_is_read_where_there_is_one(tmp_path):
    assert read_report(tmp_path) is None
    (tmp_path / "report.json").write_text(json.dumps(REPORT))
    assert read_report(tmp_path) == REPORT
