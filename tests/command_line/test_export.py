"""Runs that fit has trained are exported, and compared with what ExportModel wrote and with the policy in memory."""

from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as distributed_checkpoint
import yaml
from peft import PeftModel
from PIL import Image
from safetensors.torch import load_file, safe_open
from transformers import AutoModelForImageTextToText, AutoProcessor

from lit_vlm.cli import main
from lit_vlm.models.adapters import AdapterSettings
from lit_vlm.models.backbone import Backbone
from lit_vlm.models.quantisation import QuantisationSettings
from tests.command_line.workplaces import enter

RECIPE = """
about: {method: SFT, paper: none, fidelity: confirmed-in-code}
model:
  class_path: SFTModule
  init_args:
    generation: {max_new_tokens: 4}
    optimizer: {learning_rate: 1.0e-2, warmup: 0}
data:
  class_path: DigitsReasoning
  init_args: {train_size: 8, validation_size: 4, test_size: 4, batch_size: 4, num_workers: 0}
trainer: {max_steps: 2, accelerator: cpu, limit_val_batches: 0, callbacks: [{class_path: ExportModel}]}
"""
LORA = ["--model.backbone.adapter.rank=4", "--model.backbone.adapter.train_in_full=[projector]"]
NF4 = ["--model.backbone.adapter.rank=4", "--model.backbone.quantisation.kind=nf4"]

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*Checkpoint directory.*"),
    pytest.mark.filterwarnings("ignore:.*tensorboard.*"),
    pytest.mark.filterwarnings("ignore:torch.distributed is"),
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated"),  # of PEFT
]


@pytest.fixture(scope="module")
def train(tmp_path_factory):
    """Trains two steps; returns the folder of the run."""
    place = tmp_path_factory.mktemp("export")
    done = {}

    def train(name, *words):
        if name not in done:
            with pytest.MonkeyPatch.context() as patch:
                enter(patch, place)
                (place / f"{name}.yaml").write_text(RECIPE)
                assert main(["fit", "--config", f"{name}.yaml", *words]) == 0
            done[name] = place / "runs" / name / "version_0"
        return done[name]

    return train


@pytest.fixture
def export(tmp_path, capsys):
    """Exports; returns the folder and what was told."""

    def export(source, *words, output="out"):
        assert main(["export", str(source), "--output", str(tmp_path / output), *words]) == 0
        return tmp_path / output, capsys.readouterr().out

    return export


def same_weights(first, second):
    one, other = load_file(first), load_file(second)
    return one.keys() == other.keys() and all(
        value.dtype == other[name].dtype and torch.equal(value, other[name]) for name, value in one.items()
    )


def different(first, second):
    """Names the files in which two folders differ; of weights names, types and numbers count."""
    names = {path.name for path in first.iterdir()}
    assert names == {path.name for path in second.iterdir()}
    return [
        name
        for name in sorted(names)
        if (first / name).read_bytes() != (second / name).read_bytes()
        and not (name.endswith(".safetensors") and same_weights(first / name, second / name))
    ]


def in_pieces(run, folder):
    """Writes a run's checkpoint anew as strategies do that cut weights up."""
    (path,) = (run / "checkpoints").glob("*.ckpt")
    held = torch.load(path, weights_only=True)
    weights, optimizer = held.pop("state_dict"), held.pop("optimizer_states")[0]
    distributed_checkpoint.save(
        {"state_dict": weights, "optimizer_0": {"groups": optimizer["param_groups"]}},
        checkpoint_id=folder,
        no_dist=True,
    )
    torch.save(held, folder / "meta.pt")


def checkpoint_weights(run):
    (path,) = (run / "checkpoints").glob("*.ckpt")
    held = torch.load(path, weights_only=True)["state_dict"]
    return {name.removeprefix("_policy.model."): value for name, value in held.items()}


def question(folder):
    processor = AutoProcessor.from_pretrained(folder)
    chat = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Which digit is this?"}]}]
    text = processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    return processor(text=[text], images=[Image.new("RGB", (64, 64), (200, 30, 30))], return_tensors="pt")


@torch.no_grad()
def logits(model, given):
    return model.eval()(**given).logits


