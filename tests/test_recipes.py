"""Every recipe that ships runs: parsed and built as the command line does, then two steps on the bundled model."""

import json
import math
import re
import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from PIL import Image
from transformers import AutoModelForImageTextToText

from lit_vlm.cli import main
from lit_vlm.command_line.catalogue import shipped_recipes
from lit_vlm.command_line.recipes import readme
from lit_vlm.command_line.training import CommandLine
from lit_vlm.models.tiny_vlm import TINY_FOLDER
from lit_vlm.paradigms.weight_space import WeightSpaceModule
from tests.command_line.workplaces import enter
from tests.data.ledger_material import solutions, write_ledger
from tests.merging.perturbed_models import perturbed
from tests.rollouts.policy_server import PolicyBackend, serving

FOLDER = Path(__file__).parent.parent / "recipes"
CONTENTS = {path: yaml.safe_load(path.read_text(encoding="utf-8")) for path in sorted(FOLDER.rglob("*.yaml"))}
RECIPES = [path for path, content in CONTENTS.items() if "about" in content]
MERGES = [path for path in RECIPES if "merge" in CONTENTS[path]]
PIPELINES = [path for path in RECIPES if "stages" in CONTENTS[path]]
TEACHERS = [path for path in RECIPES if "EndpointModule" in str(CONTENTS[path].get("model"))]
RUNS = [path for path in RECIPES if path not in MERGES + PIPELINES + TEACHERS]

# What makes any recipe small; nothing here changes which parts it is made of.
SMALL = {
    "model.backbone.checkpoint": "tiny",
    "model.generation.max_new_tokens": 4,
    "data.batch_size": 2,
    "data.evaluation_batch_size": 2,
    "data.num_workers": 0,
    "trainer.max_steps": 2,
    "trainer.accumulate_grad_batches": 1,
    "trainer.val_check_interval": 2,
    "trainer.limit_val_batches": 1,
    "trainer.accelerator": "cpu",
    "trainer.devices": 1,
    "trainer.strategy": "auto",
    "trainer.precision": "32-true",
    "trainer.enable_progress_bar": "false",
    "trainer.enable_model_summary": "false",
}
STEPS_A_ROUND = 2


def small_options(recipe):
    """What makes this one small; a round's optimizer steps fit its prompts and the length of the run."""
    written = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    model, data = written["model"], written["data"]
    options = dict(SMALL)
    if "runs/" in str(model["init_args"].get("backbone")):  # the test writes that model
        del options["model.backbone.checkpoint"]
    if "transform" in data["init_args"] and not {"train", "ledgers"} & set(data["init_args"]):
        options["data.train_size"] = 64  # a transform reads all samples ahead
    update = model["init_args"].get("update", {})
    if "minibatches" in update:
        options["model.update.minibatches"] = min(update["minibatches"], STEPS_A_ROUND)
    if model["class_path"].endswith("SegmentRewardModule"):  # it writes no text
        del options["model.generation.max_new_tokens"]
    if "search" in model["init_args"]:  # it takes a step a candidate, each with a validation, and ends by itself
        del options["trainer.max_steps"], options["trainer.val_check_interval"]
        options["model.search.values"] = "[1.0]"
    return [f"--{name}={value}" for name, value in options.items()]


def name_of(path):
    return path.relative_to(FOLDER).with_suffix("").as_posix()


def write_own_data(folder):
    """Writes what a user would bring: conversations and pairs about a picture, where recipes look for them."""
    folder.mkdir()
    Image.new("RGB", (56, 56)).save(folder / "page.png")
    records = [
        {
            "image": "page.png",
            "conversations": [
                {"from": "human", "value": f"<image>Which digit is number {index}?"},
                {"from": "gpt", "value": "7"},
            ],
        }
        for index in range(60)
    ]
    (folder / "train.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    pairs = [
        {"image": "page.png", "prompt": f"<image>Which digit is number {index}?", "chosen": "7", "rejected": "8"}
        for index in range(60)
    ]
    critiques = [
        {
            "image": "page.png",
            "instruction": "<image>Is the solution right?",
            "input": f"Question:\nWhich digit is number {index}?\n\nSolution:\n{index % 10}",
            "output": f"It is 7. Conclusion: {'right' if index % 10 == 7 else 'wrong'} [END]",
        }
        for index in range(60)
    ]
    (folder / "critiques.jsonl").write_text("".join(json.dumps(one) + "\n" for one in critiques), encoding="utf-8")
    (folder / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs), encoding="utf-8")


def write_earlier_runs(recipe, folder):
    """Writes what earlier runs would have left where the recipe looks: the bundled model, moved a bit, and ledgers."""
    places = re.findall(r": (runs/[\w/]+)", recipe.read_text(encoding="utf-8"))
    for seed, place in enumerate(dict.fromkeys(places)):
        if place.endswith("/ledger"):
            write_ledger(folder / place, solutions(40, right=lambda number, index: number % 3 == index))
        elif not (folder / place).exists():
            perturbed(folder / place, seed)


@contextmanager
def rollout_server(recipe):
    """Opens what a recipe samples with beside the policy, if anything, and gives the options that name it."""
    if "VLLMRolloutEngine" not in recipe.read_text(encoding="utf-8"):
        yield []
        return
    with serving(PolicyBackend(TINY_FOLDER)) as (address, _):
        yield [f"--model.engine.servers={address}", "--model.engine.sampling.max_new_tokens=4"]


