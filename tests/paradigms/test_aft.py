import pytest
import torch

from lit_vlm.interfaces.errors import UserError
from lit_vlm.models.backbone import Backbone
from lit_vlm.models.vision_language_model import GenerationSettings
from lit_vlm.objectives.aft_loss import AFTLoss
from lit_vlm.paradigms.aft import AFTModule
from lit_vlm.paradigms.optimization import OptimizerSettings
from tests.paradigms.comparison_material import ComparedData, compared_sample, fit
from tests.paradigms.processes import run_script

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.*"),
    pytest.mark.filterwarnings("ignore:.*GPU available but not used.*"),
]


def module(folder, rate=1e-3, **options):
    optimizer = OptimizerSettings(learning_rate=rate, warmup=0, schedule="constant")
    return AFTModule(
        Backbone(str(folder)), optimizer=optimizer, generation=GenerationSettings(max_new_tokens=4), **options
    )


def samples(count=8):
    """Questions with unequal numbers of right and wrong chains; some have none of one kind."""
    return [
        compared_sample(index, right=(2, 1, 0, 2)[index % 4], wrong=(2, 3, 2, 0)[index % 4]) for index in range(count)
    ]


def same_weights(found, expected, tolerance=1e-4):
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], atol=tolerance, rtol=0)


