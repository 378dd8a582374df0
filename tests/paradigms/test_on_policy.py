import pytest
import torch

from lit_vlm.advantages.group_filter import GroupFilter
from lit_vlm.callbacks.non_finite_guard import NonFiniteGuard
from lit_vlm.callbacks.rollout_callback import RolloutCallback
from lit_vlm.functional.fault_folder import read_fault
from lit_vlm.interfaces.capabilities import HasCoefficients, ProbesPolicy, SamplesRollouts
from lit_vlm.interfaces.errors import UserError
from lit_vlm.objectives.clipped_policy_loss import ClippedPolicyLoss
from lit_vlm.paradigms.group_sampling import GroupSampling
from lit_vlm.paradigms.grpo import GRPOModule
from lit_vlm.paradigms.policy_update import UpdateSettings
from lit_vlm.paradigms.reference_policy import ReferenceSettings
from tests.paradigms.on_policy_material import Same, data, fit, module

HOOKS = ["on_before_rollout", "on_after_rollout", "on_after_rewards", "on_after_advantages", "on_after_update"]
DIFFERS = GroupFilter(metric="reward")


class Order(RolloutCallback):
    """Notes the hooks and what a round holds at each."""

    def __init__(self):
        self.calls = []


def _note(name):
    def hook(self, trainer, pl_module, iteration):
        held = [
            field
            for field in ("rollouts", "rewards", "advantages", "log_probs")
            if getattr(iteration, field) is not None
        ]
        self.calls.append((name, held))

    return hook


for _name in HOOKS:
    setattr(Order, _name, _note(_name))


def test_callbacks_are_told_of_each_stage_with_what_is_known_then(random_tiny_folder):
    order = Order()
    model = module(random_tiny_folder)
    fit(model, data(model.encoder), steps=2, callbacks=[order])
    known = [[], ["rollouts"], ["rollouts", "rewards"], ["rollouts", "rewards", "advantages"]]
    assert order.calls == [*zip(HOOKS, [*known, [*known[-1], "log_probs"]], strict=True)] * 2


def test_what_callbacks_put_in_place_of_rewards_and_advantages_counts(random_tiny_folder):
    class Upside(RolloutCallback):
        def on_after_rewards(self, trainer, pl_module, iteration):
            iteration.rewards.total = -iteration.rewards.total

    class Nothing(RolloutCallback):
        def on_after_advantages(self, trainer, pl_module, iteration):
            iteration.advantages.values = torch.zeros_like(iteration.advantages.values)

    watches = []
    for callbacks in ([], [Upside()], [Nothing()]):
        model = module(random_tiny_folder)
        watches.append(fit(model, data(model.encoder), steps=1, callbacks=callbacks)[0])
    plain, upside, nothing = (watch.iterations[0] for watch in watches)
    torch.testing.assert_close(upside.advantages.values, -plain.advantages.values)
    assert nothing.figures["gradient_norm"] == 0
    assert plain.figures["gradient_norm"] > 0


def test_log_probs_after_the_update_are_those_of_the_policy(random_tiny_folder):
    model = module(random_tiny_folder)
    watch, _ = fit(model, data(model.encoder), steps=1)
    round_ = watch.iterations[0]
    torch.testing.assert_close(round_.log_probs, round_.rollouts.log_probs, atol=1e-4, rtol=0)


def test_rollouts_differ_between_steps_and_samples_but_not_between_runs(random_tiny_folder):
    tokens = []
    for _ in range(2):
        model = module(random_tiny_folder, rate=1e-9)
        watch, _ = fit(model, data(model.encoder, train_size=4), steps=2, max_epochs=-1)
        tokens.append([iteration.rollouts.token_ids for iteration in watch.iterations])
    assert torch.equal(tokens[0][0], tokens[1][0])
    assert not torch.equal(tokens[0][0], tokens[0][1])
    assert len(tokens[0][0].unique(dim=0)) > 8


