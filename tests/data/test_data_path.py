"""The data path as a whole, with images in files, the real encoder and real worker processes."""

import json
import multiprocessing
import os
import subprocess
import sys

import pytest
import torch
from lightning import LightningModule, Trainer
from PIL import Image
from torch.utils.data import Dataset

from lit_vlm.data.vlm_data_module import VLMDataModule
from lit_vlm.interfaces.records import MediaRef, Sample, SampleMeta, assistant_message, user_message
from lit_vlm.models import processor_encoder

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


class Pictures(Dataset):
    """Sample ``i`` asks of ``i % 3`` picture files, some of them shared with other samples."""

    def __init__(self, folder):
        self.folder = str(folder)
        for index in range(6):
            Image.linear_gradient("L").rotate(90 * index).resize((30 + 9 * index, 50)).save(folder / f"{index}.png")

    def __len__(self):
        return 24

    def __getitem__(self, index):
        shown = tuple(MediaRef(path=f"{(index + more) % 6}.png", root=self.folder) for more in range(index % 3))
        turns = (user_message("Which digit is this?", len(shown)), assistant_message("seven " * (1 + index % 7)))
        return Sample(str(index), turns, shown, meta=SampleMeta(origin=f"line {index}"))


class PictureData(VLMDataModule):
    """Serves the pictures in every split."""

    def __init__(self, pictures, encoder, **options):
        super().__init__(encoder, **{"batch_size": 4, "evaluation_batch_size": 4, **options})
        self.pictures = pictures

    @property
    def tasks(self):
        return ("read",)

    def samples(self, split):
        return self.pictures


REAL = pytest.mark.parametrize(
    "options", [{}, {"batching": "length_grouped"}, {"batching": "token_budget", "max_batch_tokens": 200}]
)


@REAL
def test_tensors_do_not_depend_on_the_workers(options, random_tiny_encoder, tmp_path):
    pictures = Pictures(tmp_path)

    def served(workers):
        data = PictureData(pictures, random_tiny_encoder, num_workers=workers, **options)
        training = [batch for loader in [data.train_dataloader()] for _ in range(2) for batch in loader]
        evaluated = [part for batch in data.val_dataloader() for part in (batch.complete, batch.prompts)]
        return [*training, *evaluated]

    alone = served(0)
    for workers in (1, 3):
        batches = served(workers)
        assert len(batches) == len(alone)
        for batch, expected in zip(batches, alone, strict=True):
            assert batch.samples == expected.samples
            assert batch.visual.keys() == expected.visual.keys()
            for name in ("input_ids", "attention_mask", "labels"):
                tensors = getattr(batch, name), getattr(expected, name)
                assert tensors == (None, None) or torch.equal(*tensors)
            assert all(torch.equal(batch.visual[name], tensor) for name, tensor in expected.visual.items())


@REAL
def test_the_workers_decode_each_image_once_a_use_and_the_training_process_opens_none(
    options, random_tiny_encoder, tmp_path, monkeypatch
):
    decoded = multiprocessing.Value("q", 0)
    here, opened_here = os.getpid(), []
    open_file, open_image = Image.open, processor_encoder.open_image

    def note_file(*arguments, **more):
        if os.getpid() == here:
            opened_here.append(arguments)
        return open_file(*arguments, **more)

    def note_image(reference):
        with decoded:
            decoded.value += 1
        return open_image(reference)

    monkeypatch.setattr(Image, "open", note_file)
    monkeypatch.setattr(processor_encoder, "open_image", note_image)
    data = PictureData(Pictures(tmp_path), random_tiny_encoder, num_workers=2, **options)
    for loader in (data.train_dataloader(), data.val_dataloader()):
        decoded.value = 0
        batches = [getattr(batch, "complete", batch) for batch in loader]
        shown = sum(len(sample.images) for batch in batches for sample in batch.samples)
        assert decoded.value == shown > 10
    assert opened_here == []
    # The check itself works: without workers the same is opened here.
    data.num_workers = 0
    next(iter(data.val_dataloader()))
    assert opened_here


class Still(LightningModule):
    """Learns nothing."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def training_step(self, batch, batch_index):
        return self.weight.sum()

    def validation_step(self, batch, batch_index):
        return None

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters())


@pytest.mark.filterwarnings("ignore")
def test_a_run_that_stops_early_leaves_no_process_behind(random_tiny_encoder, tmp_path):
    data = PictureData(Pictures(tmp_path), random_tiny_encoder, num_workers=2, prefetch_bytes=1)
    trainer = Trainer(
        max_steps=2,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    trainer.fit(Still(), data)
    assert trainer.global_step == 2 < data.train_batches(world_size=1)
    del trainer
    assert multiprocessing.active_children() == []


@pytest.mark.slow
def test_two_processes_train_on_batches_by_length_and_list_what_they_left_out(tmp_path):
    Pictures(tmp_path)
    turns = [
        [{"role": "user", "content": "<image>Which?"}, {"role": "assistant", "content": "seven " * (1 + index % 9)}]
        for index in range(32)
    ]
    lines = [json.dumps({"messages": messages, "images": [f"{n % 6}.png"]}) for n, messages in enumerate(turns)]
    lines[5] = lines[5].replace("5.png", "missing.png")
    lines[9] = "{broken"
    (tmp_path / "train.jsonl").write_text("\n".join(lines) + "\n")
    options = {
        "--model": "SFTModule",
        "--data": "ChatDataModule",
        "--data.train": str(tmp_path / "train.jsonl"),
        "--data.validation_share": "0",
        "--data.batching": "length_grouped",
        "--data.batch_size": "4",
        "--data.bad_samples": "skip",
        "--data.bad_samples_limit": "0.1",
        "--trainer.strategy": "ddp",
        "--trainer.devices": "2",
        "--trainer.accelerator": "cpu",
        "--trainer.max_epochs": "1",
        "--trainer.limit_val_batches": "0",
    }
    command = [sys.executable, "-m", "lit_vlm", "fit", *(word for option in options.items() for word in option)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    finished = subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment, cwd=tmp_path)
    assert finished.returncode == 0, finished.stderr
    assert "2 bad samples were left out" in finished.stdout
    (listed,) = (tmp_path / "runs").rglob("bad_samples.jsonl")
    bad = [json.loads(line) for line in listed.read_text().splitlines()]
    assert sorted(row["origin"].rpartition(", ")[2] for row in bad) == ["line 10", "line 6"]
