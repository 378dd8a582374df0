import io
import re
from types import SimpleNamespace

import pytest
import rich
from rich.console import Console

from lit_vlm.callbacks.progress import Progress, total_steps
from lit_vlm.callbacks.throughput import Throughput
from lit_vlm.interfaces.errors import UserError


def test_elsewhere_than_in_a_terminal_plain_lines_are_printed(fit, capsys):
    fit(Throughput(), Progress(every_n_steps=2), num_sanity_val_steps=-1)
    printed = capsys.readouterr().out
    lines = [line for line in printed.splitlines() if line.startswith(("step", "validation"))]
    assert [line.split(" | ")[0] for line in lines] == [
        "validation at step 0",
        "step 1/4",
        "step 2/4",
        "step 4/4",
        "validation at step 4",
    ]
    # The weight is 1 at first, so the first loss is 1; the learning rate is 0.01; nothing was right before.
    pattern = r"step 1/4 \| loss 1\.0000 \| \S+ tokens/s \| learning rate 1\.00e-02 \| exact match 0\.0 % \| \d+ s left"
    assert re.fullmatch(pattern, lines[1])
    assert lines[4] == "validation at step 4 | loss 1.5000 | exact match 66.7 % (56.7 to 76.7)"
    assert not re.search(r"[\x00-\x09\x0b-\x1f]", printed)


def test_in_a_terminal_the_bar_shows_loss_speed_and_score(fit):
    screen = io.StringIO()
    settings = {"force_terminal": True, "file": screen, "width": 160, "color_system": None}
    progress = Progress(plain=False, console_kwargs=settings)
    before = rich.get_console().__dict__.copy()
    try:
        fit(Throughput(), progress)
    finally:
        rich.get_console().__dict__.clear()
        rich.get_console().__dict__.update(before)
    assert "loss: " in screen.getvalue()
    assert set(progress._read(progress.trainer)) == {"loss", "tokens/s", "exact match"}
    assert progress._read(progress.trainer)["exact match"] == "66.7 %"


def test_what_stands_beside_the_bar_is_read_a_few_times_a_second(monkeypatch):
    progress = Progress()
    reads = []
    monkeypatch.setattr(progress, "_read", lambda trainer: reads.append(1) or {"loss": "1"})
    clock = SimpleNamespace(now=50.0)
    monkeypatch.setattr("lit_vlm.callbacks.progress.time.monotonic", lambda: clock.now)
    for _ in range(10):
        assert progress.get_metrics(None, None) == {"loss": "1"}
        clock.now += 0.05
    # Ten readings within 0.45 s, a new one each 0.25 s: at 0 and at 0.25.
    assert len(reads) == 2


def test_other_figures_for_the_bar_are_shown_under_plain_names():
    metrics = {"train/kl_weight": 0.125, "train/loss": 2.0}
    trainer = SimpleNamespace(callback_metrics=metrics, progress_bar_metrics=metrics)
    assert Progress()._read(trainer) == {"loss": "2.0000", "kl weight": "0.125"}


def test_where_rewards_are_learnt_from_they_stand_first():
    metrics = {"train/loss": 0.0, "train/reward/mean": 0.625}
    trainer = SimpleNamespace(callback_metrics=metrics, progress_bar_metrics=metrics, optimizers=[])
    progress = Progress()
    assert list(progress._read(trainer).items()) == [("reward", "0.6250"), ("loss", "0.0000")]
    assert progress._step_line(trainer, 4, None) == "step 4 | reward 0.6250"


def test_an_optimizer_without_a_learning_rate_shows_none():
    optimizer = SimpleNamespace(param_groups=[{"params": []}])
    trainer = SimpleNamespace(callback_metrics={"train/loss": 0.5}, optimizers=[optimizer])
    assert Progress()._step_line(trainer, 4, None) == "step 4 | loss 0.5000"


