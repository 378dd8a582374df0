"""Micro-batches of completions by a budget of tokens, so that one long completion cannot exhaust the memory."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence


def token_micro_batches(
    prompt_lengths: Sequence[int],
    completion_lengths: Sequence[int],
    prompt_of: Sequence[int],
    max_tokens: int,
    *,
    shares_prompts: bool = True,
) -> list[list[int]]:
    """Spreads completions over micro-batches whose padded tokens stay within a budget.

    Completions of a prompt stay together where they fit; where not, the group is cut, longest completions first. A
    single completion beyond the budget is a micro-batch of its own. Groups with prompts of like length come together,
    to keep padding small.

    Args:
        prompt_lengths: Tokens of each prompt.
        completion_lengths: Tokens of each completion.
        prompt_of: Prompt that each completion continues.
        max_tokens: The budget, see ``padded_tokens``; at least 1.
        shares_prompts: Whether a pass computes a prompt once for all its completions.

    Returns:
        Completions by index, in ascending order within a micro-batch, each in exactly one; the costliest first, so that
        a budget beyond the memory fails at once.

    Raises:
        ValueError: ``max_tokens`` is below 1, or the lists differ in length.

    Example:
        >>> token_micro_batches([10, 10], [5, 5, 5, 5], [0, 0, 1, 1], max_tokens=20)
        [[0, 1], [2, 3]]
    """
    if max_tokens < 1:
        raise ValueError(f"max_tokens is {max_tokens}; give at least 1")
    if len(completion_lengths) != len(prompt_of):
        raise ValueError(f"there are {len(completion_lengths)} completions, but prompts of {len(prompt_of)}")

    def cost(rows: Sequence[int]) -> int:
        prompts = {prompt_of[row] for row in rows}
        lengths = [prompt_lengths[prompt] for prompt in prompts]
        return padded_tokens(lengths, [completion_lengths[row] for row in rows], shares_prompts=shares_prompts)

    groups: dict[int, list[int]] = defaultdict(list)
    for row in sorted(range(len(prompt_of)), key=lambda row: -completion_lengths[row]):
        groups[prompt_of[row]].append(row)
    in_order = sorted(
        groups, key=lambda prompt: (-prompt_lengths[prompt], -completion_lengths[groups[prompt][0]], prompt)
    )
    batches: list[list[int]] = []
    for prompt in in_order:
        for piece in _pieces(groups[prompt], lambda rows: cost(rows) <= max_tokens):
            roomy = next((batch for batch in batches if cost([*batch, *piece]) <= max_tokens), None)
            if roomy is None:
                batches.append(list(piece))
            else:
                roomy.extend(piece)
    batches.sort(key=lambda rows: (-cost(rows), min(rows)))
    return [sorted(rows) for rows in batches]


def padded_tokens(
    prompt_lengths: Sequence[int], completion_lengths: Sequence[int], *, shares_prompts: bool = True
) -> int:
    """Counts the tokens of a micro-batch with the padding of its longest prompt and completion.

    Args:
        prompt_lengths: Tokens of the distinct prompts.
        completion_lengths: Tokens of the completions.
        shares_prompts: Whether each prompt counts once, or once for every completion of the micro-batch.
    """
    prompts = len(prompt_lengths) if shares_prompts else len(completion_lengths)
    return prompts * max(prompt_lengths, default=0) + len(completion_lengths) * max(completion_lengths, default=0)


def _pieces(rows: Sequence[int], fits: Callable[[Sequence[int]], bool]) -> list[list[int]]:
    """Cuts a group, in its order, into pieces that fit or have one member."""
    pieces: list[list[int]] = []
    for row in rows:
        if pieces and fits([*pieces[-1], row]):
            pieces[-1].append(row)
        else:
            pieces.append([row])
    return pieces
