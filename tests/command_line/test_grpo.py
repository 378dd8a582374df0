"""Reinforcement learning as a user runs it: a recipe, a reward in a file, callbacks; and the mistakes they may make."""

import math
import sys
from pathlib import Path

import pytest
import yaml

from lit_vlm.cli import main
from lit_vlm.command_line.training import CommandLine
from lit_vlm.rewards import function_reward
from lit_vlm.rollouts.hf_rollout_engine import HFRolloutEngine
from tests.command_line.workplaces import enter

RECIPE = """
model:
  class_path: GRPOModule
  init_args:
    engine: {class_path: HFRolloutEngine, init_args: {sampling: {max_new_tokens: 8}}}
    advantage: GroupRelative
    objective: ClippedPolicyLoss
    group_size: 2
    generation: {max_new_tokens: 4}
    max_tokens: 512
data:
  class_path: DigitsReasoning
  init_args: {train_size: 16, validation_size: 4, batch_size: 2, num_workers: 0}
trainer: {max_steps: 2, accelerator: cpu, limit_val_batches: 0, enable_progress_bar: false, log_every_n_steps: 1}
"""

REWARDS = """
import time


def brevity(completion):
    return -float(completion.token_count % 3)


def constant(completion):
    return 1.0


def one_for_all(completions):
    return [1.0]


def broken(completion):
    raise RuntimeError("no such key")


def undefined(completion):
    return float("nan")


def words(completion):
    return "good"


def slow(completion):
    time.sleep(60)
    return 1.0
"""

PLAIN_DATA = """
from torch.utils.data import Dataset

from lit_vlm.data.vlm_data_module import VLMDataModule
from lit_vlm.interfaces.records import Answer, Sample, SampleMeta, user_message


class Questions(Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, index):
        meta = SampleMeta(category="count", origin=f"my.jsonl, line {index + 1}")
        question = (user_message(f"Count to {index}."),)
        return Sample(f"question {index}", question, answer=Answer("number", "1"), meta=meta)


class Plain(VLMDataModule):
    def __init__(self, encoder=None, **options):
        super().__init__(encoder, **options)

    @property
    def tasks(self):
        return ("count",)

    def samples(self, split):
        return Questions()
"""

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*Checkpoint directory.*"),
    pytest.mark.filterwarnings("ignore:.*tensorboard.*"),
]


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch, one_thread):
    """A folder with a recipe, rewards and data of a user's own."""
    (tmp_path / "small.yaml").write_text(RECIPE)
    (tmp_path / "my_rewards.py").write_text(REWARDS)
    (tmp_path / "my_plain_data.py").write_text(PLAIN_DATA)
    enter(monkeypatch, tmp_path)
    yield tmp_path
    for name in ("my_rewards", "my_plain_data"):
        sys.modules.pop(name, None)
    function_reward._load.cache_clear()


@pytest.fixture
def rounds(monkeypatch):
    """Counts the batches that completions were sampled for."""
    sampled = []
    sample = HFRolloutEngine.__call__
    monkeypatch.setattr(HFRolloutEngine, "__call__", lambda *words, **kept: sampled.append(1) or sample(*words, **kept))
    return sampled


def run(*words):
    return main(["fit", "--config", "small.yaml", *words])


def rewarded(function, **options):
    """Writes a recipe whose reward is a function in a file, and returns the words that add it."""
    reward = {"class_path": "FunctionReward", "init_args": {"function": f"my_rewards.{function}"}}
    if function == "one_for_all":
        reward["init_args"]["takes"] = "group"
    several = {
        "class_path": "WeightedRewards",
        "init_args": {"rewards": [{"name": function, "reward": reward, **options}]},
    }
    Path("rewarded.yaml").write_text(yaml.safe_dump({"model": {"init_args": {"reward": several}}}))
    return ["--config", "rewarded.yaml"]


def error_line(capsys):
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("lit-vlm: error: ")]
    assert len(lines) == 1
    return lines[0]


