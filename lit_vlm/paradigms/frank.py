"""FRANK: measures where a VLM looks at images, and mixes a reasoning model into its decoder accordingly."""

import logging
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any, Literal

import torch

from lit_vlm.functional.weight_coefficients import CoefficientRule, WeightCoefficient
from lit_vlm.interfaces.batches import PromptBatch
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.roles import Reward
from lit_vlm.interfaces.weights import ModelReference
from lit_vlm.merging.frank import FittedFrank, Frank
from lit_vlm.merging.merge_run import fitted_operation
from lit_vlm.merging.merge_settings import Donor, MergeSettings, NamePair
from lit_vlm.models.backbone import Backbone
from lit_vlm.models.image_attention import attention_modules, image_attention
from lit_vlm.models.vision_language_model import GenerationSettings
from lit_vlm.paradigms.weight_space import WeightSpaceModule

CHECKPOINT_KEY = "frank"

logger = logging.getLogger(__name__)


class FRANKModule(WeightSpaceModule):
    """Merges the decoder of a VLM with a reasoning model, layer by layer, by coefficients in closed form.

    ``fit`` measures the attention from text to images on the training batches of one epoch (as many as
    ``trainer.limit_train_batches``), without gradients; with the last of them it merges, so that the validation at the
    end of the epoch is of the merged model. ``validate``, ``test`` and ``predict`` merge by the attention of an earlier
    fit (its checkpoint, or ``attention``).

    Args:
        backbone: The VLM.
        reasoning: The reasoning model, a text model or a VLM.
        base: What both come from.
        prior: Whether the attention to images counts; otherwise only the sizes of the differences do, and a fit has
            nothing to measure.
        prior_norm: What the prior is divided by: its sum over the layers, as published, or its largest value.
        attention: Attention of each decoder layer as an earlier run measured it, in the place of measuring.
        names: Brings the other models' names to the VLM's, where families name the same weight otherwise.
        merge_device: Where merged weights are computed.
        generation: How completions are decoded in validation, test and predict.
        reward: Scores completions in validation and test, logged beside exact match; None scores nothing.
        max_tokens: Longest prompt, and longest row of an evaluation.

    Source:
        FRANK: Training-Free Reasoning and Reflection in MLLMs (from-paper-text), which measures on 1000 images of COCO;
        only decoder layers are merged, embedding, final norm, head and vision side stay the VLM's.
    """

    def __init__(
        self,
        backbone: Backbone = Backbone(),
        *,
        reasoning: str | ModelReference,
        base: str | ModelReference,
        prior: bool = True,
        prior_norm: Literal["sum", "max"] = "sum",
        attention: list[float] | None = None,
        names: Sequence[NamePair] = (),
        merge_device: str = "cpu",
        generation: GenerationSettings = GenerationSettings(),
        reward: Reward | None = None,
        max_tokens: int = 4096,
    ) -> None:
        super().__init__(backbone, generation=generation, reward=reward, max_tokens=max_tokens)
        if attention is not None and not prior:
            raise UserError("model.attention is given, but model.prior is off; leave one out")
        self.operation = Frank(attention=attention, prior_norm=prior_norm)
        self.reasoning = reasoning
        self.base = base
        self.prior = prior
        self.names = list(names)
        self.merge_device = merge_device
        self._attention = attention
        self._sums = torch.zeros(0, dtype=torch.float64)
        self._rows = 0
        self._merged = False

    @property
    def measures(self) -> bool:
        """Whether a fit looks at its training batches."""
        return self.prior and self.operation.attention is None

    @property
    def attention(self) -> list[float] | None:
        """Attention of each decoder layer, measured or given; None where it is not known yet."""
        return self._attention

    def merge_settings(self) -> MergeSettings:
        """Describes the merge; the attention comes in when it is known."""
        layers: WeightCoefficient = [CoefficientRule("layers:0-", 1.0)]
        return MergeSettings(
            operation=self.operation,
            donors=[Donor(model=model, weight=layers) for model in (self.target, self.reasoning)],
            target=self.target,
            base=self.base,
            names=self.names,
            dtype=None if self.backbone.dtype == "auto" else self.backbone.dtype,
            device=self.merge_device,
        )

    def set_chosen(self) -> None:
        """Merges by the attention that is known.

        Raises:
            UserError: There is none.
        """
        if self.prior and self._attention is None:
            raise UserError(
                "FRANK merges by the attention that fit measures; give the checkpoint of a fit with --ckpt_path, its "
                "numbers as model.attention, or set model.prior to false"
            )
        self.merge()

    def setup(self, stage: str) -> None:
        """Checks how the Trainer runs the measuring pass.

        Raises:
            UserError: It would run more than one epoch, measure nothing in many batches, or run no step; or the
                reasoning model is the backbone's.
        """
        if self.target == (ModelReference(self.reasoning) if isinstance(self.reasoning, str) else self.reasoning):
            raise UserError(
                f"model.reasoning is {self.target}, which is the backbone's own checkpoint, so that merging it would "
                "change nothing; name the reasoning model"
            )
        super().setup(stage)
        if stage != "fit":
            return
        if not self.measures:
            self.check_epochs(1)
        if self.trainer.max_epochs != 1:
            raise UserError(
                f"trainer.max_epochs is {self.trainer.max_epochs}, but {type(self).__name__} measures and merges in "
                "one epoch; set it to 1"
            )
        for option in ("max_steps", "limit_train_batches"):
            if getattr(self.trainer, option) == 0:
                raise UserError(
                    f"trainer.{option} is 0, but {type(self).__name__} merges with its last training batch; leave it "
                    "out, or give at least 1"
                )

    def training_step(self, batch: PromptBatch, batch_idx: int) -> None:
        """Measures a batch; with the last one it merges."""
        if self.measures:
            self._measure(batch)
        trainer = self.trainer
        ends_epoch = trainer.is_last_batch or batch_idx + 1 == trainer.num_training_batches
        is_last = ends_epoch or trainer.global_step + 1 == trainer.max_steps
        self.take_step(self._finish if is_last else lambda: None)

    def on_train_end(self) -> None:
        """Warns where the run was stopped before it merged, as by ``trainer.max_time``."""
        if not self._merged:
            logger.warning(
                "the run was stopped before its last training batch, so that nothing is merged and the weights are "
                "still the VLM's; resume it with --ckpt_path, or give fewer trainer.limit_train_batches"
            )

    def merge(self) -> FittedFrank:
        """Finds the coefficients and sets the weights.

        Returns:
            The operation with the coefficients of each layer.
        """
        settings = replace(self.plan.settings, operation=replace(self.operation, attention=self._attention))
        fitted = fitted_operation(replace(self.plan, settings=settings))
        if not isinstance(fitted, FittedFrank):
            raise RuntimeError("FRANK was fitted to something else")
        self.set_weights(fitted)
        self._merged = True
        return fitted

    def on_test_start(self) -> None:
        """Sets the weights."""
        self.set_chosen()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keeps what all ranks have measured."""
        super().on_save_checkpoint(checkpoint)
        measuring = self.measures and self._attention is None
        checkpoint[CHECKPOINT_KEY] = {
            "attention": self._attention,
            "totals": self._totals().tolist() if measuring else None,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Continues with what was measured; attention that is given counts instead."""
        super().on_load_checkpoint(checkpoint)
        if self.measures and CHECKPOINT_KEY in checkpoint:
            state = checkpoint[CHECKPOINT_KEY]
            self._attention = state["attention"]
            # One rank goes on from the sums of all.
            if state["totals"] is not None and self.global_rank == 0:
                totals = torch.tensor(state["totals"], dtype=torch.float64)
                self._sums, self._rows = totals[:-1], round(float(totals[-1]))

    def _measure(self, batch: PromptBatch) -> None:
        shares = image_attention(self.policy, batch).double().cpu()
        self._sums = shares.sum(0) + (self._sums if len(self._sums) else 0)
        self._rows += len(shares)
        self.log("frank/rows_measured", float(self._rows), prog_bar=True, batch_size=1)

    def _totals(self) -> torch.Tensor:
        """Adds up over all ranks the attention of each layer and, last, the rows that it was measured on."""
        layers = len(attention_modules(self.policy.model))
        sums = self._sums if len(self._sums) else torch.zeros(layers, dtype=torch.float64)
        return self.sum_over_ranks(torch.cat([sums, sums.new_tensor([self._rows])]).float().to(self.device))

    def _finish(self) -> None:
        """Takes the mean over all ranks, merges, and tells what came out."""
        if self.measures:
            totals = self._totals()
            if not totals[-1]:
                raise UserError(
                    "no training batch had an image with text after it, so that there is no attention to measure; give "
                    "data with images, or set model.prior to false"
                )
            self._attention = (totals[:-1] / totals[-1]).tolist()
            self._rows = round(float(totals[-1]))
        fitted = self.merge()
        for layer in fitted.layers:
            self.log(f"frank/vision_share/layer_{layer.layer:02d}", layer.vision_share, batch_size=1)
        layers = [{**asdict(layer), "reasoning_share": layer.reasoning_share} for layer in fitted.layers]
        record = {
            "prior": self.prior,
            "prior_norm": self.operation.prior_norm,
            "attention": self._attention,
            "rows_measured": self._rows,
            "layers": layers,
        }
        self.write_record("frank.json", record)
        self.say(_table(fitted))
        self._warn_of_depth(fitted)

    def _warn_of_depth(self, fitted: FittedFrank) -> None:
        largest = max(layer.vision_prior for layer in fitted.layers)
        if self.prior and self.operation.prior_norm == "sum" and largest < 0.5:
            mean = sum(layer.vision_share for layer in fitted.layers) / len(fitted.layers)
            logger.warning(
                "the prior of the VLM adds up to 1 over %d layers, so that no layer has more than %.3f of it: the "
                "VLM's differences are multiplied by %.3f on average and what it learnt of images may be lost; try "
                "model.prior_norm max",
                len(fitted.layers),
                largest,
                mean,
            )


def _table(fitted: FittedFrank) -> list[str]:
    """Sets the coefficients as a plain table."""
    rows = [f"{'layer':>5}  {'attention':>9}  {'prior w_V':>9}  {'lambda_V':>8}  {'lambda_R':>8}"]
    for layer in fitted.layers:
        attention = "-" if layer.attention is None else f"{layer.attention:.4f}"
        rows.append(
            f"{layer.layer:>5}  {attention:>9}  {layer.vision_prior:>9.4f}  {layer.vision_share:>8.4f}  "
            f"{layer.reasoning_share:>8.4f}"
        )
    return rows