def test_a_whole_model_is_what_exportmodel_writes_and_gives_the_same_logits(train, export):
    run = train("full")
    folder, told = export(run)
    assert different(folder, run / "model") == []
    assert "model of 92 weights" in told
    assert f"next: lit-vlm test --config {run / 'config.yaml'} --model.backbone.checkpoint {folder}" in told
    given = question(folder)
    loaded, report = AutoModelForImageTextToText.from_pretrained(folder, output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    trained = AutoModelForImageTextToText.from_pretrained(Backbone().source)
    before = logits(trained, given)
    trained.load_state_dict(checkpoint_weights(run))
    assert torch.equal(logits(loaded, given), logits(trained, given))
    assert not torch.equal(logits(loaded, given), before)


def test_pieces_give_the_same_bytes(train, export, tmp_path):
    run = train("full")
    in_pieces(run, tmp_path / "step=2.ckpt")
    folder, _ = export(tmp_path / "step=2.ckpt", "--config", str(run / "config.yaml"))
    assert different(folder, run / "model") == []


def test_the_card_tells_the_recipe_and_no_path(train, export):
    run = train("full")
    folder, _ = export(run)
    card = (folder / "README.md").read_text()
    assert "| optimizer steps done | 2 |" in card
    assert "| method | SFT |" in card
    assert str(run.parent.parent) not in card
    assert str(Path.home()) not in card
    recipe = yaml.safe_load(card.split("```yaml\n")[1].split("```")[0])
    written = yaml.safe_load((run / "config.yaml").read_text())
    assert {name: recipe[name] for name in ("model", "data")} == {name: written[name] for name in ("model", "data")}


def test_types_and_sizes_of_files_can_be_chosen(train, export):
    run = train("full")
    folder, _ = export(run, "--dtype", "bfloat16", "--shard_size", "2MB")
    whole = load_file(run / "model" / "model.safetensors")
    found = {}
    for path in sorted(folder.glob("model-*-of-*.safetensors")):
        assert path.stat().st_size < 2_100_000
        found |= load_file(path)
    assert found.keys() == whole.keys()
    assert all(torch.equal(value, whole[name].bfloat16()) for name, value in found.items())
    loaded = AutoModelForImageTextToText.from_pretrained(folder)
    assert loaded.dtype == torch.bfloat16


def test_an_adapter_is_what_exportmodel_writes_and_gives_the_same_logits(train, export, tmp_path):
    run = train("lora", *LORA)
    folder, told = export(run)
    assert different(folder, run / "model") == []
    assert "--model.backbone.adapter.load" in told
    assert "library_name: peft" in (folder / "README.md").read_text()
    backbone = Backbone(adapter=AdapterSettings(rank=4, train_in_full=("projector",)))
    trained = backbone.load_model(backbone.load_encoder()).model
    outcome = trained.load_state_dict(checkpoint_weights(run), strict=False)
    assert not outcome.unexpected_keys
    given = question(folder)
    base = AutoModelForImageTextToText.from_pretrained(Backbone().source)
    before = logits(base, given)
    loaded = PeftModel.from_pretrained(base, str(folder))
    assert torch.equal(logits(loaded, given), logits(trained, given))
    assert not torch.equal(logits(loaded, given), before)
    # A checkpoint in pieces holds the frozen weights too.
    frozen = {f"_policy.model.{name}": value for name, value in trained.state_dict().items()}
    (path,) = (run / "checkpoints").glob("*.ckpt")
    held = torch.load(path, weights_only=True)
    state = {"state_dict": frozen | held["state_dict"]}
    distributed_checkpoint.save(state, checkpoint_id=tmp_path / "step=2.ckpt", no_dist=True)
    torch.save({"global_step": 2}, tmp_path / "step=2.ckpt" / "meta.pt")
    pieces, _ = export(tmp_path / "step=2.ckpt", "--config", str(run / "config.yaml"), output="pieces")
    assert different(pieces, run / "model") == []


def merged_by_peft(adapter):
    base = AutoModelForImageTextToText.from_pretrained(Backbone().source)
    return PeftModel.from_pretrained(base, str(adapter)).merge_and_unload()


def check_merged(folder, adapter):
    loaded, report = AutoModelForImageTextToText.from_pretrained(folder, output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    expected = merged_by_peft(adapter)
    held = dict(expected.named_parameters())
    for name, value in loaded.named_parameters():
        torch.testing.assert_close(value, held[name], rtol=1e-5, atol=1e-6)
    given = question(folder)
    torch.testing.assert_close(logits(loaded, given), logits(expected, given), rtol=1e-5, atol=1e-5)


def test_an_adapter_is_merged_into_its_base(train, export):
    run = train("lora", *LORA)
    folder, told = export(run, "--adapter", "merged")
    assert "model of 92 weights" in told
    check_merged(folder, run / "model")
    with (
        safe_open(folder / "model.safetensors", "pt") as file,
        safe_open(Path(Backbone().source) / "model.safetensors", "pt") as base,
    ):
        assert list(file.keys()) == list(base.keys())


@pytest.mark.slow
def test_an_adapter_on_four_bits_is_exported_alike_and_merged_without_their_rounding(train, export):
    run = train("nf4", *NF4)
    folder, _ = export(run)
    assert different(folder, run / "model") == []
    quantised = Backbone(
        adapter=AdapterSettings(rank=4), quantisation=QuantisationSettings(), checkpoint=Backbone().checkpoint
    )
    trained = quantised.load_model(quantised.load_encoder()).model
    assert not trained.load_state_dict(checkpoint_weights(run), strict=False).unexpected_keys
    going_on = Backbone(adapter=AdapterSettings(load=str(folder)), quantisation=QuantisationSettings())
    loaded = going_on.load_model(going_on.load_encoder()).model
    given = question(folder)
    assert torch.equal(logits(loaded, given), logits(trained, given))
    merged, _ = export(run, "--adapter", "merged", output="merged")
    check_merged(merged, folder)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["dora", "rslora"])
def test_adapters_of_other_kinds_are_merged_as_peft_does(train, export, kind):
    run = train(kind, *LORA, f"--model.backbone.adapter.kind={kind}", "--model.backbone.adapter.export=merged")
    merged, _ = export(run)
    assert "model.safetensors" in {path.name for path in merged.iterdir()}
    kept, _ = export(run, "--adapter", "keep", output="kept")
    check_merged(merged, kept)
    written = load_file(run / "model" / "model.safetensors")
    for name, value in load_file(merged / "model.safetensors").items():
        torch.testing.assert_close(value, written[name], rtol=1e-5, atol=1e-6)


def refused(capsys, *words):
    assert main(["export", *map(str, words)]) == 2
    return capsys.readouterr().err


def test_what_does_not_fit_is_refused_and_leaves_nothing(train, tmp_path, capsys):
    run = train("full")
    out = tmp_path / "out"
    assert "--output is missing" in refused(capsys, run)
    assert "there is no" in refused(capsys, tmp_path / "none", "--output", out)
    assert "trained no adapter" in refused(capsys, run, "--output", out, "--adapter", "merged")
    assert "--shard_size is 'much'" in refused(capsys, run, "--output", out, "--shard_size", "much")
    assert "dtype" in refused(capsys, run, "--output", out, "--dtype", "int4")
    configuration = yaml.safe_load((run / "config.yaml").read_text())
    configuration["model"]["init_args"]["backbone"]["adapter"] = {"rank": 4}
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(configuration))
    told = refused(capsys, run, "--output", out, "--config", tmp_path / "other.yaml")
    assert "does not fit the model of its config.yaml: it lacks" in told
    assert "whole models" in refused(
        capsys, run, "--output", out, "--config", tmp_path / "other.yaml", "--dtype", "bfloat16"
    )
    del configuration["model"]["init_args"]["backbone"]
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(configuration))
    assert "no model.backbone" in refused(capsys, run, "--output", out, "--config", tmp_path / "other.yaml")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other.yaml"]


def test_a_model_that_is_there_stays_unless_it_is_to_be_replaced(train, export, tmp_path, capsys):
    run = train("full")
    folder, _ = export(run)
    (folder / "config.json").write_text("{}")
    assert "exists and is not empty" in refused(capsys, run, "--output", folder)
    assert (folder / "config.json").read_text() == "{}"
    export(run, "--overwrite")
    assert different(folder, run / "model") == []
    assert "is not replaced" in refused(capsys, run, "--output", run, "--overwrite")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_export_that_is_stopped_leaves_nothing_that_looks_whole(train, export, tmp_path, monkeypatch):
    run = train("full")
    with monkeypatch.context() as patch:
        patch.setattr("lit_vlm.models.model_export._write_configuration", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            export(run)
    assert not (tmp_path / "out").exists()
    folder, _ = export(run)  # goes on with what is there
    assert different(folder, run / "model") == []
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
