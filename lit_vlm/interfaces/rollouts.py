"""What flows in reinforcement learning: rollouts, rewards, advantages, losses.

Legend: ``P`` prompts, ``G`` completions of each (a group), ``B`` completions in all, ``T`` tokens of the longest
completion, ``K`` reward functions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from lit_vlm.interfaces.batches import PromptBatch
from lit_vlm.interfaces.records import Completion

SumOverRanks = Callable[[Tensor], Tensor]
"""Adds a tensor up over all ranks; the identity where there is one rank."""


@dataclass
class Rollouts:
    """Sampled completions of a batch of prompts, with what the sampling policy knew of them."""

    prompts: PromptBatch
    """The ``P`` distinct prompts, each once, left-padded."""
    prompt_of: Tensor
    """Row of ``prompts`` that each completion continues, shape ``(B,)``; equal numbers are a group."""
    token_ids: Tensor
    """Sampled tokens, right-padded, shape ``(B, T)``."""
    mask: Tensor
    """1 on sampled tokens, the end-of-turn token included, shape ``(B, T)``, int64."""
    log_probs: Tensor
    """Log-probability of each sampled token under the sampling policy: logits over the sampling temperature, before
    top-p, top-k and the like cut anything off; fp32, in nats, shape ``(B, T)``, 0 where masked."""
    is_truncated: Tensor
    """Whether a completion met the length limit before its end, bool, shape ``(B,)``."""
    completions: tuple[Completion, ...]
    """Texts with their samples and, where there is an answer, verdicts; ``B`` of them."""
    entropies: Tensor | None = None
    """Entropy of the distribution that ``log_probs`` belong to at each token, fp32, in nats, shape ``(B, T)``."""
    reference_log_probs: Tensor | None = None
    """Under the reference, fp32, shape ``(B, T)``; where an advantage estimator asks for them."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Wall time by stage, such as ``encode``, ``prefill``, ``decode``."""

    @classmethod
    def none(cls, prompts: PromptBatch) -> Rollouts:
        """Returns no completions at all, as of a batch whose samples were all left out."""
        ids = prompts.input_ids
        return cls(
            prompts=prompts,
            prompt_of=ids.new_zeros(0),
            token_ids=ids.new_zeros(0, 0),
            mask=ids.new_zeros(0, 0),
            log_probs=ids.new_zeros(0, 0, dtype=torch.float32),
            is_truncated=ids.new_zeros(0, dtype=torch.bool),
            completions=(),
            entropies=ids.new_zeros(0, 0, dtype=torch.float32),
        )

    def __len__(self) -> int:
        return int(self.token_ids.shape[0])

    @property
    def lengths(self) -> Tensor:
        """Sampled tokens of each completion, shape ``(B,)``."""
        return self.mask.sum(1)

    def select(self, rows: Tensor) -> Rollouts:
        """Keeps some completions, by index; the prompts stay, and the padding shared by all is cut off.

        Args:
            rows: Indices, shape ``(N,)``.
        """
        longest = int(self.mask[rows].sum(1).max()) if len(rows) else 0
        return replace(
            self,
            prompt_of=self.prompt_of[rows],
            token_ids=self.token_ids[rows, :longest],
            mask=self.mask[rows, :longest],
            log_probs=self.log_probs[rows, :longest],
            is_truncated=self.is_truncated[rows],
            completions=tuple(self.completions[row] for row in rows.tolist()),
            entropies=None if self.entropies is None else self.entropies[rows, :longest],
            reference_log_probs=(
                None if self.reference_log_probs is None else self.reference_log_probs[rows, :longest]
            ),
        )


@dataclass(frozen=True)
class RewardContext:
    """What a reward may know beside the completions."""

    step: int = 0
    """Optimizer steps taken so far."""
    group_of: tuple[int, ...] = ()
    """Group of each completion; empty where there are no groups, as in validation."""
    token_ids: tuple[tuple[int, ...], ...] = ()
    """Sampled tokens of each completion, without padding; empty where they are not kept."""


