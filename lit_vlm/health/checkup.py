"""All checks of a recipe, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from lit_vlm.health.batch_leak import batch_leak
from lit_vlm.health.data_records import (
    accepted_answers,
    read_samples,
    readable_records,
    rewarded_answers,
    whole_rows,
)
from lit_vlm.health.feature_counts import feature_counts
from lit_vlm.health.finding import Finding, Subject
from lit_vlm.health.image_ablation import loss_ablation, reward_ablation
from lit_vlm.health.resume_exactness import Workshop, resume_exactness
from lit_vlm.health.rollout_parity import rollout_parity
from lit_vlm.health.run_support import run_support
from lit_vlm.health.suppressed_tokens import suppressed_tokens
from lit_vlm.health.template_prefix import template_prefix
from lit_vlm.health.weights_round_trip import weights_round_trip
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import Sample
from lit_vlm.paradigms.base import VLMModule
from lit_vlm.paradigms.weight_space import WeightSpaceModule

MODEL_CHECKS: tuple[Callable[[Subject], Finding], ...] = (
    whole_rows,
    accepted_answers,
    rewarded_answers,
    template_prefix,
    suppressed_tokens,
    feature_counts,
    loss_ablation,
    reward_ablation,
    batch_leak,
    rollout_parity,
    weights_round_trip,
)


def check_module(kind: type) -> None:
    """Refuses a module for which the checks have no meaning, since it trains no policy by gradients.

    Args:
        kind: Its class.

    Raises:
        UserError: It is one.
    """
    if not issubclass(kind, VLMModule) or issubclass(kind, WeightSpaceModule):
        raise UserError(
            f"doctor looks at modules that train a vision-language policy, and {kind.__name__} does not; give the "
            "recipe of one, such as quickstart"
        )


def examine(workshop: Workshop, user_trainer: Callable[[], Any], folder: Path, most: int) -> Iterator[Finding]:
    """Runs every check; a mistake in the recipe that one meets is a failure of that check.

    Args:
        workshop: Makes module, data and Trainers.
        user_trainer: Makes the recipe's own Trainer.
        folder: Temporary.
        most: Training samples that are looked at.

    Yields:
        What each check found, when it is known.

    Raises:
        UserError: The data cannot be read at all.
    """
    module, data = workshop.build()
    yield run_support(module, user_trainer)
    trainer = workshop.trainer(1, 1, None)
    attach(trainer, module, data)
    samples, bad = read_samples(data.prepared("train"), most)
    yield readable_records(samples, bad)
    if not samples:
        return
    yield from _of_model(module, trainer, samples, folder)
    del module, data, trainer
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    yield _found(resume_exactness, workshop, folder)


def _of_model(module: Any, trainer: Any, samples: Sequence[Sample], folder: Path) -> Iterator[Finding]:
    module.configure_model()
    module.to(trainer.strategy.root_device)
    for check in MODEL_CHECKS:
        with trainer.precision_plugin.forward_context():
            yield _found(check, Subject(module, samples, folder))


def attach(trainer: Any, module: Any, data: Any) -> None:
    """Puts module and data where ``fit`` puts them, and prepares them, without a step."""
    trainer.strategy.connect(module)
    module.trainer = data.trainer = trainer
    trainer.datamodule = data
    data.prepare_data()
    data.setup("fit")
    module.setup("fit")


def _found(check: Callable[..., Finding], *given: Any) -> Finding:
    try:
        return check(*given)
    except UserError as fault:
        return Finding.of(check.__name__.replace("_", " "), False, str(fault), "mend what is named")
