"""Rollouts and rewards without a model."""

import threading

import torch

from lit_vlm.functional.groups import weighted_total
from lit_vlm.interfaces.batches import PromptBatch
from lit_vlm.interfaces.records import Completion, Sample, user_message
from lit_vlm.interfaces.rollouts import Rewards, Rollouts


def alone(value):
    """The sum over one rank."""
    return value


def make_rollouts(lengths, group_of, log_probs=None, reference=None):
    """Completions of given lengths; log-probabilities default to zeros."""
    mask = (torch.arange(max(lengths, default=0)) < torch.tensor(lengths).view(-1, 1)).long()
    sample = Sample("s", (user_message("?"),))
    prompts = max(group_of, default=0) + 1
    empty = torch.zeros(prompts, 1, dtype=torch.long)
    return Rollouts(
        prompts=PromptBatch(empty, empty, {}, (sample,) * prompts),
        prompt_of=torch.tensor(group_of, dtype=torch.long),
        token_ids=mask,
        mask=mask,
        log_probs=torch.zeros(mask.shape) if log_probs is None else torch.as_tensor(log_probs),
        is_truncated=torch.zeros(len(lengths), dtype=torch.bool),
        completions=tuple(Completion(sample, "?", str(row), None) for row in range(len(lengths))),
        reference_log_probs=None if reference is None else torch.as_tensor(reference),
    )


def make_rewards(parts, weights=None, per_token=None, details=None):
    """Rewards of functions a, b, ...; a list of numbers is one function of weight 1."""
    parts = torch.as_tensor(parts)
    parts = parts[:, None] if parts.dim() == 1 else parts
    weights = torch.ones(parts.shape[1], dtype=parts.dtype) if weights is None else torch.as_tensor(weights)
    names = tuple("abcdef"[: parts.shape[1]])
    return Rewards(weighted_total(parts, weights), parts, weights, names, details or {}, per_token)


class Ranks:
    """Ranks in threads, whose sums wait for each other as those of processes do."""

    def __init__(self, count):
        self.barrier = threading.Barrier(count, timeout=20)
        self.slots = [None] * count
        self.calls = [0] * count

    def sum_of(self, rank):
        def sum_over_ranks(value):
            self.calls[rank] += 1
            self.slots[rank] = value.clone()
            self.barrier.wait()
            total = torch.stack(self.slots).sum(0)
            self.barrier.wait()
            return total

        return sum_over_ranks

    def run(self, *works):
        """Calls each work with its rank's sum, all at once; returns their results."""
        results = [None] * len(works)

        def call(rank):
            results[rank] = works[rank](self.sum_of(rank))

        threads = [threading.Thread(target=call, args=(rank,)) for rank in range(len(works))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(set(self.calls)) == 1, f"ranks summed {self.calls} times"
        return results


def estimate(estimator, parts, group_of, lengths=None, coefficients=None, sum_over_ranks=alone, **more):
    """Calls an estimator on rewards of completions of one token each, or of given lengths."""
    rollouts = make_rollouts(lengths or [1] * len(group_of), group_of)
    return estimator(make_rewards(parts, **more), rollouts, sum_over_ranks, coefficients or {})
