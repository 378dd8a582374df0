import shutil
from dataclasses import dataclass

import pytest
import torch

from lit_vlm.advantages.group_relative import GroupRelative
from lit_vlm.advantages.kl_in_reward import KLInReward
from lit_vlm.advantages.leave_one_out import LeaveOneOut
from lit_vlm.advantages.reinforce_plus_plus import ReinforcePlusPlus
from lit_vlm.callbacks.rollout_callback import RolloutCallback
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import RewardOutput
from lit_vlm.interfaces.rollouts import RewardContext
from lit_vlm.models.adapters import AdapterSettings
from lit_vlm.objectives.clipped_policy_loss import ClippedPolicyLoss
from lit_vlm.paradigms.grpo import GRPOModule
from lit_vlm.paradigms.policy_update import UpdateSettings
from lit_vlm.paradigms.reference_policy import ReferenceSettings
from tests.paradigms.on_policy_material import EvenTokens, Same, data, engine, fit, module


class Gradients(RolloutCallback):
    """Keeps the gradients of each optimizer step as they are before clipping, and the weights they belong to."""

    def __init__(self):
        self.steps = []
        self.weights = None

    def on_before_rollout(self, trainer, pl_module, iteration):
        self.weights = {name: value.detach().clone() for name, value in pl_module.policy.named_parameters()}

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        parameters = pl_module.policy.named_parameters()
        self.steps.append({name: value.grad.clone() for name, value in parameters if value.grad is not None})


def same_weights(first, second, tolerance=0.0):
    for name in first:
        torch.testing.assert_close(second[name], first[name], atol=tolerance, rtol=0)


def test_the_gradient_is_that_of_the_formula_written_out(random_tiny_folder):
    gradients = Gradients()
    model = module(random_tiny_folder, update=UpdateSettings(max_gradient_norm=None))
    watch, _ = fit(model, data(model.encoder), steps=1, callbacks=[gradients])
    rollouts, rewards = watch.iterations[0].rollouts, watch.iterations[0].rewards
    policy = model.policy
    with torch.no_grad():
        for name, value in policy.named_parameters():
            value.copy_(gradients.weights[name])
    policy.zero_grad()
    scores = policy.score_rollouts(
        rollouts.prompts, rollouts.token_ids, rollouts.mask, rollouts.prompt_of, prefix="naive"
    )
    grouped = rewards.total.view(4, 4)
    advantages = ((grouped - grouped.mean(1, keepdim=True)) / (grouped.std(1, keepdim=True) + 1e-4)).flatten()
    loss = -(advantages[:, None] * scores.log_probs * rollouts.mask).sum() / rollouts.mask.sum()
    loss.backward()
    for name, value in policy.named_parameters():
        torch.testing.assert_close(gradients.steps[0][name], value.grad, atol=2e-6, rtol=1e-3)


def test_pieces_within_a_token_budget_give_the_steps_of_one_pass(random_tiny_folder):
    results = []
    for budget in (100_000, 200):
        model = module(random_tiny_folder, update=UpdateSettings(micro_batch_tokens=budget))
        results.append(fit(model, data(model.encoder), steps=3))
    (whole, whole_weights), (parts, part_weights) = results
    assert parts.figure("loss") == pytest.approx(whole.figure("loss"), abs=1e-5)
    # Adam gives weights whose gradient is hardly more than rounding a full step.
    same_weights(whole_weights, part_weights, 3e-4)


def test_the_naive_pass_takes_the_same_steps(random_tiny_folder):
    results = []
    for prefix in ("shared", "naive"):
        model = module(random_tiny_folder, update=UpdateSettings(prefix=prefix))
        results.append(fit(model, data(model.encoder), steps=2)[1])
    same_weights(*results, 1e-4)


def test_two_seeded_runs_are_bit_identical(random_tiny_folder):
    runs = []
    for _ in range(2):
        model = module(random_tiny_folder)
        runs.append(fit(model, data(model.encoder)))
    same_weights(runs[0][1], runs[1][1])


