"""One reward over a batch of completions, with every fault noticed and pinned to a sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lit_vlm.functional.time_limit import TimeLimitError, time_limit
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import Completion, RewardOutput
from lit_vlm.interfaces.roles import Reward
from lit_vlm.interfaces.rollouts import RewardContext
from lit_vlm.rewards.reward_pool import NOT_ASKED, RewardPool
from lit_vlm.rewards.reward_worker import described

SLOW_SECONDS, LONGEST_SECONDS = 60.0, 300.0
"""Of a reward without a time limit of its own, over all completions of a batch: until a warning, and until the end."""

Faults = dict[int, str]
"""What went wrong, by row of the batch."""


@dataclass(frozen=True)
class RewardRun:
    """What a reward made of a batch."""

    output: RewardOutput
    """NaN where the reward does not apply or failed."""
    faults: Faults
    """Rows that could not be scored, and why."""

    def stop_at_faults(self, name: str, completions: Sequence[Completion]) -> None:
        """Raises a ``UserError`` that names the reward, the first sample at fault and the number of others."""
        if self.faults:
            row, fault = min(self.faults.items())
            count = sum(reason != NOT_ASKED for reason in self.faults.values())
            others = f" (and {count - 1} more completions of this batch)" if count > 1 else ""
            raise UserError(
                f"the reward {name!r} {fault}, on sample {completions[row].sample.id!r}{others}. Mend it, or set its "
                "on_error to unscorable to leave such completions out"
            )


def run_reward(
    reward: Reward,
    completions: Sequence[Completion],
    context: RewardContext,
    pool: RewardPool | None = None,
    *,
    to_the_end: bool = True,
) -> RewardRun:
    """Asks a reward about a batch and checks its answer.

    Without a pool the whole batch is asked at once; where that fails, each completion is asked again by itself (each
    group, for a reward that needs groups) to find the one at fault. With a pool they are asked one by one anyway.

    Args:
        reward: What to ask.
        completions: ``B`` of them.
        context: What is known beside them.
        pool: Processes that ask ``reward``, where each question has a time limit.
        to_the_end: Whether a pool goes on after a fault; rows that it does not ask any more count as faults too.

    Returns:
        Scores of all rows; a fault is an exception, a time limit passed, a wrong number of scores, or a score that is
        infinite, or NaN where the reward says that it applies.
    """
    if not completions:
        return RewardRun(RewardOutput(torch.zeros(0)), {})
    units = _units(reward, len(completions), context)
    questions = [([completions[row] for row in unit], _part_of(context, unit)) for unit in units]
    if pool is not None:
        return _joined(units, pool.ask(questions, to_the_end=to_the_end), context)
    rows = tuple(range(len(completions)))
    whole = _joined([rows], [_asked(reward, completions, context)], context)
    if len(whole.faults) < len(rows) or len(units) == 1:
        return whole
    parts = _joined(units, [_asked(reward, *question) for question in questions], context)
    # A fault of the batch alone, which no completion shows by itself, is nobody's and so everybody's.
    return parts if parts.faults else whole


def _units(reward: Reward, count: int, context: RewardContext) -> list[tuple[int, ...]]:
    """Lists the rows that are scored together."""
    if not (reward.needs_groups and context.group_of):
        return [(row,) for row in range(count)]
    groups: dict[int, list[int]] = {}
    for row, group in enumerate(context.group_of):
        groups.setdefault(group, []).append(row)
    return [tuple(rows) for rows in groups.values()]


def _part_of(context: RewardContext, rows: Sequence[int]) -> RewardContext:
    return RewardContext(
        step=context.step,
        group_of=tuple(context.group_of[row] for row in rows) if context.group_of else (),
        token_ids=tuple(context.token_ids[row] for row in rows) if context.token_ids else (),
    )


def _asked(reward: Reward, completions: Sequence[Completion], context: RewardContext) -> RewardOutput | str:
    try:
        with time_limit(f"the reward {type(reward).__name__}", SLOW_SECONDS, LONGEST_SECONDS):
            return reward(completions, context)
    except TimeLimitError as limit:
        raise UserError(
            f"{limit} over {len(completions)} completions; give it a timeout (seconds for each completion) under "
            "WeightedRewards: it then runs in a process of its own, where a hanging one can be told from a slow one"
        ) from limit
    # A user's own code may raise anything; nothing is hidden, the caller reports it with the sample.
    except Exception as error:
        return described(error)


def _joined(
    units: Sequence[tuple[int, ...]], answers: Sequence[RewardOutput | str], context: RewardContext
) -> RewardRun:
    """Puts the answers about the units into the rows of the batch."""
    count = sum(map(len, units))
    total = torch.full((count,), torch.nan)
    applies = torch.zeros(count, dtype=torch.bool)
    details: dict[str, Tensor] = {}
    per_token: dict[int, Tensor] = {}
    faults: Faults = {}
    for unit, answer in zip(units, answers, strict=True):
        fault = answer if isinstance(answer, str) else _fault_of_form(answer, unit, context)
        if fault is not None or isinstance(answer, str):
            faults |= dict.fromkeys(unit, fault or "")
            continue
        rows = torch.tensor(unit)
        scores = answer.total.detach().float().cpu()
        wanted = torch.ones(len(unit), dtype=torch.bool) if answer.applies is None else answer.applies.cpu()
        total[rows] = scores.where(wanted, torch.nan)
        applies[rows] = wanted
        for name, values in answer.details.items():
            details.setdefault(name, torch.full((count,), torch.nan))[rows] = values.detach().float().cpu()
        for place, row in enumerate(unit):
            if answer.per_token is not None:
                per_token[row] = answer.per_token[place].detach().float().cpu()
            if wanted[place] and not scores[place].isfinite():
                faults[row] = f"returned {float(scores[place])}, which is no score (None says that it does not apply)"
            elif row in per_token and not per_token[row].isfinite().all():
                faults[row] = "returned a reward of a token that is not finite"
    for row in faults:
        total[row] = torch.nan
        applies[row] = False
    lengths = [len(ids) for ids in context.token_ids] or [0] * count
    tokens = tuple(
        per_token[row] if row in per_token and row not in faults else torch.zeros(lengths[row]) for row in range(count)
    )
    return RewardRun(RewardOutput(total, details, tokens if per_token else None, applies), faults)


def _fault_of_form(answer: object, unit: Sequence[int], context: RewardContext) -> str | None:
    """Says what is wrong with the form of an answer, None where it is right."""
    if not isinstance(answer, RewardOutput):
        return f"returned a {type(answer).__name__} where a RewardOutput is wanted"
    shape = (len(unit),)
    tensors = {"total": answer.total, **answer.details}
    if answer.applies is not None:
        tensors["applies"] = answer.applies
    for name, tensor in tensors.items():
        if tuple(tensor.shape) != shape:
            return f"returned {name!r} of shape {tuple(tensor.shape)} for {len(unit)} completions; wanted {shape}"
    if answer.per_token is None:
        return None
    if not context.token_ids:
        return "returned rewards of tokens, but the tokens are not known here"
    given = [tuple(tensor.shape) for tensor in answer.per_token]
    lengths = [(len(context.token_ids[row]),) for row in unit]
    return None if given == lengths else f"returned rewards of tokens of shapes {given}; wanted {lengths}"
