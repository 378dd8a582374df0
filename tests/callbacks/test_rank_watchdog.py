import os
import subprocess
import sys
import time
from pathlib import Path

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import Callback

from lit_vlm.callbacks.rank_watchdog import RankWatchdog
from lit_vlm.interfaces.capabilities import RolloutObserver
from lit_vlm.interfaces.errors import UserError

SCRIPT = """
import os, signal, sys, time
import lightning, torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader
from lit_vlm.callbacks.rank_watchdog import RankWatchdog
from lit_vlm.interfaces.errors import UserError

what, rank, folder = sys.argv[1], int(sys.argv[2]), sys.argv[3]


class Line(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Linear(2, 1)

    def training_step(self, batch, batch_idx):
        time.sleep(0.6)
        if self.global_rank == rank and self.trainer.global_step == 3:
            time.sleep(3)  # so that all have heard of the step
            open(os.path.join(folder, "fault"), "w").close()
            if what == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            if what == "frozen":
                os.kill(os.getpid(), signal.SIGSTOP)
            if what == "mistaken":
                raise UserError("this rank has a mistake of its own")
            if what == "slow":
                time.sleep(12)
        return self.weight(batch).sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


trainer = lightning.Trainer(
    accelerator="cpu", devices=2, strategy="ddp", max_steps=6, logger=False, use_distributed_sampler=False,
    enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder,
    callbacks=[ModelCheckpoint(folder, every_n_train_steps=1, save_top_k=-1), RankWatchdog(silence=5)],
)
try:
    trainer.fit(Line(), DataLoader(torch.ones(40, 2), batch_size=2))
except UserError as mistake:
    print("lit-vlm: error:", mistake, file=sys.stderr, flush=True)
    sys.exit(2)
"""


def run(tmp_path, what, rank):
    script = tmp_path / "ranks.py"
    script.write_text(SCRIPT)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, str(script), what, str(rank), str(tmp_path)]
    # It ends when every rank has closed its output, so that none is left behind.
    done = subprocess.run(command, env=environment, timeout=240, capture_output=True, text=True)
    return done, time.time() - (tmp_path / "fault").stat().st_mtime


def assert_checkpoint(folder: Path):
    newest = max(folder.glob("*.ckpt"), key=lambda path: path.stat().st_mtime)
    assert torch.load(newest, weights_only=True)["global_step"] == 3


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_is_killed_ends_the_others_with_its_name(tmp_path, rank):
    done, seconds = run(tmp_path, "killed", rank)
    assert done.returncode != 0
    (told,) = [line for line in done.stderr.splitlines() if line.startswith("lit-vlm: error: ")]
    how = "its process was killed by signal 9" if rank else "it can be reached no more"
    assert told.startswith(f"lit-vlm: error: rank {rank} died, last heard of in training step 3: {how}")
    assert "Traceback" not in done.stderr
    assert seconds < 60
    assert_checkpoint(tmp_path)


@pytest.mark.slow
def test_a_rank_that_is_frozen_ends_the_others_with_its_name(tmp_path):
    done, seconds = run(tmp_path, "frozen", 1)
    assert done.returncode == 2
    assert seconds < 60
    assert "error: rank 1 has given no sign of life for 5 s; it was last heard of in training step 3" in done.stderr
    assert_checkpoint(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_mistake_on_one_rank_ends_all_and_is_told_by_all(tmp_path, rank):
    done, seconds = run(tmp_path, "mistaken", rank)
    assert seconds < 60
    told = [line for line in done.stderr.splitlines() if line.startswith("lit-vlm: error: ")]
    assert len(told) == 2
    assert "lit-vlm: error: this rank has a mistake of its own" in told
    others = f"lit-vlm: error: rank {rank} stopped during training step 3: this rank has a mistake of its own"
    assert any(line.startswith(others) for line in told)
    assert done.returncode == 2


@pytest.mark.slow
def test_a_rank_that_is_only_slow_is_waited_for(tmp_path):
    done, _ = run(tmp_path, "slow", 1)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "error" not in done.stderr


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_one_rank_is_not_watched(tmp_path):
    class Line(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Linear(2, 1)

        def training_step(self, batch, batch_idx):
            return self.weight(batch).sum()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    class Fail(Callback):
        def on_train_batch_end(self, trainer, *_):
            raise RuntimeError("gloo: connection closed by peer")

    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    watchdog = RankWatchdog()
    trainer = lightning.Trainer(
        max_steps=1, default_root_dir=tmp_path, enable_model_summary=False, callbacks=[Fail(), watchdog], **options
    )
    # Told as it is: nobody else can be gone.
    loader = torch.utils.data.DataLoader(torch.ones(2, 2))
    with pytest.raises(RuntimeError, match="gloo"):
        trainer.fit(Line(), loader)
    assert isinstance(watchdog, RolloutObserver)


def test_less_patience_than_a_few_signs_of_life_is_refused():
    with pytest.raises(UserError, match="RankWatchdog.silence is 1; give at least 5 seconds"):
        RankWatchdog(silence=1)


def test_a_worker_that_dies_is_told_in_one_line_wherever_torch_notices():
    watchdog = RankWatchdog()
    with pytest.raises(UserError, match=r"a process that reads data died \(.*Killed\), most often for want of memory"):
        watchdog.on_exception(None, None, RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "))
    watchdog.on_exception(None, None, RuntimeError("shapes differ"))  # told as it is by the Trainer
