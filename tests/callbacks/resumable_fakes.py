"""A module with two numbers, on a loader that knows its place, so that runs can be stopped and resumed in no time."""

import lightning
import torch

from lit_vlm.callbacks.atomic_checkpoint_io import AtomicCheckpointIO
from lit_vlm.callbacks.resumption import Resumption


class Numbers:
    """Yields the numbers of one epoch after those of the one before, and resumes after what it has yielded."""

    def __init__(self, length=3):
        self.length, self.position, self.is_resumed = length, 0, False

    def __len__(self):
        return self.length

    def __iter__(self):
        if not self.is_resumed:
            self.position = -(-self.position // self.length) * self.length
        self.is_resumed = False
        start = self.position % self.length
        for _ in range(start, self.length):
            self.position += 1
            yield torch.tensor([[float(self.position)]])

    def state_dict(self):
        return {"position": self.position}

    def load_state_dict(self, state):
        self.position, self.is_resumed = state["position"], True


class Line(lightning.LightningModule):
    """Learns two numbers, remembers what it was given, and measures something that rises and falls."""

    def __init__(self, reads_total=False):
        super().__init__()
        self.line = torch.nn.Linear(1, 1)
        self.reads_total = reads_total
        self.seen = []
        self.validated = []

    def configure_model(self):
        torch.nn.init.constant_(self.line.weight, 0.5)
        torch.nn.init.constant_(self.line.bias, 0.0)

    def training_step(self, batch, batch_idx):
        self.seen.append(int(batch.flatten()[0]))
        loss = (self.line(batch / 10) - 1).square().mean()
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        if not self.trainer.sanity_checking:
            self.validated.append(self.trainer.global_step)
        self.log("validation/score", float(self.trainer.global_step % 4), batch_size=1)

    def configure_optimizers(self):
        if self.reads_total:
            assert self.trainer.estimated_stepping_batches > 0
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.1)
        return [optimizer], [{"scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 2), "interval": "step"}]


def fit(folder, *callbacks, ckpt_path=None, module=None, length=3, validates=True, **options):
    """Trains a line, and returns it with its Trainer."""
    module = module or Line()
    trainer = lightning.Trainer(
        accelerator="cpu",
        default_root_dir=folder,
        callbacks=[Resumption(), *callbacks],
        plugins=[AtomicCheckpointIO()],
        **{
            "max_epochs": 3,
            "logger": False,
            "enable_model_summary": False,
            "enable_progress_bar": False,
            "num_sanity_val_steps": 0,
            "use_distributed_sampler": False,
            "limit_val_batches": 1.0 if validates else 0,
            **options,
        },
    )
    trainer.fit(module, Numbers(length), [torch.zeros(1, 1)], ckpt_path=ckpt_path)
    return module, trainer


def states(path):
    """Reads a checkpoint as names and values, without what only tells where it lies."""
    return dict(_flat(torch.load(path, weights_only=True)))


def differences(first, second):
    """Lists the names of two checkpoints whose values are not the same by all bits."""
    first, second = states(first), states(second)
    return sorted(
        name
        for name in {*first, *second}
        if "/Checkpointing/" not in name and not _same(first.get(name, "none"), second.get(name, "none"))
    )


def _flat(value, name=""):
    if isinstance(value, dict | list | tuple):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in items:
            yield from _flat(inner, f"{name}/{key}")
    else:
        yield name, value


def _same(first, second):
    if isinstance(first, torch.Tensor):
        return isinstance(second, torch.Tensor) and first.dtype == second.dtype and torch.equal(first, second)
    return first == second or (first != first and second != second)