@dataclass
class Rewards:
    """All rewards of a batch of rollouts."""

    total: Tensor
    """Weighted sum over the functions that apply, fp32, shape ``(B,)``; NaN where none does (unscorable)."""
    parts: Tensor
    """Each function's own reward before its weight, fp32, shape ``(B, K)``; NaN where it does not apply."""
    weights: Tensor
    """Weight of each function, fp32, shape ``(K,)``."""
    names: tuple[str, ...]
    """Name of each function, ``K`` of them."""
    details: dict[str, Tensor] = field(default_factory=dict)
    """Named parts of the rewards for the log, each of shape ``(B,)``, NaN where it does not apply."""
    per_token: Tensor | None = None
    """Rewards of single tokens beside ``total``, already weighted, shape ``(B, T)``; None where no function gives
    any."""


@dataclass
class Advantages:
    """How much better than expected each token was."""

    values: Tensor
    """Advantage of each token, fp32, shape ``(B, T)``; 0 where masked or unscorable."""
    is_informative: Tensor
    """Whether a completion's group has rewards that differ, bool, shape ``(B,)``."""
    figures: dict[str, float] = field(default_factory=dict)
    """Numbers for the log, over all ranks."""


@dataclass
class PolicyBatch:
    """What an objective sees of the completions of one micro-batch, ``B`` of them."""

    log_probs: Tensor
    """Under the policy, with a graph, fp32, shape ``(B, T)``."""
    old_log_probs: Tensor
    """Under the policy that sampled, or as it was before the first update; shape ``(B, T)``."""
    advantages: Tensor
    """Shape ``(B, T)``."""
    mask: Tensor
    """1 on tokens that count, shape ``(B, T)``; a completion that is left out has none."""
    reference_log_probs: Tensor | None = None
    """Under the reference, shape ``(B, T)``."""
    entropies: Tensor | None = None
    """Of the policy, with a graph, in nats, shape ``(B, T)``."""


@dataclass(frozen=True)
class PolicyTotals:
    """Counts over everything that a loss is a mean of: one optimizer step, its micro-batches and all ranks."""

    tokens: int
    """Tokens that count."""
    sequences: int
    """Completions, those without any such token included."""
    active_sequences: int
    """Completions with at least one."""
    max_tokens: int
    """The configured length limit of a completion."""


@dataclass
class Loss:
    """A micro-batch's part of a loss."""

    share: Tensor
    """Scalar with a graph; the shares of all micro-batches and ranks add up to the loss."""
    sums: dict[str, Tensor] = field(default_factory=dict)
    """Numbers for the log as sums over tokens that count, scalars; divided by ``PolicyTotals.tokens`` when logged."""
    maxima: dict[str, Tensor] = field(default_factory=dict)
    """Numbers for the log as maxima over tokens that count, scalars, 0 where there is no such token."""


@dataclass
class Iteration:
    """One round of an on-policy paradigm, filled in as it goes on; what a ``RolloutObserver`` is shown.

    An observer may put another value in place of ``rewards`` (after rewards) or ``advantages`` (after advantages), of
    the same shapes; everything else is to be read only. All but ``figures`` are of this rank.
    """

    step: int
    """Optimizer steps taken before it."""
    prompts: PromptBatch
    """Prompts of this round, each once."""
    rollouts: Rollouts | None = None
    """After the rollout; from ``on_after_advantages`` on those that are trained on, of earlier rounds too where groups
    were sampled again."""
    rewards: Rewards | None = None
    """After rewards, one for each of ``rollouts``, on the CPU."""
    advantages: Advantages | None = None
    """After advantages, one for each of ``rollouts``."""
    log_probs: Tensor | None = None
    """After the update: log-probability of each token under the policy in the last pass over it, fp32, shape
    ``(B, T)``, 0 where masked."""
    figures: dict[str, float] = field(default_factory=dict)
    """After the update: what was logged of it, over all ranks, by name, such as ``kl``, ``entropy`` or ``loss``."""
