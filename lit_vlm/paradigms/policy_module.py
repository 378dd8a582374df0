"""The policy of a run: loaded, cut up, optimised, saved and exported; what it is trained for is said elsewhere."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler

from lit_vlm.functional.random_streams import stream_seed
from lit_vlm.interfaces.batches import StepTotals, TrainingBatch
from lit_vlm.interfaces.capabilities import PartSummary, ServesTasks
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.memory import MemoryPlan
from lit_vlm.interfaces.run_module import RunModule
from lit_vlm.interfaces.weights import ModelReference, TensorSource, TrainedWeight
from lit_vlm.models.backbone import Backbone
from lit_vlm.models.checkpoint_tensors import open_checkpoint
from lit_vlm.models.layer_sizes import ModelSizes, model_sizes
from lit_vlm.models.processor_encoder import ProcessorEncoder
from lit_vlm.models.sharding import is_cut, whole_state
from lit_vlm.models.stand_in import StandIn
from lit_vlm.models.support_matrix import check_support
from lit_vlm.models.token_budget import token_budgets
from lit_vlm.models.trained_weights import trained_weights as list_trained_weights
from lit_vlm.models.tuning import summarise_parts
from lit_vlm.models.vision_language_model import VisionLanguageModel
from lit_vlm.paradigms.halved_passes import PassSizes
from lit_vlm.paradigms.optimization import OptimizerSettings, total_optimizer_steps
from lit_vlm.paradigms.planned_memory import planned_memory
from lit_vlm.paradigms.precisions import compute_dtype, weights_of_precision
from lit_vlm.paradigms.strategies import data_parallel_mesh, saves_pieces, strategy_kind

POLICY = "_policy."
TRAINED = "trained_weights"
"""Entry of an adapter run's checkpoint: the names of the weights that it holds."""

logger = logging.getLogger(__name__)