def gradient(model, batch):
    model.policy.zero_grad()
    share, _ = model.share_of(model.prepared(batch), batch.count(), 1)
    share.backward()
    return share.item(), torch.cat(
        [(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in model.policy.parameters()]
    )


def test_questions_read_once_give_the_loss_and_gradient_of_questions_read_for_each_chain(random_tiny_folder):
    model = module(random_tiny_folder, rate=1e-9)
    fit(model, ComparedData(model.encoder, samples()), steps=1)
    batch = model.encoder.encode_groups(samples())
    (share, shared), (loss, naive) = (gradient(model, batch) for model.prefix in ("shared", "naive"))
    assert share == pytest.approx(loss, abs=1e-5)
    assert torch.cosine_similarity(shared, naive, 0) > 0.99999
    torch.testing.assert_close(shared, naive, atol=1e-5, rtol=1e-3)


def test_a_batch_whose_questions_were_all_dropped_reaches_every_weight_with_zeros(random_tiny_folder):
    model = module(random_tiny_folder, rate=1e-9)
    fit(model, ComparedData(model.encoder, samples()), steps=1)
    share, zeros = gradient(model, model.encoder.encode_groups([]))
    assert share == 0
    assert (zeros == 0).all()
    assert all(value.grad is not None for value in model.policy.parameters())


def test_accumulated_micro_batches_give_the_step_of_one_large_batch(random_tiny_folder):
    runs = []
    for batch_size, accumulation in ((8, 1), (2, 4)):
        model = module(random_tiny_folder)
        dataset = ComparedData(model.encoder, samples(), batch_size=batch_size)
        runs.append(fit(model, dataset, accumulate_grad_batches=accumulation))
    (whole_figures, whole), (part_figures, parts) = runs
    for one, other in zip(part_figures.steps, whole_figures.steps, strict=True):
        assert one == pytest.approx(other, abs=1e-5, rel=1e-4)
    same_weights(parts, whole)


@pytest.mark.parametrize("objective", [AFTLoss(), AFTLoss(constraint="detached"), AFTLoss(ranked=True)])
def test_a_few_steps_put_right_chains_above_wrong_ones(random_tiny_folder, objective):
    model = module(random_tiny_folder, rate=3e-3, objective=objective)
    given = [compared_sample(index) for index in (1, 2)]
    figures, _ = fit(model, ComparedData(model.encoder, given, batch_size=2), steps=25)
    accuracy = figures.of("train/assessment_accuracy")
    assert accuracy[0] < 1.0
    assert accuracy[-1] == 1.0
    margins = [step["train/positive_score"] - step["train/negative_score"] for step in figures.steps]
    assert margins[-1] > margins[0]
    assert figures.of("train/loss")[-1] < figures.of("train/loss")[0]


def test_the_boundary_keeps_wrong_chains_from_falling_as_far_as_imitation_alone_would_not(random_tiny_folder):
    depths = {}
    for beta in (0.05, 3.0):
        model = module(random_tiny_folder, rate=3e-3, objective=AFTLoss(beta=beta, sft_weight=0.0))
        given = [compared_sample(index) for index in (1, 2)]
        figures, _ = fit(model, ComparedData(model.encoder, given, batch_size=2), steps=25)
        last = figures.steps[-1]
        depths[beta] = last["train/positive_score"] - last["train/negative_score"]
    assert 0 < depths[0.05] < depths[3.0]


def test_the_figures_are_those_of_scores_worked_out_apart(random_tiny_folder):
    model = module(random_tiny_folder, rate=1e-9)
    given = [compared_sample(index) for index in (1, 2)]
    figures, _ = fit(model, ComparedData(model.encoder, given, batch_size=2), steps=1)
    step = figures.steps[0]
    batch = model.encoder.encode_groups(given)
    model.policy.eval()
    with torch.no_grad():
        log_probs = model.policy.score_rollouts(batch.prompts, batch.token_ids, batch.mask, batch.prompt_of).log_probs
    scores = (log_probs * batch.counted).sum(1) / batch.counted.sum(1)
    good, bad = batch.scores == 1, batch.scores == 0
    assert step["train/positive_score"] == pytest.approx(scores[good].mean().item(), abs=1e-5)
    assert step["train/negative_score"] == pytest.approx(scores[bad].mean().item(), abs=1e-5)
    right = [
        float(scores[p] > scores[n])
        for group in (0, 1)
        for p in (good & (batch.prompt_of == group)).nonzero()
        for n in (bad & (batch.prompt_of == group)).nonzero()
    ]
    assert step["train/assessed_pairs"] * 2 == len(right) == 8
    assert step["train/assessment_accuracy"] == pytest.approx(sum(right) / len(right))
    assert step["train/loss"] == pytest.approx(step["train/alignment_loss"] + step["train/sft_loss"], abs=1e-5)


def test_a_step_without_pairs_tells_of_no_accuracy_and_still_imitates(random_tiny_folder):
    model = module(random_tiny_folder)
    given = [compared_sample(index, right=2, wrong=0) for index in range(4)]
    figures, _ = fit(model, ComparedData(model.encoder, given), steps=2)
    first, second = figures.steps
    assert "train/assessment_accuracy" not in second
    assert "train/negative_score" not in second
    assert first["train/alignment_loss"] == 0
    assert second["train/sft_loss"] < first["train/sft_loss"]


def test_the_coefficients_turn_the_loss_and_are_resumed(random_tiny_folder, tmp_path):
    model = module(random_tiny_folder)
    model.coefficients.set("sft_weight", 0.25)
    checkpoint = {"state_dict": {}}
    model.on_save_checkpoint(checkpoint)
    other = module(random_tiny_folder)
    other.on_load_checkpoint(checkpoint)
    assert other.coefficients["sft_weight"] == 0.25
    figures, _ = fit(other, ComparedData(other.encoder, samples()), steps=1)
    step = figures.steps[0]
    assert step["train/coefficient/sft_weight"] == 0.25
    assert step["train/loss"] == pytest.approx(step["train/alignment_loss"] + 0.25 * step["train/sft_loss"], abs=1e-5)


SCRIPT = """
import sys
sys.path.insert(0, {root!r})
from tests.paradigms import test_aft
import torch
folder, devices, batch_size, out = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
model = test_aft.module(folder)
options = dict(devices=devices, strategy="ddp") if devices > 1 else {{}}
dataset = test_aft.ComparedData(model.encoder, test_aft.samples(8), batch_size=batch_size)
figures, weights = test_aft.fit(model, dataset, steps=2, **options)
if model.global_rank == 0:
    torch.save((figures.steps, weights), out)
"""


@pytest.mark.slow
def test_two_processes_take_the_steps_of_one(random_tiny_folder, tmp_path):
    one_steps, one = run_script(SCRIPT, tmp_path / "one.pt", random_tiny_folder, 1, 8)
    two_steps, two = run_script(SCRIPT, tmp_path / "two.pt", random_tiny_folder, 2, 4)
    for together, alone in zip(two_steps, one_steps, strict=True):
        assert together == pytest.approx(alone, abs=1e-5, rel=1e-4)
    same_weights(two, one)


def test_settings_without_sense_are_refused():
    with pytest.raises(UserError, match=r"model\.chunk_tokens is 0"):
        AFTModule(chunk_tokens=0)
    with pytest.raises(UserError, match=r"model\.prefix is 'twice'; give one of shared, naive"):
        AFTModule(prefix="twice")