def test_batches_of_several_steps_get_their_lines(capsys):
    progress = Progress(every_n_steps=20, plain=True)
    trainer = SimpleNamespace(
        is_global_zero=True, callback_metrics={}, optimizers=[], global_step=0, max_steps=50, max_epochs=None
    )
    trainer.state, trainer.num_training_batches = SimpleNamespace(fn="fit"), 100
    module = SimpleNamespace(steps_per_batch=8)
    progress.setup(trainer, module, "fit")
    progress._first_step = progress._last_step = 0
    for step in range(8, 57, 8):
        trainer.global_step = step
        progress.on_train_batch_end(trainer, module, None, None, 0)
    # The first, those that pass 20 and 40, and the one that passes the end.
    steps = [line.split(" | ")[0] for line in capsys.readouterr().out.splitlines()]
    assert steps == ["step 8/50", "step 24/50", "step 40/50", "step 56/50"]


def test_only_the_first_rank_prints(capsys):
    progress = Progress(plain=True)
    trainer = SimpleNamespace(is_global_zero=False, callback_metrics={"validation/loss": 1.0}, global_step=1)
    trainer.state = SimpleNamespace(fn="fit")
    progress.setup(trainer, None, "fit")
    progress.on_validation_end(trainer, None)
    assert capsys.readouterr().out == ""


def test_the_last_score_is_kept_over_a_resume():
    progress = Progress()
    progress.load_state_dict({"exact_match": 0.5})
    assert progress.state_dict() == {"exact_match": 0.5}
    assert Progress().state_dict() == {"exact_match": None}
    judging = Progress()
    judging.load_state_dict({"exact_match": None, "verdict_accuracy": 0.75})
    assert judging.state_dict() == {"exact_match": None, "verdict_accuracy": 0.75}


def test_a_judge_shows_both_shares(capsys):
    metrics = {"validation/verdict_accuracy": 0.75, "validation/exact_match": 0.5, "train/loss": 1.0}
    metrics |= {"validation/verdict_accuracy_low": 0.7, "validation/verdict_accuracy_high": 0.8}
    trainer = SimpleNamespace(
        is_global_zero=True, callback_metrics=metrics, progress_bar_metrics=metrics, global_step=3
    )
    trainer.state, trainer.optimizers = SimpleNamespace(fn="fit"), []
    progress = Progress(plain=True)
    progress.setup(trainer, None, "fit")
    progress.on_validation_end(trainer, None)
    line = "validation at step 3 | exact match 50.0 % | verdict accuracy 75.0 % (70.0 to 80.0)"
    assert capsys.readouterr().out.strip() == line
    assert (
        progress._step_line(trainer, 3, None) == "step 3 | loss 1.0000 | exact match 50.0 % | verdict accuracy 75.0 %"
    )
    shown = progress._read(trainer)
    assert (shown["exact match"], shown["verdict accuracy"]) == ("50.0 %", "75.0 %")
    assert "validation/verdict accuracy" not in shown


@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        ({"max_epochs": 2}, 20),
        ({"max_epochs": 2, "accumulate_grad_batches": 4}, 6),  # an epoch ends with a short step
        ({"max_steps": 7}, 7),
        ({"max_epochs": 1, "max_steps": 50}, 10),
        ({"max_epochs": 2, "steps_per_batch": 4}, 80),
        ({"max_epochs": -1}, None),
        ({"max_epochs": 3, "num_training_batches": float("inf")}, None),
    ],
)
def test_the_steps_of_a_run_are_counted(settings, steps):
    defaults = {"max_epochs": None, "max_steps": -1, "accumulate_grad_batches": 1, "num_training_batches": 10}
    told = {**defaults, "steps_per_batch": 1, **settings}
    steps_per_batch = told.pop("steps_per_batch")
    assert total_steps(SimpleNamespace(**told), steps_per_batch) == steps


def test_no_line_is_longer_than_a_plain_terminal_is_wide(fit, capsys):
    fit(Throughput(), Progress(), num_sanity_val_steps=-1)
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 120


def test_lines_every_zero_steps_are_refused():
    with pytest.raises(UserError, match=r"Progress\.every_n_steps is 0; give at least 1"):
        Progress(every_n_steps=0)


def test_the_console_of_other_tests_is_left_alone():
    assert isinstance(rich.get_console(), Console)
