"""Parity with TRL's GRPOTrainer: advantages, loss and gradient from the same tokens, rewards and log-probabilities.

TRL's own ``_generate_and_score_completions`` and ``_compute_loss`` run on a trainer that has the attributes they read
and no model: completions, rewards and log-probabilities are random and given. Truncated completions have empty masks.
TRL is no dependency; put it in a folder of its own:

    uv pip install --target TRL_FOLDER --no-deps trl==1.16.0
    PYTHONPATH=TRL_FOLDER python benchmarks/parity_grpo.py --seeds 10
"""

import argparse
import contextlib
import sys
from collections import defaultdict
from dataclasses import dataclass, field, replace
from types import SimpleNamespace

import torch
import trl
from torch import Tensor
from trl.trainer.grpo_trainer import GRPOTrainer

from lit_vlm.advantages.group_relative import GroupRelative
from lit_vlm.functional.groups import weighted_total
from lit_vlm.interfaces.batches import PromptBatch
from lit_vlm.interfaces.records import Completion, Sample
from lit_vlm.interfaces.rollouts import PolicyBatch, PolicyTotals, Rewards, Rollouts
from lit_vlm.objectives.clipped_policy_loss import ClippedPolicyLoss

TOLERANCE = 1e-5
PROMPTS, GROUP, LONGEST = 6, 4, 12
END, PAD, WORD = 1, 0, 5


@dataclass(frozen=True)
class Case:
    """A setting in both libraries' words."""

    name: str
    objective: ClippedPolicyLoss
    trl: dict[str, object] = field(default_factory=dict)
    advantage: GroupRelative = field(default_factory=GroupRelative)
    scaling: str = "group"
    sums_first: bool = True
    updates: int = 2
    mask_truncated: bool = False
    micro_batches: int = 1


def cases() -> list[Case]:
    """All aggregations with each mechanism, then the mechanisms of the advantages."""
    found = []
    for aggregation in ("grpo", "bnpo", "dr_grpo", "dapo"):
        plain = ClippedPolicyLoss(aggregation=aggregation)

        def case(name, settings, words=None, plain=plain, **rest):
            words = {"loss_type": plain.aggregation, **(words or {})}
            found.append(Case(f"{plain.aggregation}, {name}", replace(plain, **settings), words, **rest))

        case("clip", {})
        case("on-policy", {}, updates=1)
        case("clip-higher", {"clip_high": 0.28}, {"epsilon_high": 0.28})
        case("two-sided clip", {"dual_clip": 1.5}, {"delta": 1.5})
        case("KL", {"kl": 0.04}, {"beta": 0.04})
        case("KL, bias correction", {"kl": 0.04, "kl_bias_correction": True}, {"beta": 0.04, "bias_correction": True})
        case("truncated masked", {"kl": 0.04}, {"beta": 0.04}, mask_truncated=True)
        if aggregation != "bnpo":  # TRL's is a mean of means there, ours a mean
            case("truncated, 3 micro-batches", {}, mask_truncated=True, micro_batches=3)
        if aggregation in ("bnpo", "dapo"):  # TRL's bonus is a mean over tokens, ours as the loss
            case("entropy bonus", {"entropy_bonus": 0.01}, {"entropy_coef": 0.01})
    narrow = {"clip_low": 3e-4, "clip_high": 4e-4, "ratio": "sequence", "aggregation": "grpo"}
    words = {"epsilon_low": 3e-4, "epsilon_high": 4e-4, "level": "sequence", "loss_type": "grpo"}
    wide = {"clip_low": 0.2, "clip_high": 0.28}, {"epsilon_low": 0.2, "epsilon_high": 0.28}
    corrected = {"kl": 0.04, "kl_bias_correction": True}, {"beta": 0.04, "bias_correction": True}
    for name, more, spelt in (("GSPO", {}, {}), ("GSPO, wide clip", *wide), ("GSPO, KL corrected", *corrected)):
        for masked in (False, True):
            suffix = ", truncated masked" if masked else ""
            found.append(
                Case(name + suffix, ClippedPolicyLoss(**{**narrow, **more}), {**words, **spelt}, mask_truncated=masked)
            )
    dapo = ClippedPolicyLoss(), {"loss_type": "dapo"}
    for scaling in ("group", "batch", "none"):
        found.append(Case(f"rewards scaled by {scaling}", *dapo, GroupRelative(scale=scaling), scaling))
    found.append(Case("normalise then sum", *dapo, GroupRelative(normalize_then_sum=True), sums_first=False))
    return found


