"""With a module that answers without a model; the command line's tests go on with a ledger of a real one."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import lightning
import pytest
from torch.utils.data import DataLoader

from lit_vlm.callbacks.completion_ledger import CompletionLedger, config_hash
from lit_vlm.functional.ledger_files import done_samples, read_header, read_rows
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.ledgers import LedgerHeader
from tests.callbacks.conftest import Answers, encode_twice, make_completion


class Writing(Answers):
    """Writes two completions of each sample, and tells what they come from."""

    def __init__(self, model_hash="m", before=lambda batch_idx: None):
        super().__init__()
        self.model_hash = model_hash
        self.before = before
        self.asked = []

    def ledger_header(self):
        return LedgerHeader("fake", self.model_hash, "", "t", 2, 0, {"temperature": 1.0}, "0.1")

    def predict_step(self, batch, batch_idx):
        self.before(batch_idx)
        self.asked += [sample.id for sample in batch.prompts.samples]
        return [item for sample in batch.prompts.samples for item in completions(sample)]


def completions(sample):
    number = int(sample.id.removeprefix("sample-"))
    return [replace(make_completion(number, number % 3 > index), sample=sample, index=index) for index in range(2)]


class Data(lightning.LightningDataModule):
    """Serves samples in turn to the ranks, those that are done left out."""

    predict_split = "test"

    def __init__(self, count, batch_size=2, names=None):
        super().__init__()
        self.samples = [make_completion(index).sample for index in names or range(count)]
        self.batch_size = batch_size
        self.done = ()

    def leave_out(self, sample_ids):
        self.done = sample_ids

    def predict_dataloader(self):
        left = [sample for sample in self.samples if sample.id not in self.done]
        mine = left[self.trainer.global_rank :: self.trainer.world_size] or self.samples[:1]
        return DataLoader(mine, batch_size=self.batch_size, collate_fn=encode_twice)


@pytest.fixture
def predict(make_trainer):
    def run(callback, data, module=None, **options):
        module = module or Writing()
        make_trainer(callback, **options).predict(module, datamodule=data, return_predictions=False)
        return module

    return run


def written(folder):
    return Counter((row.completion.sample.id, row.completion.index) for row in read_rows(folder))


def once(count):
    return Counter((f"sample-{number}", index) for number in range(count) for index in range(2))


def test_every_completion_is_written_once_and_told(predict, tmp_path, capsys):
    predict(CompletionLedger(), Data(5))
    folder = tmp_path / "ledger"
    assert written(folder) == once(5)
    assert read_header(folder).split == "test"
    assert len(list(folder.glob("part-*"))) == 3
    shown = capsys.readouterr().out
    assert f"writing completions to the ledger {folder}\n" in shown
    assert f"wrote 10 completions to the ledger {folder}\nof 5 samples" in shown
    # Right are: of samples 0 and 3 none, of 1 and 4 the first, of 2 both.
    assert "pass@1          40.0" in shown
    assert "pass@2          60.0" in shown
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["pass@1"]["value"] == pytest.approx(0.4)


def test_batches_are_on_disk_at_once_and_a_failed_run_is_gone_on_with(predict, tmp_path, capsys):
    folder = tmp_path / "mine"

    def fail(batch_idx):
        assert len(done_samples(folder)) == 2 * batch_idx
        if batch_idx == 2:
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        predict(CompletionLedger(str(folder)), Data(5), Writing(before=fail))
    assert f"to go on, add --trainer.callbacks+=CompletionLedger --trainer.callbacks.path={folder}" in (
        capsys.readouterr().out
    )
    before = list(read_rows(folder))
    module = predict(CompletionLedger(str(folder)), Data(5, batch_size=3))
    assert module.asked == ["sample-4"]
    assert list(read_rows(folder))[:8] == before
    assert written(folder) == once(5)
    assert "wrote 2 completions to the ledger" in capsys.readouterr().out


def test_a_finished_ledger_stays_as_it_is_and_is_told_again(predict, tmp_path, capsys):
    predict(CompletionLedger(), Data(5))
    before = {path.name: path.read_bytes() for path in (tmp_path / "ledger").glob("part-*")}
    predict(CompletionLedger(), Data(5))
    assert {path.name: path.read_bytes() for path in (tmp_path / "ledger").glob("part-*")} == before
    shown = capsys.readouterr().out
    assert "of which 5 samples are done" in shown
    assert "wrote 0 completions" in shown
    assert shown.count("pass@2          60.0") == 2


def test_a_ledger_of_another_model_is_refused(predict, tmp_path):
    predict(CompletionLedger(), Data(3))
    before = sorted(path.name for path in (tmp_path / "ledger").iterdir())
    with pytest.raises(UserError, match="was written with other weights .model_hash m, now other.; give another"):
        predict(CompletionLedger(), Data(5), Writing("other"))
    assert sorted(path.name for path in (tmp_path / "ledger").iterdir()) == before
    predict(CompletionLedger(), Data(5))
    assert written(tmp_path / "ledger") == once(5)


def test_a_truncated_part_is_named_before_anything_is_written(predict, tmp_path):
    predict(CompletionLedger(), Data(5))
    part = tmp_path / "ledger" / "part-0000-000001.parquet"
    part.write_bytes(part.read_bytes()[:100])
    with pytest.raises(UserError, match="part-0000-000001.parquet: it is truncated"):
        predict(CompletionLedger(), Data(5))
    part.rename(tmp_path / "aside")
    module = predict(CompletionLedger(), Data(5))
    assert module.asked == ["sample-2", "sample-3"]
    assert written(tmp_path / "ledger") == once(5)


def test_samples_of_one_id_are_refused_and_nothing_is_lost(predict, tmp_path):
    with pytest.raises(UserError, match="several samples are called 'sample-0'"):
        predict(CompletionLedger(), Data(0, names=[0, 1, 2, 0]))
    assert written(tmp_path / "ledger") == once(2)
    with pytest.raises(UserError, match="several samples are called 'sample-7'"):
        predict(CompletionLedger(str(tmp_path / "other")), Data(0, names=[7, 7]))


def test_what_does_not_serve_a_ledger_is_told_so(predict, answers, make_trainer, make_loader, tmp_path):
    with pytest.raises(UserError, match="Answers does not tell what its completions come from.*PredictionWriter"):
        predict(CompletionLedger(), Data(2), answers)
    predict(CompletionLedger(), Data(3))
    with pytest.raises(UserError, match="cannot leave out what is done"):
        make_trainer(CompletionLedger()).predict(Writing(), make_loader(5))
    with pytest.raises(UserError, match="is no ledger"):
        predict(CompletionLedger(base=str(tmp_path)), Data(2))


def test_a_base_is_compared(predict, tmp_path, capsys):
    predict(CompletionLedger(str(tmp_path / "base")), Data(5))
    predict(CompletionLedger(base=str(tmp_path / "base")), Data(5), Writing("other"))
    assert "solved by both              3" in capsys.readouterr().out


def test_a_trial_run_leaves_nothing_behind(predict, tmp_path):
    predict(CompletionLedger(), Data(5), fast_dev_run=True)
    assert not (tmp_path / "ledger").exists()


def test_settings_that_change_no_completion_do_not_count():
    def hash_of(**changes):
        model = {"class_path": "A", "init_args": {"max_tokens": 9, "optimizer": {"learning_rate": 1}}}
        data = {"class_path": "B", "init_args": {"levels": [1], "batch_size": 2}}
        for name, value in changes.items():
            (model if name in ("max_tokens", "optimizer") else data)["init_args"][name] = value
        return config_hash({"model": model, "data": data})

    same = [{}, {"optimizer": None}, {"batch_size": 3}, {"num_workers": 8}, {"evaluation_batch_size": 1}]
    assert len({hash_of(**changes) for changes in same}) == 1
    assert len({hash_of(**changes) for changes in ({}, {"max_tokens": 8}, {"levels": [2]}, {"path": Path("a")})}) == 4


SCRIPT = """
import sys, time
from pathlib import Path
import lightning
sys.path.insert(0, {root!r})
from tests.callbacks.test_completion_ledger import CompletionLedger, Data, Writing

