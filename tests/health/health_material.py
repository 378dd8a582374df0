"""What tests of the checks share: a loaded module on one device, and doubles that break one thing."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from lit_vlm.health.finding import Subject
from lit_vlm.interfaces.records import MediaRef, Sample
from lit_vlm.models.backbone import Backbone
from lit_vlm.models.vision_language_model import GenerationSettings
from lit_vlm.paradigms.grpo import GRPOModule
from lit_vlm.paradigms.sft import SFTModule
from lit_vlm.rollouts.hf_rollout_engine import HFRolloutEngine
from lit_vlm.rollouts.sampling_settings import SamplingSettings
from tests.conftest import make_sample

SHORT = GenerationSettings(max_new_tokens=6)


def different_samples(count: int = 4) -> list[Sample]:
    """Samples whose images, answers and lengths differ."""
    made = []
    for place in range(count):
        sample = make_sample("i see. " * (place + 1), str(place), sample_id=f"s{place}")
        image = Image.linear_gradient("L").rotate(90 * place).resize((32 + 16 * (place % 2), 32)).convert("RGB")
        made.append(replace(sample, images=(MediaRef(pil=image),)))
    return made


def supervised(backbone: Backbone) -> SFTModule:
    """A module that learns from given completions."""
    return SFTModule(backbone, generation=SHORT)


def on_policy(backbone: Backbone) -> GRPOModule:
    """A module that learns from its own completions."""
    engine = HFRolloutEngine(SamplingSettings(max_new_tokens=6))
    return GRPOModule(backbone, engine=engine, group_size=2, generation=SHORT)


def loaded_subject(module: Any, samples: Sequence[Sample], folder: Path) -> Subject:
    """Loads a module's model without a Trainer."""
    single = SimpleNamespace(root_device=torch.device("cpu"))
    module._policy = module.backbone.load_model(module.encoder, 0, single.root_device).train()
    module.trainer = None
    return Subject(module, samples, folder)


class Changed:
    """Stands in for an object, all but for some attributes."""

    def __init__(self, original: Any, **changed: Any) -> None:
        self._original = original
        self.__dict__.update(changed)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._original, name)


@pytest.fixture
def make_subject(random_tiny_folder, tmp_path) -> Callable[..., Subject]:
    """Makes a subject of the random tiny model."""

    def make(kind=supervised, samples=None, **backbone):
        module = kind(Backbone(str(random_tiny_folder), **backbone))
        return loaded_subject(module, different_samples() if samples is None else samples, tmp_path)

    return make


def with_encoder(subject: Subject, **changed: Any) -> Subject:
    """A subject whose encoder differs in some of its methods."""
    return replace(subject, module=Changed(subject.module, encoder=Changed(subject.encoder, **changed)))


def with_policy(subject: Subject, **changed: Any) -> Subject:
    """A subject whose policy differs in some of its methods."""
    return replace(subject, module=Changed(subject.module, policy=Changed(subject.policy, **changed)))
