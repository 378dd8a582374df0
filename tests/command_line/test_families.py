"""Every model family, from a checkpoint and a file of conversations to an exported model, as a user trains it."""

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from lit_vlm.cli import main
from lit_vlm.command_line.training import CommandLine
from lit_vlm.models.adapters import AdapterSettings
from lit_vlm.models.backbone import Backbone
from lit_vlm.models.quantisation import QuantisationSettings
from lit_vlm.models.vision_language_model import VisionLanguageModel
from tests.command_line.workplaces import enter
from tests.models.family_checkpoints import FAMILIES, TEXT_ONLY, WITH_VIDEO, build_family_checkpoint
from tests.models.unknown_checkpoints import FED_BY_GENERAL_RULES, build_unknown_checkpoint

VIDEO = Path(__file__).parent.parent / "functional" / "grey_steps.mp4"
WITH_IMAGES = tuple(family for family in FAMILIES if family not in TEXT_ONLY)
QUANTISED = ("qwen2_5_vl", "smolvlm", "llama")
OPTIONS = {
    "model": "SFTModule",
    "model.optimizer.learning_rate": 0.01,
    "model.optimizer.warmup": 0,
    "model.backbone.max_video_frames": 4,
    "data": "ChatDataModule",
    "data.train": "train.jsonl",
    "data.validation_share": 0,
    "data.batch_size": 3,
    "data.num_workers": 0,
    "trainer.max_steps": 3,
    "trainer.limit_val_batches": 0,
    "trainer.accelerator": "cpu",
    "trainer.enable_checkpointing": "false",
    "trainer.enable_progress_bar": "false",
    "trainer.enable_model_summary": "false",
    "trainer.logger": "false",
    "trainer.callbacks+": "ExportModel",
    "trainer.callbacks.folder": "exported",
}
LORA = {"model.backbone.adapter.rank": 4, "model.backbone.adapter.alpha": 8}


@dataclass(frozen=True)
class Fit:
    """What is left of a run."""

    checkpoint: str
    policy: VisionLanguageModel
    encoder: Any
    samples: list[Any]
    figures: dict[str, float]

    @torch.no_grad()
    def logits(self, policy: VisionLanguageModel, encoder: Any) -> torch.Tensor:
        """Scores all rows of the data in one batch."""
        batch = encoder.encode(self.samples)
        assert not batch.dropped
        return policy.model.get_output_embeddings()(policy.eval().hidden_states(batch))

    def assert_same_when_loaded(self, backbone: Backbone, tolerance: float = 0.0) -> None:
        """Loads what was exported with an encoder of its own, and compares."""
        encoder = backbone.load_encoder()
        policy = backbone.load_model(encoder)
        torch.testing.assert_close(
            self.logits(policy, encoder), self.logits(self.policy, self.encoder), atol=tolerance, rtol=tolerance
        )


def turns(*texts: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[index % 2], "content": text} for index, text in enumerate(texts)]


def records(family: str) -> list[dict[str, Any]]:
    """Text alone, one image, several images, turns with an image each, and a video, as far as the family goes."""
    text = [
        {"messages": turns("Which digit is this?", "i see 7.")},
        {"messages": turns("yes or no?", "no", "and here?", "yes", "what glows?", "it glows.")},
        {"messages": [{"role": "system", "content": "say what happens"}, *turns("what happens?", "it glows.")]},
    ]
    images = [
        {"messages": turns("<image>Which digit is this?", "it happens."), "images": ["wide.png"]},
        {"messages": turns("<image> or <image>, and <image>?", "yes"), "images": ["wide.png", "high.png", "wide.png"]},
        {
            "messages": turns("<image>Which digit?", "i see 7.", "<image>and here?", "no"),
            "images": ["high.png", "wide.png"],
        },
    ]
    videos = [
        {"messages": turns("<video>what happens?", "it glows."), "videos": ["steps.mp4"]},
        {"messages": turns("<image>here? <video>", "no"), "images": ["wide.png"], "videos": ["steps.mp4"]},
    ]
    return text + images * (family not in TEXT_ONLY) + videos * (family in WITH_VIDEO)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory) -> Path:
    """A folder with a checkpoint of every family."""
    root = tmp_path_factory.mktemp("checkpoints")
    for family in FAMILIES:
        build_family_checkpoint(family, root / family)
    for family in FED_BY_GENERAL_RULES:
        build_unknown_checkpoint(family, root / family)
    return root


