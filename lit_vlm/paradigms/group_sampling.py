"""What becomes of groups of completions that teach nothing: kept, dropped, or sampled again from other prompts.

Legend: ``B`` completions, ``T`` tokens of the longest completion, ``K`` reward functions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor
from torch.nn.functional import pad

from lit_vlm.advantages.group_filter import GroupFilter
from lit_vlm.interfaces.batches import PromptBatch
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import Sample
from lit_vlm.interfaces.rollouts import Rewards, Rollouts, SumOverRanks

Uninformative = Literal["keep", "drop", "resample"]


@dataclass(frozen=True)
class GroupSampling:
    """Whether groups whose completions all score alike are trained on.

    Source:
        Yu et al., DAPO (2025), section 3.2, dynamic sampling; verl ``docs/algo/dapo.md`` (confirmed-in-code).
    """

    uninformative: Uninformative = "keep"
    """``keep``: such groups count in the loss, with advantages of 0; ``drop``: they are left out; ``resample``: batches
    are sampled until as many groups are worth it as a batch has prompts, and the surplus is left out."""
    group_filter: GroupFilter = GroupFilter()
    """Tells the groups that are worth it."""
    max_rounds: int = 10
    """Most batches that one update may take where groups are sampled again."""
    when_exhausted: Literal["stop", "train"] = "stop"
    """What happens where they don't suffice: the run stops, or trains on the groups that there are."""

    def __post_init__(self) -> None:
        if self.uninformative not in get_args(Uninformative):
            raise UserError(
                f"model.groups.uninformative is {self.uninformative!r}; give one of "
                f"{', '.join(get_args(Uninformative))}"
            )
        if self.when_exhausted not in ("stop", "train"):
            raise UserError(f"model.groups.when_exhausted is {self.when_exhausted!r}; give stop or train")
        if self.max_rounds < 1:
            raise UserError(f"model.groups.max_rounds is {self.max_rounds}; give at least 1")

    def worthwhile(self, rewards: Rewards, rollouts: Rollouts) -> Tensor:
        """Lists the completions that are trained on, by index, shape ``(N,)``."""
        if self.uninformative == "keep":
            return torch.arange(len(rollouts), device=rollouts.prompt_of.device)
        return self.group_filter(rewards, rollouts.prompt_of).nonzero().squeeze(1)


class Chosen(NamedTuple):
    """What an update is made of."""

    rollouts: Rollouts
    rewards: Rewards
    batches: int
    """Batches that they come from; where it is above 1 the prompts are new ones."""


class WaitingGroups:
    """Rollouts that wait until there are enough groups for an update.

    Args:
        settings: How many batches may be taken.
    """

    def __init__(self, settings: GroupSampling) -> None:
        self._settings = settings
        self._parts: list[tuple[Rollouts, Rewards]] = []

    def __len__(self) -> int:
        return len(self._parts)

    @property
    def sample_ids(self) -> Iterator[str]:
        """The samples of all batches since the last update, of groups that were left out too."""
        return (sample.id for rollouts, _ in self._parts for sample in rollouts.prompts.samples)

    def add(self, rollouts: Rollouts, rewards: Rewards) -> None:
        """Lets those completions of a batch wait that are worth it."""
        rows = self._settings.worthwhile(rewards, rollouts)
        kept = rollouts.select(rows)
        self._parts.append((kept, select_rewards(rewards, rows, kept.token_ids.shape[1])))

    def are_enough(self, wanted: int, sum_over_ranks: SumOverRanks) -> bool:
        """Tells whether each rank has the groups that it wants, or may wait no longer; all ranks agree.

        Args:
            wanted: Groups of this rank.
            sum_over_ranks: Adds a tensor up over all ranks.

        Raises:
            UserError: No further batch may be taken, and the groups don't suffice.
        """
        if self._settings.uninformative != "resample":
            return True
        groups = sum(len(rollouts.prompt_of.unique()) for rollouts, _ in self._parts)
        device = self._parts[-1][0].prompt_of.device
        found, needed, short = sum_over_ranks(
            torch.tensor([groups, wanted, int(groups < wanted)], device=device)
        ).tolist()
        if not short:
            return True
        if len(self) < self._settings.max_rounds:
            return False
        if self._settings.when_exhausted == "train":
            return True
        raise UserError(
            f"{len(self)} batches (model.groups.max_rounds) gave {found} groups worth training on, of {needed} wanted; "
            "choose prompts that the policy solves sometimes, raise model.groups.max_rounds or "
            "model.group_size, or set model.groups.when_exhausted to train"
        )

    def take(self, wanted: int, encode: Callable[[Sequence[Sample]], PromptBatch], padding_id: int) -> Chosen:
        """Empties the store into one batch of at most so many groups.

        Args:
            wanted: Groups of this rank.
            encode: Makes a batch of prompts.
            padding_id: Fills rows after their end.
        """
        parts, self._parts = self._parts, []
        rollouts, rewards = parts[-1]
        if len(parts) > 1:
            samples = [part.prompts.samples[row] for part, _ in parts for row in part.prompt_of.unique().tolist()]
            prompts = encode(samples) if samples else rollouts.prompts
            rollouts = join_rollouts(prompts, [part for part, _ in parts], padding_id)
            rewards = join_rewards([part for _, part in parts], rollouts.token_ids.shape[1])
        rows = torch.isin(rollouts.prompt_of, rollouts.prompt_of.unique()[:wanted]).nonzero().squeeze(1)
        rollouts = rollouts.select(rows)
        return Chosen(rollouts, select_rewards(rewards, rows, rollouts.token_ids.shape[1]), len(parts))


