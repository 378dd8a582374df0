"""Runs of the command line in processes of their own, which can be killed; and how two runs are compared."""

import json
import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.callbacks.resumable_fakes import differences

CALLBACKS = '''
import json
import os

from lightning import Callback

from lit_vlm.callbacks.rollout_callback import RolloutCallback
from lit_vlm.callbacks.run_folder import run_folder


class Stop(Callback):
    """Ends a run after so many optimizer steps, as a fault would."""

    def __init__(self, step):
        self.step = step

    def on_train_batch_start(self, trainer, *_):
        if trainer.global_step == self.step:
            raise RuntimeError("stopped")


class Watch(RolloutCallback):
    """Writes down what each rollout is made of."""

    def on_after_rewards(self, trainer, pl_module, iteration):
        rollouts = iteration.rollouts
        line = {
            "rank": trainer.global_rank,
            "step": trainer.global_step,
            "samples": [item.sample.id for item in rollouts.completions],
            "tokens": rollouts.token_ids.tolist(),
            "log_probs": rollouts.log_probs.tolist(),
            "rewards": iteration.rewards.total.tolist(),
        }
        with open(run_folder(trainer) / "rollouts.jsonl", "a") as file:
            print(json.dumps(line), file=file)
'''
TIMED = ("second", "throughput", "time")
"""What figures are called that depend on the clock."""


def newest(folder):
    """Returns the folder of the newest run."""
    return max(Path(folder).glob("version_*"), key=lambda path: int(path.name.removeprefix("version_")))


def checkpoints(run):
    """Lists the checkpoints of a run, the oldest first."""
    return sorted((run / "checkpoints").glob("*.ckpt"))


def figures(run):
    """Reads what a run has logged: by name and step."""
    events = EventAccumulator(str(run)).Reload()
    return {
        (name, event.step): event.value
        for name in events.Tags()["scalars"]
        if not any(word in name for word in TIMED)
        for event in events.Scalars(name)
    }


def rollouts(run):
    """Reads the rollouts that ``Watch`` has written, those of each rank in their order."""
    path = run / "rollouts.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [[line for line in lines if line["rank"] == rank] for rank in (0, 1)]


def assert_goes_on(whole, stopped, rest, step, was_killed=False):
    """Checks that a run that was stopped, and resumed after ``step`` steps, came to what one did in a single piece."""
    last = checkpoints(whole)[-1].name
    found = differences(whole / "checkpoints" / last, rest / "checkpoints" / last)
    assert [name for name in found if not any(word in name for word in TIMED)] == []
    expected, before, after = figures(whole), figures(stopped), figures(rest)
    assert after
    other = [name for logged in (before, after) for name, value in logged.items() if expected.get(name) != value]
    assert not other, other
    # A batch without an update logs the figures of the last one again, which a resumed run does not know. Those of the
    # checkpoint's own step are logged after it: a kill in between takes them.
    first = min(number for _, number in after)
    repeated = {(name, first) for name, number in expected if number == first - 1}
    lost = expected.keys() - before.keys() - after.keys()
    assert all(expected[name] == expected[name[0], first - 1] for name in lost & repeated)
    assert {number for _, number in lost - repeated} <= ({first - 1} if was_killed else set())
    for of_whole, of_stopped, of_rest in zip(rollouts(whole), rollouts(stopped), rollouts(rest), strict=True):
        assert of_stopped == of_whole[: len(of_stopped)]
        assert of_rest == [line for line in of_whole if line["step"] >= step]


def start(folder, words):
    """Starts the command line in a process that is forked from one that has imported everything already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["lit_vlm.command_line.training", "lit_vlm.paradigms.grpo", "lit_vlm.paradigms.sft"])
    process = context.Process(target=_run, args=(str(folder), list(words)), daemon=True)
    process.start()
    return process


def kill_after(folder, words, runs, step, delay):
    """Starts a run, and kills it so many seconds after it has saved a step.

    Returns:
        The folder of the run.
    """
    before = set(Path(runs).glob("version_*"))
    process = start(folder, words)
    try:
        while not any(_has_step(run, step) for run in set(Path(runs).glob("version_*")) - before):
            assert process.exitcode in (None, 0)
            if process.exitcode == 0:
                break
            time.sleep(0.005)
        time.sleep(delay)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    return newest(runs)


def finish(folder, words):
    """Runs to the end."""
    process = start(folder, words)
    process.join()
    assert process.exitcode == 0


def _has_step(run, step):
    return any(int(path.stem.removeprefix("step=")) >= step for path in checkpoints(run))


def _run(folder, words):
    import torch

    torch.set_num_threads(1)
    os.chdir(folder)
    sys.argv = ["lit-vlm"]
    with open(os.devnull, "w") as quiet:
        os.dup2(quiet.fileno(), 1)
    from lit_vlm.cli import main

    sys.exit(main(words))
