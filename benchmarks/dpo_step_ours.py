"""The side of this framework in ``dpo_step.py``: ``DPOModule`` under a Lightning Trainer, a step at a time."""

from typing import Any

import torch
from dpo_step_turns import QUESTION, Setting, Work, halves
from lightning import Callback, LightningModule, Trainer
from step_trainer import step_trainer
from turns import Turns, changes_since, pictures, snapshot

from lit_vlm.data.vlm_data_module import Samples, VLMDataModule
from lit_vlm.interfaces.batches import PreferenceBatch
from lit_vlm.interfaces.records import (
    MediaRef,
    Preference,
    Sample,
    SampleMeta,
    Split,
    assistant_message,
    user_message,
)
from lit_vlm.models.backbone import Backbone
from lit_vlm.objectives.preference_loss import PreferenceLoss
from lit_vlm.paradigms.dpo import DPOModule
from lit_vlm.paradigms.optimization import OptimizerSettings
from lit_vlm.paradigms.reference_policy import ReferenceSettings


class Pairs(VLMDataModule):
    """Serves the pairs of both sides."""

    def __init__(self, setting: Setting, **options: Any) -> None:
        super().__init__(**options)
        self._samples = []
        for row, image in enumerate(pictures(setting.image_tokens, 8 * setting.pairs)):
            chosen, rejected = ((assistant_message(text),) for text in halves(setting, row))
            self._samples.append(
                Sample(
                    str(row),
                    (user_message(QUESTION, images=1),),
                    (MediaRef(pil=image),),
                    meta=SampleMeta(category="all"),
                    preferences=(Preference(chosen, rejected),),
                )
            )

    @property
    def tasks(self) -> tuple[str, ...]:
        """There is one."""
        return ("all",)

    def samples(self, split: Split) -> Samples:
        """Returns the samples."""
        return self._samples  # type: ignore[return-value]


class StepByStep(Callback):
    """Waits for its turn between steps, and tells what the last one did."""

    def __init__(self, turns: Turns) -> None:
        self.turns = turns
        self.before: dict[str, torch.Tensor] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Waits for the first turn."""
        assert isinstance(pl_module, DPOModule)
        self.before = snapshot(pl_module.policy.model)
        self.turns.begin()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: PreferenceBatch, batch_idx: int
    ) -> None:
        """Ends a turn: the optimizer has stepped."""
        self.turns.stop_clock()
        assert isinstance(pl_module, DPOModule)
        ids = batch.prompts.input_ids
        optimizer = trainer.optimizers[0]
        first = optimizer.param_groups[0]["params"][0]
        work = Work(
            pairs=len(batch),
            completion_tokens=int(batch.counted.sum()),
            prompt_tokens=int(ids.shape[1]),
            image_tokens=int(torch.isin(ids[0], torch.tensor(pl_module.encoder.media_token_ids)).sum()),
            optimizer_steps=int(optimizer.state[first]["step"]),
            changed=changes_since(self.before, pl_module.policy.model),
        )
        self.before = snapshot(pl_module.policy.model)
        if not self.turns.end(work):
            trainer.should_stop = True


def run(setting: Setting, turns: Turns) -> None:
    """Trains until the turns end.

    Args:
        setting: What both sides do.
        turns: When.
    """
    torch.set_num_threads(setting.threads)
    module = DPOModule(
        Backbone(min_pixels=1, max_pixels=2**24),
        objective=PreferenceLoss(beta=setting.beta),
        reference=ReferenceSettings(),
        optimizer=OptimizerSettings(learning_rate=setting.learning_rate, schedule="constant", warmup=0),
    )
    data = Pairs(setting, encoder=module.encoder, batch_size=setting.pairs, num_workers=0)
    step_trainer(StepByStep(turns)).fit(module, data)