def test_a_run_with_callbacks_and_a_reward_from_a_file(workplace, rounds, monkeypatch, capsys):
    trainers = []
    monkeypatch.setattr(CommandLine, "after_fit", lambda self: trainers.append(self.trainer), raising=False)
    words = [
        *("--model.reward", "FunctionReward", "--model.reward.function", "my_rewards.brevity"),
        *("--model.objective.highest_kl", "0.1", "--model.reference.kind", "frozen_copy"),
        *("--trainer.callbacks+=KLScheduler", "--trainer.callbacks.end=0.1"),
        *("--trainer.callbacks+=EntropyMonitor", "--trainer.callbacks+=RolloutInspector"),
    ]
    assert run(*words) == 0, capsys.readouterr().err
    assert len(rounds) == 2
    (trainer,) = trainers
    assert trainer.global_step == 2
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    assert -2 <= metrics["train/reward/mean"] <= 0
    assert metrics["train/coefficient/kl"] == pytest.approx(0.05)  # half of the way to 0.1 when the second round began
    assert metrics["train/kl"] >= 0
    assert math.isfinite(metrics["train/loss"])
    assert any(name.startswith("entropy/") for name in metrics), sorted(metrics)
    folder = workplace / "runs" / "small" / "version_0"
    assert (folder / "config.yaml").is_file()
    pages = list(folder.rglob("*.html"))
    assert pages
    assert "question" in pages[0].read_text(encoding="utf-8").lower() or pages[0].stat().st_size > 1000


BEFORE_THE_FIRST_STEP = {
    "a single completion to compare": (
        ["--model.group_size", "1"],
        ("model.group_size is 1", "GroupRelative", "give 2 or more"),
    ),
    "no completion": (["--model.group_size", "0"], ("model.group_size is 0", "at least 1")),
    "more mini-batches than prompts": (
        ["--model.update.minibatches", "3"],
        ("model.update.minibatches is 3", "data.batch_size 2", "give at most 2"),
    ),
    "no epochs": (["--model.update.epochs", "0"], ("model.update.epochs is 0", "at least 1")),
    "a negative gradient norm": (
        ["--model.update.max_gradient_norm", "-1"],
        ("model.update.max_gradient_norm is -1.0", "above 0"),
    ),
    "completions longer than the context": (
        ["--model.engine.sampling.max_new_tokens", "4000"],
        ("sampling.max_new_tokens is 4000", "context holds 2048", "lower max_new_tokens"),
    ),
    "prompts longer than the context": (
        ["--model.engine.sampling.max_new_tokens", "2030"],
        ("digits_reasoning/train/", "more than max_tokens=18", "lower max_new_tokens (2030, of a context of 2048)"),
    ),
    "a stop string of a special token": (
        ["--model.engine.sampling.stop_strings", "['<|im_end|>']"],
        ("sampling.stop_strings", "'<|im_end|>'", "plain text"),
    ),
    "an empty stop string": (
        ["--model.engine.sampling.stop_strings", "['']"],
        ("sampling.stop_strings", "none of them empty"),
    ),
    "a lower clip above 1": (["--model.objective.clip_low", "1.5"], ("clip_low is 1.5", "[0, 1)")),
    "a negative upper clip": (["--model.objective.clip_high", "-0.1"], ("clip_high is -0.1", "at least 0")),
    "a dual clip below the upper one": (
        ["--model.objective.clip_high", "0.28", "--model.objective.dual_clip", "1.2"],
        ("dual_clip is 1.2", "above 1 + clip_high", "1.28"),
    ),
    "a divergence without a reference": (
        ["--model.objective.kl", "0.04"],
        ("no reference", "model.reference.kind", "frozen_copy"),
    ),
    "a divergence in reward and loss": (
        [
            *("--model.advantage", "KLInReward", "--model.advantage.estimator", "GroupRelative"),
            *("--model.objective.kl", "0.04", "--model.reference.kind", "frozen_copy"),
        ],
        ("both weigh kl", "model.objective", "KLInReward"),
    ),
    "an adapter to switch off that is not there": (
        ["--model.reference.kind", "adapter_off", "--model.objective.kl", "0.04"],
        ("model.reference.kind is adapter_off", "model.backbone.adapter", "frozen_copy"),
    ),
    "an unknown reference": (["--model.reference.kind", "frozen"], ("model.reference.kind", "'frozen_copy'")),
    "the Trainer's clipping": (
        ["--trainer.gradient_clip_val", "1.0"],
        ("trainer.gradient_clip_val is 1.0", "model.update.max_gradient_norm"),
    ),
    "the Trainer's accumulation": (
        ["--trainer.accumulate_grad_batches", "2"],
        ("trainer.accumulate_grad_batches is 2", "model.update.micro_batch_tokens"),
    ),
    "a schedule without a coefficient": (
        ["--trainer.callbacks+=KLScheduler"],
        ("KLScheduler", "'kl'", "clip_low"),
    ),
    "a schedule of an unknown coefficient": (
        ["--trainer.callbacks+=KLScheduler", "--trainer.callbacks.coefficient=kll"],
        ("KLScheduler", "'kll'", "clip_low"),
    ),
    "a curriculum on data without levels": (
        [
            *("--data", "my_plain_data.Plain", "--data.batch_size", "2", "--data.num_workers", "0"),
            *("--trainer.callbacks+=SuccessRateCurriculum", "--trainer.callbacks.by=difficulty"),
        ],
        ("my.jsonl, line 1", "difficulty"),
    ),
    "a curriculum on data of one level": (
        [
            *("--data.levels", "[1]"),
            *("--trainer.callbacks+=SuccessRateCurriculum", "--trainer.callbacks.by=difficulty"),
        ],
        ("SuccessRateCurriculum", "difficulty", "two or more"),
    ),
    "temperature 0": (
        ["--model.engine.sampling.temperature", "0"],
        ("temperature 0", "above 0"),
    ),
    "an unknown aggregation": (
        ["--model.objective.aggregation", "mean"],
        ("--model.objective.aggregation", "'mean'", "'dr_grpo'"),
    ),
    "an unknown field of an objective": (
        ["--model.objective.clip_lo", "0.1"],
        ("--model.objective.clip_lo", "clip_low"),
    ),
    "an unknown field within an engine": (
        ["--model.engine.sampling.temprature", "1"],
        ("--model.engine.sampling.temprature", "temperature"),
    ),
    "an unknown field of a dataclass": (["--model.update.epochz", "2"], ("--model.update.epochz", "epochs")),
    "an unknown field within a dataclass": (
        ["--model.groups.group_filter.metrik", "reward"],
        ("--model.groups.group_filter.metrik", "metric"),
    ),
    "an unknown field of the reference": (["--model.reference.knd", "frozen_copy"], ("--model.reference.knd", "kind")),
    "a value of the wrong kind": (["--model.group_size", "many"], ("--model.group_size", "a whole number")),
    "an unknown way with groups": (
        ["--model.groups.uninformative", "forget"],
        ("--model.groups.uninformative", "'forget'", "'resample'"),
    ),
    "a reward that is not there": (
        ["--model.reward", "FunctionReward", "--model.reward.function", "my_rewards.brevty"],
        ("my_rewards", "'brevty'", "brevity"),
    ),
    "a reward in a file that is not there": (
        ["--model.reward", "FunctionReward", "--model.reward.function", "gone.brevity"],
        ("'gone'", "run the command in the folder"),
    ),
    "a rollout callback beside another paradigm": (
        ["--model", "SFTModule", "--trainer.callbacks+=EntropyMonitor"],
        ("EntropyMonitor", "GRPOModule"),
    ),
}