def test_the_reward_rises(random_tiny_folder):
    model = module(random_tiny_folder, rate=3e-3, group_size=8)
    watch, _ = fit(model, data(model.encoder), steps=12)
    rewards = watch.figure("reward/mean")
    assert sum(rewards[-3:]) / 3 > sum(rewards[:3]) / 3 + 0.15


def test_equal_rewards_change_nothing(random_tiny_folder):
    gradients = Gradients()
    model = module(random_tiny_folder, reward=Same())
    watch, _ = fit(model, data(model.encoder), steps=1, callbacks=[gradients])
    assert watch.figure("equal_groups") == [1.0]
    assert all(not value.any() for value in gradients.steps[0].values())


@pytest.mark.parametrize(("epochs", "minibatches"), [(1, 1), (2, 1), (1, 2), (3, 2)])
def test_each_round_takes_epochs_times_minibatches_steps(random_tiny_folder, epochs, minibatches):
    update = UpdateSettings(epochs=epochs, minibatches=minibatches)
    model = module(random_tiny_folder, update=update)
    watch, _ = fit(model, data(model.encoder), steps=2 * epochs * minibatches)
    assert [iteration.step for iteration in watch.iterations] == [0, epochs * minibatches]
    assert watch.figure("updates") == [epochs * minibatches] * 2
    several = epochs * minibatches > 1
    assert all((figure > 0) == several for figure in watch.figure("old_kl"))


def test_a_first_pass_over_old_rollouts_has_ratio_one(random_tiny_folder):
    model = module(random_tiny_folder, rate=1e-9, update=UpdateSettings(epochs=2))
    watch, _ = fit(model, data(model.encoder), steps=2)
    assert watch.figure("ratio") == pytest.approx([1.0], abs=1e-5)
    assert watch.figure("ratio_max") == pytest.approx([1.0], abs=1e-4)


VARIANTS = {
    "dr_grpo": {"advantage": GroupRelative(scale="none"), "objective": ClippedPolicyLoss(aggregation="dr_grpo")},
    "dapo": {"objective": ClippedPolicyLoss(clip_high=0.28, aggregation="dapo")},
    "gspo": {"objective": ClippedPolicyLoss(ratio="sequence", clip_low=3e-4, clip_high=4e-4, aggregation="grpo")},
    "rloo": {
        "advantage": KLInReward(LeaveOneOut()),
        "reference": ReferenceSettings(),
        "objective": ClippedPolicyLoss(aggregation="grpo"),
    },
    "reinforce++": {"advantage": ReinforcePlusPlus(), "group_size": 1},
    "batch": {"advantage": GroupRelative(scale="batch"), "objective": ClippedPolicyLoss(entropy_bonus=0.01)},
    "kl": {"objective": ClippedPolicyLoss(kl=0.04), "reference": ReferenceSettings(sync_every=2, mixing=0.5)},
}


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_variants_are_other_parts_of_the_same_module(random_tiny_folder, variant):
    model = module(random_tiny_folder, update=UpdateSettings(epochs=2), **VARIANTS[variant])
    watch, weights = fit(model, data(model.encoder), steps=4)
    assert len(watch.iterations) == 2
    assert all(bool(value.isfinite().all()) for value in weights.values())
    assert all(figure > 0 for figure in watch.figure("gradient_norm"))


def test_a_divergence_begins_at_zero_and_grows(random_tiny_folder):
    model = module(random_tiny_folder, rate=3e-3, objective=ClippedPolicyLoss(kl=1e-3), reference=ReferenceSettings())
    watch, _ = fit(model, data(model.encoder), steps=4)
    divergences = watch.figure("kl")
    assert divergences[0] == pytest.approx(0, abs=1e-6)
    assert divergences[-1] > divergences[1] > 1e-6


