from types import SimpleNamespace

import lightning
import pytest
import torch
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy, SingleDeviceStrategy

from lit_vlm.data.digits_reasoning import DigitsReasoning
from lit_vlm.interfaces.capabilities import DescribesParts
from lit_vlm.interfaces.errors import UserError
from lit_vlm.models.adapters import AdapterSettings
from lit_vlm.models.backbone import Backbone
from lit_vlm.models.quantisation import QuantisationSettings
from lit_vlm.paradigms.optimization import OptimizerSettings, PartOptimizer, PartOptimizers
from lit_vlm.paradigms.policy_module import PolicyModule
from lit_vlm.paradigms.sft import SFTModule

STRATEGY = SingleDeviceStrategy(torch.device("cpu"))


class Data:
    """Names one task and an epoch of seven batches."""

    tasks = ("read",)

    def train_batches(self, world_size):
        return 7


@pytest.fixture
def module(random_tiny_folder):
    """A module that has been set up for the data, without a Trainer."""
    module = PolicyModule(Backbone(str(random_tiny_folder)))
    module._trainer = SimpleNamespace(datamodule=Data(), is_global_zero=True, precision_plugin=None, strategy=STRATEGY)
    module.setup("fit")
    module.configure_model()
    return module


def test_building_a_module_reads_nothing():
    module = PolicyModule(Backbone("/nowhere/at/all"))
    with pytest.raises(RuntimeError, match="loaded in configure_model"):
        module.policy  # noqa: B018
    with pytest.raises(UserError, match=r"model\.backbone\.checkpoint"):
        module.encoder  # noqa: B018


def test_the_model_is_loaded_once(module):
    policy = module.policy
    module.configure_model()
    assert module.policy is policy


def test_only_the_first_rank_exports(module, tmp_path):
    module._trainer.is_global_zero = False
    module.export(tmp_path)
    assert not list(tmp_path.iterdir())
    module._trainer.is_global_zero = True
    module.export(tmp_path)
    assert (tmp_path / "model.safetensors").is_file()
    assert (tmp_path / "tokenizer.json").is_file()


def test_impossible_settings_are_refused():
    with pytest.raises(UserError, match=r"model\.max_tokens is 1"):
        PolicyModule(max_tokens=1)


def test_a_module_tells_its_parts_and_what_an_image_costs(module):
    assert isinstance(module, DescribesParts)
    assert [part.part for part in module.part_summaries()] == ["vision", "projector", "language", "head"]
    assert sum(part.trainable for part in module.part_summaries()) == sum(p.numel() for p in module.policy.parameters())
    assert "an image of 1024 x 1024 pixels is 64 tokens, the largest one 64" in module.token_budgets()


def test_a_strategy_that_does_not_go_with_the_model_is_refused_before_it_is_loaded():
    quantised = Backbone("/nowhere", adapter=AdapterSettings(), quantisation=QuantisationSettings(kind="int8"))
    for backbone, strategy in ((quantised, ModelParallelStrategy()), (quantised, FSDPStrategy())):
        module = PolicyModule(backbone)
        module._trainer = SimpleNamespace(
            datamodule=Data(), is_global_zero=True, precision_plugin=None, strategy=strategy
        )
        with pytest.raises(UserError, match=r"give trainer\.strategy ddp"):
            module.setup("fit")


def test_what_an_optimizer_cannot_do_with_flat_pieces_of_weights_is_refused():
    for settings, refused in (
        (OptimizerSettings(), False),
        (OptimizerSettings(weight_decay=0.1), True),
        (OptimizerSettings(parts=PartOptimizers(vision=PartOptimizer(learning_rate=1e-6))), True),
    ):
        for strategy in (FSDPStrategy(), STRATEGY):
            module = PolicyModule(Backbone("/nowhere"), optimizer=settings)
            module._trainer = SimpleNamespace(
                datamodule=Data(), is_global_zero=True, precision_plugin=None, strategy=strategy
            )
            if refused and strategy is not STRATEGY:
                with pytest.raises(UserError, match="give weight_decay 0 and no parts"):
                    module.setup("fit")
            else:
                module.setup("fit")


def fit(folder, adapter, steps, checkpoints, quantisation=None, resume=None):
    """Trains with an adapter and returns the module."""
    lightning.seed_everything(0, verbose=False)
    module = SFTModule(
        Backbone(str(folder), adapter=adapter, quantisation=quantisation),
        optimizer=OptimizerSettings(learning_rate=1e-2, warmup=0, schedule="constant"),
    )
    data = DigitsReasoning(
        module.encoder, train_size=16, validation_size=4, test_size=4, batch_size=4, num_workers=0, image_size=32
    )
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_steps=steps,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        use_distributed_sampler=False,
    )
    trainer.fit(module, data, ckpt_path=resume, weights_only=True if resume else None)
    trainer.save_checkpoint(checkpoints / f"{steps}.ckpt")
    return module


@pytest.mark.parametrize("quantisation", [None, QuantisationSettings()], ids=["plain", "nf4"])
def test_an_adapter_run_saves_what_it_trains_and_resumes_exactly(random_tiny_folder, tmp_path, quantisation):
    adapter = AdapterSettings(rank=2, dropout=0.3, train_in_full=("projector",))
    whole = fit(random_tiny_folder, adapter, 4, tmp_path, quantisation)
    fit(random_tiny_folder, adapter, 2, tmp_path, quantisation)
    held = torch.load(tmp_path / "2.ckpt", weights_only=True)["state_dict"]
    trained = {name for name, value in whole.named_parameters() if value.requires_grad}
    assert set(held) == trained
    assert all(".lora_" in name or "modules_to_save" in name for name in trained)
    resumed = fit(random_tiny_folder, adapter, 4, tmp_path, quantisation, resume=tmp_path / "2.ckpt")
    for (name, one), (_, other) in zip(whole.named_parameters(), resumed.named_parameters(), strict=True):
        assert torch.equal(one, other), name


def test_a_checkpoint_of_another_adapter_is_refused(random_tiny_folder, tmp_path):
    fit(random_tiny_folder, AdapterSettings(rank=2), 1, tmp_path)
    with pytest.raises(UserError, match=r"lacks 30 weights .* has 56 others .* same model\.backbone\.adapter"):
        fit(random_tiny_folder, AdapterSettings(rank=2, parts=("vision",)), 2, tmp_path, resume=tmp_path / "1.ckpt")
