import pytest
import torch
from lightning.pytorch.loops.fit_loop import _FitLoop

from lit_vlm.callbacks import resumption
from lit_vlm.callbacks.checkpointing import Checkpointing
from lit_vlm.callbacks.resumption import Resumption
from tests.callbacks.resumable_fakes import Line, differences, fit

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.*"),
    pytest.mark.filterwarnings("ignore:.*tensorboard.*"),
]


def run(folder, module=None, **options):
    keeper = Checkpointing(every_n_steps=1, keep_last=None)
    options = {"length": 3, "validates": False, **options}
    return fit(folder, keeper, module=module, **options)[0]


def saved(folder, step):
    return folder / "checkpoints" / f"step={step:08d}.ckpt"


# The tests of Checkpointing go on from there; these show what happens without.
def test_lightning_alone_forgets_the_loader_where_the_number_of_steps_was_read(tmp_path, monkeypatch):
    whole = run(tmp_path / "whole", Line(reads_total=True))
    rest = run(tmp_path / "rest", Line(reads_total=True), ckpt_path=saved(tmp_path / "whole", 2))
    assert rest.seen == whole.seen[2:]
    monkeypatch.setattr(Resumption, "on_train_start", lambda *_: None)
    wrong = run(tmp_path / "wrong", Line(reads_total=True), ckpt_path=saved(tmp_path / "whole", 2))
    assert wrong.seen != whole.seen[2:]


def test_lightning_alone_ends_an_epoch_twice_where_there_are_max_steps(tmp_path, monkeypatch):
    options = {"max_steps": 7, "max_epochs": -1}
    run(tmp_path / "whole", **options)
    run(tmp_path / "rest", ckpt_path=saved(tmp_path / "whole", 3), **options)
    assert differences(saved(tmp_path / "whole", 7), saved(tmp_path / "rest", 7)) == []
    monkeypatch.setattr(resumption._ResumedFitLoop, "reset", _FitLoop.reset)
    run(tmp_path / "wrong", ckpt_path=saved(tmp_path / "whole", 3), **options)
    found = differences(saved(tmp_path / "whole", 7), saved(tmp_path / "wrong", 7))
    assert "/loops/fit_loop/epoch_progress/total/processed" in found


def test_a_run_that_ends_by_steps_and_epochs_resumes_between_epochs(tmp_path):
    options = {"max_steps": 100, "max_epochs": 3}
    whole = run(tmp_path / "whole", **options)
    rest = run(tmp_path / "rest", ckpt_path=saved(tmp_path / "whole", 6), **options)
    assert rest.seen == whole.seen[6:] == [7, 8, 9]
    assert torch.equal(rest.line.weight, whole.line.weight)
