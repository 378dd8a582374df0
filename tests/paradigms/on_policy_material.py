"""What tests of on-policy paradigms share: a module on the random tiny model, data, a reward, and a run."""

from dataclasses import dataclass

import lightning
import torch
from torch.utils.data import Dataset

from lit_vlm.callbacks.rollout_callback import RolloutCallback
from lit_vlm.data.digits_reasoning import DigitsReasoning
from lit_vlm.functional.random_streams import random_stream
from lit_vlm.interfaces.errors import BadSampleError
from lit_vlm.interfaces.records import RewardOutput
from lit_vlm.interfaces.roles import Reward
from lit_vlm.interfaces.rollouts import RewardContext
from lit_vlm.models.backbone import Backbone
from lit_vlm.models.vision_language_model import GenerationSettings
from lit_vlm.paradigms.grpo import GRPOModule
from lit_vlm.paradigms.optimization import OptimizerSettings
from lit_vlm.rollouts.hf_rollout_engine import HFRolloutEngine
from lit_vlm.rollouts.sampling_settings import SamplingSettings


@dataclass(frozen=True)
class EvenTokens(Reward):
    """Share of tokens with an even id: random completions differ in it, and it is easily learnt."""

    def __call__(self, completions, context=RewardContext()):
        shares = [sum(token % 2 == 0 for token in ids) / max(len(ids), 1) for ids in context.token_ids]
        return RewardOutput(torch.tensor(shares), {"even": torch.tensor(shares)})


@dataclass(frozen=True)
class Same(Reward):
    """The same for all."""

    def __call__(self, completions, context=RewardContext()):
        return RewardOutput(torch.ones(len(completions)))


def engine(tokens=6, **sampling):
    return HFRolloutEngine(SamplingSettings(max_new_tokens=tokens, **sampling))


def module(folder, rate=1e-3, **options):
    backbone = Backbone(str(folder), **options.pop("backbone", {}))
    settings = {
        "engine": engine(),
        "reward": EvenTokens(),
        "group_size": 4,
        "optimizer": OptimizerSettings(learning_rate=rate, warmup=0, schedule="constant"),
        "generation": GenerationSettings(max_new_tokens=4),
        **options,
    }
    return GRPOModule(backbone, **settings)


def data(encoder, **options):
    options = {"train_size": 64, "validation_size": 4, "test_size": 4, "batch_size": 4, "num_workers": 0, **options}
    return DigitsReasoning(encoder, **options)


class HalfBad(Dataset):
    """Samples of which about half cannot be read."""

    def __init__(self, samples):
        self.samples = samples

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        if random_stream("bad", 6, index).random() < 0.5:
            raise BadSampleError(f"sample {index}", "spoilt")
        return self.samples[index]


class HalfBadDigits(DigitsReasoning):
    """Digits of which about half cannot be read."""

    def samples(self, split):
        return HalfBad(super().samples(split))


def half_bad_data(encoder, **options):
    options = {"train_size": 64, "validation_size": 4, "test_size": 4, "num_workers": 0, **options}
    return HalfBadDigits(encoder, bad_samples="skip", bad_samples_limit=0.9, **options)


class Watch(RolloutCallback):
    """Keeps every round as it was after its update."""

    def __init__(self):
        self.iterations = []
        self.norms = []

    def on_after_update(self, trainer, pl_module, iteration):
        self.iterations.append(iteration)

    def figure(self, name):
        return [iteration.figures[name] for iteration in self.iterations]


def fit(model, dataset, steps=2, callbacks=(), ckpt_path=None, **options):
    """Trains, and returns the rounds and the weights."""
    watch = Watch()
    lightning.seed_everything(0, verbose=False)
    options = {"enable_checkpointing": False, "limit_val_batches": 0, **options}
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_steps=steps,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        callbacks=[watch, *callbacks],
        **options,
    )
    trainer.fit(model, dataset, ckpt_path=ckpt_path)
    return watch, {name: value.detach().clone() for name, value in model.policy.state_dict().items()}
