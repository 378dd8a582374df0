import errno
import os
from pathlib import Path

import pytest
import torch

from lit_vlm.callbacks import checkpointing
from lit_vlm.callbacks.checkpointing import Checkpointing, save_whole
from lit_vlm.functional import checkpoint_files
from lit_vlm.functional.checkpoint_files import fault_of
from lit_vlm.interfaces.errors import UserError
from tests.callbacks.resumable_fakes import Line, differences, fit

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.*"),
    pytest.mark.filterwarnings("ignore:.*tensorboard.*"),
]


def steps(folder):
    return sorted(int(path.stem.removeprefix("step=")) for path in (folder / "checkpoints").glob("*.ckpt"))


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({}, [9]),
        ({"every_n_epochs": None}, [9]),
        ({"keep_last": None}, [3, 6, 9]),
        ({"keep_last": None, "every_n_epochs": 2}, [6, 9]),
        ({"keep_last": None, "every_n_epochs": None, "every_n_steps": 2}, [2, 4, 6, 8, 9]),
        ({"keep_last": 2, "every_n_steps": 1}, [8, 9]),
        # The score is the rest of the step by 4: at 3, 6 and 9 it is 3, 2 and 1.
        ({"monitor": "validation/score"}, [3, 9]),
        ({"monitor": "validation/score", "keep_best": 2}, [3, 6, 9]),
        ({"monitor": "validation/score", "mode": "min"}, [9]),
    ],
)
def test_the_policy_says_what_is_kept(tmp_path, options, kept):
    fit(tmp_path, Checkpointing(every_minutes=None, **options))
    assert steps(tmp_path) == kept