ranks = int(sys.argv[2])
lightning.Trainer(
    accelerator="cpu", devices=ranks, strategy="ddp" if ranks > 1 else "auto", logger=False,
    default_root_dir=sys.argv[1], enable_checkpointing=False, enable_progress_bar=False, use_distributed_sampler=False,
    enable_model_summary=False, callbacks=[CompletionLedger(sys.argv[1] + "/ledger")],
).predict(Writing(before=lambda _: time.sleep(float(sys.argv[3]))), datamodule=Data(12), return_predictions=False)
"""


def start(folder, ranks, seconds):
    script = folder / "script.py"
    script.write_text(SCRIPT.format(root=str(Path(__file__).parents[2])))
    command = [sys.executable, str(script), str(folder), str(ranks), str(seconds)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True)


def kill_in_the_middle(folder, ranks):
    """Runs until some completions are on disk, and ends the run as nothing can catch; returns what is there."""
    run = start(folder, ranks, seconds=0.2)
    try:
        while len(list((folder / "ledger").glob("part-*"))) < 2:
            assert run.poll() is None
            time.sleep(0.01)
    finally:
        os.killpg(run.pid, signal.SIGKILL)
        run.wait()
        run.stdout.close()
    done = done_samples(folder / "ledger")
    assert 2 <= len(done) < 12
    return done


@pytest.mark.slow
def test_a_killed_run_goes_on_without_repetitions_or_holes(predict, tmp_path):
    done = kill_in_the_middle(tmp_path, ranks=1)
    module = predict(CompletionLedger(str(tmp_path / "ledger")), Data(12, batch_size=5))
    assert set(module.asked) == {f"sample-{number}" for number in range(12)} - done
    assert written(tmp_path / "ledger") == once(12)


@pytest.mark.slow
def test_two_ranks_share_a_ledger_and_one_or_three_go_on_with_it(predict, tmp_path):
    kill_in_the_middle(tmp_path, ranks=2)
    (tmp_path / "copy").mkdir()
    subprocess.run(["cp", "-r", tmp_path / "ledger", tmp_path / "copy" / "ledger"], check=True)
    predict(CompletionLedger(str(tmp_path / "ledger")), Data(12))
    assert written(tmp_path / "ledger") == once(12)
    run = start(tmp_path / "copy", ranks=3, seconds=0)
    shown, _ = run.communicate(timeout=300)
    assert run.returncode == 0
    assert written(tmp_path / "copy" / "ledger") == once(12)
    assert shown.count("pass@2") == 1