@dataclass
class Material:
    """Random completions, rewards and log-probabilities of a batch."""

    ids: list[list[int]]
    mask: Tensor
    is_truncated: Tensor
    parts: Tensor
    weights: Tensor
    tables: dict[str, Tensor]
    entropies: Tensor


def draw(seed: int) -> Material:
    """Draws a batch of uneven lengths, with truncated completions, rewards that don't apply and an equal group."""
    generator = torch.Generator().manual_seed(seed)
    rows = PROMPTS * GROUP
    lengths = torch.randint(1, LONGEST + 1, (rows,), generator=generator)
    lengths[0] = LONGEST
    is_truncated = torch.rand(rows, generator=generator) < 0.3
    ids = [
        [WORD] * (length - 1) + [WORD if cut else END]
        for length, cut in zip(lengths.tolist(), is_truncated.tolist(), strict=True)
    ]
    parts = torch.randn(rows, 3, generator=generator)
    parts[torch.rand(rows, generator=generator) < 0.2, 1] = torch.nan
    parts[GROUP] = torch.nan
    parts[2 * GROUP : 3 * GROUP] = torch.tensor([1.0, 0.5, 0.25])
    policy = -torch.rand(rows, LONGEST, generator=generator) * 3
    noise = torch.randn(2, rows, LONGEST, generator=generator) * 0.3
    return Material(
        ids,
        (torch.arange(LONGEST) < lengths[:, None]).long(),
        is_truncated,
        parts,
        torch.tensor([1.0, 0.5, 2.0]),
        {"policy": policy, "old": policy + noise[0], "reference": policy + noise[1]},
        torch.rand(rows, LONGEST, generator=generator),
    )


class Named(torch.nn.Module):
    """Stands where a model would; its name picks the log-probabilities."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.is_gradient_checkpointing = False


class ModellessTrainer(GRPOTrainer):
    """TRL's trainer with what its loss and its advantages read, and log-probabilities from tables."""

    def __init__(self, case: Case, material: Material) -> None:
        words = case.trl
        self.material = material
        self.accelerator = SimpleNamespace(
            device=torch.device("cpu"), num_processes=1, process_index=0, sync_gradients=True,
            gather=lambda value: value, reduce=lambda value, reduction: value, gather_for_metrics=lambda value: value,
        )  # fmt: skip
        self.args = SimpleNamespace(
            per_device_train_batch_size=len(material.ids), steps_per_generation=case.micro_batches,
            gradient_accumulation_steps=case.micro_batches, gradient_checkpointing_kwargs=None,
            delta=words.get("delta"), use_bias_correction_kl=words.get("bias_correction", False), report_to=[],
        )  # fmt: skip
        self.model, self.ref_model = Named("old"), Named("reference")
        self.loss_type, self.beta = words["loss_type"], words.get("beta", 0.0)
        self.epsilon_low, self.epsilon_high = words.get("epsilon_low", 0.2), words.get("epsilon_high", 0.2)
        self.importance_sampling_level = words.get("level", "token")
        self.entropy_coef = words.get("entropy_coef", 0.0)
        self._entropy_bonus_enabled, self.use_adaptive_entropy = self.entropy_coef > 0, False
        self.num_iterations, self.current_gradient_accumulation_steps = case.updates, case.micro_batches
        self.num_generations, self.max_completion_length = GROUP, LONGEST
        self.mask_truncated_completions = case.mask_truncated
        self.multi_objective_aggregation = "sum_then_normalize" if case.sums_first else "normalize_then_sum"
        self.scale_rewards, self.reward_weights = case.scaling, material.weights
        self.reward_funcs = self.reward_func_names = ["a", "b", "c"]
        self.eos_token_ids, self._tokenizer, self.pad_to_multiple_of = [END], SimpleNamespace(pad_token_id=PAD), None
        self.environment_factories = self.environments = self.off_policy_mask_threshold = None
        self.top_entropy_quantile = 1.0
        self.use_vllm = self.aux_loss_enabled = self.log_multimodal = self._is_vlm = False
        self._sync_tool_dicts, self._async_tool_dicts = [], []
        self.tools = []
        self._metrics = {"train": defaultdict(list)}
        self._logs = defaultdict(list, rewards=defaultdict(list), extra=defaultdict(list))
        self._pending_extra_logs, self._pending_metrics = defaultdict(list), defaultdict(list)

    def _generate(self, prompts):
        ids = self.material.ids
        return [[WORD]] * len(ids), ids, None, [""] * len(ids), None, {}, None, None

    def _calculate_rewards(self, *_):
        return self.material.parts.clone()

    def _get_per_token_logps_and_entropies(self, model, *_, **__):
        if model.name == "policy":
            return model.table, self.material.entropies[model.rows], None
        return self.material.tables[model.name], self.material.entropies, None