def test_a_reference_that_follows_at_every_step_is_the_policy(random_tiny_folder):
    model = module(
        random_tiny_folder, rate=3e-3, objective=ClippedPolicyLoss(kl=1e-3), reference=ReferenceSettings(sync_every=1)
    )
    watch, _ = fit(model, data(model.encoder), steps=3)
    assert watch.figure("kl") == pytest.approx([0, 0, 0], abs=1e-6)


def test_truncated_completions_are_left_out_where_wanted(random_tiny_folder):
    gradients = Gradients()
    model = module(random_tiny_folder, engine=engine(2), update=UpdateSettings(mask_truncated=True))
    before = {name: value.clone() for name, value in fit(model, data(model.encoder), steps=0)[1].items()}
    watch, after = fit(model, data(model.encoder), steps=1, callbacks=[gradients], max_epochs=1, limit_train_batches=1)
    ended = ~watch.iterations[0].rollouts.is_truncated
    if not ended.any():
        assert watch.figure("updates") == [0]
        same_weights(before, after)
    else:
        assert watch.figure("updates") == [1]


def test_coefficients_are_those_of_all_parts():
    model = GRPOModule(objective=ClippedPolicyLoss(kl=0.1), reference=ReferenceSettings(), reward=EvenTokens())
    assert set(model.coefficients) == {"clip_low", "clip_high", "kl", "reward/task"}
    assert model.coefficients["kl"] == 0.1


def test_a_coefficient_that_a_callback_turns_counts_at_once(random_tiny_folder):
    class NoReward(RolloutCallback):
        def on_before_rollout(self, trainer, pl_module, iteration):
            pl_module.coefficients.set("reward/task", 0.0)

    model = module(random_tiny_folder)
    watch, _ = fit(model, data(model.encoder), steps=1, callbacks=[NoReward()])
    assert watch.figure("equal_groups") == [1.0]
    assert watch.figure("coefficient/reward/task") == [0.0]


def test_half_precision_trains(random_tiny_folder):
    model = module(random_tiny_folder, rate=3e-3, group_size=8)
    watch, weights = fit(model, data(model.encoder), steps=12, precision="bf16-mixed")
    rewards = watch.figure("reward/mean")
    assert sum(rewards[-3:]) / 3 > sum(rewards[:3]) / 3 + 0.1
    assert all(bool(value.isfinite().all()) for value in weights.values())


def test_an_adapter_is_trained_against_the_model_without_it(random_tiny_folder):
    model = module(
        random_tiny_folder,
        rate=1e-2,
        backbone={"adapter": AdapterSettings(rank=4)},
        objective=ClippedPolicyLoss(kl=1e-3),
        reference=ReferenceSettings("adapter_off"),
    )
    watch, _ = fit(model, data(model.encoder), steps=4)
    divergences = watch.figure("kl")
    assert divergences[0] == pytest.approx(0, abs=1e-6)
    assert divergences[-1] > 1e-5


def test_an_interrupted_run_goes_on_as_if_it_had_not_been(random_tiny_folder, tmp_path):
    def run(steps, callbacks=(), **options):
        model = module(
            random_tiny_folder,
            objective=ClippedPolicyLoss(kl=0.01),
            reference=ReferenceSettings(sync_every=2),
            update=UpdateSettings(minibatches=2),
        )
        watch, weights = fit(model, data(model.encoder), steps=steps, callbacks=callbacks, **options)
        return model, watch, weights

    class Save(RolloutCallback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            if trainer.global_step == 4:
                trainer.save_checkpoint(tmp_path / "four.ckpt")

    _, whole, expected = run(8, callbacks=[Save()], enable_checkpointing=True, default_root_dir=tmp_path)
    shutil.rmtree(tmp_path / "checkpoints")
    _, rest, found = run(8, ckpt_path=tmp_path / "four.ckpt", enable_checkpointing=True, default_root_dir=tmp_path)
    assert [iteration.step for iteration in rest.iterations] == [4, 6]
    same_weights(expected, found)
    assert rest.figure("kl") == whole.figure("kl")[2:]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"group_size": 1}, r"model\.group_size is 1, but GroupRelative compares"),
        ({"group_size": 0}, r"model\.group_size is 0"),
        ({"engine": engine(temperature=0.0)}, "temperature 0"),
        (
            {
                "advantage": KLInReward(GroupRelative()),
                "objective": ClippedPolicyLoss(kl=0.1),
                "reference": ReferenceSettings(),
            },
            "both weigh kl",
        ),
        ({"reference": ReferenceSettings(kind="adapter_off")}, r"there is no model\.backbone\.adapter"),
    ],
    ids=["one completion", "none", "greedy", "kl twice", "no adapter"],
)
def test_settings_that_do_not_go_together_are_refused_when_built(options, message):
    with pytest.raises(UserError, match=message):
        GRPOModule(**options)


