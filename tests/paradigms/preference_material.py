"""What tests of preference learning share: a module on the random tiny model, pairs of digits, and a run."""

from dataclasses import dataclass, replace

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from PIL import ImageOps

from lit_vlm.data.digits_reasoning import DigitsReasoning
from lit_vlm.functional.media import open_image
from lit_vlm.functional.random_streams import random_stream
from lit_vlm.interfaces.errors import BadSampleError
from lit_vlm.interfaces.records import MediaRef, Preference, assistant_message
from lit_vlm.interfaces.roles import SampleCorruption
from lit_vlm.models.backbone import Backbone
from lit_vlm.models.vision_language_model import GenerationSettings
from lit_vlm.paradigms.dpo import DPOModule
from lit_vlm.paradigms.optimization import OptimizerSettings


@dataclass(frozen=True)
class Inverted(SampleCorruption):
    """Turns light into dark."""

    def __call__(self, sample):
        images = [ImageOps.invert(open_image(image).convert("RGB")) for image in sample.images]
        return replace(sample, images=tuple(MediaRef(pil=image) for image in images))


def with_pair(sample, rejected="<think>i see nothing</think><answer>0</answer>", **options):
    """A sample whose own completion is preferred to another one."""
    return replace(
        sample,
        preferences=(Preference((sample.messages[-1],), (assistant_message(rejected),), **options),),
    )


class Pairs(torch.utils.data.Dataset):
    """Samples with a worse completion each, of different lengths."""

    def __init__(self, samples, bad=()):
        self.samples, self.bad = samples, bad

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        if index in self.bad:
            raise BadSampleError(f"row {index}", "it is meant to be bad")
        words = ("no " * random_stream(0, "words", index).randint(0, 4)) + str(index)
        return with_pair(self.samples[index], f"<think>{words}</think><answer>{index}</answer>")


class PairsOfDigits(DigitsReasoning):
    """Serves pairs."""

    bad: tuple[int, ...] = ()

    def samples(self, split):
        return Pairs(super().samples(split), self.bad if split == "train" else ())


class Losses(Callback):
    """Keeps the figures of every optimizer step."""

    def __init__(self):
        self.steps = []

    @property
    def values(self):
        return [step["train/loss"] for step in self.steps]

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step > len(self.steps):
            figures = {name: float(value) for name, value in trainer.callback_metrics.items()}
            self.steps.append({name: value for name, value in figures.items() if name.startswith("train/")})


def module(folder, rate=1e-3, **options):
    backbone = Backbone(str(folder), **options.pop("backbone", {}))
    settings = {
        "optimizer": OptimizerSettings(
            learning_rate=rate,
            warmup=0,
            schedule="constant",
            epsilon=1e-4,  # large, lest rounding of gradients near 0 decide the direction of a step
        ),
        "generation": GenerationSettings(max_new_tokens=4),
        **options,
    }
    return DPOModule(backbone, **settings)


def data(encoder, bad=(), **options):
    options = {"train_size": 16, "validation_size": 4, "test_size": 4, "batch_size": 4, "num_workers": 0, **options}
    served = PairsOfDigits(encoder, **options)
    served.bad = bad
    return served


def trainer(steps=2, callbacks=(), **options):
    settings = {
        "accelerator": "cpu",
        "max_steps": steps,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "limit_val_batches": 0,
        "use_distributed_sampler": False,
        "callbacks": list(callbacks),
        **options,
    }
    return lightning.Trainer(**settings)


def fit(model, dataset, steps=2, callbacks=(), ckpt_path=None, **options):
    losses = Losses()
    lightning.seed_everything(0, verbose=False)
    trainer(steps, [losses, *callbacks], **options).fit(model, dataset, ckpt_path=ckpt_path)
    return losses, {name: value.detach().clone() for name, value in model.policy.state_dict().items()}
