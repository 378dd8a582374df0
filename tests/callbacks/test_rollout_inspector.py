import json
import math
from types import SimpleNamespace

import pytest
import torch
from lightning import Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lit_vlm.callbacks.rollout_inspector import TAG, RolloutInspector, write_whole
from lit_vlm.interfaces.errors import UserError
from tests.paradigms.on_policy_material import data, engine, module

GROUPS = [[(["a"], 1.0), (["b"], 0.0)], [(["c"], math.nan), (["d"], 0.5)], [(["e"], math.nan)]]


@pytest.fixture
def inspect(rounds, tmp_path):
    """Shows rounds at the given steps to an inspector, and returns the names of its files."""

    def run(inspector, *steps, global_zero=True, fast_dev_run=False, loggers=(), groups=GROUPS):
        trainer = SimpleNamespace(
            log_dir=tmp_path,
            default_root_dir=tmp_path,
            is_global_zero=global_zero,
            fast_dev_run=fast_dev_run,
            loggers=list(loggers),
            global_step=0,
        )
        inspector.setup(trainer, SimpleNamespace(encoder=rounds.encoder), "validate")
        for step in steps:
            trainer.global_step = step + 2
            module = SimpleNamespace(encoder=rounds.encoder)
            inspector.on_after_update(trainer, module, rounds.make(groups, step=step))
        folder = tmp_path / "rollouts"
        return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []

    return run


def test_the_first_round_and_every_nth_step_are_written(inspect):
    # Rounds of two steps: the first at or after each multiple of five.
    names = inspect(RolloutInspector(every_n_steps=5), *range(0, 20, 2))
    assert names == ["index.html", "pages.json", *(f"step_{step:06d}.html" for step in (0, 6, 10, 16))]


def test_pages_know_the_one_before_and_the_one_after(inspect, tmp_path):
    inspect(RolloutInspector(every_n_steps=5), 0, 5, 10)
    folder = tmp_path / "rollouts"
    pages = [(folder / f"step_{step:06d}.html").read_text() for step in (0, 5, 10)]
    assert 'id="previous"' not in pages[0]
    assert '<a id="next" href="step_000005.html">' in pages[0]
    assert '<a id="previous" href="step_000000.html">' in pages[1]
    assert '<a id="next" href="step_000010.html">' in pages[1]
    assert '<a id="next"' not in pages[2]
    index = (folder / "index.html").read_text()
    assert [index.count(f"step_{step:06d}.html") for step in (0, 5, 10)] == [1, 1, 1]


def test_a_resumed_run_goes_on_in_the_same_list(inspect, tmp_path):
    first = RolloutInspector(every_n_steps=5)
    inspect(first, 0, 5)
    later = RolloutInspector(every_n_steps=5)
    later.load_state_dict(first.state_dict())
    names = inspect(later, 6, 8, 10)
    assert [name for name in names if name.startswith("step")] == [f"step_{step:06d}.html" for step in (0, 5, 10)]
    listed = json.loads((tmp_path / "rollouts" / "pages.json").read_text())
    assert [entry["step"] for entry in listed] == [0, 5, 10]
    assert '<a id="previous" href="step_000005.html">' in (tmp_path / "rollouts" / "step_000010.html").read_text()


def test_other_ranks_and_trial_runs_write_nothing_but_keep_count(inspect):
    for options in ({"global_zero": False}, {"fast_dev_run": True}):
        inspector = RolloutInspector(every_n_steps=5)
        assert inspect(inspector, 0, 7, **options) == []
        assert inspector.state_dict() == {"next_step": 10}


def test_a_round_without_completions_is_written_too(inspect, tmp_path):
    inspect(RolloutInspector(), 0, groups=[])
    assert "no completion" in (tmp_path / "rollouts" / "step_000000.html").read_text()


def test_best_and_worst_completions_go_to_tensorboard(inspect, tmp_path):
    logger = TensorBoardLogger(tmp_path, name="run")
    inspect(RolloutInspector(), 50, loggers=[logger])
    logger.experiment.flush()
    (image,) = EventAccumulator(logger.log_dir).Reload().Images(TAG)
    assert image.step == 50  # as on the page, whatever steps the round took
    # Two cards side by side: the third prompt has no reward at all.
    assert image.width == 2 * (540 + 12) + 12
    other = TensorBoardLogger(tmp_path, name="other")
    inspect(RolloutInspector(tensorboard=False), 0, loggers=[other])
    other.experiment.flush()
    assert EventAccumulator(other.log_dir).Reload().Tags()["images"] == []


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "page.html"
    write_whole(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_whole(path, "new \ud800")
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["page.html"]


@pytest.mark.parametrize("option", ["every_n_steps", "max_prompts"])
def test_a_setting_below_one_is_refused(option):
    with pytest.raises(UserError, match=rf"RolloutInspector\.{option} is 0; give at least 1"):
        RolloutInspector(**{option: 0})


def test_a_module_without_rollouts_is_refused(answers, make_trainer, make_loader):
    with pytest.raises(UserError, match="RolloutInspector.*watches rollouts, but Answers"):
        make_trainer(RolloutInspector()).fit(answers, make_loader(4, training=True), make_loader(2))


def test_the_tensors_of_the_round_are_left_alone(inspect, rounds):
    made = []
    original = rounds.make
    rounds.make = lambda *arguments, **options: made.append(original(*arguments, **options)) or made[-1]
    inspect(RolloutInspector(), 0)
    fresh = original(GROUPS)
    for name in ("token_ids", "log_probs", "entropies", "mask"):
        assert torch.equal(getattr(made[0].rollouts, name), getattr(fresh.rollouts, name))


@pytest.mark.slow
def test_a_run_on_the_bundled_model_leaves_its_pages(tmp_path):
    model = module("tiny", engine=engine(48), group_size=4)
    loading = data(model.encoder)
    trainer = Trainer(
        accelerator="cpu",
        max_steps=3,
        logger=TensorBoardLogger(tmp_path, name="run"),
        callbacks=[RolloutInspector(every_n_steps=2, max_prompts=2)],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        use_distributed_sampler=False,
    )
    trainer.fit(model, datamodule=loading)
    folder = tmp_path / "run" / "version_0" / "rollouts"
    assert {path.name for path in folder.glob("*.html")} == {"index.html", "step_000000.html", "step_000002.html"}
    page = (folder / "step_000002.html").read_text()
    assert page.count("<article") == 2 * 4
    assert page.count('<img src="data:image/png') == 2
    assert '<option value="entropy">' in page
    assert '<option value="log_ratio">' in page
    assert "even" in page
    events = EventAccumulator(str(folder.parent)).Reload()
    assert len(events.Images(TAG)) == 2
