from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from lit_vlm.cli import main
from lit_vlm.functional.ledger_files import read_rows
from lit_vlm.models.tiny_vlm import TINY_FOLDER
from tests.command_line.workplaces import enter

RECIPE = """
model:
  class_path: SFTModule
  init_args:
    generation: {max_new_tokens: 4}
data:
  class_path: DigitsReasoning
  init_args: {train_size: 8, validation_size: 4, test_size: 4, batch_size: 4, num_workers: 0}
trainer: {max_steps: 2, accelerator: cpu, limit_val_batches: 0}
"""

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*Checkpoint directory.*"),
    pytest.mark.filterwarnings("ignore:.*tensorboard.*"),
]


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    """A folder with a small recipe, and a process that the command line leaves as it was."""
    (tmp_path / "small.yaml").write_text(RECIPE)
    enter(monkeypatch, tmp_path)
    return tmp_path


def run(*words):
    return main(["fit", "--config", "small.yaml", *words])


def test_an_option_that_lies_deep_can_be_set_to_null(capsys):
    assert run("--model.backbone.revision", "main", "--model.backbone.revision", "null", "--print_config") == 0
    backbone = yaml.safe_load(capsys.readouterr().out)["model"]["init_args"]["backbone"]
    assert backbone["revision"] is None


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--model.lrr", "1"], ("--model.lrr", "there are backbone")),
        (["--model.optimizer.lrr", "1"], ("--model.optimizer.lrr", "learning_rate")),
        (["--model.optimizer.learning_rate", "abc"], ("--model.optimizer.learning_rate", "give a number")),
        (["--model.optimizer.learning_rate", "-1"], ("model.optimizer.learning_rate is -1.0", "positive")),
        (["--model.optimizer.schedule", "cosin"], ("--model.optimizer.schedule", "'cosine'")),
        (["--model.backbone.checkpoint", "/nowhere/at/all"], ("model.backbone.checkpoint", "existing folder")),
        (["--model.objective", "Nope"], ("--model.objective", "'Nope'")),
        (["--data", "DigitReasoning"], ("--data", "'DigitsReasoning'")),
        (["--data.batch_size", "0"], ("data.batch_size is 0", "at least 1")),
        (["--data.levels", "[9]"], ("levels holds [9]", "choose one or more of")),
        (["--data.leevls", "[1]"], ("--data.leevls", "'levels'")),
        (["--trainer.max_stepss", "3"], ("--trainer.max_stepss", "'max_steps'")),
        (["--trainer.max_steps", "x"], ("--trainer.max_steps", "a whole number")),
        (["--trainer.precision", "7"], ("--trainer.precision", "'bf16-mixed'")),
        (["--trainer.strategy", "dddp"], ("dddp", "ddp")),
        pytest.param(
            ["--trainer.strategy", "deepspeed_stage_2"],
            ("'deepspeed_stage_2' needs DeepSpeed", "pip install deepspeed"),
            marks=pytest.mark.skipif(find_spec("deepspeed") is not None, reason="DeepSpeed is installed"),
        ),
        (["--trainer.callbacks+=Nope"], ("--trainer.callbacks", "'Nope'")),
        (["--ckpt_path", "https://example.invalid/a.ckpt"], ("--ckpt_path", "download it")),
        (["--ckpt_path", "no/such.ckpt"], ("--ckpt_path", "there is no 'no/such.ckpt'")),
        (["--ckpt_path", __file__], ("--ckpt_path", "is no checkpoint, or one that was cut short")),
        (["--ckpt_path", str(TINY_FOLDER)], ("--ckpt_path", "is an exported model", "--model.backbone.checkpoint")),
        (["--config", "missing.yaml"], ("--config missing.yaml", "lit-vlm recipes")),
        (["--config"], ("--config", "must follow")),
        (["--trainer.max_steps=-1", "--trainer.max_epochs=-1", "--trainer.logger=false"], ("no end", "max_epochs")),
    ],
)
def test_a_mistake_ends_in_one_line_that_names_it_and_the_mend(words, told, capsys):
    assert run(*words) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("lit-vlm: error: ")]
    assert len(lines) == 1
    assert all(part in lines[0] for part in told), lines[0]


def test_a_recipe_within_a_recipe_is_refused(workplace, capsys):
    (workplace / "nested.yaml").write_text("config: small.yaml\n")
    assert main(["fit", "--config", "nested.yaml"]) == 2
    assert "a recipe may not hold 'config'" in capsys.readouterr().err


def test_later_configurations_and_options_win(workplace, capsys):
    (workplace / "later.yaml").write_text("model: {init_args: {optimizer: {learning_rate: 0.5}}}\n")
    assert run("--config", "later.yaml", "--model.optimizer.warmup", "7", "--print_config") == 0
    resolved = yaml.safe_load(capsys.readouterr().out)
    optimizer = resolved["model"]["init_args"]["optimizer"]
    assert optimizer["learning_rate"] == 0.5
    assert optimizer["warmup"] == 7
    assert resolved["data"]["class_path"].endswith("DigitsReasoning")
    assert resolved["seed_everything"] == 0


