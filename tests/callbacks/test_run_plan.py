import warnings
from types import SimpleNamespace

import pytest
import torch

from lit_vlm.callbacks import run_plan
from lit_vlm.callbacks.run_plan import RunPlan, device_memory, memory_lines, shortage, size_text, steps_left, token_line
from lit_vlm.callbacks.training_tally import TrainingTally
from lit_vlm.interfaces.batches import PromptBatch
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.memory import FirstBatches, MemoryPlan
from lit_vlm.interfaces.records import TokenCount

MASK = torch.ones(2, 5, dtype=torch.long)
FIRST = FirstBatches(PromptBatch(MASK, MASK, {}), (TokenCount(60, 40), TokenCount(80, 20)), (2, 2), images=3)
PLAN = MemoryPlan(
    {
        "forward ends": {"weights, language": 2**20, "activations, language": 5 * 2**20, "optimizer state": 2 * 2**20},
        "optimizer step": {"weights, language": 2**20, "gradients": 2**20},
    },
    "2 rows of 5 tokens",
)


class Data:
    def first_batches(self, most):
        self.asked = most
        return FIRST


class Module:
    def memory_plan(self, batch):
        self.asked = batch
        return PLAN


def trainer(**changed):
    strategy = SimpleNamespace(root_device=torch.device("cpu"), reduce=lambda value, reduce_op: 2 * value)
    options = {
        "is_global_zero": True,
        "datamodule": Data(),
        "strategy": strategy,
        "world_size": 2,
        "num_devices": 1,
        "accumulate_grad_batches": 3,
        "global_step": 0,
        "max_steps": -1,
        "max_epochs": 2,
        "current_epoch": 0,
        "num_training_batches": 10,
    }
    return SimpleNamespace(**{**options, **changed})


def test_the_plan_is_printed_before_the_first_step(capsys):
    module, given = Module(), trainer()
    RunPlan(batches=4).on_fit_start(given, module)
    told = capsys.readouterr().out
    assert given.datamodule.asked == 4
    assert module.asked is FIRST.largest
    # 200 tokens of 4 samples in two batches; six parts make a step.
    assert "a step has 600 tokens of 12 samples, 180 tokens of images, 20 each (by the first 2 batches)" in told
    assert "predicted memory of a device: 8.0 MiB, where the forward ends (2 rows of 5 tokens)" in told
    assert "activations, language  5.0 MiB" in told
    assert "at other moments: optimizer step 2.0 MiB" in told


@pytest.mark.parametrize("changed", [{"is_global_zero": False}, {"datamodule": object()}])
def test_only_the_first_rank_with_data_that_tell_prints(changed, capsys):
    RunPlan().on_fit_start(trainer(**changed), Module())
    RunPlan(batches=0).on_fit_start(trainer(), Module())
    assert capsys.readouterr().out == ""


def test_a_module_without_a_plan_tells_tokens_alone(capsys):
    RunPlan().on_fit_start(trainer(), object())
    told = capsys.readouterr().out
    assert "a step has" in told
    assert "memory" not in told


def test_too_little_memory_is_warned_of_with_what_to_change(monkeypatch):
    monkeypatch.setattr(run_plan, "device_memory", lambda given: 6 * 2**20)
    with pytest.warns(UserWarning, match=r"need 8\.0 MiB of a device that has 6\.0 MiB") as seen:
        RunPlan().on_fit_start(trainer(), Module())
    told = str(seen[0].message)
    assert told.index("for activations") < told.index("for optimizer state")
    assert "gradient_checkpointing" in told
    monkeypatch.setattr(run_plan, "device_memory", lambda given: 9 * 2**20)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        RunPlan().on_fit_start(trainer(), Module())


def test_a_device_of_unknown_memory_is_short_of_none():
    assert shortage(PLAN, None) is None
    assert shortage(PLAN, 2**30) is None
    assert "8.0 MiB" in shortage(PLAN, 1)


def test_a_process_has_its_share_of_main_memory(monkeypatch, tmp_path):
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(run_plan, "MEMORY_LIMIT", limit)
    whole = device_memory(trainer())
    assert device_memory(trainer(num_devices=2)) == whole // 2
    limit.write_text("4096\n")
    assert device_memory(trainer()) == 4096
    limit.write_text("max\n")
    assert device_memory(trainer()) == whole


def timed(seconds, **changed):
    """Trains three batches, each with a step, of the given seconds; returns what was printed."""
    clock = SimpleNamespace(now=0.0)
    plan, given = RunPlan(), trainer(accumulate_grad_batches=1, **changed)
    plan.on_train_start(given, None)
    plan.tally = TrainingTally(lambda: clock.now)
    plan.tally.start()
    for index, of_batch in enumerate(seconds):
        clock.now += of_batch
        given.global_step += 1
        plan.on_train_batch_end(given, None, None, PromptBatch(MASK, MASK, {}), index)


def test_speed_and_time_to_finish_follow_the_third_step(capsys):
    timed([9.0, 1.0])
    assert capsys.readouterr().out == ""
    # The first warms up; 10 tokens a second on each of two ranks; 20 - 3 steps of a second are left.
    timed([9.0, 1.0, 1.0, 5.0])
    told = capsys.readouterr().out
    assert told == "20.0 tokens/s, 4.0 samples/s; 17 steps to go: 17 s without validation\n"


def test_a_run_without_an_end_tells_its_speed_alone(capsys):
    timed([1.0, 1.0, 1.0], max_epochs=-1)
    assert capsys.readouterr().out == "20.0 tokens/s, 4.0 samples/s\n"


def test_the_first_end_counts():
    assert steps_left(trainer(accumulate_grad_batches=1), 9, 1.0) == 10
    assert steps_left(trainer(accumulate_grad_batches=2), 3, 1.0) == 8
    assert steps_left(trainer(accumulate_grad_batches=1, max_steps=4, global_step=1), 0, 1.0) == 3
    assert steps_left(trainer(accumulate_grad_batches=1), 9, 2.0) == 20
    assert steps_left(trainer(max_epochs=-1, num_training_batches=float("inf")), 0, 1.0) is None


def test_text_alone_tells_of_no_images():
    assert "images" not in token_line(FirstBatches(PromptBatch(MASK, MASK, {}), (TokenCount(60, 0),), (2,), 0), 1)


def test_lines_are_set_as_a_table():
    lines = memory_lines(PLAN)
    assert len({len(line) for line in lines[1:4]}) == 1
    assert size_text(1536) == "1.5 KiB"


def test_settings_that_do_not_fit_are_refused():
    with pytest.raises(UserError, match=r"RunPlan\.batches is -1"):
        RunPlan(batches=-1)
