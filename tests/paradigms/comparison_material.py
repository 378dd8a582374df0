"""What tests of paradigms share that learn from compared completions: samples, a DataModule over them, and a run."""

import lightning
from lightning.pytorch.callbacks import Callback

from lit_vlm.data.vlm_data_module import VLMDataModule
from lit_vlm.interfaces.records import (
    Answer,
    Candidate,
    Preference,
    Sample,
    SampleMeta,
    assistant_message,
    user_message,
)
from tests.conftest import picture


def completion(answer, thought="i see {}."):
    """A chain of thought with its answer."""
    return assistant_message(f"<think>{thought.format(answer)}</think><answer>{answer}</answer>")


def compared_sample(index, right=2, wrong=2, images=1):
    """A question whose answer is ``index``, with right and wrong candidates and a pair of the first of them."""
    goods = [(completion(index, "yes i see {}." if number else "i see {}."),) for number in range(right)]
    bads = [(completion((index + 3 + number) % 10),) for number in range(wrong)]
    graded = [Candidate(turns, {"correct": 1.0}) for turns in goods] + [
        Candidate(turns, {"correct": 0.0}) for turns in bads
    ]
    return Sample(
        id=f"s{index}",
        messages=(user_message("Which digit is this?", images=images), completion(index)),
        images=tuple(picture((25 * index % 256, 90, 200)) for _ in range(images)),
        answer=Answer("number", str(index)),
        meta=SampleMeta(source="test", category="read"),
        candidates=tuple(graded),
        preferences=(Preference(goods[0], bads[0]),) if goods and bads else (),
    )


class Listed(list):
    """Samples by index."""


class ComparedData(VLMDataModule):
    """Serves given samples in all splits."""

    def __init__(self, encoder, samples, **options):
        super().__init__(encoder, **{"num_workers": 0, "batch_size": 4, **options})
        self.given = Listed(samples)

    @property
    def tasks(self):
        return ("read",)

    def samples(self, split):
        return self.given


class Figures(Callback):
    """Keeps what was logged of every optimizer step."""

    def __init__(self):
        self.steps = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step > len(self.steps):
            self.steps.append({name: float(value) for name, value in trainer.callback_metrics.items()})

    def of(self, name):
        return [step[name] for step in self.steps]


def fit(model, dataset, steps=2, callbacks=(), ckpt_path=None, **options):
    """Trains, and returns the figures and the weights."""
    figures = Figures()
    lightning.seed_everything(0, verbose=False)
    options = {"enable_checkpointing": False, "limit_val_batches": 0, "num_sanity_val_steps": 0, **options}
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_steps=steps,
        max_epochs=-1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        callbacks=[figures, *callbacks],
        **options,
    )
    trainer.fit(model, dataset, ckpt_path=ckpt_path)
    return figures, {name: value.detach().clone() for name, value in model.policy.state_dict().items()}
