from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import Preference
from lit_vlm.models.adapters import AdapterSettings
from lit_vlm.objectives.preference_loss import PreferenceLoss
from lit_vlm.paradigms.reference_policy import ReferenceSettings
from tests.paradigms import preference_material as material
from tests.paradigms.preference_material import data, fit, module, trainer
from tests.paradigms.processes import run_script

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.*"),
    pytest.mark.filterwarnings("ignore:.*GPU available but not used.*"),
]

ADAPTER = {"adapter": AdapterSettings(rank=4, dropout=0.1)}


def same_weights(first, second, tolerance=1e-5):
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(first[name], second[name], atol=tolerance, rtol=0)


def same_figures(first, second, tolerance=1e-4):
    assert len(first.steps) == len(second.steps) > 0
    for one, other in zip(first.steps, second.steps, strict=True):
        assert one == pytest.approx(other, abs=tolerance, rel=1e-4)


def gradients(model, batch):
    """Runs one training step by hand, and returns its loss and gradients."""
    model.policy.train()
    model.policy.zero_grad()
    outputs = model.training_step(batch, 0)
    outputs["loss"].backward()
    found = {name: value.grad.clone() for name, value in model.policy.named_parameters() if value.grad is not None}
    return float(outputs["loss"].detach()), found


@pytest.fixture
def attached(random_tiny_folder):
    """Makes a module that is ready for a training step, moved away from its reference."""

    def make(**options):
        torch.manual_seed(0)
        model = module(random_tiny_folder, **options)
        model.trainer = trainer()
        model.trainer.strategy.connect(model)
        model.configure_model()
        with torch.no_grad():
            for value in model.policy.parameters():
                if value.requires_grad:
                    value.add_(0.02 * torch.randn(value.shape))
        return model

    return make


@pytest.fixture
def samples(make_sample):
    """Three samples with pairs, of which one has two images and one two pairs."""
    pairs = [
        material.with_pair(make_sample("i see 7.", "7", sample_id="a")),
        material.with_pair(make_sample("no yes i see", "1", images=2, sample_id="b"), "<answer>12</answer>"),
        material.with_pair(make_sample("i", "3", sample_id="c"), weight=0.5),
    ]
    first = pairs[2].preferences[0]
    imitated = Preference(first.chosen, (), weight=0.5)
    return [*pairs[:2], replace(pairs[2], preferences=(first, imitated))]


def test_the_first_step_knows_of_no_difference(random_tiny_folder):
    model = module(random_tiny_folder, backbone=ADAPTER)
    losses, _ = fit(model, data(model.encoder), steps=1)
    (figures,) = losses.steps
    # Dropout would tell the policy from its reference.
    assert figures["train/loss"] == pytest.approx(0.693147, abs=1e-5)
    assert figures["train/kl"] == pytest.approx(0, abs=1e-5)
    assert figures["train/reward_margin"] == pytest.approx(0, abs=1e-4)
    assert figures["train/log_probs/chosen"] < 0 < figures["train/nll"]
    assert figures["train/coefficient/beta"] == pytest.approx(0.1)
    assert figures["train/learning_rate"] == pytest.approx(1e-3)


def test_training_prefers_the_chosen_completions(random_tiny_folder):
    model = module(random_tiny_folder, rate=3e-3)
    losses, _ = fit(model, data(model.encoder, train_size=4), steps=12, max_epochs=-1)
    first, last = losses.steps[0], losses.steps[-1]
    assert last["train/loss"] < 0.5 * first["train/loss"]
    assert last["train/reward_accuracy"] == 1
    assert last["train/reward_margin"] > 0
    parts = last["train/rewards/chosen"] - last["train/rewards/rejected"]
    assert last["train/reward_margin"] == pytest.approx(parts, rel=1e-4)


@pytest.mark.parametrize("kind", ["sigmoid", "mdpo"])
def test_a_shared_prompt_gives_the_loss_and_gradients_of_the_naive_pass(attached, samples, kind):
    objective = PreferenceLoss(kind, nll_weight=0.1)
    model = attached(objective=objective, corruption=material.Inverted())
    batch = model.encoder.encode_pairs(samples, model.corruption)
    loss, shared = gradients(model, batch)
    assert model.policy.shares_prompts
    model.prefix = "naive"
    naive_loss, naive = gradients(model, batch)
    assert loss == pytest.approx(naive_loss, abs=1e-5)
    assert shared.keys() == naive.keys()
    largest = max(float(value.abs().max()) for value in naive.values())
    for name, value in naive.items():
        torch.testing.assert_close(shared[name], value, atol=1e-5 * max(largest, 1), rtol=0)


