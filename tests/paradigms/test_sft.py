import json
from dataclasses import replace

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import Callback

from lit_vlm.data.digits_reasoning import DigitsReasoning
from lit_vlm.functional.random_streams import stream_seed
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import Completion
from lit_vlm.interfaces.roles import SampleTransform
from lit_vlm.models.backbone import Backbone
from lit_vlm.models.vision_language_model import GenerationSettings
from lit_vlm.objectives.sft_loss import SFTLoss
from lit_vlm.paradigms.optimization import OptimizerSettings
from lit_vlm.paradigms.sft import SFTModule
from tests.paradigms.processes import run_script

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.*"),
    pytest.mark.filterwarnings("ignore:.*GPU available but not used.*"),
]


class Losses(Callback):
    """Keeps the loss of every optimizer step."""

    def __init__(self):
        self.values = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step > len(self.values):
            self.values.append(float(trainer.callback_metrics["train/loss"]))


def module(folder, rate=1e-3, **options):
    optimizer = OptimizerSettings(learning_rate=rate, warmup=0, schedule="constant")
    return SFTModule(
        Backbone(str(folder)), optimizer=optimizer, generation=GenerationSettings(max_new_tokens=4), **options
    )


def data(encoder, **options):
    options = {"train_size": 16, "validation_size": 4, "test_size": 4, "batch_size": 4, "num_workers": 0, **options}
    return DigitsReasoning(encoder, **options)


def fit(model, dataset, steps=2, callbacks=(), **options):
    losses = Losses()
    lightning.seed_everything(0, verbose=False)
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_steps=steps,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        limit_val_batches=0,
        use_distributed_sampler=False,
        callbacks=[losses, *callbacks],
        **options,
    )
    trainer.fit(model, dataset)
    return losses.values, {name: value.detach().clone() for name, value in model.policy.state_dict().items()}


@pytest.fixture
def sft(random_tiny_folder):
    return module(random_tiny_folder)


def test_two_seeded_runs_are_bit_identical(random_tiny_folder):
    runs = []
    for _ in range(2):
        model = module(random_tiny_folder)
        runs.append(fit(model, data(model.encoder)))
    (first_losses, first_weights), (second_losses, second_weights) = runs
    assert first_losses == second_losses
    assert all(torch.equal(first_weights[name], second_weights[name]) for name in first_weights)


def test_accumulated_micro_batches_give_the_step_of_one_large_batch(random_tiny_folder):
    results = []
    for batch_size, accumulation in ((8, 1), (2, 4)):
        model = module(random_tiny_folder)
        results.append(fit(model, data(model.encoder, batch_size=batch_size), accumulate_grad_batches=accumulation))
    (whole_losses, whole), (part_losses, parts) = results
    assert part_losses == pytest.approx(whole_losses, abs=1e-5)
    for name in whole:
        torch.testing.assert_close(parts[name], whole[name], atol=1e-4, rtol=0)


class SomeWeigh(SampleTransform):
    """Lets a third of the samples count more or less, so that some batches hold no weights."""

    def __call__(self, sample):
        number = int(stream_seed(sample.id) % 6)
        return [replace(sample, weight={0: 12.1825, 1: 0.25}.get(number, 1.0))]


@pytest.mark.parametrize("reduction", ["token_mean", "seq_mean"])
def test_weighted_rows_give_one_step_however_they_are_dealt(random_tiny_folder, reduction):
    results = []
    for batch_size, accumulation, transform in ((8, 1, SomeWeigh()), (2, 4, SomeWeigh()), (8, 1, None)):
        model = module(random_tiny_folder, objective=SFTLoss(reduction=reduction))
        dataset = data(model.encoder, batch_size=batch_size, transform=transform)
        results.append(fit(model, dataset, accumulate_grad_batches=accumulation)[0])
    whole, parts, plain = results
    assert parts == pytest.approx(whole, abs=1e-5)
    assert abs(whole[0] - plain[0]) > 0.1


def test_the_loss_falls_on_a_handful_of_samples(random_tiny_folder):
    model = module(random_tiny_folder, rate=3e-3)
    losses, _ = fit(model, data(model.encoder, train_size=4), steps=15, max_epochs=-1)
    assert losses[-1] < 0.6 * losses[0]


