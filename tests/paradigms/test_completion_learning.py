import lightning
import pytest
import torch
from torch.utils.data import DataLoader

from lit_vlm.interfaces.errors import UserError
from lit_vlm.models.backbone import Backbone
from lit_vlm.paradigms.aft import AFTModule
from lit_vlm.paradigms.dpo import DPOModule
from tests.paradigms.comparison_material import ComparedData, compared_sample, fit

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.*"),
    pytest.mark.filterwarnings("ignore:.*GPU available but not used.*"),
]


KINDS = {"pairs": DPOModule, "groups": AFTModule}


def module(form, folder):
    return KINDS[form](Backbone(str(folder)))


@pytest.mark.parametrize("form", ["pairs", "groups"])
def test_a_loader_without_step_totals_is_averaged_per_micro_batch_and_says_so_once(form, random_tiny_folder, caplog):
    model = module(form, random_tiny_folder)
    assert model.batch_form == form
    dataset = ComparedData(model.encoder, [compared_sample(index) for index in range(4)])
    known, _ = fit(model, dataset, steps=1, accumulate_grad_batches=1)
    caplog.clear()

    other = module(form, random_tiny_folder)
    unknown = ComparedData(other.encoder, dataset.given)
    encode = other.encoder.encode_pairs if form == "pairs" else other.encoder.encode_groups
    unknown.train_dataloader = lambda: DataLoader(dataset.given, batch_size=2, collate_fn=encode)
    with caplog.at_level("WARNING"):
        figures, _ = fit(other, unknown, steps=2, accumulate_grad_batches=2)
    assert caplog.text.count("averaged per micro-batch") == 1
    # Micro-batches of as many samples, each with as many imitated tokens: both means are the same.
    assert figures.of("train/loss")[0] == pytest.approx(known.of("train/loss")[0], rel=1e-4)


@pytest.mark.parametrize("form", ["pairs", "groups"])
def test_coefficients_are_logged_and_resumed(form, random_tiny_folder, tmp_path):
    model = module(form, random_tiny_folder)
    name = next(iter(model.coefficients))
    model.coefficients.set(name, 0.375)
    figures, _ = fit(model, ComparedData(model.encoder, [compared_sample(index) for index in range(4)]), steps=1)
    assert figures.of(f"train/coefficient/{name}") == [0.375]
    model.trainer.save_checkpoint(tmp_path / "run.ckpt")
    other = module(form, random_tiny_folder)
    trainer = lightning.Trainer(
        accelerator="cpu", max_steps=1, logger=False, enable_progress_bar=False, use_distributed_sampler=False,
        enable_model_summary=False, limit_val_batches=0, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(other, ComparedData(other.encoder, [compared_sample(0)] * 4), ckpt_path=tmp_path / "run.ckpt")
    assert other.coefficients[name] == 0.375
    for ours, theirs in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("kind", [AFTModule, DPOModule])
def test_settings_without_sense_are_refused(kind):
    with pytest.raises(UserError, match=r"model\.chunk_tokens is 0"):
        kind(chunk_tokens=0)
    with pytest.raises(UserError, match=r"model\.prefix is 'twice'; give one of shared, naive"):
        kind(prefix="twice")