def of_trl(case: Case, material: Material) -> tuple[Tensor, Tensor, Tensor]:
    """TRL's advantages, loss and gradient."""
    trainer = ModellessTrainer(case, material)
    inputs = trainer._generate_and_score_completions([{"prompt": ""} for _ in material.ids])
    policy = material.tables["policy"].clone().requires_grad_()
    total = torch.zeros(())
    for rows in torch.arange(len(material.ids)).chunk(case.micro_batches):
        model = Named("policy")
        model.table, model.rows = policy[rows], rows
        part = {name: value[rows] if value.dim() else value for name, value in inputs.items()}
        loss = trainer._compute_loss(model, part)
        loss.backward()
        total = total + loss.detach()
    return inputs["advantages"], total, policy.grad


def of_ours(case: Case, material: Material) -> tuple[Tensor, Tensor, Tensor]:
    """Our advantages, loss and gradient."""
    rows = len(material.ids)
    sample = Sample("s", ())
    group_of = torch.arange(rows) // GROUP
    empty = torch.zeros(PROMPTS, 0, dtype=torch.long)
    rollouts = Rollouts(
        PromptBatch(empty, empty, {}, (sample,) * PROMPTS), group_of, torch.zeros_like(material.mask), material.mask,
        material.tables["old"], material.is_truncated, tuple(Completion(sample, "", "", None) for _ in range(rows)),
    )  # fmt: skip
    total = weighted_total(material.parts, material.weights)
    rewards = Rewards(total, material.parts, material.weights, ("a", "b", "c"))
    advantages = case.advantage(rewards, rollouts, lambda value: value, {}).values
    mask = material.mask * (~material.is_truncated)[:, None] if case.mask_truncated else material.mask
    totals = PolicyTotals(int(mask.sum()), rows, int(mask.any(1).sum()), LONGEST)
    coefficients = {name: coefficient.value for name, coefficient in case.objective.coefficients().items()}
    policy = material.tables["policy"].clone().requires_grad_()
    old = policy.detach() if case.updates == 1 else material.tables["old"]
    loss = torch.zeros(())
    for part in torch.arange(rows).chunk(case.micro_batches):
        batch = PolicyBatch(
            policy[part], old[part], advantages[part], mask[part],
            material.tables["reference"][part] if case.objective.needs_reference else None, material.entropies[part],
        )  # fmt: skip
        share = case.objective(batch, totals, coefficients).share
        share.backward()
        loss = loss + share.detach()
    return advantages[:, 0], loss, policy.grad


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    seeds = range(parser.parse_args().seeds)
    print(
        f"TRL {trl.__version__}, torch {torch.__version__}; largest difference over {len(seeds)} seeds; "
        "that of the gradient relative to its largest entry"
    )
    print(f"{'case':40} {'advantage':>10} {'loss':>10} {'gradient':>10}")
    worst = 0.0
    for case in cases():
        gaps = torch.zeros(3)
        for material in map(draw, seeds):
            theirs, ours = of_trl(case, material), of_ours(case, material)
            found = [(mine - other).abs().max() for mine, other in zip(ours, theirs, strict=True)]
            found[2] = found[2] / theirs[2].abs().max()
            gaps = torch.maximum(gaps, torch.stack(found))
        told = " ".join(f"{gap:10.1e}" for gap in gaps.tolist())
        # A NaN must not pass.
        failed = not bool((gaps <= TOLERANCE).all())
        print(f"{case.name:40} {told}{'  DIFFERS' if failed else ''}", flush=True)
        worst = float("inf") if bool(gaps.isnan().any()) else max(worst, gaps.max().item())
    print(f"largest of all: {worst:.1e}, at most {TOLERANCE:.0e} wanted")
    if worst > TOLERANCE:
        sys.exit(1)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