@pytest.fixture
def fit(monkeypatch, tmp_path, checkpoints) -> Callable[..., Fit]:
    """Runs ``lit-vlm fit`` on a family in a folder with the data, and returns what is left of the run."""
    done: list[CommandLine] = []
    monkeypatch.setattr(CommandLine, "after_fit", lambda command: done.append(command), raising=False)
    enter(monkeypatch, tmp_path)
    gradient = Image.linear_gradient("L")
    gradient.resize((60, 34)).convert("RGB").save("wide.png")
    gradient.rotate(90).resize((30, 45)).convert("RGB").save("high.png")
    shutil.copy(VIDEO, "steps.mp4")

    def run(family: str, options: dict[str, Any]) -> Fit:
        lines = [json.dumps(record) for record in records(family)]
        Path("train.jsonl").write_text("\n".join(lines), encoding="utf-8")
        checkpoint = str(checkpoints / family)
        chosen = {**OPTIONS, "model.backbone.checkpoint": checkpoint, **options}
        assert main(["fit", *(f"--{name}={value}" for name, value in chosen.items())]) == 0
        command = done.pop()
        assert command.trainer.global_step == 3
        samples = command.datamodule.prepared("train")
        return Fit(
            checkpoint,
            command.model.policy,
            command.model.encoder,
            [samples[index] for index in range(len(samples))],
            {name: float(value) for name, value in command.trainer.callback_metrics.items()},
        )

    return run


def changed(fitted: Fit) -> tuple[set[str], set[str]]:
    """Compares the weights of a trained policy with those of its checkpoint.

    Returns:
        Names of the weights that changed, and of those that are as they were; an adapter's are in neither.
    """
    before = Backbone(fitted.checkpoint)
    base = dict(before.load_model(before.load_encoder()).model.named_parameters())
    after = {name.replace(".base_layer", ""): value for name, value in fitted.policy.model.named_parameters()}
    assert base.keys() <= after.keys()
    same = {name for name, value in base.items() if torch.equal(value, after[name])}
    return base.keys() - same, same


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_is_trained_in_full(family, fit):
    fitted = fit(family, {})
    assert math.isfinite(fitted.figures["train/loss"])
    moved, _ = changed(fitted)
    parts = set(fitted.policy.parts) - {"head"}
    assert {fitted.policy.part_of(f"model.{name}") for name in moved} - {"head"} == parts
    fitted.assert_same_when_loaded(Backbone("exported", max_video_frames=4))


@pytest.mark.parametrize("family", WITH_IMAGES)
def test_frozen_parts_stay_as_they_are(family, fit):
    fitted = fit(family, {"model.backbone.train_parts": "[projector]"})
    moved, same = changed(fitted)
    assert {fitted.policy.part_of(f"model.{name}") for name in moved} == {"projector"}
    assert {"vision", "language"} <= {fitted.policy.part_of(f"model.{name}") for name in same}
    fitted.assert_same_when_loaded(Backbone("exported", max_video_frames=4))


@pytest.mark.parametrize("family", FAMILIES + FED_BY_GENERAL_RULES)
def test_a_family_is_trained_with_lora(family, fit):
    fitted = fit(family, LORA)
    assert math.isfinite(fitted.figures["train/loss"])
    moved, _ = changed(fitted)
    assert moved == set()
    saved = load_file("exported/adapter_model.safetensors")
    outer = {name: value for name, value in saved.items() if ".lora_B." in name}
    assert outer
    assert all(value.abs().max() > 0 for value in outer.values())
    adapter = AdapterSettings(load="exported")
    fitted.assert_same_when_loaded(Backbone(fitted.checkpoint, adapter=adapter, max_video_frames=4))


@pytest.mark.parametrize("family", QUANTISED)
def test_a_family_is_trained_with_lora_on_four_bits(family, fit):
    fitted = fit(family, {**LORA, "model.backbone.quantisation.kind": "nf4"})
    assert math.isfinite(fitted.figures["train/loss"])
    packed = {name for name, value in fitted.policy.model.named_parameters() if hasattr(value, "quant_state")}
    assert packed
    assert {fitted.policy.part_of(f"model.{name}") for name in packed} == {"language"}
    backbone = Backbone(
        fitted.checkpoint,
        quantisation=QuantisationSettings(),
        adapter=AdapterSettings(load="exported"),
        max_video_frames=4,
    )
    fitted.assert_same_when_loaded(backbone)


@pytest.mark.parametrize("family", ["qwen3_vl", "llama"])
def test_an_exported_model_has_the_adapter_merged(family, fit):
    fitted = fit(family, {**LORA, "model.backbone.adapter.export": "merged"})
    fitted.assert_same_when_loaded(Backbone("exported", max_video_frames=4), tolerance=1e-5)
