"""What tests on several ranks share: small runs of each paradigm that save what one rank and several must agree in."""

from dataclasses import replace

import lightning
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from lit_vlm.advantages.group_relative import GroupRelative
from lit_vlm.callbacks.export_model import ExportModel
from lit_vlm.functional.random_streams import random_stream
from lit_vlm.interfaces.records import TextPart
from lit_vlm.interfaces.roles import SampleTransform
from lit_vlm.models.adapters import AdapterSettings
from lit_vlm.models.backbone import Backbone
from lit_vlm.models.quantisation import QuantisationSettings
from lit_vlm.models.sharding import whole
from lit_vlm.models.vision_language_model import GenerationSettings, VisionLanguageModel
from lit_vlm.objectives.clipped_policy_loss import ClippedPolicyLoss
from lit_vlm.objectives.preference_loss import PreferenceLoss
from lit_vlm.paradigms.dpo import DPOModule
from lit_vlm.paradigms.grpo import GRPOModule
from lit_vlm.paradigms.optimization import OptimizerSettings
from lit_vlm.paradigms.policy_update import UpdateSettings
from lit_vlm.paradigms.reference_policy import ReferenceSettings
from lit_vlm.paradigms.sft import SFTModule
from tests.paradigms import on_policy_material, preference_material

GLOBAL_BATCH = 2
"""Samples of a step over all ranks."""
LONGEST = 24
"""Most tokens of a sampled completion."""


class HalfWithoutImage(SampleTransform):
    """Takes the image from about half of the samples."""

    def __call__(self, sample):
        if random_stream("text", 0, sample.id).random() < 0.5:
            return [sample]
        messages = tuple(
            replace(message, content=tuple(part for part in message.content if isinstance(part, TextPart)))
            for message in sample.messages
        )
        return [replace(sample, messages=messages, images=())]


class Seen(Callback):
    """Keeps the figures of every step, and whether its batch had images, and the longest completion, on each rank."""

    def __init__(self):
        self.steps = []
        self.has_images = []
        self.longest = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        prompts = getattr(batch, "prompts", batch)
        self.has_images.append("pixel_values" in prompts.visual)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        figures = {name: float(value) for name, value in trainer.callback_metrics.items()}
        names = [name for name in figures if name.startswith("train/") and "seconds" not in name]
        if trainer.global_step > len(self.steps) or not pl_module.automatic_optimization:
            self.steps.append({name: figures[name] for name in names})


class Lengths(on_policy_material.Watch):
    """Keeps the longest completion of each round."""

    def on_after_rollout(self, trainer, pl_module, iteration):
        lengths = iteration.rollouts.lengths
        self.norms.append(int(lengths.max()) if len(lengths) else 0)


def module(paradigm, folder, *, adapter=None, quantisation=None, follow=None):
    """A module whose steps do not depend on rounding of gradients near 0."""
    backbone = Backbone(
        str(folder),
        adapter=None if adapter is None else AdapterSettings(**adapter),
        quantisation=None if quantisation is None else QuantisationSettings(**quantisation),
    )
    options = {
        "optimizer": OptimizerSettings(learning_rate=1e-3, warmup=0, schedule="constant", epsilon=1e-4),
        "generation": GenerationSettings(max_new_tokens=4),
    }
    if paradigm == "sft":
        return SFTModule(backbone, **options)
    options["reference"] = ReferenceSettings(sync_every=follow) if adapter is None else ReferenceSettings("adapter_off")
    if paradigm == "dpo":
        return DPOModule(backbone, objective=PreferenceLoss(nll_weight=0.1), **options)
    return GRPOModule(
        backbone,
        advantage=GroupRelative(scale="batch"),
        objective=ClippedPolicyLoss(kl=0.01),
        engine=on_policy_material.engine(LONGEST),
        reward=on_policy_material.EvenTokens(),
        group_size=4,
        update=UpdateSettings(epochs=2, micro_batch_tokens=200),
        **options,
    )


def data(paradigm, encoder, ranks):
    """Samples of which about half have no image."""
    options = {"batch_size": GLOBAL_BATCH // ranks, "train_size": 64, "transform": HalfWithoutImage()}
    return (preference_material if paradigm == "dpo" else on_policy_material).data(encoder, **options)


def train(
    paradigm, ranks, folder, out, *, strategy, steps=10, precision=None, checkpoints=None, export=None, resume=None,
    validates=False, accelerator="cpu", **options,
):  # fmt: skip
    """Trains, and saves figures of steps, whole weights, and what each rank has seen."""
    # Of many tokens that end a completion some are sampled early, so that lengths differ widely.
    VisionLanguageModel.end_token_ids = property(lambda policy: tuple(range(1, policy.vocabulary_size, 6)))
    lightning.seed_everything(0, verbose=False)
    trained = module(paradigm, folder, **options)
    seen, lengths = Seen(), Lengths()
    callbacks = [seen, lengths] if paradigm == "grpo" else [seen]
    if checkpoints is not None:
        callbacks.append(ModelCheckpoint(checkpoints, "{step}", every_n_train_steps=2, save_top_k=-1))
    if export is not None:
        callbacks.append(ExportModel(export))
    trainer = preference_material.trainer(
        steps,
        callbacks,
        accelerator=accelerator,
        devices=ranks,
        strategy=strategy if ranks > 1 or accelerator == "gpu" else "auto",
        enable_checkpointing=checkpoints is not None,
        limit_val_batches=1.0 if validates else 0,
        val_check_interval=2 if validates else None,
        precision=precision,
        max_epochs=-1,
    )
    trainer.fit(trained, data(paradigm, trained.encoder, ranks), ckpt_path=resume)
    weights = {name: whole(value.detach()).clone() for name, value in trained.policy.state_dict().items()}
    on_ranks = [(seen.has_images, lengths.norms)]
    if ranks > 1:
        on_ranks = [None] * ranks
        torch.distributed.all_gather_object(on_ranks, (seen.has_images, lengths.norms))
    if trained.global_rank == 0:
        figures = {name: float(value) for name, value in trainer.callback_metrics.items()}
        torch.save({"steps": seen.steps, "weights": weights, "ranks": on_ranks, "figures": figures}, out)
    if ranks > 1:
        torch.distributed.barrier()