def test_the_loss_is_that_of_log_probabilities_by_hand(attached, samples):
    model = attached()
    batch = model.encoder.encode_pairs(samples)
    loss, _ = gradients(model, batch)

    def log_probs(turns):
        rows = [
            replace(samples[index], messages=(*samples[index].prompt, *turns(samples[index]))) for index in range(3)
        ]
        return model.completion_log_probs(rows)

    def trained(half):
        return lambda sample: tuple(replace(turn, train=True) for turn in getattr(sample.preferences[0], half))

    chosen, rejected = log_probs(trained("chosen")), log_probs(trained("rejected"))
    with model._reference.installed():
        chosen = chosen - log_probs(trained("chosen"))
        rejected = rejected - log_probs(trained("rejected"))
    losses = -torch.nn.functional.logsigmoid(0.1 * (chosen - rejected))
    # The third sample's pair has weight 0.5; its other one has nothing to compare with.
    assert loss == pytest.approx(float((losses * torch.tensor([1, 1, 0.5])).sum() / 3), abs=1e-5)


def test_corrupted_images_enter_the_loss_and_the_log(attached, samples):
    model = attached(objective=PreferenceLoss("mdpo"), corruption=material.Inverted())
    batch = model.encoder.encode_pairs(samples, model.corruption)
    assert (batch.corrupted >= 0).all()
    scores = model._score(model.prepared(batch))
    real, spoilt = scores.policy.chosen, scores.policy.corrupted
    assert float((real - spoilt).detach().abs().min()) > 1e-4
    gradients(model, batch)
    figures = model._figures.take(lambda value: value)
    # Of the two pairs of the last sample one has no rejected completion.
    assert float(figures["corrupted_share"]) == 1
    assert float(figures["image_loss"]) > 0
    assert float(figures["anchor_loss"]) > 0


def test_images_are_spoilt_only_where_the_objective_asks_for_it(random_tiny_folder):
    assert module(random_tiny_folder).corruption is None
    assert module(random_tiny_folder, objective=PreferenceLoss("mdpo")).corruption is not None


def test_dropout_is_a_choice(attached, samples):
    losses = {}
    for dropout in (False, True):
        model = attached(backbone={"adapter": AdapterSettings(rank=4, dropout=0.5)}, dropout=dropout)
        batch = model.encoder.encode_pairs(samples)
        losses[dropout] = [gradients(model, batch)[0] for _ in range(3)]
    assert len(set(losses[False])) == 1
    assert len(set(losses[True])) == 3


def test_accumulated_micro_batches_give_the_step_of_one_large_batch(random_tiny_folder):
    results = []
    for batch_size, accumulation in ((8, 1), (2, 4)):
        model = module(random_tiny_folder, objective=PreferenceLoss(nll_weight=0.5))
        results.append(fit(model, data(model.encoder, batch_size=batch_size), accumulate_grad_batches=accumulation))
    (whole_figures, whole), (part_figures, parts) = results
    same_figures(part_figures, whole_figures)
    same_weights(parts, whole, 1e-4)


def test_all_references_are_the_policy_at_the_start(random_tiny_folder, tmp_path):
    runs = []
    for kind in ("adapter_off", "frozen_copy", "cached", "cached"):
        cache = str(tmp_path / "reference.safetensors") if kind == "cached" else None
        model = module(random_tiny_folder, rate=1e-2, backbone=ADAPTER, reference=ReferenceSettings(kind, cache=cache))
        runs.append(fit(model, data(model.encoder, train_size=8), steps=2))
    for figures, _ in runs:
        # Where all is equal, rounding tells which half is preferred.
        del figures.steps[0]["train/reward_accuracy"]
    for figures, weights in runs[1:]:
        same_figures(figures, runs[0][0])
        same_weights(weights, runs[0][1], 1e-4)
    # The second run with a file reads it.
    same_figures(runs[3][0], runs[2][0], tolerance=0)
    same_weights(runs[3][1], runs[2][1], tolerance=0)
    assert runs[0][0].steps[-1]["train/kl"] != pytest.approx(0, abs=1e-3)


def test_a_file_replaces_the_reference_pass(random_tiny_folder, tmp_path, monkeypatch):
    model = module(random_tiny_folder, reference=ReferenceSettings("cached", cache=str(tmp_path / "cache")))
    fit(model, data(model.encoder), steps=1)
    again = module(random_tiny_folder, reference=ReferenceSettings("cached", cache=str(tmp_path / "cache")))
    passes = []
    original = type(again)._sums
    monkeypatch.setattr(type(again), "_sums", lambda *args: passes.append(1) or original(*args))
    fit(again, data(again.encoder), steps=2)
    assert len(passes) == 2
    assert again._reference is None


