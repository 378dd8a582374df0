"""Rounds, a Trainer, a module and a DataModule without a model, and ranks that are threads."""

import threading
from types import SimpleNamespace

import torch

from lit_vlm.interfaces.batches import PromptBatch
from lit_vlm.interfaces.coefficients import Coefficient, Coefficients
from lit_vlm.interfaces.records import Completion, Sample, SampleMeta, Verdict, user_message
from lit_vlm.interfaces.rollouts import Iteration, Rewards, Rollouts
from tests.advantages.material import Ranks


class Module:
    """Offers what callbacks ask of an on-policy module, and keeps what is logged."""

    encoder = None
    group_size = 2
    sampling_temperature = 1.0
    unfinished_batches = 0

    def __init__(self, **declared):
        self.coefficients = Coefficients(declared or {"kl": Coefficient(0.04, 0.0, 1.0)})
        self.logged = {}

    def log(self, name, value, **options):
        assert options == {"on_step": True, "on_epoch": False, "batch_size": 1}
        self.logged[name] = value


class Data:
    """A DataModule that can be steered."""

    def __init__(self, **arms):
        self.counts = arms
        self.calls = []

    def arms(self, by):
        return self.counts

    def steer(self, by, probabilities):
        self.calls.append((by, dict(probabilities)))


class Strategy:
    """One rank's way to the others; counts its collectives."""

    root_device = torch.device("cpu")

    def __init__(self, sum_over_ranks):
        self.sum_over_ranks = sum_over_ranks
        self.calls = 0

    def reduce(self, value, reduce_op):
        assert reduce_op == "sum"
        self.calls += 1
        return self.sum_over_ranks(value)


def make_trainer(max_steps=100, data=None, rank=0, world_size=1, sum_over_ranks=None):
    return SimpleNamespace(
        max_steps=max_steps,
        datamodule=data,
        world_size=world_size,
        global_step=0,
        global_rank=rank,
        is_global_zero=rank == 0,
        loggers=[],
        should_stop=False,
        strategy=Strategy(sum_over_ranks),
    )


def make_rollouts(entropies=(), arms=(), correct=(), by="category"):
    """Completions whose tokens have the given entropies, a list each; arms and verdicts belong to them."""
    count = max(len(entropies), len(arms))
    entropies = list(entropies) or [[0.0]] * count
    correct = list(correct) or [None] * count
    longest = max((len(row) for row in entropies), default=0)
    mask = torch.tensor([[int(place < len(row)) for place in range(longest)] for row in entropies]).view(count, longest)
    values = torch.tensor([[*row, *[9.0] * (longest - len(row))] for row in entropies]).view(count, longest)
    completions = tuple(
        Completion(
            _sample(arms[row] if arms else "", by),
            "?",
            "",
            None if correct[row] is None else Verdict(correct=correct[row], parsed=None, formatted=True),
        )
        for row in range(count)
    )
    empty = torch.zeros(count, 1, dtype=torch.long)
    return Rollouts(
        prompts=PromptBatch(empty, empty, {}),
        prompt_of=torch.arange(count),
        token_ids=mask,
        mask=mask,
        log_probs=-values,
        is_truncated=torch.zeros(count, dtype=torch.bool),
        completions=completions,
        entropies=values,
    )


def _sample(arm, by):
    meta = {"category": SampleMeta(category=arm), "sample": SampleMeta()}
    known = meta[by] if by in meta else SampleMeta(difficulty=int(arm))
    return Sample(arm if by == "sample" else "s", (user_message("?"),), meta=known)


def make_iteration(rollouts=None, step=0, rewards=None, **figures):
    """A finished round; rewards are those of a function named ``task``."""
    rollouts = make_rollouts() if rollouts is None else rollouts
    parts = torch.full((len(rollouts), 1), torch.nan) if rewards is None else torch.tensor(rewards).view(-1, 1)
    given = Rewards(parts[:, 0], parts, torch.ones(1), ("task",))
    return Iteration(step, rollouts.prompts, rollouts, given, figures=figures)


def play(callback, trainer, module, *iterations):
    """Runs a round of one or more batches through a callback, and takes one optimizer step."""
    for iteration in iterations:
        callback.on_before_rollout(trainer, module, iteration)
        callback.on_after_rollout(trainer, module, iteration)
        callback.on_after_rewards(trainer, module, iteration)
    callback.on_after_advantages(trainer, module, iterations[-1])
    trainer.global_step += 1
    callback.on_after_update(trainer, module, iterations[-1])


def on_ranks(count, run):
    """Calls ``run(rank, make_trainer)`` for each rank in a thread of its own, and returns what they return."""
    ranks = Ranks(count)
    results, faults = [None] * count, []

    def work(rank):
        def make(**options):
            return make_trainer(rank=rank, world_size=count, sum_over_ranks=ranks.sum_of(rank), **options)

        try:
            results[rank] = run(rank, make)
        except BaseException as fault:
            faults.append(fault)
            ranks.barrier.abort()

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if faults:
        raise faults[0]
    return results