def test_a_divergence_without_a_reference_is_refused_before_the_first_step(random_tiny_folder):
    model = module(random_tiny_folder, objective=ClippedPolicyLoss(kl=0.1))
    with pytest.raises(UserError, match=r"there is no reference; set model\.reference\.kind"):
        fit(model, data(model.encoder))


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("gradient_clip_val", 1.0, r"model\.update\.max_gradient_norm"),
        ("accumulate_grad_batches", 4, r"model\.update\.micro_batch_tokens"),
    ],
)
def test_options_of_the_trainer_that_do_not_apply_are_refused(random_tiny_folder, option, value, message):
    model = module(random_tiny_folder)
    with pytest.raises(UserError, match=message):
        fit(model, data(model.encoder), **{option: value})


def test_stop_strings_that_cannot_be_written_are_refused_before_the_first_step(random_tiny_folder):
    model = module(random_tiny_folder, engine=engine(stop_strings=("<|image_pad|>",)))
    with pytest.raises(UserError, match="stop"):
        fit(model, data(model.encoder))


def test_completions_beyond_the_context_are_refused_before_the_first_step(random_tiny_folder):
    model = module(random_tiny_folder, engine=engine(tokens=1_000_000))
    with pytest.raises(UserError, match="max_new_tokens"):
        fit(model, data(model.encoder))


@dataclass(frozen=True)
class AllTokens(ClippedPolicyLoss):
    """Has every completion scored."""

    @property
    def needs_all_tokens(self):
        return True


class Count(RolloutCallback):
    """Counts the completions that are scored."""

    def __init__(self):
        self.rows = 0

    def on_fit_start(self, trainer, pl_module):
        score = pl_module.policy.score_rollouts

        def counted(prompts, token_ids, *args, **options):
            self.rows += len(token_ids)
            return score(prompts, token_ids, *args, **options)

        pl_module.policy.score_rollouts = counted


@dataclass(frozen=True)
class HalfEqual(EvenTokens):
    """Lets the completions of every other prompt score alike."""

    def __call__(self, completions, context=RewardContext()):
        output = super().__call__(completions, context)
        equal = torch.tensor([group % 2 == 0 for group in context.group_of])
        return RewardOutput(output.total.masked_fill(equal, 0.5))


@pytest.mark.parametrize("update", [UpdateSettings(), UpdateSettings(epochs=2, minibatches=2)], ids=["one", "four"])
def test_completions_without_an_advantage_cost_no_pass_and_change_nothing(random_tiny_folder, update):
    results = []
    for objective in (ClippedPolicyLoss(aggregation="grpo"), AllTokens(aggregation="grpo")):
        model = module(random_tiny_folder, reward=HalfEqual(), objective=objective, update=update)
        counter = Count()
        watch, weights = fit(model, data(model.encoder), steps=2 * update.steps, callbacks=[counter])
        results.append((watch, weights, counter.rows))
    (few, few_weights, few_rows), (all_of_them, all_weights, all_rows) = results
    assert 0 < few_rows <= all_rows // 2
    assert few.figure("loss") == pytest.approx(all_of_them.figure("loss"), abs=1e-6)
    assert few.figure("gradient_norm") == pytest.approx(all_of_them.figure("gradient_norm"), rel=1e-4)
    same_weights(few_weights, all_weights, 1e-4)