class PolicyModule(RunModule):
    """Holds the policy and its encoder, and does with the weights what every paradigm needs.

    Constructors keep settings only; weights are loaded in ``configure_model``, so that building a large recipe costs
    nothing and strategies can shard.

    Args:
        backbone: The model to train.
        optimizer: Learning rate, decay and schedule.
        max_tokens: Longest training row, prompt included.
    """

    def __init__(
        self,
        backbone: Backbone = Backbone(),
        *,
        optimizer: OptimizerSettings = OptimizerSettings(),
        max_tokens: int = 4096,
    ) -> None:
        super().__init__()
        if max_tokens < 2:
            raise UserError(f"model.max_tokens is {max_tokens}; give at least 2")
        self.backbone = backbone
        self.optimizer_settings = optimizer
        self.max_tokens = max_tokens
        # Checkpoints of an adapter run leave the frozen weights out.
        self.strict_loading = backbone.adapter is None
        self.steps_per_batch = 1
        """Optimizer steps that a training batch serves."""
        self.pass_sizes = PassSizes()
        self._warned_of_totals = False
        self._encoder: ProcessorEncoder | None = None
        self._policy: VisionLanguageModel | None = None
        self._part_summaries: tuple[PartSummary, ...] = ()
        self._sizes: ModelSizes | None = None
        self._trained_names: frozenset[str] = frozenset()

    @property
    def encoder(self) -> ProcessorEncoder:
        """Encodes samples for this model; loaded when first asked for."""
        if self._encoder is None:
            self._encoder = self.backbone.load_encoder(self.max_tokens)
        return self._encoder

    @property
    def policy(self) -> VisionLanguageModel:
        """The model being trained.

        Raises:
            RuntimeError: ``configure_model`` has not run.
        """
        if self._policy is None:
            raise RuntimeError("the policy is loaded in configure_model, which the Trainer calls")
        return self._policy

    def configure_model(self) -> None:
        """Loads the weights, once."""
        if self._policy is None:
            device = self.trainer.strategy.root_device
            self._policy = self.with_head(self.backbone.load_model(self.encoder, run_seed(), device))
            self._policy.train()
            # Lightning warns of frozen parts, which are in evaluation mode on purpose.
            warnings.filterwarnings("ignore", message=r"Found \d+ module\(s\) in eval mode")
            # Counted and named here, since a strategy may cut the weights up and wrap their modules.
            self._part_summaries = summarise_parts(self._policy.model, self._policy.parts)
            self._sizes = model_sizes(self._policy.model, self._policy.parts)
            self._trained_names = frozenset(name for name, value in self.named_parameters() if value.requires_grad)
            self._cut_up(self._policy)

    def with_head(self, policy: VisionLanguageModel) -> VisionLanguageModel:
        """Returns what is trained, of the model as it is loaded: by itself that very model."""
        return policy

    def _cut_up(self, policy: VisionLanguageModel) -> None:
        """Spreads the weights over processes, where the strategy leaves that to the module."""
        strategy = self.trainer.strategy
        kind = strategy_kind(strategy)
        if kind == "fsdp2":
            stand_in = StandIn.of_encoder(self.encoder)
            policy.cut_up(data_parallel_mesh(strategy), compute_dtype(strategy, kind), stand_in)

    def setup(self, stage: str) -> None:
        """Checks the Trainer's options against the model, before anything is loaded.

        Raises:
            UserError: The Trainer's strategy or precision does not stand how the model is to be loaded.
        """
        self.backbone = weights_of_precision(self.trainer.strategy, self.backbone)
        strategy = strategy_kind(self.trainer.strategy)
        check_support(strategy, self.backbone)
        if strategy == "fsdp2":
            data_parallel_mesh(self.trainer.strategy)
            compute_dtype(self.trainer.strategy, strategy)
        if strategy == "fsdp1" and self.optimizer_settings.tells_parameters_apart:
            raise UserError(
                "trainer.strategy fsdp makes flat pieces of the weights, among which model.optimizer can tell neither "
                "matrices nor parts; give weight_decay 0 and no parts, or trainer.strategy ddp"
            )

    def part_summaries(self) -> Sequence[PartSummary]:
        """Returns the parts of the model with their sizes, in the order in which data pass them."""
        return self._part_summaries

    def token_budgets(self) -> Sequence[str]:
        """Says in a line each what an image and a video cost, in tokens."""
        return token_budgets(self.encoder)

    def memory_plan(self, batch: TrainingBatch) -> MemoryPlan | None:
        """Predicts the memory of a training step on such a batch; see ``planned_memory``."""
        return None if self._sizes is None else planned_memory(self, self._sizes, batch)

    def trained_weights(self) -> Sequence[TrainedWeight]:
        """Lists the weights and low-rank factors that train, by their names in the plain model; see ``OffersWeights``.

        Raises:
            UserError: The strategy hides their gradients, or an adapter is no sum with its weight.
        """
        strategy = self.trainer.strategy
        return list_trained_weights(self.policy.model, strategy_kind(strategy), strategy.model)

    def initial_weights(self) -> TensorSource:
        """Opens the checkpoint that was loaded, without adapter and unquantised.

        Raises:
            UserError: There is none, or it is no safetensors.
        """
        return self.open_weights(self.backbone.reference())

    def open_weights(self, reference: ModelReference) -> TensorSource:
        """Opens another checkpoint.

        Raises:
            UserError: There is none, or it is no safetensors.
        """
        return open_checkpoint(reference)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leaves out what an adapter run never changes: the frozen weights come from the base model again."""
        checkpoint["pass_sizes"] = self.pass_sizes.state_dict()
        if self.backbone.adapter is not None and not saves_pieces(self.trainer.strategy):
            checkpoint[TRAINED] = sorted(self._trained_names)
            checkpoint["state_dict"] = {
                name: value
                for name, value in checkpoint["state_dict"].items()
                if name in self._trained_names or not name.startswith(POLICY)
            }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Checks that a checkpoint of an adapter run holds exactly what this run trains.

        Raises:
            UserError: It does not.
        """
        self.pass_sizes.load_state_dict(checkpoint.get("pass_sizes", {}))
        if self.backbone.adapter is None or not self._trained_names:
            return
        # A strategy that cuts weights up has loaded the state by now, and kept it.
        names = checkpoint["state_dict"] if "state_dict" in checkpoint else checkpoint.get(TRAINED, self._trained_names)
        held = {name for name in names if name.startswith(POLICY)}
        missing, unexpected = sorted(self._trained_names - held), sorted(held - self._trained_names)
        if missing or unexpected:
            raise UserError(
                f"the checkpoint lacks {len(missing)} weights that this run trains ({', '.join(missing[:3])}) and has "
                f"{len(unexpected)} others ({', '.join(unexpected[:3])}); resume with the same model.backbone.adapter"
            )

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Makes the optimizer, and a schedule that follows optimizer steps."""
        batches = self._data().train_batches(self.trainer.world_size)
        steps = total_optimizer_steps(self.trainer, batches, self.steps_per_batch)
        optimizer, scheduler = self.optimizer_settings.build(self.policy, steps, self.policy.part_of)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Lets dropout depend on the run's seed, the rank and the place in the run, so that a run resumes exactly."""
        place = (self.global_rank, self.trainer.global_step, batch_idx)
        torch.manual_seed(stream_seed(run_seed(), "training_step", *place) % 2**63)

    def export(self, folder: Path) -> None:
        """Writes the policy as a folder that plain ``from_pretrained`` loads, an adapter in PEFT's format.

        Args:
            folder: Where to write; made if absent. Only the first rank writes, but all must call this.
        """
        state = None
        if is_cut(self.policy):
            only_trained = self.backbone.adapter is not None
            state = whole_state(self.policy.model, only_trained=only_trained, keep=self.trainer.is_global_zero)
        if self.trainer.is_global_zero:
            self.backbone.save(self.policy, folder, state)
            self.encoder.processor.save_pretrained(folder)

    def on_validation_epoch_start(self) -> None:
        """Puts weights that are cut up together, so that ranks may have different numbers of batches."""
        self.policy.gather()

    def on_validation_epoch_end(self) -> None:
        """Lets go of them."""
        self.policy.release()

    def on_test_epoch_start(self) -> None:
        """Puts weights that are cut up together."""
        self.policy.gather()

    def on_test_epoch_end(self) -> None:
        """Lets go of them."""
        self.policy.release()

    def on_predict_epoch_start(self) -> None:
        """Puts weights that are cut up together."""
        self.policy.gather()

    def on_predict_epoch_end(self) -> None:
        """Lets go of them."""
        self.policy.release()

    def _data(self) -> ServesTasks:
        data = getattr(self.trainer, "datamodule", None)
        if not isinstance(data, ServesTasks):
            raise UserError(
                f"{type(self).__name__} needs a DataModule with tasks and train_batches, such as DigitsReasoning; "
                f"given: {type(data).__name__}"
            )
        return data

    @property
    def averaged_parts(self) -> int:
        """Shares that a step's gradient is averaged over: ranks by the strategy, micro-batches by Lightning.

        What automatic optimisation is given is a share of the step's loss times this number.
        """
        return self.trainer.accumulate_grad_batches * self.trainer.world_size

    def step_totals(self, batch: TrainingBatch) -> tuple[StepTotals, int]:
        """Tells what a micro-batch's loss is a mean of.

        Returns:
            Counts, and the parts that the loss is a mean over: of the whole optimizer step, and 1; where the loader
            does not tell them, of this micro-batch alone, and the number of micro-batches over all ranks.
        """
        if batch.step_totals is not None:
            return batch.step_totals, 1
        if not self._warned_of_totals:
            self._warned_of_totals = True
            logger.warning(
                "the loader does not count what an optimizer step holds; the loss is averaged per micro-batch"
            )
        return batch.count(), self.averaged_parts

    @staticmethod
    def sum_over_ranks(value: torch.Tensor) -> torch.Tensor:
        """Adds a value up over all ranks, in place; alone it stays as it is."""
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(value)
        return value


def run_seed() -> int:
    """Returns the run's seed, which Lightning's ``seed_everything`` leaves in the environment."""
    return int(os.environ.get("PL_GLOBAL_SEED", "0"))
