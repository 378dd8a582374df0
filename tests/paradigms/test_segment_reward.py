from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import Callback

from lit_vlm.data.hallucinated_scenes import HallucinatedSceneGenerator, HallucinatedScenes
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import IGNORED_LABEL, Completion
from lit_vlm.interfaces.segments import SEGMENT_LABELS
from lit_vlm.models.adapters import AdapterSettings
from lit_vlm.models.backbone import Backbone
from lit_vlm.models.segment_scorer import FolderSegmentScorer
from lit_vlm.paradigms.optimization import OptimizerSettings
from lit_vlm.paradigms.segment_reward import SegmentRewardModule

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.*"),
    pytest.mark.filterwarnings("ignore:.*GPU available but not used.*"),
]


class Losses(Callback):
    """Keeps the loss of every optimizer step."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step > len(self.values):
            self.values.append(float(trainer.callback_metrics["train/loss"]))


def module(folder: Path, rate: float = 1e-3, **options: Any) -> SegmentRewardModule:
    # A large epsilon, lest rounding of gradients near 0 decide the direction of a step.
    optimizer = OptimizerSettings(learning_rate=rate, warmup=0, schedule="constant", epsilon=1e-4)
    return SegmentRewardModule(
        Backbone(str(folder), **options), hallucination="relation", optimizer=optimizer, max_tokens=512
    )


def data(encoder: Any, **options: Any) -> HallucinatedScenes:
    sizes = {"train_size": 8, "validation_size": 4, "test_size": 4, "batch_size": 4}
    return HallucinatedScenes(encoder, subject="relation", num_workers=0, **{**sizes, **options})


def trainer(**options: Any) -> lightning.Trainer:
    return lightning.Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        **{"enable_checkpointing": False, "num_sanity_val_steps": 0, "limit_val_batches": 0, **options},
    )


def fit(model: SegmentRewardModule, dataset: HallucinatedScenes, steps: int = 1, **options: Any) -> list[float]:
    losses = Losses()
    lightning.seed_everything(0, verbose=False)
    trainer(max_steps=steps, callbacks=[losses], **options).fit(model, dataset)
    return losses.values


def weights(model: SegmentRewardModule) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.policy.state_dict().items()}


def test_accumulated_micro_batches_give_the_step_of_one_large_batch(random_tiny_folder: Path) -> None:
    results = []
    for batch_size, accumulation in ((8, 1), (2, 4)):
        model = module(random_tiny_folder)
        losses = fit(model, data(model.encoder, batch_size=batch_size), accumulate_grad_batches=accumulation)
        results.append((losses, weights(model)))
    (whole_losses, whole), (part_losses, parts) = results
    assert part_losses == pytest.approx(whole_losses, abs=1e-5)
    for name in whole:
        torch.testing.assert_close(parts[name], whole[name], atol=1e-4, rtol=0)


def test_the_loss_is_a_mean_over_sub_sentences(random_tiny_folder: Path) -> None:
    model = module(random_tiny_folder)
    dataset = data(model.encoder, train_size=4)
    batch = next(iter(dataset.train_dataloader()))
    assert batch.step_totals is not None
    assert batch.step_totals.labels == sum(
        len(sample.meta.extra[SEGMENT_LABELS]["relation"]) for sample in batch.samples
    )
    (loss,) = fit(model, dataset)
    fresh = module(random_tiny_folder)
    fresh.trainer = trainer()
    fresh.configure_model()
    with torch.no_grad():
        judged = fresh.classifier.judge(batch)
    assert len(judged.classes) == batch.step_totals.labels == int((batch.labels != IGNORED_LABEL).sum())
    assert loss == pytest.approx(torch.nn.functional.cross_entropy(judged.logits, judged.classes).item(), abs=1e-5)


def test_the_loss_falls_on_a_handful_of_samples(random_tiny_folder: Path) -> None:
    model = module(random_tiny_folder, rate=3e-3)
    losses = fit(model, data(model.encoder, train_size=4), steps=12, max_epochs=-1)
    assert losses[-1] < 0.85 * losses[0]
    trained = {id(value) for group in model.trainer.optimizers[0].param_groups for value in group["params"]}
    assert {id(value) for value in model.classifier.segment_head.parameters()} <= trained


def test_validation_reports_accuracy_against_the_majority(random_tiny_folder: Path) -> None:
    model = module(random_tiny_folder)
    (figures,) = trainer(limit_val_batches=None).validate(model, data(model.encoder), verbose=False)
    generator = HallucinatedSceneGenerator(subject="relation")
    labels = [generator.sample("validation", index).meta.extra[SEGMENT_LABELS]["relation"] for index in range(4)]
    assert figures["validation/accuracy_total"] == sum(map(len, labels))
    assert figures["validation/accuracy_low"] <= figures["validation/accuracy"] <= figures["validation/accuracy_high"]
    assert 1 / 3 <= figures["validation/majority"] <= 1
    assert 0 <= figures["validation/macro_f1"] <= 1
    assert {"validation/loss", "validation/above_majority", "validation/told_apart"} <= figures.keys()
    assert any(name.startswith("validation/accuracy/") for name in figures)
    assert not any("exact_match" in name for name in figures)
    (figures,) = trainer().test(model, data(model.encoder), verbose=False)
    assert "test/accuracy" in figures


def test_the_exported_folder_judges_as_the_trained_model(random_tiny_folder: Path, tmp_path: Path) -> None:
    model = module(random_tiny_folder)
    dataset = data(model.encoder)
    fit(model, dataset)
    model.export(tmp_path / "model")
    samples = [dataset.samples("validation")[index] for index in range(3)]
    scorer = FolderSegmentScorer(str(tmp_path / "model"), "relation", device="cpu")
    found = scorer([Completion(sample, "", sample.messages[-1].text, None) for sample in samples])
    with model.policy.decoding():
        expected = model.classifier.judge(model.encoder.encode(samples)).logits.softmax(-1)
    torch.testing.assert_close(torch.cat(found), expected, atol=1e-5, rtol=0)


def test_a_checkpoint_of_an_adapter_run_holds_the_head(random_tiny_folder: Path, tmp_path: Path) -> None:
    model = module(random_tiny_folder, adapter=AdapterSettings(rank=2))
    fit(model, data(model.encoder, train_size=4))
    model.trainer.save_checkpoint(tmp_path / "run.ckpt")
    state = torch.load(tmp_path / "run.ckpt", weights_only=True)["state_dict"]
    assert {"_policy.segment_head.weight", "_policy.segment_head.bias"} <= state.keys()
    assert all("lora" in name or "segment_head" in name for name in state if name.startswith("_policy."))
    resumed = module(random_tiny_folder, adapter=AdapterSettings(rank=2))
    lightning.seed_everything(0, verbose=False)
    trainer(max_steps=1, max_epochs=-1).fit(
        resumed, data(resumed.encoder, train_size=4), ckpt_path=tmp_path / "run.ckpt"
    )
    for name, value in weights(resumed).items():
        assert torch.equal(value, weights(model)[name])


def test_a_sample_whose_labels_do_not_fit_stops_the_run_by_name(
    random_tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = HallucinatedSceneGenerator.sample

    def with_fault(self: Any, split: Any, index: int) -> Any:
        sample = original(self, split, index)
        if index == 3:
            sample.meta.extra[SEGMENT_LABELS]["relation"].append(1)
        return sample

    monkeypatch.setattr(HallucinatedSceneGenerator, "sample", with_fault)
    model = module(random_tiny_folder)
    with pytest.raises(UserError, match=r"hallucinated_scenes/train/0/3.*sub-sentences, but \d labels"):
        fit(model, data(model.encoder, train_size=4))
    model = module(random_tiny_folder)
    fit(model, data(model.encoder, train_size=4, bad_samples="skip", bad_samples_limit=2))


def test_a_loader_that_does_not_count_is_warned_of_once(
    random_tiny_folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = module(random_tiny_folder)
    batch = next(iter(data(model.encoder).train_dataloader()))
    batch.step_totals = None
    model.trainer = trainer(accumulate_grad_batches=2)
    model.configure_model()
    losses = [model.training_step(batch, 0) for _ in range(2)]
    judged = model.classifier.judge(batch)
    expected = torch.nn.functional.cross_entropy(judged.logits, judged.classes)
    torch.testing.assert_close(losses[0], expected)
    assert sum("averaged per micro-batch" in record.message for record in caplog.records) == 1


def test_it_writes_no_text(random_tiny_folder: Path) -> None:
    model = module(random_tiny_folder)
    for ask in (model.complete, model.completion_log_probs):
        with pytest.raises(UserError, match="judges responses and writes none"):
            ask([])
    with pytest.raises(UserError, match="judges responses and writes none"):
        trainer().predict(model, data(model.encoder))


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(UserError, match=r"model\.hallucination is 'mood'; give one of existence, attribute, relation"):
        SegmentRewardModule(hallucination="mood")  # type: ignore[arg-type]
