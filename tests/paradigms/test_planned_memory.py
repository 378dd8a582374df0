"""Compares the planned memory of a training step with the bytes that its tensors hold."""

import pytest

from lit_vlm.models.adapters import AdapterSettings
from lit_vlm.models.backbone import Backbone
from lit_vlm.paradigms.dpo import DPOModule
from lit_vlm.paradigms.grpo import GRPOModule
from lit_vlm.paradigms.planned_memory import patches_of, rollout_size, update_size
from lit_vlm.paradigms.policy_update import UpdateSettings
from lit_vlm.paradigms.reference_policy import ReferenceSettings
from lit_vlm.paradigms.sft import SFTModule
from lit_vlm.rollouts.hf_rollout_engine import HFRolloutEngine
from lit_vlm.rollouts.sampling_settings import SamplingSettings
from tests.paradigms.preference_material import with_pair
from tests.paradigms.step_memory import MeasuredStep, RisingReward, long_samples, measure_step

CLOSE = 0.2
"""How far a plan may be off, as a share of what is measured."""
SCRATCH = {"from_scratch": True}  # never ends a completion early by habit

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.*"),
    pytest.mark.filterwarnings("ignore:.*GPU available but not used.*"),
    pytest.mark.filterwarnings("ignore:.*smaller than the logging interval.*"),
    pytest.mark.filterwarnings("ignore:.*acc_events.*"),
]


def grpo(backbone: Backbone, **options) -> GRPOModule:
    engine = HFRolloutEngine(SamplingSettings(max_new_tokens=24))
    return GRPOModule(backbone, engine=engine, group_size=4, reward=RisingReward(), **options)


def is_close(measured: MeasuredStep) -> bool:
    print(f"planned {measured.plan.peak:,}, measured {measured.peak:,}: {measured.ratio:.3f}, {measured.plan.told}")
    return abs(measured.ratio - 1) < CLOSE


def test_a_supervised_step_holds_what_was_planned(tmp_path):
    assert is_close(measure_step(SFTModule(Backbone()), long_samples(8), 4, tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("rows", [1, 16])
def test_the_plan_follows_the_micro_batch(rows, tmp_path):
    assert is_close(measure_step(SFTModule(Backbone()), long_samples(2 * rows), rows, tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize(
    "backbone",
    [
        Backbone(gradient_checkpointing=True),
        Backbone(adapter=AdapterSettings()),
        Backbone(adapter=AdapterSettings(parts=("vision", "language"), rank=4)),
        Backbone(adapter=AdapterSettings(), gradient_checkpointing=True),
        Backbone(adapter=AdapterSettings(), dtype="bfloat16"),
        Backbone(train_parts=("language",)),
        Backbone(train_parts=("projector",)),
        Backbone(dtype="bfloat16"),
        Backbone(attention="eager"),
    ],
    ids=[
        "checkpointing",
        "lora",
        "lora in vision",
        "lora checkpointing",
        "lora bf16",
        "language",
        "projector",
        "bf16",
        "eager",
    ],
)
def test_the_plan_follows_what_trains_and_how(backbone, tmp_path):
    assert is_close(measure_step(SFTModule(backbone), long_samples(16), 8, tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("backbone", [Backbone(), Backbone(adapter=AdapterSettings())], ids=["full", "lora"])
def test_the_plan_follows_autocast(backbone, tmp_path):
    assert is_close(measure_step(SFTModule(backbone), long_samples(16), 8, tmp_path, precision="bf16-mixed"))


@pytest.mark.slow
def test_the_plan_counts_gradients_that_gather(tmp_path):
    module = SFTModule(Backbone())
    assert is_close(measure_step(module, long_samples(16), 4, tmp_path, batch=3, accumulate_grad_batches=2))


@pytest.mark.slow
def test_the_plan_follows_rollouts(tmp_path):
    assert is_close(measure_step(grpo(Backbone(**SCRATCH)), long_samples(8), 2, tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize(
    "module",
    [
        lambda: grpo(Backbone(**SCRATCH), update=UpdateSettings(prefix="naive")),
        lambda: grpo(Backbone(**SCRATCH, train_parts=("language",))),
        lambda: grpo(Backbone(**SCRATCH, gradient_checkpointing=True)),
        lambda: grpo(Backbone(**SCRATCH), reference=ReferenceSettings()),
        lambda: grpo(Backbone(adapter=AdapterSettings())),
    ],
    ids=["naive", "language", "checkpointing", "reference", "lora"],
)
def test_the_plan_follows_how_rollouts_are_learnt_from(module, tmp_path):
    assert is_close(measure_step(module(), long_samples(16), 4, tmp_path))


@pytest.mark.gpu
@pytest.mark.parametrize("backbone", [Backbone(), Backbone(gradient_checkpointing=True)], ids=["full", "checkpointing"])
def test_a_step_on_a_gpu_allocates_what_was_planned(backbone, tmp_path):
    module = SFTModule(backbone)
    assert is_close(measure_step(module, long_samples(32), 16, tmp_path, accelerator="gpu"))


class Loaded:
    """A module with an encoder, settings and a policy, without weights."""

    group_size = 4

    def __init__(self, encoder, policy, **update):
        self.encoder, self.policy = encoder, policy
        self.engine = HFRolloutEngine(SamplingSettings(max_new_tokens=8))
        self.update_settings = UpdateSettings(**update)


def test_patches_are_those_of_the_images(random_tiny_encoder, random_tiny_model, make_sample):
    module = Loaded(random_tiny_encoder, random_tiny_model)
    batch = random_tiny_encoder.encode([make_sample("i see 7.", "7", images=2), make_sample("i see 7.", "7", images=1)])
    total, largest = patches_of(module, batch)
    assert total == len(batch.visual["pixel_values"])
    assert largest * 3 == total
    text = random_tiny_encoder.encode([make_sample("i see 7.", "7", images=0)])
    assert patches_of(module, text) == (0, 0)


def test_an_update_is_planned_in_passes_of_the_budget(random_tiny_encoder, random_tiny_model, make_sample):
    prompts = random_tiny_encoder.encode_prompts([make_sample("i see 7.", "7", sample_id=str(row)) for row in range(3)])
    length = int(prompts.attention_mask.sum(1).max())
    whole = Loaded(random_tiny_encoder, random_tiny_model)
    size, passes = update_size(whole, prompts, rollout_size(whole, prompts))
    assert (size.tokens, passes) == (3 * length + 3 * 4 * 8, 1)
    assert size.labels == 3 * 4 * 8
    budget = length + 4 * 8 + 5
    cut = Loaded(random_tiny_encoder, random_tiny_model, micro_batch_tokens=budget)
    size, passes = update_size(cut, prompts, rollout_size(cut, prompts))
    assert (size.tokens, passes) == (budget, 3)
    halves = Loaded(random_tiny_encoder, random_tiny_model, minibatches=3)
    assert update_size(halves, prompts, rollout_size(halves, prompts))[0].tokens == length + 4 * 8


@pytest.mark.slow
@pytest.mark.parametrize("backbone", [Backbone(), Backbone(adapter=AdapterSettings())], ids=["full", "lora"])
def test_the_plan_follows_pairs(backbone, tmp_path):
    pairs = [with_pair(sample, "<think>i see nothing. </think>" * 20) for sample in long_samples(12)]
    assert is_close(measure_step(DPOModule(backbone), pairs, 4, tmp_path))