def test_parts_are_borrowed_by_path_relative_to_the_recipe(workplace, capsys):
    (workplace / "folder").mkdir()
    (workplace / "folder" / "leaf.yaml").write_text("checkpoint: somewhere/else\n")
    (workplace / "folder" / "borrows.yaml").write_text(
        RECIPE.replace("init_args:\n", "init_args:\n    backbone: leaf.yaml\n", 1)
    )
    assert main(["fit", "--config", "folder/borrows.yaml", "--print_config"]) == 0
    resolved = yaml.safe_load(capsys.readouterr().out)
    assert resolved["model"]["init_args"]["backbone"]["checkpoint"] == "somewhere/else"


def test_a_callback_beside_the_recipe_is_found(workplace, capsys):
    (workplace / "beside.py").write_text(
        "from lightning import Callback\nclass Hello(Callback):\n"
        "    def on_fit_end(self, *_): print('hello from beside')\n"
    )
    assert (
        run("--trainer.callbacks+=beside.Hello", "--trainer.logger=false", "--trainer.enable_checkpointing=false") == 0
    )
    assert "hello from beside" in capsys.readouterr().out


def test_only_callbacks_of_the_user_are_missed_in_a_checkpoint(workplace):
    (workplace / "counting.py").write_text(
        "from lightning import Callback\nclass Counted(Callback):\n    def state_dict(self): return {'count': 1}\n"
    )
    own = "--trainer.callbacks+=counting.Counted"
    assert run("--trainer.max_steps=1", own) == 0
    words = ["test", "--config=small.yaml", "--ckpt_path=last", "--trainer.limit_test_batches=1"]
    with pytest.warns(UserWarning, match=r"add the following callbacks: \['Counted'\]"):
        assert main(words) == 0
    # Warnings are errors here.
    assert main([*words, own, "--trainer.enable_progress_bar=false", "--trainer.enable_checkpointing=false"]) == 0


def test_a_run_repeats_from_its_saved_configuration(workplace):
    assert run("--trainer.callbacks+=ExportModel") == 0
    first = Path("runs/small/version_0")
    assert main(["fit", "--config", str(first / "config.yaml")]) == 0
    second = Path("runs/small/version_1")
    weights = [(folder / "model" / "model.safetensors").read_bytes() for folder in (first, second)]
    assert weights[0] == weights[1]
    assert (second / "config.yaml").is_file()


def test_predictions_are_written_by_default_and_gone_on_with(workplace, capsys):
    sampled = ["--model.generation.completions=2", "--model.generation.temperature=1"]
    words = ["predict", "--config", "small.yaml", *sampled, "--trainer.logger=false"]
    assert main([*words, "--data.evaluation_batch_size=2", "--trainer.limit_predict_batches=1"]) == 0
    ledger = Path("ledger")
    assert "pass@2" in capsys.readouterr().out
    first = {row.completion.sample.id: row for row in read_rows(ledger)}
    assert len(first) == 2
    # Other batches and other ways of loading are the same ledger; what is done is not done again.
    again = [*words, "--trainer.callbacks+=CompletionLedger", "--trainer.callbacks.path=ledger"]
    assert main([*again, "--data.evaluation_batch_size=3"]) == 0
    assert "wrote 4 completions to the ledger ledger, 8 of 4 samples in all" in capsys.readouterr().out
    rows = list(read_rows(ledger))
    assert [row.completion.index for row in rows] == [0, 1] * 4
    assert len({row.completion.sample.id for row in rows}) == 4
    assert [row for row in rows if row.completion.sample.id in first][1::2] == list(first.values())
    # Nothing is left: no completion is added, and the figures are told once more.
    assert main(again) == 0
    assert "wrote 0 completions" in capsys.readouterr().out
    assert list(read_rows(ledger)) == rows
    for option, told in [
        ("--model.generation.temperature=0.5", "other sampling"),
        ("--data.levels=[1]", "another configuration of model or data"),
    ]:
        assert main([*again, option]) == 2
        assert told in capsys.readouterr().err
    assert list(read_rows(ledger)) == rows


def test_the_sampling_recipe_writes_a_ledger(workplace, capsys):
    words = ["--data.train_size=4", "--data.num_workers=0", "--model.generation.max_new_tokens=4"]
    assert main(["predict", "--config", "generate/sample", *words, "--trainer.accelerator=cpu"]) == 0
    rows = list(read_rows(Path("runs/sample/version_0/ledger")))
    assert [row.completion.index for row in rows] == [*range(8)] * 4
    assert {row.completion.sample.meta.split for row in rows} == {"train"}
    assert "pass@8" in capsys.readouterr().out


def test_all_verbs_run(workplace, capsys):
    for verb in ("validate", "test"):
        words = ["--trainer.limit_val_batches=1", "--trainer.logger=false"]
        assert main([verb, "--config", "small.yaml", *words]) == 0
    shown = capsys.readouterr().out
    assert "validation/exact_match" in shown
    assert "test/exact_match" in shown