def select_rewards(rewards: Rewards, rows: Tensor, length: int) -> Rewards:
    """Keeps the rewards of some completions.

    Args:
        rewards: On the CPU.
        rows: Indices, shape ``(N,)``.
        length: Tokens that the completions are cut to, of rewards of single tokens.
    """
    rows = rows.to(rewards.total.device)
    return replace(
        rewards,
        total=rewards.total[rows],
        parts=rewards.parts[rows],
        details={name: values[rows] for name, values in rewards.details.items()},
        per_token=None if rewards.per_token is None else _to_length(rewards.per_token[rows], length, 0),
    )


def join_rollouts(prompts: PromptBatch, parts: Sequence[Rollouts], padding_id: int) -> Rollouts:
    """Puts the completions of several batches into one.

    Args:
        prompts: The prompts of all that have a completion, batch by batch.
        parts: One or more batches of rollouts.
        padding_id: Fills rows after their end.
    """
    longest = max(part.token_ids.shape[1] for part in parts)
    owners, before = [], 0
    for part in parts:
        kept, places = part.prompt_of.unique(return_inverse=True)
        owners.append(places + before)
        before += len(kept)

    def joined(name: str, fill: int = 0) -> Tensor:
        return torch.cat([_to_length(getattr(part, name), longest, fill) for part in parts])

    return Rollouts(
        prompts=prompts,
        prompt_of=torch.cat(owners),
        token_ids=joined("token_ids", padding_id),
        mask=joined("mask"),
        log_probs=joined("log_probs"),
        is_truncated=torch.cat([part.is_truncated for part in parts]),
        completions=tuple(completion for part in parts for completion in part.completions),
        entropies=None if any(part.entropies is None for part in parts) else joined("entropies"),
        seconds={
            name: sum(part.seconds.get(name, 0.0) for part in parts) for name in {n for p in parts for n in p.seconds}
        },
    )


def join_rewards(parts: Sequence[Rewards], length: int) -> Rewards:
    """Puts the rewards of several batches into one; details that a batch lacks are NaN there.

    Args:
        parts: Of the same reward functions.
        length: Tokens of the longest completion of all.
    """
    names = {name for part in parts for name in part.details}
    missing = [torch.full_like(part.total, torch.nan) for part in parts]
    per_token = None
    if any(part.per_token is not None for part in parts):
        per_token = torch.cat(
            [
                part.total.new_zeros(len(part.total), length)
                if part.per_token is None
                else _to_length(part.per_token, length, 0)
                for part in parts
            ]
        )
    return replace(
        parts[0],
        total=torch.cat([part.total for part in parts]),
        parts=torch.cat([part.parts for part in parts]),
        details={
            name: torch.cat([part.details.get(name, nothing) for part, nothing in zip(parts, missing, strict=True)])
            for name in sorted(names)
        },
        per_token=per_token,
    )


def _to_length(values: Tensor, length: int, fill: int) -> Tensor:
    return pad(values[:, :length], (0, length - min(length, values.shape[1])), value=fill)
