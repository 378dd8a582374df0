"""Training that sets weights instead of following gradients: what merges as experiments share."""

from __future__ import annotations

import json
import logging
from abc import abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.trainer.states import TrainerFn
from torch import nn
from torch.optim import Optimizer

from lit_vlm.interfaces.capabilities import BatchForm
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.roles import GradientTransform, Merge, Reward
from lit_vlm.interfaces.weights import ModelReference
from lit_vlm.merging.merge_plan import MergePlan, plan_merge
from lit_vlm.merging.merge_run import merged_weights, refuse_zero_deltas
from lit_vlm.merging.merge_settings import MergeSettings
from lit_vlm.merging.weight_figures import WeightFigures
from lit_vlm.models.backbone import Backbone
from lit_vlm.models.disk_names import memory_names
from lit_vlm.models.sharding import local_part, part_of_whole
from lit_vlm.models.vision_language_model import GenerationSettings
from lit_vlm.paradigms.base import VLMModule
from lit_vlm.paradigms.strategies import strategy_kind

logger = logging.getLogger(__name__)


class WeightSpaceModule(VLMModule):
    """Sets the weights of its model to merges of checkpoints, and evaluates them like any other module.

    Merged weights are streamed from the files by what ``lit-vlm merge`` runs, and copied into the model that is in
    memory. Every merge starts from the files of the target, which is the backbone's own checkpoint, so that nothing
    adds up over several of them. Setting the weights counts as an optimizer step, which checkpoints and logs go by; the
    training batch of that step is not looked at, unless a paradigm says so.

    Args:
        backbone: The model that others are merged into; no adapter, no quantisation.
        generation: How completions are decoded in validation, test and predict.
        reward: Scores completions in validation and test, logged beside exact match; None scores nothing.
        max_tokens: Longest row of an evaluation, prompt included.
    """

    def __init__(
        self,
        backbone: Backbone = Backbone(),
        *,
        generation: GenerationSettings = GenerationSettings(),
        reward: Reward | None = None,
        max_tokens: int = 4096,
    ) -> None:
        super().__init__(backbone, generation=generation, reward=reward, max_tokens=max_tokens)
        _check_backbone(backbone)
        self.automatic_optimization = False
        self._plan: MergePlan | None = None
        self._names: dict[str, str] = {}

    @abstractmethod
    def merge_settings(self) -> MergeSettings:
        """Says what is merged; its target is ``target``."""

    @abstractmethod
    def set_chosen(self) -> None:
        """Sets the weights that ``validate`` and ``predict`` are about."""

    @property
    def batch_form(self) -> BatchForm:
        """Prompts alone, the cheapest to make, since nothing is learnt from their completions."""
        return "prompts"

    @property
    def target(self) -> ModelReference:
        """The checkpoint that the backbone is loaded from."""
        return self.backbone.reference()

    @property
    def plan(self) -> MergePlan:
        """What becomes of each weight.

        Raises:
            RuntimeError: ``setup`` has not run.
        """
        if self._plan is None:
            raise RuntimeError("the merge is planned in setup, which the Trainer calls")
        return self._plan

    @property
    def merged_names(self) -> list[str]:
        """Names on disk of the weights that are merged."""
        return [planned.place.name for planned in self.plan.outputs if planned.merged]

    def setup(self, stage: str) -> None:
        """Plans the merge, so that what does not fit fails before anything is loaded.

        Raises:
            UserError: The checkpoints do not fit together, nothing is merged, or the Trainer's strategy does not
                give them out.
        """
        strategy = strategy_kind(self.trainer.strategy)
        if strategy not in ("single", "ddp", "fsdp2"):
            raise UserError(
                f"{type(self).__name__} copies whole weights, which trainer.strategy "
                f"{type(self.trainer.strategy).__name__} does not give out; give trainer.strategy auto, ddp or fsdp2"
            )
        super().setup(stage)
        if self._plan is None:
            self._plan = plan_merge(self.merge_settings(), self.open_weights)
            if not self.merged_names:
                raise UserError(
                    f"{type(self).__name__} would merge nothing, as all coefficients are 0; give others than 0"
                )
            for warning in self._plan.warnings if self.trainer.is_global_zero else ():
                logger.warning("%s", warning)

    def configure_callbacks(self) -> list[Any]:
        """Refuses options and callbacks of the Trainer that are about gradients.

        Raises:
            UserError: One is set.
        """
        if getattr(self.trainer.precision_plugin, "scaler", None) is not None:
            raise UserError(
                f"trainer.precision {self.trainer.precision} scales gradients, but {type(self).__name__} has none; "
                "give bf16-mixed or 32-true"
            )
        for option, neutral in (("gradient_clip_val", None), ("accumulate_grad_batches", 1)):
            value = getattr(self.trainer, option)
            if value != neutral:
                raise UserError(
                    f"trainer.{option} is {value}, but {type(self).__name__} has no gradients; leave it out"
                )
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(getattr(callback, "transform", None), GradientTransform):
                raise UserError(
                    f"trainer.callbacks has {type(callback).__name__}, but {type(self).__name__} has no gradients; "
                    "leave it out"
                )
        return []

    def configure_model(self) -> None:
        """Loads the model, and finds the weights that are merged in it."""
        super().configure_model()
        if not self._names:
            merged = self.merged_names
            self._names = memory_names(self.policy.model, merged)
            lost = [name for name in merged if name not in self._names]
            if lost:
                raise UserError(
                    f"{len(lost)} merged weights have no place in {type(self.policy.model).__name__}, such as "
                    f"{lost[0]!r}; leave them out by their coefficients"
                )

    def configure_optimizers(self) -> Any:
        """Makes what counts the steps."""
        return WeightSetter(self.policy)

    def on_validation_start(self) -> None:
        """Sets the weights, where validation is all that is asked for."""
        if self.trainer.state.fn == TrainerFn.VALIDATING:
            self.set_chosen()

    def on_predict_start(self) -> None:
        """Sets the weights."""
        super().on_predict_start()
        self.set_chosen()

    def take_step(self, set_weights: Callable[[], None]) -> None:
        """Sets weights as an optimizer step of the run."""
        optimizer = self.optimizers()
        if not isinstance(optimizer, LightningOptimizer):
            raise RuntimeError("weights are set in training, after configure_optimizers")
        set_weights()
        optimizer.step()

    @torch.inference_mode(False)  # the Trainer tests in this mode, which the threads that merge are not in
    @torch.no_grad()
    def set_weights(self, operation: Merge) -> list[WeightFigures]:
        """Merges anew from the files, and copies the result into the model.

        Args:
            operation: What to run, fitted where it must be.

        Returns:
            Figures of each merged weight.

        Raises:
            UserError: A weight is not finite, or a donor does not differ from its base.
        """
        parameters = dict(self.policy.model.named_parameters(remove_duplicate=False))
        figures = []
        for merged in merged_weights(self.plan, operation, only=set(self._names)):
            parameter = parameters[self._names[merged.planned.place.name]]
            local_part(parameter).copy_(part_of_whole(merged.tensor, parameter))
            figures.append(merged.figures)
        refuse_zero_deltas(figures, self.plan.donor_labels)
        return figures

    def check_epochs(self, most: int) -> None:
        """Lets ``fit`` run epochs of one batch, each with a validation.

        Args:
            most: Epochs that may be needed.

        Raises:
            UserError: The Trainer's options say otherwise; it names the option.
        """
        trainer = self.trainer
        if getattr(trainer, "fast_dev_run", False):
            return
        # A command line may hand over the number 1 as 1.0, which a Trainer takes for all batches, as by default.
        if trainer.limit_train_batches != 1:
            raise UserError(
                f"trainer.limit_train_batches is {trainer.limit_train_batches}, but {type(self).__name__} looks at no "
                "training batch and takes one for each epoch; set it to 1"
            )
        trainer.limit_train_batches = 1
        if not trainer.enable_validation or trainer.check_val_every_n_epoch != 1:
            raise UserError(
                f"{type(self).__name__} needs a validation in every epoch; give trainer.limit_val_batches above 0 and "
                "trainer.check_val_every_n_epoch 1"
            )
        for option in ("max_epochs", "max_steps"):
            limit = getattr(trainer, option)
            if limit not in (None, -1) and limit < most:
                raise UserError(
                    f"trainer.{option} is {limit}, but the search may take {most} epochs of a step each; set it to -1: "
                    "the search ends by itself"
                )

    def write_record(self, name: str, record: Mapping[str, Any]) -> Path | None:
        """Writes a JSON file into the run's folder, on rank 0, unless the run only tries the code."""
        folder = Path(self.trainer.log_dir or self.trainer.default_root_dir)  # on every rank: it is broadcast
        if getattr(self.trainer, "fast_dev_run", False) or not self.trainer.is_global_zero:
            return None
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / name
        text = json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False)
        file.write_text(text + "\n", encoding="utf-8")
        return file

    def say(self, lines: list[str]) -> None:
        """Prints, on rank 0."""
        if self.trainer.is_global_zero:
            print("\n".join(lines), flush=True)


class WeightSetter(Optimizer):
    """Changes nothing itself; Lightning counts its steps, by which checkpoints are told apart."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model.parameters(), {})

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Runs the closure, which is where Lightning's precision plugins come in."""
        return None if closure is None else closure()


def _check_backbone(backbone: Backbone) -> None:
    faults = (
        (backbone.adapter is not None, "adapter", "merge the adapter into its model first (lit-vlm merge)"),
        (backbone.quantisation is not None, "quantisation", "leave it out: merged weights are not quantised"),
        (backbone.from_scratch, "from_scratch", "leave it out: new weights have no checkpoint to merge into"),
        (backbone.gguf_file is not None, "gguf_file", "export the model and give the exported folder as checkpoint"),
        (backbone.train_parts is not None, "train_parts", "leave it out and choose weights by their coefficients"),
    )
    for given, option, mend in faults:
        if given:
            raise UserError(f"model.backbone.{option} is set, but weights are set whole from checkpoints; {mend}")
