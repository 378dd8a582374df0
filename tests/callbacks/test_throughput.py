from types import SimpleNamespace

import pytest
import torch
from lightning import Callback

from lit_vlm.callbacks.throughput import Throughput
from lit_vlm.callbacks.training_tally import TrainingTally
from lit_vlm.interfaces.batches import PromptBatch
from lit_vlm.interfaces.errors import UserError


class Seen(Callback):
    """Keeps what was logged after each batch."""

    def __init__(self):
        self.rates = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        metrics = trainer.callback_metrics
        self.rates.append((float(metrics["train/tokens_per_second"]), float(metrics["train/samples_per_second"])))


class Logged:
    """Stands in for a module and keeps what is logged."""

    def __init__(self):
        self.values = []

    def log(self, name, value, **options):
        assert options["sync_dist"]
        assert options["reduce_fx"] == "sum"
        self.values.append((name, float(value)))


def steps(throughput, seconds_of_steps, accumulation=1):
    """Runs batches of two rows and five tokens, each as long as given, and returns the tokens' rates."""
    clock = SimpleNamespace(now=0.0)
    throughput.tally = TrainingTally(lambda: clock.now)
    trainer, module = SimpleNamespace(global_step=0), Logged()
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    throughput.on_train_start(trainer, module)
    for index, seconds in enumerate(seconds_of_steps):
        clock.now += seconds
        trainer.global_step = (index + 1) // accumulation
        throughput.on_train_batch_end(trainer, module, None, PromptBatch(mask, mask, {}), index)
    return [value for name, value in module.values if name == "train/tokens_per_second"]


def test_the_rate_is_that_of_the_last_steps_of_the_window():
    # Five tokens a step: 5/1, then (5 + 5)/(1 + 4), then, the first having left the window, (5 + 5)/(4 + 1).
    assert steps(Throughput(window=2), [1, 4, 1]) == pytest.approx([5.0, 2.0, 2.0])


def test_micro_batches_are_logged_once_a_step():
    # Two micro-batches a step of one second each: 10 tokens in 2 s.
    assert steps(Throughput(), [1, 1, 1, 1], accumulation=2) == pytest.approx([5.0, 5.0])


def test_completions_that_a_step_sampled_count():
    clock, module = SimpleNamespace(now=0.0), Logged()
    throughput = Throughput()
    throughput.tally = TrainingTally(lambda: clock.now)
    trainer = SimpleNamespace(global_step=0)
    throughput.on_train_start(trainer, module)
    clock.now, trainer.global_step = 2.0, 4
    mask = torch.ones(2, 3, dtype=torch.long)
    throughput.on_train_batch_end(trainer, module, {"tokens": torch.tensor(50)}, PromptBatch(mask, mask, {}), 0)
    # 50 tokens and 2 prompts in two seconds.
    assert module.values == [("train/tokens_per_second", 25.0), ("train/samples_per_second", 1.0)]


def test_a_clock_that_stands_gives_a_finite_rate():
    assert all(rate < float("inf") for rate in steps(Throughput(), [0.0]))


def test_a_real_run_logs_both_rates(fit):
    seen = Seen()
    throughput = Throughput()
    fit(throughput, seen)
    assert len(seen.rates) == 4
    # Rows of 1 and 2 tokens: 1.5 tokens a sample.
    assert all(tokens == pytest.approx(1.5 * samples) and samples > 0 for tokens, samples in seen.rates)
    assert throughput.state_dict()["tally"]["tokens"] == 12
    assert throughput.state_dict()["tally"]["samples"] == 8


def test_validation_time_is_left_out(fit):
    class SlowValidation(Callback):
        def on_validation_epoch_end(self, trainer, pl_module):
            clock.now += 1000

    clock = SimpleNamespace(now=0.0)
    throughput, seen = Throughput(), Seen()
    throughput.tally = TrainingTally(lambda: clock.now)

    class Steady(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            clock.now += 1

    fit(Steady(), throughput, SlowValidation(), seen, val_check_interval=2, num_sanity_val_steps=-1)
    # Two samples and three tokens a step of one second, whatever the two validations took.
    assert [rate for pair in seen.rates for rate in pair] == pytest.approx([3.0, 2.0] * 4)
    assert throughput.tally.validation_seconds == 2000


def test_totals_are_kept_over_a_resume():
    first = Throughput()
    steps(first, [1, 1])
    later = Throughput()
    later.load_state_dict(first.state_dict())
    assert later.tally.totals == (10, 4, 2.0)


def test_a_window_below_one_is_refused():
    with pytest.raises(UserError, match=r"Throughput\.window is 0; give at least 1"):
        Throughput(window=0)
