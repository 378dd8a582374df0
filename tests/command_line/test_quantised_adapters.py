"""Adapters over weights of few bits learn by each paradigm, through the command."""

import math

import pytest

from lit_vlm.cli import main
from tests.test_recipes import FOLDER, small_options

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),
]


@pytest.mark.parametrize("kind", ["nf4", "int8"])
@pytest.mark.parametrize("recipe", ["quickstart", "dpo", "grpo"])
def test_an_adapter_over_few_bits_learns(random_tiny_folder, tmp_path, monkeypatch, recipe, kind):
    monkeypatch.chdir(tmp_path)
    seen = []

    def watch(callback, trainer, module, *given):
        seen.append(float(trainer.callback_metrics["train/loss"]))
        layers = {type(layer).__name__ for layer in module.policy.modules()}
        assert layers & {"Linear4bit", "Linear8bitLt"}

    monkeypatch.setattr("lit_vlm.callbacks.throughput.Throughput.on_train_batch_end", watch)
    path = FOLDER / f"{recipe}.yaml"
    words = [*small_options(path), "--model.backbone.adapter.rank=4", f"--model.backbone.quantisation.kind={kind}"]
    assert main(["fit", "--config", str(path), *words]) == 0
    assert seen
    assert all(math.isfinite(loss) for loss in seen)