@pytest.mark.parametrize("mistake", BEFORE_THE_FIRST_STEP)
def test_a_mistake_is_told_before_the_first_step(mistake, rounds, capsys):
    words, told = BEFORE_THE_FIRST_STEP[mistake]
    assert run(*words) == 2
    line = error_line(capsys)
    assert all(part in line for part in told), line
    assert not rounds


REWARD_FAULTS = {
    "one_for_all": ({}, ("returned 1 scores for a group of 2 completions",)),
    "broken": ({}, ("RuntimeError", "no such key")),
    "undefined": ({}, ("nan",)),
    "words": ({}, ("returned a str", "a float, or None")),
    "slow": ({"timeout": 0.05, "workers": 1}, ("0.05 s",)),
}


@pytest.mark.parametrize("function", REWARD_FAULTS)
def test_a_reward_that_fails_stops_the_run_with_its_name_and_the_sample(function, rounds, capsys):
    options, told = REWARD_FAULTS[function]
    assert run(*rewarded(function, **options), "--data.batch_size", "1") == 2
    line = error_line(capsys)
    assert f"the reward '{function}'" in line, line
    assert "on sample 'digits" in line, line
    assert "on_error to unscorable" in line
    assert all(part in line for part in told), line
    assert len(rounds) == 1


def test_a_reward_that_fails_may_be_left_out_instead(rounds, capsys):
    assert run(*rewarded("broken", on_error="unscorable"), "--trainer.max_steps", "1") == 0, capsys.readouterr().err
    assert len(rounds) == 1


def test_a_filter_by_a_score_that_no_reward_gives_lists_those_there_are(rounds, capsys):
    words = ["--model.groups.uninformative", "drop", "--model.groups.group_filter.metric", "accuracy"]
    assert run(*words) == 2
    line = error_line(capsys)
    assert all(part in line for part in ("'accuracy'", "no reward gives", "reward, task, task/correct")), line


def test_groups_that_never_differ_end_a_run_that_samples_until_they_do(rounds, capsys):
    words = ["--model.groups.uninformative", "resample", "--model.groups.max_rounds", "3"]
    assert run(*rewarded("constant"), *words, "--model.groups.group_filter.metric", "reward") == 2
    line = error_line(capsys)
    assert all(part in line for part in ("3 batches", "model.groups.max_rounds", "when_exhausted")), line
    assert len(rounds) == 3