@pytest.mark.parametrize("train_parts", [None, ["language"]])
def test_images_are_encoded_once_a_round_while_vision_is_frozen(random_tiny_folder, train_parts):
    model = module(
        random_tiny_folder,
        backbone={"train_parts": train_parts},
        objective=ClippedPolicyLoss(kl=0.1),
        reference=ReferenceSettings(),
        update=UpdateSettings(epochs=2),
    )
    calls = []

    class Count(RolloutCallback):
        def on_fit_start(self, trainer, pl_module):
            (name,) = pl_module.policy.parts["vision"]
            pl_module.policy.model.get_submodule(name).register_forward_hook(lambda *_: calls.append(1))

    fit(model, data(model.encoder), steps=2, callbacks=[Count()])
    # With a tower that trains: rollout (and old log-probabilities), reference, and two passes with a graph.
    assert len(calls) == (1 if train_parts else 4)


def test_dropped_groups_are_left_out_of_the_update(random_tiny_folder):
    keep = module(random_tiny_folder)
    drop = module(random_tiny_folder, groups=GroupSampling("drop", GroupFilter("reward", "range", 0.4, 0.6)))
    (all_of_them, _), (kept, _) = (fit(model, data(model.encoder), steps=1) for model in (keep, drop))
    every, chosen = all_of_them.iterations[0], kept.iterations[0]
    means = every.rewards.total.view(-1, 4).mean(1)
    worthwhile = (means > 0.4) & (means < 0.6)
    assert 0 < worthwhile.sum() < 4
    expected = worthwhile.repeat_interleave(4)
    assert chosen.rewards.total.tolist() == every.rewards.total[expected].tolist()
    longest = chosen.rollouts.token_ids.shape[1]
    assert torch.equal(chosen.rollouts.token_ids, every.rollouts.token_ids[expected][:, :longest])


def test_a_round_of_which_nothing_is_kept_changes_nothing(random_tiny_folder):
    model = module(random_tiny_folder, reward=Same(), groups=GroupSampling("drop", DIFFERS))
    watch, _ = fit(model, data(model.encoder), steps=5, max_epochs=1, limit_train_batches=2)
    assert watch.figure("updates") == [0.0, 0.0]
    assert model.trainer.global_step == 0


def test_groups_are_sampled_until_there_are_enough(random_tiny_folder):
    rule = GroupFilter("reward", "range", 0.45, 0.55)
    model = module(random_tiny_folder, groups=GroupSampling("resample", rule, max_rounds=50))
    watch, _ = fit(model, data(model.encoder, train_size=400), steps=2)
    assert len(watch.iterations) == 2
    assert model.unfinished_batches == 0
    for iteration in watch.iterations:
        assert iteration.figures["batches_per_update"] > 1
        rollouts = iteration.rollouts
        assert len(rollouts) == 16
        assert rollouts.prompt_of.unique().tolist() == [0, 1, 2, 3]
        means = iteration.rewards.total.view(4, 4).mean(1)
        assert bool(((means > 0.45) & (means < 0.55)).all())
        # What was put together again is what was sampled: the policy finds the same probabilities.
        torch.testing.assert_close(iteration.log_probs, rollouts.log_probs, atol=1e-4, rtol=0)
        for row, owner in enumerate(rollouts.prompt_of.tolist()):
            assert rollouts.completions[row].sample is rollouts.prompts.samples[owner]


def test_groups_that_never_suffice_stop_the_run_or_are_trained_on(random_tiny_folder):
    stopping = GroupSampling("resample", DIFFERS, max_rounds=2)
    model = module(random_tiny_folder, reward=Same(), groups=stopping)
    with pytest.raises(UserError, match=r"2 batches \(model.groups.max_rounds\) gave 0 groups .* of 4 wanted"):
        fit(model, data(model.encoder))
    rule = GroupFilter("reward", "range", 0.4, 0.6)
    training = GroupSampling("resample", rule, max_rounds=1, when_exhausted="train")
    model = module(random_tiny_folder, groups=training)
    watch, _ = fit(model, data(model.encoder), steps=1)
    assert 0 < len(watch.iterations[0].rollouts) < 16


def test_an_unknown_metric_of_the_filter_is_told_before_the_first_update(random_tiny_folder):
    model = module(random_tiny_folder, groups=GroupSampling("drop"))
    with pytest.raises(UserError, match="'correct', which no reward gives; there are reward, task, task/even"):
        fit(model, data(model.encoder))


