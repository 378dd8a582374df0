"""All callbacks together on two processes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import importlib.util, sys
from pathlib import Path
import lightning
from torch.utils.data import DataLoader

folder = Path(sys.argv[1])
spec = importlib.util.spec_from_file_location("shared", {conftest!r})
shared = importlib.util.module_from_spec(spec)
spec.loader.exec_module(shared)
from lit_vlm.callbacks.before_after_report import BeforeAfterReport
from lit_vlm.callbacks.export_model import ExportModel
from lit_vlm.callbacks.prediction_writer import PredictionWriter
from lit_vlm.callbacks.progress import Progress
from lit_vlm.callbacks.throughput import Throughput
from lit_vlm.callbacks.validation_pictures import ValidationPictures


class Data(lightning.LightningDataModule):
    def loader(self, count, collate):
        samples = [shared.make_completion(index).sample for index in range(count)]
        sampler = range(self.trainer.global_rank, count, self.trainer.world_size)
        return DataLoader(samples, batch_size=2, sampler=sampler, collate_fn=collate)

    def train_dataloader(self):
        return self.loader(8, shared.encode)

    def val_dataloader(self):
        return self.loader(6, shared.encode_twice)

    def predict_dataloader(self):
        return self.loader(5, shared.encode_twice)


class Exporting(shared.Answers):
    def export(self, target):
        (target / f"rank{{self.global_rank}}").touch()


def trainer(*callbacks):
    return lightning.Trainer(
        accelerator="cpu", devices=2, strategy="ddp", max_epochs=1, logger=False, enable_checkpointing=False,
        default_root_dir=folder, use_distributed_sampler=False, num_sanity_val_steps=-1, log_every_n_steps=1,
        enable_model_summary=False,
        callbacks=list(callbacks),
    )


module = Exporting()
fitting = trainer(Throughput(), Progress(), ValidationPictures(), BeforeAfterReport(), ExportModel())
fitting.fit(module, Data())
trainer(Progress(), PredictionWriter()).predict(module, Data(), return_predictions=False)
"""


@pytest.mark.slow
def test_two_processes_report_predict_and_export_as_one(tmp_path):
    script = tmp_path / "two.py"
    script.write_text(SCRIPT.format(conftest=str(Path(__file__).parent / "conftest.py")))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    folder = tmp_path / "run"
    command = [sys.executable, str(script), str(folder)]
    done = subprocess.run(command, env=environment, timeout=120, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    records = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    assert [record["sample_id"] for record in records] == [f"sample-{index}" for index in range(5)]
    assert sorted(path.name for path in (folder / "model").iterdir()) == ["rank0", "rank1"]
    report = json.loads((folder / "report.json").read_text())
    # Each rank trains on 4 samples in rows of 1 and 2 tokens.
    assert (report["samples"], report["tokens"], report["ranks"], report["steps"]) == (8, 12, 2, 2)
    assert sorted(path.name for path in folder.iterdir()) == [
        "contact_sheet.png",
        "model",
        "predictions.jsonl",
        "report.json",
        "validation_pictures",
    ]
    for text in ("report: ", "exported the model", "wrote 5 predictions", "step 2/2"):
        assert done.stdout.count(text) == 1