def test_minutes_count_from_the_last_checkpoint(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(checkpointing.time, "monotonic", lambda: now[0])

    class Slow(Line):
        def training_step(self, batch, batch_idx):
            now[0] += 30
            return super().training_step(batch, batch_idx)

    keeper = Checkpointing(every_minutes=2, every_n_epochs=None, keep_last=None)
    fit(tmp_path, keeper, module=Slow(), length=20, max_epochs=1, validates=False)
    assert steps(tmp_path) == [4, 8, 12, 16, 20]


def test_the_best_and_the_last_are_known(tmp_path):
    keeper = Checkpointing(every_n_steps=1, monitor="validation/score")
    fit(tmp_path, keeper)
    assert keeper.best_model_path.endswith("step=00000003.ckpt")
    assert keeper.last_model_path.endswith("step=00000009.ckpt")
    saved = torch.load(keeper.last_model_path, weights_only=True)["callbacks"]["Checkpointing"]
    assert saved["best"] == keeper.best_model_path
    # What is written down is what there is, the file itself included.
    assert [kept["step"] for kept in saved["kept"]] == steps(tmp_path) == [3, 9]


def test_it_saves_between_the_steps_of_accumulated_batches(tmp_path):
    fit(tmp_path, Checkpointing(every_n_steps=1, keep_last=None), length=5, max_epochs=1, accumulate_grad_batches=2)
    assert steps(tmp_path) == [1, 2, 3]
    saved = torch.load(tmp_path / "checkpoints" / "step=00000002.ckpt", weights_only=True)
    assert saved["loops"]["fit_loop"]["state_dict"]["combined_loader"] == [{"position": 4}]


def test_a_checkpoint_is_whole_before_another_goes(tmp_path, monkeypatch):
    removed = []

    def remove(path):
        others = [other for other in path.parent.glob("*.ckpt") if other != path]
        assert others
        assert all(fault_of(other) is None for other in others)
        removed.append(path.name)
        path.unlink()

    monkeypatch.setattr(checkpointing, "remove", remove)
    fit(tmp_path, Checkpointing(every_n_steps=1))
    assert len(removed) == 8


def test_a_full_disk_is_told_in_a_sentence_and_the_last_good_one_stays(tmp_path, monkeypatch):
    write = checkpoint_files._Hashed.write
    written = [0]

    def fill(self, data):
        written[0] += len(data)
        if written[0] > 20_000:
            self.fault = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            raise self.fault
        return write(self, data)

    monkeypatch.setattr(checkpoint_files._Hashed, "write", fill)
    keeper = Checkpointing(every_n_steps=1, keep_last=1)
    with pytest.raises(UserError) as raised:
        fit(tmp_path, keeper, max_epochs=30)
    told = str(raised.value)
    assert "could not be written: No space left on device; make room" in told
    (left,) = (tmp_path / "checkpoints").iterdir()
    assert f"the last good checkpoint is {left}" in told
    assert fault_of(left) is None
    assert keeper.last_model_path == str(left)


def test_a_run_that_goes_on_takes_over_what_the_other_kept(tmp_path):
    first, second, other = tmp_path / "a", tmp_path / "b", tmp_path / "c"
    fit(first, Checkpointing(every_n_steps=1, keep_last=2), max_epochs=1)
    assert steps(first) == [2, 3]
    keeper = Checkpointing(every_n_steps=1, keep_last=2)
    fit(other, keeper, ckpt_path=first / "checkpoints" / "step=00000003.ckpt", max_epochs=2)
    # Only a run that is told to goes on with the other's files.
    assert (steps(first), steps(other)) == ([2, 3], [5, 6])
    keeper = Checkpointing(every_n_steps=1, keep_last=2)
    keeper.continues = True
    fit(second, keeper, ckpt_path=first / "checkpoints" / "step=00000003.ckpt", max_epochs=2)
    assert (steps(first), steps(second)) == ([], [5, 6])


ENDS = {"epochs": {"max_epochs": 2}, "steps": {"max_steps": 7, "max_epochs": -1}}


@pytest.mark.parametrize("ends", ["epochs", "steps"])
@pytest.mark.parametrize(("val_check_interval", "reads_total"), [(1.0, True), (2, False)])
def test_a_run_resumes_exactly_within_and_between_epochs(tmp_path, ends, val_check_interval, reads_total):
    def run(folder, **more):
        keeper = Checkpointing(every_n_steps=1, keep_last=None)
        options = {"val_check_interval": val_check_interval, **ENDS[ends], **more}
        return fit(folder, keeper, module=Line(reads_total), length=4, **options)[0]

    whole = run(tmp_path / "whole")
    last = max(steps(tmp_path / "whole"))
    assert last == (8 if ends == "epochs" else 7)
    name = Path("checkpoints") / f"step={last:08d}.ckpt"
    # In the middle of an epoch, after a validation there, and at the epoch's end.
    for step in (1, 2, 4, 5):
        part = run(tmp_path / f"{step}", ckpt_path=tmp_path / "whole" / "checkpoints" / f"step={step:08d}.ckpt")
        assert differences(tmp_path / "whole" / name, tmp_path / f"{step}" / name) == [], step
        assert part.seen == whole.seen[step:]
        assert part.validated == [validated for validated in whole.validated if validated > step]


def test_nothing_is_saved_by_a_trial_run(tmp_path):
    fit(tmp_path, Checkpointing(every_n_steps=1), fast_dev_run=True)
    assert not (tmp_path / "checkpoints").exists()


def test_folders_of_several_ranks_are_marked_last(tmp_path):
    class Trainer:
        is_global_zero = True

        class strategy:  # noqa: N801
            checkpoint_io = None
            barrier = staticmethod(lambda name: None)

        @staticmethod
        def save_checkpoint(path, weights_only):
            assert not (path / "complete.json").exists()
            path.mkdir(exist_ok=True)
            (path / ".metadata").write_bytes(b"1")

    for _ in range(2):
        save_whole(Trainer, tmp_path / "step=1.ckpt")
        assert fault_of(tmp_path / "step=1.ckpt") is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every_n_steps": 0}, "Checkpointing.every_n_steps is 0; give at least 1"),
        ({"keep_last": 0}, "Checkpointing.keep_last is 0"),
        ({"every_minutes": 0}, "Checkpointing.every_minutes is 0; give a positive number"),
        ({"mode": "up"}, "give max or min"),
    ],
)
def test_wrong_settings_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        Checkpointing(**options)


def test_a_metric_must_be_measured(tmp_path):
    with pytest.raises(UserError, match="trainer.limit_val_batches is 0, so that nothing is measured"):
        fit(tmp_path, Checkpointing(monitor="validation/score"), validates=False)
    with pytest.raises(UserError, match="monitor is 'validation/scor', which is not logged; there is .*/score"):
        fit(tmp_path, Checkpointing(monitor="validation/scor"))