@pytest.fixture
def finished(monkeypatch, tmp_path, one_thread):
    """The Trainers of the fits that came to their end, in a working folder of the test's own."""
    trainers = []
    monkeypatch.setattr(CommandLine, "after_fit", lambda self: trainers.append(self.trainer), raising=False)
    enter(monkeypatch, tmp_path)
    write_own_data(tmp_path / "data")
    return trainers


@pytest.fixture
def merge_material(finished):
    """What merges name beside the models of runs: an adapter on the bundled model, and a saved vector."""
    donors = json.dumps([{"model": str(perturbed(Path("donor"), seed=9))}])
    words = ["merge", "--config", "merging/task_arithmetic", "--merge.donors", donors, "--output"]
    assert main([*words, "runs/vector", "--as_vector"]) == 0
    assert main([*words, "runs/lora/version_0/model", "--as_lora", "8"]) == 0


def test_there_are_recipes():
    assert len(RECIPES) >= 2
    assert "quickstart" in map(name_of, RECIPES)


def test_the_catalogue_lists_every_recipe():
    assert [recipe.name for recipe in shipped_recipes()] == sorted(map(name_of, RECIPES))


def test_the_catalogue_page_is_current():
    page = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert page == readme(), "write it anew: lit-vlm recipes --markdown > recipes/README.md"


@pytest.mark.parametrize("recipe", RUNS, ids=name_of)
def test_a_recipe_prints_its_configuration_by_name(recipe, finished, capsys):
    assert main(["fit", "--config", name_of(recipe), "--print_config"]) == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["about"] == yaml.safe_load(recipe.read_text(encoding="utf-8"))["about"]
    assert finished == []


@pytest.mark.parametrize("recipe", RUNS, ids=name_of)
def test_a_recipe_takes_two_steps(recipe, finished, tmp_path, capsys):
    write_earlier_runs(recipe, tmp_path)
    with rollout_server(recipe) as further:
        status = main(["fit", "--config", str(recipe), *small_options(recipe), *further])
    assert status == 0, capsys.readouterr().err
    (trainer,) = finished
    learns = not isinstance(trainer.lightning_module, WeightSpaceModule)
    wanted = "train/loss" if learns else ("search/", "frank/")
    figures = [float(value) for name, value in trainer.callback_metrics.items() if name.startswith(wanted)]
    assert trainer.global_step == 2 if learns else trainer.global_step >= 1
    assert figures
    assert all(map(math.isfinite, figures))
    (saved,) = tmp_path.rglob("config.yaml")
    about = yaml.safe_load(recipe.read_text(encoding="utf-8"))["about"]
    assert yaml.safe_load(saved.read_text(encoding="utf-8"))["about"] == about


@pytest.mark.parametrize("recipe", TEACHERS, ids=name_of)
def test_a_teacher_that_is_not_there_is_named(recipe, finished, tmp_path, capsys):
    write_earlier_runs(recipe, tmp_path)
    shutil.rmtree(tmp_path / "runs" / "teacher")  # what it would write itself
    nobody = ["--model.endpoint.url", "http://127.0.0.1:9/v1", "--model.limits.attempts", "1"]
    assert main(["predict", "--config", name_of(recipe), *nobody]) == 2
    assert "http://127.0.0.1:9/v1" in capsys.readouterr().err
    assert finished == []


@pytest.mark.parametrize("recipe", MERGES, ids=name_of)
def test_a_merge_runs_as_it_stands_on_the_models_it_names(recipe, merge_material, tmp_path, capsys):
    write_earlier_runs(recipe, tmp_path)
    told = CONTENTS[recipe]["about"]
    assert main(["merge", "--config", name_of(recipe), "--print_config"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["about"] == told
    status = main(["merge", "--config", name_of(recipe), "--output", "merged"])
    assert status == 0, capsys.readouterr().err
    report = json.loads(Path("merged/merge_report.json").read_text(encoding="utf-8"))
    assert report["merged"] >= 40
    assert any(weight.get("change") for weight in report["weights"])
    AutoModelForImageTextToText.from_pretrained("merged")


@pytest.mark.parametrize("recipe", PIPELINES, ids=name_of)
def test_the_stages_of_a_pipeline_take_their_options(recipe, finished, tmp_path, capsys):
    stages = [stage["name"] for stage in CONTENTS[recipe]["stages"]]
    status = main(["pipeline", "--config", name_of(recipe), "--dry_run"])
    told = capsys.readouterr()
    assert status == 0, told.err
    labels = [line.partition(": lit-vlm ")[0].partition("-") for line in told.out.strip().splitlines()]
    assert {name for _, _, name in labels} == set(stages)
    assert {number for number, _, _ in labels} == set(map(str, range(1, CONTENTS[recipe].get("rounds", 1) + 1)))
    assert not Path("runs").exists()


def test_there_are_pipelines():
    assert len(PIPELINES) >= 2


def test_there_are_merges():
    assert len(MERGES) >= 8


def test_a_recipe_that_names_an_unknown_part_does_not_run(finished, tmp_path, capsys):
    broken = yaml.safe_load((FOLDER / "quickstart.yaml").read_text(encoding="utf-8"))
    broken["model"]["class_path"] = "lit_vlm.paradigms.sft.SFTModul"
    (tmp_path / "broken.yaml").write_text(yaml.safe_dump(broken), encoding="utf-8")
    assert main(["fit", "--config", "broken.yaml", *small_options(FOLDER / "quickstart.yaml")]) == 2
    assert "SFTModul" in capsys.readouterr().err
    assert finished == []
