import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from lightning.fabric.plugins.environments import SLURMEnvironment

from lit_vlm.callbacks import preemption
from lit_vlm.callbacks.checkpointing import Checkpointing
from lit_vlm.callbacks.preemption import REQUEUE, Preemption, outlast_launcher
from lit_vlm.functional.checkpoint_files import fault_of
from lit_vlm.functional.checkpoint_search import newest_whole
from tests.callbacks.resumable_fakes import Line, differences, fit

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.*"),
    pytest.mark.filterwarnings("ignore:.*tensorboard.*"),
]


class Signalled(Line):
    """Gets a signal in the middle of a step, or of the validation after a step."""

    def __init__(self, step, number=signal.SIGTERM, while_validating=False):
        super().__init__()
        self.step, self.number, self.while_validating = step, number, while_validating

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        if self.trainer.global_step == self.step - 1 and not self.while_validating:
            os.kill(os.getpid(), self.number)
        return loss

    def validation_step(self, batch, batch_idx):
        super().validation_step(batch, batch_idx)
        if self.trainer.global_step == self.step and self.while_validating:
            os.kill(os.getpid(), self.number)


@pytest.fixture(autouse=True)
def handlers():
    before = {number: signal.getsignal(number) for number in preemption.SIGNALS}
    yield before
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("keeper", [True, False], ids=["with a policy", "without"])
@pytest.mark.parametrize(
    ("step", "number", "while_validating"),
    [(2, signal.SIGUSR1, False), (4, signal.SIGTERM, False), (4, signal.SIGTERM, True)],
    ids=["step", "last step of an epoch", "validation"],
)
def test_a_run_saves_leaves_and_goes_on_as_if_it_had_not(tmp_path, capsys, step, number, while_validating, keeper):
    def run(folder, module=None, **options):
        callbacks = [Checkpointing()] if keeper else []
        options = {"enable_checkpointing": keeper or None, **options}
        return fit(folder, *callbacks, Preemption(), module=module, length=4, max_epochs=2, **options)

    whole, trainer = run(tmp_path / "whole")
    trainer.save_checkpoint(tmp_path / "whole.ckpt")
    with pytest.raises(SystemExit) as ended:
        run(tmp_path / "part", Signalled(step, number, while_validating))
    assert ended.value.code == REQUEUE == os.EX_TEMPFAIL
    assert "go on with --ckpt_path last" in capsys.readouterr().err
    saved = newest_whole(tmp_path / "part")
    assert saved.name == f"step={step:08d}.ckpt"
    rest, trainer = run(tmp_path / "rest", ckpt_path=saved)
    trainer.save_checkpoint(tmp_path / "rest.ckpt")
    assert rest.seen == whole.seen[step:]
    assert rest.validated == [validated for validated in whole.validated if validated > step]
    assert differences(tmp_path / "whole.ckpt", tmp_path / "rest.ckpt") == []


def test_what_is_saved_before_a_validation_is_whole_and_resumes(tmp_path):
    class Killed(Signalled):
        def validation_step(self, batch, batch_idx):
            raise KeyError("the machine is gone")

    with pytest.raises(KeyError):
        fit(tmp_path / "part", Checkpointing(), Preemption(), module=Killed(4), length=4, max_epochs=2)
    saved = newest_whole(tmp_path / "part")
    whole, _ = fit(tmp_path / "whole", Checkpointing(), length=4, max_epochs=2)
    rest, _ = fit(tmp_path / "rest", Checkpointing(), ckpt_path=saved, length=4, max_epochs=2)
    assert rest.seen == whole.seen[4:]
    assert torch.equal(rest.line.weight, whole.line.weight)


def test_signals_are_given_back(tmp_path, handlers):
    fit(tmp_path, Preemption(), max_epochs=1)
    assert {number: signal.getsignal(number) for number in handlers} == handlers


def test_a_second_signal_ends_at_once(monkeypatch):
    killed = []
    monkeypatch.setattr(preemption.os, "kill", lambda pid, number: killed.append((pid, number)))
    callback = Preemption()
    callback._receive(signal.SIGTERM, None)
    assert killed == []
    callback._receive(signal.SIGTERM, None)
    assert killed == [(os.getpid(), signal.SIGTERM)]
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.mark.parametrize("auto_requeue", [True, False])
def test_slurm_jobs_that_lightning_requeues_are_left_to_it(monkeypatch, auto_requeue):
    class Trainer:
        global_step, fast_dev_run = 0, False

        class _accelerator_connector:  # noqa: N801
            cluster_environment = SLURMEnvironment(auto_requeue=auto_requeue)

    callback = Preemption()
    callback.on_train_start(Trainer, None)
    assert (signal.getsignal(signal.SIGUSR1) == callback._receive) is not auto_requeue


def test_a_launched_process_outlasts_the_one_that_launched_it(monkeypatch):
    parents = iter([7, 7, 1])
    monkeypatch.setattr(preemption.os, "getppid", lambda: next(parents))
    outlast_launcher(7)
    assert list(parents) == []


SCRIPT = """
import os, sys, time
from pathlib import Path
import signal
sys.path.insert(0, {root!r})
from lit_vlm.callbacks.checkpointing import Checkpointing
from lit_vlm.callbacks.preemption import Preemption
from tests.callbacks.resumable_fakes import Line, fit

folder = Path(sys.argv[1])


class Slow(Line):
    def training_step(self, batch, batch_idx):
        (folder / f"rank{{self.global_rank}}.pid").write_text(str(os.getpid()))
        time.sleep(0.05)
        return super().training_step(batch, batch_idx)


try:
    fit(folder, Checkpointing(every_n_epochs=None), Preemption(), module=Slow(), length=400, devices=2, strategy="ddp")
except SystemExit as ended:
    (folder / f"{{os.environ.get('LOCAL_RANK', '0')}}.status").write_text(str(ended.code))
    raise
"""


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_it_is_enough_that_one_of_two_ranks_gets_the_signal(tmp_path, rank):
    script = tmp_path / "two.py"
    script.write_text(SCRIPT.format(root=str(Path(__file__).parents[2])))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    run = subprocess.Popen([sys.executable, str(script), str(tmp_path)], env=environment, start_new_session=True)
    try:
        while not (tmp_path / "rank0.pid").exists() or not (tmp_path / "rank1.pid").exists():
            assert run.poll() is None
            time.sleep(0.05)
        time.sleep(0.5)
        os.kill(int((tmp_path / f"rank{rank}.pid").read_text()), signal.SIGTERM)
        assert run.wait(timeout=300) == REQUEUE
    finally:
        if run.poll() is None:
            os.killpg(run.pid, signal.SIGKILL)
    assert [(tmp_path / f"{number}.status").read_text() for number in (0, 1)] == [str(REQUEUE)] * 2
    assert fault_of(newest_whole(tmp_path)) is None