def test_no_logits_are_made_for_prompt_tokens(sft, monkeypatch):
    from lit_vlm.functional import chunked_log_probs as chunks

    seen = []
    original = chunks.linear
    monkeypatch.setattr(chunks, "linear", lambda *args: seen.append(len(args[0])) or original(*args))
    dataset = data(sft.encoder)
    batch = next(iter(dataset.train_dataloader()))
    fit(sft, dataset, steps=1)
    assert max(seen) <= sft.chunk_tokens
    assert sum(seen) == 2 * batch.count().labels  # once forward, once backward
    assert sum(seen) < batch.attention_mask.sum()


def test_validation_reports_likelihood_and_exact_match(sft):
    trainer = lightning.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, use_distributed_sampler=False
    )
    (figures,) = trainer.validate(sft, data(sft.encoder, tasks=["sum", "compare"]), verbose=False)
    assert figures["validation/exact_match_total"] == 4
    assert figures["validation/perplexity"] == pytest.approx(
        torch.tensor(figures["validation/loss"]).exp().item(), rel=1e-4
    )
    assert 0 <= figures["validation/exact_match_low"] <= figures["validation/exact_match"]
    assert "validation/exact_match/sum" in figures
    assert "validation/exact_match_by_type/number" in figures


def test_predict_returns_completions_with_their_likelihood(sft):
    trainer = lightning.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, use_distributed_sampler=False
    )
    (completions,) = trainer.predict(sft, data(sft.encoder))
    assert len(completions) == 4
    for completion in completions:
        assert isinstance(completion, Completion)
        assert completion.log_prob_sum < 0
        assert completion.token_count <= 4
        assert completion.verdict is not None
        assert completion.prompt.endswith("<|im_start|>assistant\n")
        json.dumps(completion.to_json())


def test_the_exported_model_loads_with_plain_transformers(sft, tmp_path):
    from transformers import AutoModelForImageTextToText, AutoProcessor

    _, weights = fit(sft, data(sft.encoder), steps=1)
    sft.export(tmp_path / "model")
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "model")
    AutoProcessor.from_pretrained(tmp_path / "model")
    for name, value in model.state_dict().items():
        assert torch.equal(value, weights[f"model.{name}"])


def test_a_loader_without_step_totals_is_averaged_per_micro_batch_and_says_so(sft, caplog):
    dataset = data(sft.encoder)
    dataset.train_dataloader = lambda: torch.utils.data.DataLoader(
        dataset.samples("train"), batch_size=4, collate_fn=sft.encoder.encode
    )
    with caplog.at_level("WARNING"):
        losses, _ = fit(sft, dataset, steps=2)
    assert len(losses) == 2
    assert caplog.text.count("averaged per micro-batch") == 1


SCRIPT = """
import json, sys
sys.path.insert(0, {root!r})
from tests.paradigms import test_sft
import torch
folder, devices, batch_size, out = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
model = test_sft.module(folder)
options = dict(devices=devices, strategy="ddp") if devices > 1 else {{}}
dataset = test_sft.data(model.encoder, batch_size=batch_size, train_size=32, transform=test_sft.SomeWeigh())
losses, weights = test_sft.fit(model, dataset, steps=4, **options)
if model.global_rank == 0:
    torch.save((losses, weights), out)
"""


@pytest.mark.slow
def test_two_processes_take_the_steps_of_one_also_where_rows_weigh(random_tiny_folder, tmp_path):
    one_losses, one = run_script(SCRIPT, tmp_path / "one.pt", random_tiny_folder, 1, 8)
    two_losses, two = run_script(SCRIPT, tmp_path / "two.pt", random_tiny_folder, 2, 4)
    assert two_losses == pytest.approx(one_losses, abs=1e-5)
    for name in one:
        torch.testing.assert_close(two[name], one[name], atol=1e-4, rtol=0)


def test_chunks_without_tokens_are_refused():
    with pytest.raises(UserError, match=r"model\.chunk_tokens is 0"):
        SFTModule(chunk_tokens=0)
