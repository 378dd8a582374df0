import math
import warnings
from dataclasses import replace

import pytest
import torch

from lit_vlm.functional.kl_estimators import kl_estimate
from lit_vlm.interfaces.coefficients import Coefficients
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.rollouts import PolicyBatch, PolicyTotals
from lit_vlm.objectives.clipped_policy_loss import ClippedPolicyLoss

AGGREGATIONS = ("grpo", "bnpo", "dapo", "dr_grpo")
# The card's Check, computed in float64.
LOG_PROBS = torch.tensor([[-1, -0.5, -2, -0.1], [-0.7, -1.2, -0.3, -9]], dtype=torch.float64)
OLD = torch.tensor([[-1.2, -0.5, -1.5, -0.1], [-0.7, -1, -0.9, -9]], dtype=torch.float64)
REFERENCE = torch.tensor([[-1.1, -0.4, -1.8, -0.2], [-0.8, -1.2, -0.5, -9]], dtype=torch.float64)
MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])


def make_loss(**settings):
    """The objective, silent where GSPO meets an aggregation that is not its own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ClippedPolicyLoss(**settings)


def make_batch(advantages=(1.0, -0.5), log_probs=LOG_PROBS, old=OLD, mask=MASK, reference=None, entropies=None):
    spread = torch.tensor(advantages, dtype=log_probs.dtype)[:, None].expand(log_probs.shape)
    return PolicyBatch(log_probs.clone().requires_grad_(), old, spread, mask, reference, entropies)


def count(mask, max_tokens=8):
    return PolicyTotals(int(mask.sum()), len(mask), int(mask.any(1).sum()), max_tokens)


def run(objective, batch, totals=None, **coefficients):
    values = {name: coefficient.value for name, coefficient in objective.coefficients().items()}
    return objective(batch, totals or count(batch.mask), {**values, **coefficients})


def gradient(objective, batch, totals=None, **coefficients):
    leaf = batch.log_probs
    leaf.grad = None
    run(objective, batch, totals, **coefficients).share.backward()
    return leaf.grad


def random_batch(seed=0, rows=6, tokens=7, spread=0.4):
    generator = torch.Generator().manual_seed(seed)
    log_probs = -torch.rand(rows, tokens, generator=generator, dtype=torch.float64) * 3
    noise = torch.randn(2, rows, tokens, generator=generator, dtype=torch.float64) * spread
    lengths = torch.randint(0, tokens + 1, (rows,), generator=generator)
    lengths[0], lengths[1] = tokens, 0
    return PolicyBatch(
        log_probs.requires_grad_(),
        log_probs.detach() + noise[0],
        torch.randn(rows, tokens, generator=generator, dtype=torch.float64),
        (torch.arange(tokens) < lengths[:, None]).long(),
        log_probs.detach() + noise[1],
        torch.rand(rows, tokens, generator=generator, dtype=torch.float64),
    )


def pick(batch, rows):
    tensors = {name: value[rows] for name, value in vars(batch).items() if value is not None}
    return PolicyBatch(**{**tensors, "log_probs": tensors["log_probs"].detach().clone().requires_grad_()})


EVERYTHING = [
    {"aggregation": aggregation, "ratio": ratio, "dual_clip": 1.6, "kl": 0.1, "entropy_bonus": 0.05, **more}
    for aggregation in AGGREGATIONS
    for ratio in ("token", "sequence")
    for more in ({}, {"kl_bias_correction": True, "empty_sequences": "exclude"})
]


@pytest.mark.parametrize(
    ("aggregation", "plain", "with_kl"),
    [
        ("grpo", -0.172412, -0.172074),
        ("bnpo", -0.283729, -0.283388),
        ("dr_grpo", -0.124132, -0.123982),
    ],
)
def test_the_check_of_the_card_is_reproduced(aggregation, plain, with_kl):
    loss = run(ClippedPolicyLoss(aggregation=aggregation), make_batch())
    assert loss.share.item() == pytest.approx(plain, abs=1e-6)
    loss = run(ClippedPolicyLoss(aggregation=aggregation, kl=0.04), make_batch(reference=REFERENCE))
    assert loss.share.item() == pytest.approx(with_kl, abs=1e-6)


def test_the_check_of_a_step_with_more_tokens_elsewhere():
    totals = PolicyTotals(tokens=10, sequences=3, active_sequences=3, max_tokens=8)
    assert run(ClippedPolicyLoss(), make_batch(), totals).share.item() == pytest.approx(-0.198611, abs=1e-6)
    loss = run(ClippedPolicyLoss(kl=0.04), make_batch(reference=REFERENCE), totals)
    assert loss.share.item() == pytest.approx(-0.198371, abs=1e-6)


@pytest.mark.parametrize(("settings", "expected"), [({"clip_high": 0.28}, -0.175088), ({"dual_clip": 1.5}, -0.199255)])
def test_the_check_of_the_clips(settings, expected):
    loss = run(ClippedPolicyLoss(aggregation="grpo", **settings), make_batch())
    assert loss.share.item() == pytest.approx(expected, abs=1e-6)


def test_the_check_of_the_gradient():
    found = gradient(ClippedPolicyLoss(aggregation="grpo"), make_batch())
    # The first token is clipped.
    assert found[0].tolist() == pytest.approx([0, -0.125, -0.075816, -0.125], abs=1e-6)
    assert found[1, 3] == 0


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_on_policy_the_ratio_is_one_and_the_gradient_that_of_reinforce(aggregation):
    batch = make_batch(old=LOG_PROBS)
    loss = run(ClippedPolicyLoss(aggregation=aggregation), batch)
    if aggregation == "grpo":
        assert loss.share.item() == pytest.approx(-0.25)
    weights = {"grpo": [1 / 8, 1 / 6], "dr_grpo": [1 / 16] * 2}.get(aggregation, [1 / 7] * 2)
    expected = -torch.tensor(weights, dtype=torch.float64)[:, None] * batch.advantages * MASK
    torch.testing.assert_close(gradient(ClippedPolicyLoss(aggregation=aggregation), batch), expected, atol=1e-7, rtol=0)
    assert loss.sums["ratio"].item() == 7
    assert loss.sums["old_kl"].item() == loss.sums["clipped_low"].item() == loss.sums["clipped_high"].item() == 0


def test_the_check_of_gspo():
    objective = ClippedPolicyLoss(ratio="sequence", aggregation="grpo")
    loss = run(objective, make_batch())
    assert loss.share.item() == pytest.approx(-0.178214, abs=1e-6)
    assert loss.sums["ratio"].item() == pytest.approx(4 * 0.927743 + 3 * 1.142631, abs=1e-5)
    assert loss.maxima["ratio"].item() == pytest.approx(1.142631, abs=1e-6)
    narrow = replace(objective, clip_low=3e-4, clip_high=4e-4)
    assert run(narrow, make_batch((-1.0, 0.5))).share.item() == pytest.approx(0.24975, abs=1e-5)


def test_gspo_has_the_gradient_of_verl_s_token_form():
    # sg(sequence ratio) * p / sg(p), the same for all tokens of a completion.
    batch = random_batch()
    batch.advantages = batch.advantages[:, :1].expand(batch.log_probs.shape)
    objective = ClippedPolicyLoss(ratio="sequence", aggregation="grpo")
    log_probs, mask = batch.log_probs, batch.mask
    lengths = mask.sum(1, keepdim=True).clamp(min=1)
    sequence = (((log_probs - batch.old_log_probs) * mask).sum(1, keepdim=True) / lengths).detach()
    ratios = (sequence + log_probs - log_probs.detach()).exp()
    losses = -torch.minimum(ratios * batch.advantages, ratios.clamp(0.8, 1.2) * batch.advantages)
    loss = ((losses * mask).sum(1) / lengths[:, 0]).mean()
    (expected,) = torch.autograd.grad(loss, log_probs)
    torch.testing.assert_close(gradient(objective, batch), expected)
    assert run(objective, batch).share.item() == pytest.approx(loss.item())


def test_dual_clip_is_verl_s():
    batch = random_batch(spread=1.0)
    ratios = (batch.log_probs - batch.old_log_probs).exp()
    outer = torch.maximum(-batch.advantages * ratios, -batch.advantages * ratios.clamp(0.8, 1.28))
    losses = torch.where(batch.advantages < 0, torch.minimum(-batch.advantages * 1.5, outer), outer)
    expected = (losses * batch.mask).sum() / batch.mask.sum()
    loss = run(ClippedPolicyLoss(clip_high=0.28, dual_clip=1.5), batch)
    assert loss.share.item() == pytest.approx(expected.item())
    assert loss.sums["clipped_dual"].item() == ((ratios > 1.5) & (batch.advantages < 0) & (batch.mask > 0)).sum() > 0


@pytest.mark.parametrize(("empty", "expected"), [("count", -0.475816), ("exclude", -0.951633)])
def test_the_check_of_a_truncated_completion(empty, expected):
    mask = MASK * torch.tensor([[1], [0]])
    loss = run(ClippedPolicyLoss(aggregation="grpo", empty_sequences=empty), make_batch(mask=mask))
    assert loss.share.item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("settings", EVERYTHING, ids=str)
class TestWhatAlwaysHolds:
    def test_micro_batches_of_unequal_size_and_ranks_give_the_same_loss_and_gradient(self, settings):
        objective, batch = make_loss(**settings), random_batch()
        totals = count(batch.mask)
        whole = run(objective, batch, totals)
        whole_gradient = gradient(objective, batch, totals)
        order = torch.randperm(6, generator=torch.Generator().manual_seed(1))
        share, found = 0.0, torch.zeros_like(whole_gradient)
        sums = dict.fromkeys(whole.sums, 0.0)
        for rows in order.split([1, 3, 2]):
            part = pick(batch, rows)
            loss = run(objective, part, totals)
            share += loss.share.item()
            found[rows] = gradient(objective, part, totals)
            sums = {name: total + loss.sums[name].item() for name, total in sums.items()}
        assert share == pytest.approx(whole.share.item())
        torch.testing.assert_close(found, whole_gradient)
        assert sums == pytest.approx({name: value.item() for name, value in whole.sums.items()})

    def test_padding_changes_nothing(self, settings):
        objective, batch = make_loss(**settings), random_batch()
        wide = PolicyBatch(
            **{
                name: torch.cat([value.detach(), torch.full((6, 3), 0 if name == "mask" else 50).to(value.dtype)], 1)
                for name, value in vars(batch).items()
            }
        )
        wide.log_probs.requires_grad_()
        assert run(objective, wide).share.item() == pytest.approx(run(objective, batch).share.item())
        torch.testing.assert_close(gradient(objective, wide)[:, :7], gradient(objective, batch))
        assert (wide.log_probs.grad[:, 7:] == 0).all()

    def test_gradients_are_those_of_finite_differences(self, settings):
        objective, batch = make_loss(**settings), random_batch()
        totals = count(batch.mask)

        def share(log_probs, entropies):
            return run(objective, replace(batch, log_probs=log_probs, entropies=entropies), totals).share

        entropies = batch.entropies.clone().requires_grad_()
        assert torch.autograd.gradcheck(share, (batch.log_probs, entropies), eps=1e-7)

    @pytest.mark.parametrize("extreme", [math.nan, math.inf, -math.inf, 1e30])
    def test_masked_tokens_may_hold_anything(self, settings, extreme):
        objective, batch = make_loss(**settings), random_batch()
        hidden = batch.mask == 0
        wild = PolicyBatch(
            **{
                name: value if name == "mask" else value.detach().masked_fill(hidden, extreme)
                for name, value in vars(batch).items()
            }
        )
        wild.log_probs.requires_grad_()
        loss = run(objective, wild)
        assert loss.share.item() == pytest.approx(run(objective, batch).share.item())
        torch.testing.assert_close(gradient(objective, wild), gradient(objective, batch))
        assert all(value.isfinite() for value in (*loss.sums.values(), *loss.maxima.values()))

    def test_no_token_that_counts_gives_zero_with_a_graph(self, settings):
        objective, batch = make_loss(**settings), random_batch()
        batch.mask = torch.zeros_like(batch.mask)
        for totals in (count(batch.mask), PolicyTotals(10, 8, 4, 8)):
            loss = run(objective, batch, totals)
            assert loss.share.item() == 0
            assert (gradient(objective, batch, totals) == 0).all()
            assert {value.item() for value in (*loss.sums.values(), *loss.maxima.values())} == {0}

    def test_no_completions_give_zero_with_a_graph(self, settings):
        objective, batch = make_loss(**settings), pick(random_batch(), torch.zeros(0, dtype=torch.long))
        assert run(objective, batch, PolicyTotals(10, 8, 4, 8)).share.item() == 0
        assert gradient(objective, batch, PolicyTotals(10, 8, 4, 8)).shape == (0, 7)

    def test_huge_ratios_stay_finite(self, settings):
        for clamp in (20.0, 40.0):
            objective = make_loss(**{**settings, "log_ratio_clamp": clamp, "dual_clip": None})
            batch = random_batch()
            batch = PolicyBatch(**{name: value.detach().float() for name, value in vars(batch).items()})
            batch.log_probs[0, :3] = torch.tensor([-1e4, -1e-4, -300])
            batch.old_log_probs[0, :3] = torch.tensor([-1e-4, -1e4, -1])
            batch.reference_log_probs[0, :3] = torch.tensor([-1e-4, -1e4, -1])
            batch.advantages[0, :3] = torch.tensor([0.0, -1.0, 0.0])
            batch.log_probs.requires_grad_()
            loss = run(objective, batch)
            assert all(value.isfinite() for value in (loss.share, *loss.sums.values(), *loss.maxima.values()))
            assert gradient(objective, batch).isfinite().all()


def test_the_log_is_of_the_tokens_that_count():
    batch = random_batch()
    loss = run(ClippedPolicyLoss(clip_high=0.28), batch)
    counted = batch.mask > 0
    log_ratios = (batch.log_probs - batch.old_log_probs).detach()
    ratios, signs = log_ratios.exp(), batch.advantages.sign()
    expected = {
        "ratio": ratios,
        "old_kl": kl_estimate(batch.old_log_probs, batch.log_probs.detach(), "k3"),
        "clipped_low": ((ratios < 0.8) & (signs < 0)).double(),
        "clipped_high": ((ratios > 1.28) & (signs > 0)).double(),
        "kl": kl_estimate(batch.log_probs.detach(), batch.reference_log_probs, "k3"),
        "entropy": batch.entropies,
    }
    assert {name: value.item() for name, value in loss.sums.items()} == pytest.approx(
        {name: value[counted].sum().item() for name, value in expected.items()}
    )
    assert loss.maxima["ratio"].item() == pytest.approx(ratios[counted].max().item())
    assert not any(value.requires_grad for value in (*loss.sums.values(), *loss.maxima.values()))


def test_clips_and_weights_are_read_at_the_call():
    batch = random_batch()
    objective = ClippedPolicyLoss(kl=0.1, entropy_bonus=0.1)
    for name, setting in (("clip_low", "clip_low"), ("clip_high", "clip_high"), ("kl", "kl")):
        turned = run(objective, batch, **{name: 0.37}).share
        fields = {"clip_high": 0.2, setting: 0.37}
        assert turned.item() == pytest.approx(run(replace(objective, **fields), batch).share.item())
        assert turned.item() != pytest.approx(run(objective, batch).share.item())
    # The mean entropy of the tokens that count, times what the weight grew by.
    grown = run(objective, batch).share - run(objective, batch, entropy_bonus=0.5).share
    assert grown.item() == pytest.approx(0.4 * batch.entropies[batch.mask > 0].mean().item())


def test_a_weight_of_zero_leaves_the_divergence_in_the_log_only():
    batch = random_batch()
    without = gradient(ClippedPolicyLoss(), batch)
    objective = ClippedPolicyLoss(kl=0.1)
    assert torch.equal(gradient(objective, batch, kl=0.0), without)
    assert run(ClippedPolicyLoss(), batch).sums["kl"] == run(objective, batch, kl=0.0).sums["kl"] > 0


def test_bias_correction_multiplies_by_the_ratio():
    batch = random_batch()
    objective = ClippedPolicyLoss(kl=0.1)
    corrected = run(replace(objective, kl_bias_correction=True), batch)
    ratios = (batch.log_probs - batch.old_log_probs).exp()
    divergences = kl_estimate(batch.log_probs, batch.reference_log_probs, "k3")
    extra = (divergences * (ratios - 1))[batch.mask > 0].mean()
    assert corrected.share.item() == pytest.approx((run(objective, batch).share + 0.1 * extra).item())


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3", "abs", "k1+", "k3+"])
def test_each_estimator_is_used(estimator):
    batch = random_batch()
    plain = run(ClippedPolicyLoss(), batch).share
    with_kl = run(ClippedPolicyLoss(kl=0.1, kl_estimator=estimator), batch).share
    expected = kl_estimate(batch.log_probs, batch.reference_log_probs, estimator)[batch.mask > 0].mean()
    assert (with_kl - plain).item() == pytest.approx(0.1 * expected.item())
    (wanted,) = torch.autograd.grad(0.1 * expected, batch.log_probs)
    found = gradient(ClippedPolicyLoss(kl=0.1, kl_estimator=estimator), batch) - gradient(ClippedPolicyLoss(), batch)
    torch.testing.assert_close(found, wanted)


def test_what_it_needs_follows_from_what_may_be_above_zero():
    assert not ClippedPolicyLoss().needs_reference
    assert not ClippedPolicyLoss().needs_entropies
    assert set(ClippedPolicyLoss().coefficients()) == {"clip_low", "clip_high"}
    assert ClippedPolicyLoss(kl=0.04).needs_reference
    assert ClippedPolicyLoss(highest_kl=0.5).needs_reference
    assert ClippedPolicyLoss(entropy_bonus=0.01).needs_entropies
    assert ClippedPolicyLoss(highest_entropy_bonus=0.1).coefficients()["entropy_bonus"].high == 0.1
    assert set(ClippedPolicyLoss(highest_kl=0.5).coefficients()) == {"clip_low", "clip_high", "kl"}


def test_callbacks_stay_within_bounds():
    coefficients = Coefficients(ClippedPolicyLoss(kl=0.04, dual_clip=3.0).coefficients())
    assert coefficients.set("kl", 5.0) == 1
    assert coefficients.set("clip_low", 2.0) < 1
    assert coefficients.set("clip_high", 9.0) == 2
    assert Coefficients(ClippedPolicyLoss(kl=2.0).coefficients()).set("kl", 5.0) == 2
    batch = random_batch()
    assert ClippedPolicyLoss(kl=0.04, dual_clip=3.0)(batch, count(batch.mask), coefficients).share.isfinite()


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"ratio": "word"}, "ratio is 'word'; it must be one of token, sequence"),
        ({"aggregation": "mean"}, "aggregation is 'mean'; it must be one of grpo, bnpo, dapo, dr_grpo"),
        ({"empty_sequences": "drop"}, "empty_sequences is 'drop'; it must be one of count, exclude"),
        ({"kl_estimator": "k4"}, "kl_estimator is 'k4'"),
        ({"clip_low": 1.0}, r"clip_low is 1.0; it must lie in \[0, 1\)"),
        ({"clip_low": -0.1}, "clip_low is -0.1"),
        ({"clip_high": -0.1}, "clip_high is -0.1; it must be finite and at least 0"),
        ({"clip_high": math.nan}, "clip_high is nan"),
        ({"dual_clip": 1.2}, r"dual_clip is 1.2; it must be finite and above 1 \+ clip_high, 1.2"),
        ({"dual_clip": 1.25, "clip_high": 0.28}, r"dual_clip is 1.25; .* 1.28"),
        ({"kl": -0.1}, "kl is -0.1 and highest_kl 0.0"),
        ({"kl": 0.2, "highest_kl": 0.1}, "kl is 0.2 and highest_kl 0.1"),
        ({"kl": math.nan}, "kl is nan"),
        ({"entropy_bonus": math.inf}, "entropy_bonus is inf"),
        ({"log_ratio_clamp": 0.0}, r"log_ratio_clamp is 0.0; it must lie in \(0, 40\]"),
        ({"log_ratio_clamp": 90.0}, "log_ratio_clamp is 90.0"),
    ],
)
def test_a_wrong_setting_is_named(settings, told):
    with pytest.raises(UserError, match=told):
        ClippedPolicyLoss(**settings)


def test_a_sequence_ratio_with_token_sums_is_warned_of():
    with pytest.warns(UserWarning, match="is not GSPO's objective; choose aggregation grpo"):
        ClippedPolicyLoss(ratio="sequence", aggregation="dapo")


def test_a_batch_that_lacks_something_is_refused():
    with pytest.raises(UserError, match="there is no reference; give the module one, or set kl to 0"):
        run(ClippedPolicyLoss(kl=0.1), make_batch())
    with pytest.raises(ValueError, match="wants the policy's entropies"):
        run(ClippedPolicyLoss(entropy_bonus=0.1), make_batch())
    with pytest.raises(UserError, match="max_tokens is 0"):
        run(ClippedPolicyLoss(aggregation="dr_grpo"), make_batch(), PolicyTotals(7, 2, 2, 0))
    with pytest.raises(ValueError, match=r"old_log_probs has shape \(2, 3\), the mask \(2, 4\)"):
        run(ClippedPolicyLoss(), make_batch(old=OLD[:, :3]))