def test_a_trial_run_leaves_no_file(random_tiny_folder, tmp_path):
    model = module(random_tiny_folder, reference=ReferenceSettings("cached", cache=str(tmp_path / "cache")))
    fit(model, data(model.encoder, train_size=4), fast_dev_run=True)
    assert list(tmp_path.iterdir()) == []


def test_the_reference_is_chosen_by_what_is_needed(random_tiny_folder, tmp_path):
    def kind(**options):
        settings = module(random_tiny_folder, **options).reference_settings
        return None if settings is None else settings.kind

    assert kind() == "frozen_copy"
    assert kind(backbone=ADAPTER) == "adapter_off"
    # An adapter that is gone on with belongs to the policy at the start.
    assert kind(backbone={"adapter": AdapterSettings(load=str(tmp_path))}) == "frozen_copy"
    assert kind(objective=PreferenceLoss("simpo")) is None
    assert kind(objective=PreferenceLoss("simpo"), reference=ReferenceSettings()) == "frozen_copy"


def test_an_objective_without_reference_runs_one_pass(random_tiny_folder, monkeypatch):
    model = module(random_tiny_folder, objective=PreferenceLoss("simpo", beta=2.0))
    passes = []
    original = type(model)._sums
    monkeypatch.setattr(type(model), "_sums", lambda *args: passes.append(1) or original(*args))
    losses, _ = fit(model, data(model.encoder), steps=2)
    assert len(passes) == 2
    assert "train/kl" not in losses.steps[0]


def test_a_run_resumes_where_it_stopped(random_tiny_folder, tmp_path):
    settings = {"reference": ReferenceSettings(sync_every=2, mixing=0.5), "rate": 3e-3}
    whole = module(random_tiny_folder, **settings)
    whole_figures, weights = fit(whole, data(whole.encoder), steps=6, max_epochs=-1)
    first = module(random_tiny_folder, **settings)
    fit(first, data(first.encoder), steps=3, max_epochs=-1)
    first.trainer.save_checkpoint(tmp_path / "half.ckpt")
    second = module(random_tiny_folder, **settings)
    second_figures, resumed = fit(
        second, data(second.encoder), steps=6, max_epochs=-1, ckpt_path=tmp_path / "half.ckpt"
    )
    same_weights(resumed, weights)
    assert second_figures.values[-3:] == pytest.approx(whole_figures.values[-3:], abs=1e-5)


def test_a_coefficient_that_was_turned_is_turned_after_resuming(random_tiny_folder, tmp_path):
    first = module(random_tiny_folder)
    fit(first, data(first.encoder), steps=1)
    first.coefficients.set("beta", 0.7)
    first.trainer.save_checkpoint(tmp_path / "turned.ckpt")
    second = module(random_tiny_folder)
    losses, _ = fit(second, data(second.encoder), steps=2, ckpt_path=tmp_path / "turned.ckpt")
    assert losses.steps[-1]["train/coefficient/beta"] == pytest.approx(0.7)


def test_a_missing_file_cannot_be_made_once_the_policy_has_moved(random_tiny_folder, tmp_path):
    file = tmp_path / "cache"
    first = module(random_tiny_folder, reference=ReferenceSettings("cached", cache=str(file)))
    fit(first, data(first.encoder), steps=1)
    first.trainer.save_checkpoint(tmp_path / "one.ckpt")
    file.unlink()
    second = module(random_tiny_folder, reference=ReferenceSettings("cached", cache=str(file)))
    with pytest.raises(UserError, match="put the file back"):
        fit(second, data(second.encoder), steps=2, ckpt_path=tmp_path / "one.ckpt")


def test_a_missing_file_is_made_again_for_an_adapter(random_tiny_folder, tmp_path):
    file = tmp_path / "cache"
    first = module(random_tiny_folder, backbone=ADAPTER, reference=ReferenceSettings("cached", cache=str(file)))
    fit(first, data(first.encoder), steps=1)
    first.trainer.save_checkpoint(tmp_path / "one.ckpt")
    content = load_file(file)
    file.unlink()
    second = module(random_tiny_folder, backbone=ADAPTER, reference=ReferenceSettings("cached", cache=str(file)))
    fit(second, data(second.encoder), steps=2, ckpt_path=tmp_path / "one.ckpt")
    again = load_file(file)
    assert torch.equal(again["digests"], content["digests"])
    assert torch.equal(again["log_probs"], content["log_probs"])


def test_a_file_of_another_model_or_other_data_is_refused(random_tiny_folder, tmp_path):
    cached = ReferenceSettings("cached", cache=str(tmp_path / "cache"))
    first = module(random_tiny_folder, reference=cached)
    fit(first, data(first.encoder), steps=1)
    other = module(random_tiny_folder, reference=cached, backbone={"dtype": "bfloat16"})
    with pytest.raises(UserError, match=r"cache was made with other weights .* delete the file"):
        fit(other, data(other.encoder), steps=1)
    more = module(random_tiny_folder, reference=cached)
    with pytest.raises(UserError, match=r"cache lacks the reference's log-probabilities of 4 of 24 pairs"):
        fit(more, data(more.encoder, train_size=20), steps=1)


