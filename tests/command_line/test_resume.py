"""Runs that are stopped at any moment and resumed end as those that never were: by all bits, on the CPU in fp32."""

import random
import sys
from pathlib import Path

import pytest

from lit_vlm.cli import main
from tests.command_line.killed_runs import (
    CALLBACKS,
    assert_goes_on,
    checkpoints,
    finish,
    kill_after,
    newest,
)
from tests.command_line.workplaces import enter
from tests.test_recipes import FOLDER, small_options, write_earlier_runs, write_own_data

KEEPER = """
  - class_path: Checkpointing
    init_args: {every_n_steps: 1, keep_last: 3, every_minutes: null}
"""
SFT = """
model:
  class_path: SFTModule
  init_args:
    backbone: {checkpoint: CHECKPOINT}
    generation: {max_new_tokens: 2, temperature: 1.0}
    optimizer: {learning_rate: 1.0e-3, schedule: cosine}
data:
  class_path: DigitsReasoning
  init_args: {train_size: 6, validation_size: 2, batch_size: 2, num_workers: 0}
trainer:
  max_epochs: 3
  accelerator: cpu
  log_every_n_steps: 1
  num_sanity_val_steps: 0
  enable_progress_bar: false
  callbacks:
"""
GRPO = """
model:
  class_path: GRPOModule
  init_args:
    backbone: {checkpoint: CHECKPOINT}
    engine: {class_path: HFRolloutEngine, init_args: {sampling: {max_new_tokens: 6}}}
    advantage: GroupRelative
    objective: {class_path: ClippedPolicyLoss, init_args: {kl: 0.02}}
    reference: {kind: frozen_copy, sync_every: 2, mixing: 0.6}
    reward: {class_path: FunctionReward, init_args: {function: my_rewards.thirds}}
    groups: {uninformative: resample, when_exhausted: train, max_rounds: 2, group_filter: {metric: reward}}
    group_size: 2
    optimizer: {learning_rate: 1.0e-2}
    generation: {max_new_tokens: 2}
    max_tokens: 512
data:
  class_path: DigitsReasoning
  init_args: {train_size: 8, validation_size: 2, batch_size: 2, num_workers: 0}
trainer:
  max_epochs: 4
  accelerator: cpu
  log_every_n_steps: 1
  num_sanity_val_steps: 0
  enable_progress_bar: false
  callbacks:
  - {class_path: watching.Watch}
  - {class_path: KLScheduler, init_args: {kind: adaptive, target: 0.001, horizon: 20}}
  - {class_path: SuccessRateCurriculum, init_args: {by: category, success: task}}
  - {class_path: EntropyMonitor}
"""
REWARD = """
def thirds(completion):
    return float(sum(map(ord, completion.text)) % 3 == 0)
"""
RECIPES = {"sft": SFT + KEEPER, "grpo": GRPO + KEEPER}
# What makes a run short.
SHORT = {
    "sft": ["--trainer.max_epochs=2", "--data.train_size=4"],
    "grpo": ["--trainer.max_epochs=3", "--data.train_size=4"],
}
OTHERS = {
    "dpo": ["--model.reference.kind=frozen_copy", "--model.reference.sync_every=2", "--model.reference.mixing=0.6"],
    "critique/cft": [],
    "drift/drift": [],
    "preference/aft": [],
    "preference/fgaif_existence": [],
}

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*Checkpoint directory.*"),
    pytest.mark.filterwarnings("ignore:.*tensorboard.*"),
]


@pytest.fixture
def workplace(tmp_path, monkeypatch, random_tiny_folder, one_thread):
    """A folder with the recipes, a reward and callbacks of a user's own."""
    for name, recipe in RECIPES.items():
        (tmp_path / f"{name}.yaml").write_text(recipe.replace("CHECKPOINT", str(random_tiny_folder)))
    (tmp_path / "my_rewards.py").write_text(REWARD)
    (tmp_path / "watching.py").write_text(CALLBACKS)
    enter(monkeypatch, tmp_path)
    yield tmp_path
    for name in ("my_rewards", "watching"):
        sys.modules.pop(name, None)


def stop(step):
    return ["--trainer.callbacks+=watching.Stop", f"--trainer.callbacks.step={step}"]


@pytest.mark.parametrize(("name", "step"), [("sft", 2), ("grpo", 1)])
def test_a_run_that_was_stopped_ends_as_if_it_had_not_been(workplace, name, step):
    words = ["fit", "--config", f"{name}.yaml", *SHORT[name]]
    assert main(words) == 0
    whole = newest(Path("runs") / name)
    assert len(checkpoints(whole)) >= 2
    with pytest.raises(RuntimeError, match="stopped"):
        main([*words, *stop(step)])
    assert main([*words, "--ckpt_path", "last"]) == 0
    rest = newest(Path("runs") / name)
    assert rest.name == "version_2"
    assert_goes_on(whole, rest.with_name("version_1"), rest, step)


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_every_kind_of_module_goes_on(workplace, name):
    recipe = FOLDER / f"{name}.yaml"
    write_own_data(workplace / "data")
    write_earlier_runs(recipe, workplace)
    words = ["fit", "--config", name, *small_options(recipe), *OTHERS[name], "--trainer.max_steps=4"]
    words += [
        "--trainer.callbacks+=Checkpointing",
        "--trainer.callbacks.every_n_steps=1",
        "--trainer.log_every_n_steps=1",
    ]
    words += ["--trainer.callbacks.keep_last=3"]
    assert main(words) == 0
    whole = newest(Path("runs") / recipe.stem)
    with pytest.raises(RuntimeError, match="stopped"):
        main([*words, *stop(3)])
    assert main([*words, "--ckpt_path", "last"]) == 0
    rest = newest(Path("runs") / recipe.stem)
    assert_goes_on(whole, rest.with_name("version_1"), rest, 3)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "points"), [("sft", 20), ("grpo", 10)])
@pytest.mark.parametrize("seed", [0])
def test_a_run_that_was_killed_at_any_moment_ends_as_if_it_had_not_been(workplace, name, points, seed):
    runs = workplace / "runs" / name
    words = ["fit", "--config", f"{name}.yaml"]
    finish(workplace, words)
    whole = newest(runs)
    last = int(checkpoints(whole)[-1].stem.removeprefix("step="))
    moments = random.Random(seed)
    for _ in range(points):
        step, delay = moments.randrange(1, last), moments.uniform(0, 0.3)
        killed = kill_after(workplace, words, runs, step, delay)
        saved = int(checkpoints(killed)[-1].stem.removeprefix("step="))
        assert saved >= step, (seed, step, delay)
        finish(workplace, [*words, "--ckpt_path", "last"])
        rest = newest(runs)
        if saved < last:
            assert_goes_on(whole, killed, rest, saved, was_killed=True)
