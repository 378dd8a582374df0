"""What there is to tell of a round's completions, prompt by prompt and token by token, as plain data."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from lit_vlm.functional.kl_estimators import kl_estimate
from lit_vlm.functional.token_texts import token_texts
from lit_vlm.interfaces.records import Completion, Sample
from lit_vlm.interfaces.roles import SampleEncoder
from lit_vlm.interfaces.rollouts import Iteration, Rollouts

SIGNED = ("log_ratio", "advantage")
"""Numbers of a token that lie on both sides of 0."""


@dataclass(frozen=True)
class RewardPart:
    """What one reward function says of a completion."""

    name: str
    value: float
    """Before its weight; NaN where it does not apply."""
    weight: float


@dataclass(frozen=True)
class CompletionView:
    """One completion with all its numbers."""

    completion: Completion
    token_ids: tuple[int, ...]
    texts: tuple[str, ...]
    """What each token adds to the text; empty where it only begins a character, or is a special one."""
    numbers: dict[str, tuple[float, ...]]
    """For each token its ``entropy``, ``log_ratio``, ``kl``, ``advantage`` and ``log_prob``, as far as known."""
    reward: float = math.nan
    """NaN where it was not scored."""
    parts: tuple[RewardPart, ...] = ()
    details: dict[str, float] = field(default_factory=dict)
    advantage: float = math.nan
    """Mean over the tokens; NaN where there is none."""
    is_informative: bool = True
    """Whether the rewards of its group differ."""
    is_truncated: bool = False


@dataclass(frozen=True)
class PromptView:
    """A prompt with its completions."""

    sample: Sample
    prompt: str
    """As the model read it."""
    completions: tuple[CompletionView, ...]

    @property
    def scored(self) -> list[CompletionView]:
        """The completions with a reward, best first."""
        known = [item for item in self.completions if not math.isnan(item.reward)]
        return sorted(known, key=lambda item: -item.reward)


@dataclass(frozen=True)
class RoundView:
    """What is shown of a round."""

    step: int
    """Optimizer steps taken before it."""
    prompts: tuple[PromptView, ...]
    prompts_in_all: int
    """Prompts of this rank with completions, those not shown included."""
    without_completions: int
    """Prompts of this rank that have none: their groups were dropped."""
    left_out: int
    """Samples of this rank that could not be read."""
    figures: dict[str, float]


@dataclass(frozen=True)
class Scale:
    """The range of a number over all tokens shown."""

    bound: float
    """Where the strongest colour begins, on both sides of 0 for signed numbers."""
    lowest: float
    highest: float


def round_view(iteration: Iteration, encoder: SampleEncoder, most_prompts: int) -> RoundView:
    """Gathers what is known of the first prompts that have completions.

    Args:
        iteration: A round, after its update or as far as it has come.
        encoder: Turns token ids into text.
        most_prompts: Prompts at most.
    """
    rollouts = iteration.rollouts
    members: dict[int, list[int]] = {}
    if rollouts is not None:
        for row, prompt in enumerate(rollouts.prompt_of.tolist()):
            members.setdefault(prompt, []).append(row)
    views: list[PromptView] = []
    if rollouts is not None:
        numbers = _token_numbers(iteration, rollouts)
        for rows in list(members.values())[:most_prompts]:
            completions = tuple(_completion_view(iteration, rollouts, numbers, row, encoder) for row in rows)
            first = completions[0].completion
            views.append(PromptView(first.sample, first.prompt, completions))
    return RoundView(
        step=iteration.step,
        prompts=tuple(views),
        prompts_in_all=len(members),
        without_completions=len(iteration.prompts if rollouts is None else rollouts.prompts) - len(members),
        left_out=len(iteration.prompts.dropped),
        figures=dict(iteration.figures),
    )


def scales(prompts: Sequence[PromptView]) -> dict[str, Scale]:
    """Finds the range of each number that any token has.

    Single extremes would leave all others pale, so that 98 % of the sizes lie within the bound; it is at least 1e-3, so
    that rounding is not shown as difference.
    """
    values: dict[str, list[float]] = {}
    for prompt in prompts:
        for view in prompt.completions:
            for name, numbers in view.numbers.items():
                values.setdefault(name, []).extend(number for number in numbers if math.isfinite(number))
    found = {}
    for name, known in values.items():
        if known:
            sizes = sorted(map(abs, known))
            bound = max(sizes[math.ceil(0.98 * len(sizes)) - 1], 1e-3)
            found[name] = Scale(bound, min(known), max(known))
    return found


def _token_numbers(iteration: Iteration, rollouts: Rollouts) -> dict[str, Tensor]:
    """Tensors of shape ``(B, T)`` by name, on the CPU; only those that are known."""
    policy, reference = iteration.log_probs, rollouts.reference_log_probs
    # Without an update the policy is still the one that sampled.
    present = rollouts.log_probs if policy is None else policy
    tensors = {
        "entropy": rollouts.entropies,
        "log_ratio": None if policy is None else policy - rollouts.log_probs,
        "kl": None if reference is None else kl_estimate(present, reference, "k3"),
        "advantage": None if iteration.advantages is None else iteration.advantages.values,
        "log_prob": rollouts.log_probs,
    }
    return {name: tensor.detach().float().cpu() for name, tensor in tensors.items() if tensor is not None}


def _completion_view(
    iteration: Iteration, rollouts: Rollouts, numbers: Mapping[str, Tensor], row: int, encoder: SampleEncoder
) -> CompletionView:
    kept = rollouts.mask[row].bool().cpu()
    token_ids = rollouts.token_ids[row].cpu()[kept].tolist()
    rewards, advantages = iteration.rewards, iteration.advantages
    by_name = {name: tuple(tensor[row][kept].tolist()) for name, tensor in numbers.items()}
    of_tokens = by_name.get("advantage", ())
    return CompletionView(
        completion=rollouts.completions[row],
        token_ids=tuple(token_ids),
        texts=tuple(token_texts(token_ids, encoder.decode)),
        numbers=by_name,
        reward=math.nan if rewards is None else float(rewards.total[row]),
        parts=()
        if rewards is None
        else tuple(
            RewardPart(name, value, weight)
            for name, value, weight in zip(
                rewards.names, rewards.parts[row].tolist(), rewards.weights.tolist(), strict=True
            )
        ),
        details={} if rewards is None else {name: float(value[row]) for name, value in rewards.details.items()},
        advantage=sum(of_tokens) / len(of_tokens) if of_tokens else math.nan,
        is_informative=advantages is None or bool(advantages.is_informative[row]),
        is_truncated=bool(rollouts.is_truncated[row]),
    )
