import json
import logging
import math
from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import Callback

from lit_vlm.interfaces.errors import UserError
from lit_vlm.models.backbone import Backbone
from lit_vlm.models.image_attention import image_attention
from lit_vlm.paradigms.frank import FRANKModule
from tests.paradigms.merge_material import SHORT, digits, direction, trainer, weights_of, write_model

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.*"),
    pytest.mark.filterwarnings("ignore:.*GPU available but not used.*"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*callbacks used to create the checkpoint need to be provided.*"),
]
LAYERS = 4


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A base that the bundled VLM and a reasoning model came from."""
    folder = tmp_path_factory.mktemp("frank")
    base = write_model(folder / "base", lambda name, value: value - direction(name, value, 0.1))
    reasoning = write_model(
        folder / "reasoning", lambda name, value: value - direction(name, value, 0.1) + 0.05 * torch.sin(value * 50)
    )
    return {"base": str(base), "reasoning": str(reasoning)}


def module(folders, **options):
    return FRANKModule(Backbone(), **folders, generation=SHORT, max_tokens=512, **options)


def data(model, **options):
    return digits(model.encoder, validation_size=4, test_size=4, tasks=["read_digit"], **options)


def one_pass(folder, **options):
    return trainer(folder, **{"max_epochs": 1, "limit_train_batches": 3, "num_sanity_val_steps": 0, **options})


@pytest.fixture(scope="module")
def merged(folders, tmp_path_factory):
    """A fit that has measured, merged and evaluated."""
    folder = tmp_path_factory.mktemp("merged")
    model = module(folders)
    running = one_pass(folder)
    running.fit(model, data(model))
    running.save_checkpoint(folder / "last.ckpt")
    return model, running, folder


def shares(folders, attention, layer):
    """Works the published coefficients of one layer out from the files."""
    base, vision, reasoning = weights_of(Path(folders["base"])), weights_of(), weights_of(Path(folders["reasoning"]))
    names = [name for name in base if f"layers.{layer}." in name and "visual" not in name]
    norms = [
        sum(float((model[name].double() - base[name].double()).square().sum()) for name in names)
        for model in (vision, reasoning)
    ]
    logs = [math.log(value) for value in attention]
    middle = (len(logs) - 1) / 2
    slope = sum((at - middle) * log for at, log in enumerate(logs)) / sum((at - middle) ** 2 for at in range(len(logs)))
    prior = math.exp(slope * layer) / sum(math.exp(slope * at) for at in range(len(logs)))
    vision_size, reasoning_size = prior * norms[0], (1 - prior) * norms[1]
    return vision_size / (vision_size + reasoning_size)


def test_the_attention_is_the_mean_over_all_samples(merged, folders):
    model, running, _ = merged
    fresh = module(folders)
    dataset = data(fresh)
    dataset.serve(fresh)
    policy = Backbone().load_model(fresh.encoder)
    assert running.global_step == 3
    loader = running.train_dataloader
    measured = model.attention
    assert measured is not None
    assert len(measured) == LAYERS
    samples = [dataset.prepared("train")[index] for index in range(6)]
    alone = image_attention(policy, fresh.encoder.encode_prompts(samples))
    # The loader shuffles; all samples are alike, so that the means lie close.
    torch.testing.assert_close(torch.tensor(measured), alone.mean(0), atol=0.05, rtol=0.3)
    assert loader is not None


def test_every_layer_has_the_published_coefficients(merged, folders):
    model, running, folder = merged
    record = json.loads((folder / "frank.json").read_text(encoding="utf-8"))
    assert record["rows_measured"] == 6
    for layer, found in enumerate(record["layers"]):
        assert found["vision_share"] == pytest.approx(shares(folders, record["attention"], layer), rel=1e-4)
        assert found["vision_share"] + found["reasoning_share"] == pytest.approx(1.0)
        assert float(running.callback_metrics[f"frank/vision_share/layer_{layer:02d}"]) == pytest.approx(
            found["vision_share"]
        )


def test_only_decoder_layers_are_merged_and_by_their_coefficients(merged, folders):
    model, _, folder = merged
    record = json.loads((folder / "frank.json").read_text(encoding="utf-8"))
    base, vision, reasoning = weights_of(Path(folders["base"])), weights_of(), weights_of(Path(folders["reasoning"]))
    held = dict(model.policy.model.named_parameters())
    for disk, memory in model._names.items():
        layer = next((at for at in range(LAYERS) if f"layers.{at}." in disk), None)
        if layer is None:
            assert torch.equal(held[memory], vision[disk].float())
            continue
        share = record["layers"][layer]["vision_share"]
        wanted = base[disk] + share * (vision[disk] - base[disk]) + (1 - share) * (reasoning[disk] - base[disk])
        torch.testing.assert_close(held[memory], wanted, atol=1e-5, rtol=1e-4)


def test_what_was_measured_serves_later_runs(merged, folders, tmp_path):
    model, _, folder = merged
    wanted = {name: value.detach().clone() for name, value in model.policy.model.named_parameters()}
    later = module(folders)
    trainer(tmp_path).validate(later, data(later), ckpt_path=folder / "last.ckpt", verbose=False, weights_only=False)
    given = module(folders, attention=model.attention)
    figures = trainer(tmp_path).test(given, data(given), verbose=False)[0]
    assert figures["test/exact_match_total"] == 4
    for other in (later, given):
        held = dict(other.policy.model.named_parameters())
        assert all(torch.equal(held[name], wanted[name]) for name in wanted)


class SaveEveryStep(Callback):
    """Keeps a checkpoint of each step."""

    def __init__(self, folder):
        self.folder = folder

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        trainer.save_checkpoint(self.folder / f"{trainer.global_step}.ckpt")


def test_a_pass_that_was_stopped_goes_on_with_what_it_had_measured(merged, folders, tmp_path):
    whole, _, _ = merged
    first = module(folders)
    one_pass(tmp_path, callbacks=[SaveEveryStep(tmp_path)], limit_val_batches=0).fit(first, data(first))
    assert first.attention == pytest.approx(whole.attention, rel=1e-5)
    resumed = module(folders)
    one_pass(tmp_path, limit_val_batches=0).fit(
        resumed, data(resumed), ckpt_path=tmp_path / "2.ckpt", weights_only=False
    )
    assert resumed.attention == pytest.approx(whole.attention, rel=1e-5)
    assert json.loads((tmp_path / "frank.json").read_text(encoding="utf-8"))["rows_measured"] == 6


def test_without_the_prior_nothing_is_measured(folders, tmp_path, caplog):
    model = module(folders, prior=False)
    one_pass(tmp_path, limit_train_batches=1).fit(model, data(model))
    record = json.loads((tmp_path / "frank.json").read_text(encoding="utf-8"))
    assert record["attention"] is None
    for layer in record["layers"]:
        total = layer["vision_norm"] + layer["reasoning_norm"]
        assert layer["vision_share"] == pytest.approx(layer["vision_norm"] / total)
    assert not any("adds up to 1" in message for message in caplog.messages)


@pytest.mark.parametrize(("prior_norm", "warns"), [("sum", True), ("max", False)])
def test_deep_models_are_warned_of(folders, tmp_path, caplog, prior_norm, warns):
    model = module(folders, attention=[0.4] * LAYERS, prior_norm=prior_norm)
    with caplog.at_level(logging.WARNING, logger="lit_vlm.paradigms.frank"):
        one_pass(tmp_path, limit_train_batches=1, limit_val_batches=1).fit(model, data(model))
    assert any("adds up to 1 over 4 layers" in message for message in caplog.messages) == warns


def test_a_run_that_is_stopped_before_it_merges_says_so(folders, tmp_path, caplog):
    class Stop(Callback):
        def on_train_batch_end(self, trainer, *_):
            trainer.should_stop = True

    model = module(folders)
    with caplog.at_level(logging.WARNING, logger="lit_vlm.paradigms.frank"):
        one_pass(tmp_path, callbacks=[Stop()]).fit(model, data(model))
    assert any("nothing is merged and the weights are still the VLM's" in message for message in caplog.messages)
    assert not (tmp_path / "frank.json").exists()


@pytest.mark.parametrize(
    ("options", "trainer_options", "message"),
    [
        ({}, {"max_epochs": 2}, "set it to 1"),
        ({"prior": False}, {"limit_train_batches": 3}, "trainer.limit_train_batches is 3, .* set it to 1"),
        ({}, {"max_steps": 0}, "trainer.max_steps is 0, but FRANKModule merges with its last training batch"),
        ({}, {"limit_train_batches": 0}, "trainer.limit_train_batches is 0, but FRANKModule merges with its last"),
        ({"attention": [0.1, 0.2]}, {"limit_train_batches": 1}, "attention has 2 numbers, but the decoder has 4"),
    ],
)
def test_a_pass_that_cannot_be_is_refused(folders, tmp_path, options, trainer_options, message):
    model = module(folders, **options)
    with pytest.raises(UserError, match=message):
        one_pass(tmp_path, **trainer_options).fit(model, data(model))


def test_a_reasoning_model_that_is_the_backbone_is_refused(folders, tmp_path):
    model = module(folders)
    model.reasoning = model.backbone.checkpoint
    with pytest.raises(UserError, match="which is the backbone's own checkpoint"):
        one_pass(tmp_path).fit(model, data(model))


def test_evaluation_without_attention_is_refused(folders, tmp_path):
    model = module(folders)
    with pytest.raises(UserError, match="give the checkpoint of a fit"):
        trainer(tmp_path).validate(model, data(model), verbose=False)


def test_attention_that_would_not_count_is_refused():
    with pytest.raises(UserError, match=r"model\.prior is off"):
        FRANKModule(reasoning="a", base="b", prior=False, attention=[0.1])