def test_updates_without_finite_gradients_change_nothing_and_end_the_run(random_tiny_folder, tmp_path):
    class Spoil(RolloutCallback):
        """Lets a few gradients be NaN."""

        def __init__(self, rounds):
            self.rounds = rounds

        def on_after_advantages(self, trainer, pl_module, iteration):
            if trainer.global_step < self.rounds:
                iteration.advantages.values = iteration.advantages.values * torch.nan

    options = {"default_root_dir": tmp_path}
    model = module(random_tiny_folder)
    _, before = fit(model, data(model.encoder), steps=0)
    skipping = [Spoil(1), NonFiniteGuard(action="skip", most_in_a_row=2)]
    watch, after = fit(model, data(model.encoder), steps=1, callbacks=skipping, **options)
    assert watch.figure("skipped_updates") == [1.0]
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert read_fault(tmp_path / "faults" / "step_0_rank_0").rollouts["advantages"].isnan().any()
    model = module(random_tiny_folder)
    skipping = [Spoil(3), NonFiniteGuard(action="skip", most_in_a_row=2)]
    with pytest.raises(UserError, match="3 steps in a row would be skipped"):
        fit(model, data(model.encoder), steps=4, callbacks=skipping, **options)


def test_gradients_are_cut_down_to_their_largest_norm(random_tiny_folder):
    norms = []

    class Norm(RolloutCallback):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            def measure(optimizer, *_):
                gradients = [value.grad for group in optimizer.param_groups for value in group["params"]]
                norms.append(float(torch.nn.utils.get_total_norm([value for value in gradients if value is not None])))

            optimizer.register_step_post_hook(measure)

    model = module(random_tiny_folder, update=UpdateSettings(max_gradient_norm=1e-3))
    watch, _ = fit(model, data(model.encoder), steps=1, callbacks=[Norm()])
    assert watch.figure("gradient_norm")[0] > 1e-2
    assert norms == [pytest.approx(1e-3, rel=1e-3)]


def test_the_module_can_do_what_callbacks_ask_for(random_tiny_folder, make_sample):
    model = module(random_tiny_folder)
    fit(model, data(model.encoder), steps=1)
    assert isinstance(model, HasCoefficients)
    assert isinstance(model, SamplesRollouts)
    assert isinstance(model, ProbesPolicy)
    samples = [make_sample("i see 7.", "7"), make_sample("no", "1", images=0)]
    together = model.completion_log_probs(samples)
    alone = torch.cat([model.completion_log_probs([sample]) for sample in samples])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=0)
    assert model.policy.training
    completions = model.complete(samples)
    assert [completion.sample for completion in completions] == samples
    model.reward = None
    with pytest.raises(UserError, match=r"no model\.reward"):
        model.rewards_of(completions)


def test_prompts_that_leave_no_room_for_completions_are_the_samples_fault(random_tiny_folder):
    model = module(random_tiny_folder, max_tokens=10**6)
    fit(model, data(model.encoder), steps=1)
    assert model.encoder.max_tokens == model.policy.context_tokens - 6


def test_a_module_without_training_needs_no_reference_weights():
    model = GRPOModule(reference=ReferenceSettings())
    assert model._reference is None


def test_a_prompt_that_comes_again_before_the_update_gets_other_completions(random_tiny_folder):
    class Tokens(RolloutCallback):
        def __init__(self):
            self.rounds = []

        def on_after_rollout(self, trainer, pl_module, iteration):
            order = sorted(range(4), key=lambda row: iteration.prompts.samples[row].id)
            groups = iteration.rollouts.token_ids.view(4, 4, -1)
            self.rounds.append([groups[row].tolist() for row in order])

    tokens = Tokens()
    groups = GroupSampling("resample", DIFFERS, max_rounds=3)
    model = module(random_tiny_folder, reward=Same(), groups=groups)
    with pytest.raises(UserError, match="3 batches"):
        fit(model, data(model.encoder, train_size=4), max_epochs=-1, callbacks=[tokens])
    # The same four samples three times, all left out each time.
    first, second, third = tokens.rounds
    assert all(a != b != c != a for a, b, c in zip(first, second, third, strict=True))