def test_settings_that_do_not_go_together_are_refused(random_tiny_folder):
    with pytest.raises(UserError, match="there is no model.backbone.adapter"):
        module(random_tiny_folder, reference=ReferenceSettings("adapter_off"))
    with pytest.raises(UserError, match="model.chunk_tokens is 0"):
        module(random_tiny_folder, chunk_tokens=0)
    with pytest.raises(UserError, match="model.prefix is 'long'"):
        module(random_tiny_folder, prefix="long")


def test_validation_measures_pairs_with_intervals(random_tiny_folder):
    model = module(random_tiny_folder, rate=3e-3)
    losses, _ = fit(
        model, data(model.encoder, train_size=8), steps=4, max_epochs=-1, limit_val_batches=1.0, val_check_interval=2
    )
    figures = {name: float(value) for name, value in model.trainer.callback_metrics.items()}
    assert figures["validation/pair_accuracy_total"] == 4
    for name in ("pair_accuracy", "pair_accuracy_per_token", "reward_accuracy"):
        low, high = figures[f"validation/{name}_low"], figures[f"validation/{name}_high"]
        assert 0 <= low <= figures[f"validation/{name}"] <= high <= 1
    margin = figures["validation/rewards/chosen"] - figures["validation/rewards/rejected"]
    assert figures["validation/reward_margin"] == pytest.approx(margin, abs=1e-4)
    assert figures["validation/pair_loss"] == pytest.approx(figures["validation/preference_loss"], abs=1e-5)
    assert "validation/kl" in figures


def test_validation_alone_measures_the_policy_without_a_file(random_tiny_folder, tmp_path):
    model = module(random_tiny_folder, reference=ReferenceSettings("cached", cache=str(tmp_path / "cache")))
    (figures,) = trainer(limit_val_batches=1.0).validate(model, data(model.encoder), verbose=False)
    assert figures["validation/pair_accuracy_total"] == 4
    assert "validation/reward_margin" not in figures
    assert list(tmp_path.iterdir()) == []


SCRIPT = """
import sys
sys.path.insert(0, {root!r})
from tests.paradigms import preference_material as material
import torch
from lit_vlm.objectives.preference_loss import PreferenceLoss
from lit_vlm.paradigms.reference_policy import ReferenceSettings
folder, devices, batch_size, bad, kind, out = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:]
cache = out + ".safetensors" if kind == "cached" else None
model = material.module(
    folder, objective=PreferenceLoss(nll_weight=0.1), reference=ReferenceSettings(kind, cache=cache)
)
options = dict(devices=devices, strategy="ddp") if devices > 1 else {{}}
settings = dict(bad_samples="skip", bad_samples_limit=0.9) if bad != "none" else {{}}
rows = [] if bad == "none" else [int(row) for row in bad.split(",")]
data = material.data(model.encoder, bad=rows, batch_size=batch_size, train_size=8, **settings)
losses, weights = material.fit(model, data, steps=4, max_epochs=-1, limit_val_batches=1.0, **options)
if model.global_rank == 0:
    figures = {{name: float(value) for name, value in model.trainer.callback_metrics.items()}}
    torch.save((losses.steps, figures, weights), out)
if torch.distributed.is_initialized():
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
"""


@pytest.mark.slow
@pytest.mark.parametrize(("bad", "kind"), [("none", "cached"), ("0,1,2,4,5,7", "frozen_copy")])
def test_two_processes_take_the_steps_of_one(random_tiny_folder, tmp_path, bad, kind):
    steps, figures, one = run_script(SCRIPT, tmp_path / "one.pt", random_tiny_folder, 1, 2, bad, kind)
    both_steps, both_figures, two = run_script(SCRIPT, tmp_path / "two.pt", random_tiny_folder, 2, 1, bad, kind)
    assert len(steps) == len(both_steps) == 4
    for alone, together in zip(steps, both_steps, strict=True):
        assert together == pytest.approx(alone, abs=1e-4, rel=1e-3)
    assert figures["validation/pair_accuracy_total"] == 4
    for name in ("validation/nll", "validation/pair_loss"):  # means over the tokens of a batch, and batches differ
        assert both_figures.pop(name) == pytest.approx(figures.pop(name), rel=0.02)
    assert both_figures == pytest.approx(figures, abs=1e-4, rel=1e-3)
    same_weights(one, two, 1e-4)
