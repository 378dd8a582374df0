import json

import pytest
import torch
from lightning.pytorch.callbacks import Callback

from lit_vlm.callbacks.non_finite_guard import NonFiniteGuard
from lit_vlm.functional.fault_folder import FAULT
from lit_vlm.interfaces.errors import UserError
from lit_vlm.paradigms.repeated_fault import repeat_fault
from tests.paradigms import on_policy_material as on_policy
from tests.paradigms import test_sft as sft

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.*"),
    pytest.mark.filterwarnings("ignore:.*GPU available but not used.*"),
]
ON_CPU = {"accelerator": "cpu"}


@pytest.fixture(scope="module")
def sft_fault(random_tiny_folder, tmp_path_factory):
    """A run whose second step goes wrong, in its second micro-batch or before."""
    folder = tmp_path_factory.mktemp("run")
    model = sft.module(random_tiny_folder)
    callbacks = [SpoilPixels(), NonFiniteGuard()]
    with pytest.raises(UserError, match="the loss is infinite or NaN"):
        sft.fit(model, sft.data(model.encoder), 3, callbacks, accumulate_grad_batches=2, default_root_dir=folder)
    return folder / "faults" / "step_1_rank_0"


class SpoilPixels(Callback):
    """Lets a batch of the second step have pixels that are no numbers."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if batch_idx == 3:
            batch.visual["pixel_values"][0] = torch.nan


def test_a_step_repeats_with_its_weights_and_batches(sft_fault, random_tiny_folder):
    found = repeat_fault(sft_fault, sft.module(random_tiny_folder), **ON_CPU)
    assert found.used_weights
    assert not found.is_finite
    assert set(found.parameters) == set(json.loads((sft_fault / FAULT).read_text())["parameters"])
    assert abs(found.losses[0]) < torch.inf
    assert found.losses[1] != found.losses[1]


def test_a_step_of_a_mended_model_is_finite(sft_fault, random_tiny_folder):
    """The fault lies in the pixels: a tower that reads none does not meet it."""

    class Blind(sft.SFTModule):
        def training_step(self, batch, batch_idx):
            batch.visual["pixel_values"] = batch.visual["pixel_values"].nan_to_num()
            return super().training_step(batch, batch_idx)

    Blind.__name__ = "SFTModule"
    plain = sft.module(random_tiny_folder)
    mended = Blind(plain.backbone, optimizer=plain.optimizer_settings, generation=plain.generation)
    assert repeat_fault(sft_fault, mended, **ON_CPU).is_finite


def test_another_module_or_another_folder_is_refused(sft_fault, random_tiny_folder, tmp_path):
    with pytest.raises(UserError, match="is a fault of SFTModule, but the module is a GRPOModule"):
        repeat_fault(sft_fault, on_policy.module(random_tiny_folder))
    with pytest.raises(UserError, match="is no folder of a fault"):
        repeat_fault(tmp_path, sft.module(random_tiny_folder))


def test_a_round_repeats_with_the_completions_that_it_sampled(random_tiny_folder, tmp_path):
    class Spoil(on_policy.RolloutCallback):
        def on_after_advantages(self, trainer, pl_module, iteration):
            if trainer.global_step == 1:
                iteration.advantages.values[0] = torch.nan

    model = on_policy.module(random_tiny_folder)
    callbacks = [Spoil(), NonFiniteGuard()]
    with pytest.raises(UserError, match="step 1: the loss is infinite or NaN"):
        on_policy.fit(model, on_policy.data(model.encoder), 3, callbacks, default_root_dir=tmp_path)
    folder = tmp_path / "faults" / "step_1_rank_0"
    fresh = on_policy.module(random_tiny_folder, engine=on_policy.engine(tokens=1))  # must not be asked
    found = repeat_fault(folder, fresh, **ON_CPU)
    assert not found.is_finite
    assert found.losses[0] != found.losses[0]
    # Mended on disk, the same completions give a finite loss.
    from lit_vlm.functional.safetensors_folder import SafetensorsFolder, write_tensors

    stored = SafetensorsFolder(folder, "rollouts")
    tensors = {name: stored.read(name) for name in stored.names}
    write_tensors(folder / "rollouts.safetensors", {**tensors, "advantages": tensors["advantages"].nan_to_num()})
    assert repeat_fault(folder, on_policy.module(random_tiny_folder), **ON_CPU).is_finite
