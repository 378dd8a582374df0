from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.strategies import SingleDeviceStrategy

from lit_vlm.interfaces.errors import UserError
from lit_vlm.models.backbone import Backbone
from lit_vlm.models.vision_language_model import GenerationSettings
from lit_vlm.paradigms.base import VLMModule
from lit_vlm.rewards.answer_correctness import AnswerCorrectness

STRATEGY = SingleDeviceStrategy(torch.device("cpu"))


class Data:
    """Names one task and an epoch of seven batches."""

    tasks = ("read",)

    def train_batches(self, world_size):
        return 7


@pytest.fixture
def module(random_tiny_folder):
    """A module that has been set up for the data, without a Trainer."""
    module = VLMModule(
        Backbone(str(random_tiny_folder)), generation=GenerationSettings(max_new_tokens=3), reward=AnswerCorrectness()
    )
    module._trainer = SimpleNamespace(datamodule=Data(), is_global_zero=True, precision_plugin=None, strategy=STRATEGY)
    module.setup("fit")
    module.configure_model()
    return module


def test_a_validation_step_returns_its_completions_and_counts_them(module, make_sample):
    batch = module.encoder.encode_evaluation([make_sample("a", "1"), make_sample("b", "2", images=0)])
    completions = module.validation_step(batch, 0)["completions"]
    assert [completion.sample.id for completion in completions] == ["s", "s"]
    figures = module.evaluation_metrics["validation"].compute()
    assert figures["exact_match_total"] == 2
    assert "reward" in figures
    assert "loss" in figures


def test_data_without_tasks_are_refused(module):
    module._trainer.datamodule = None
    with pytest.raises(UserError, match="needs a DataModule with tasks"):
        module.setup("fit")
