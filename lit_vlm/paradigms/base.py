"""What every paradigm shares: the policy and its encoder, the optimizer, evaluation by generation, export."""

from __future__ import annotations

import logging
import os
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch.plugins.precision import HalfPrecision
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import nn

from lit_vlm.evaluation.evaluation_metrics import EvaluationMetrics
from lit_vlm.evaluation.pair_metrics import PAIR_ACCURACY, PAIR_ACCURACY_PER_TOKEN, PairMetrics, pair_accuracies
from lit_vlm.functional.random_streams import stream_seed
from lit_vlm.interfaces.batches import EvaluationBatch, PreferenceBatch, PromptBatch, StepTotals, TrainingBatch
from lit_vlm.interfaces.capabilities import COMPLETIONS, PartSummary, ServesTasks
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.ledgers import LedgerHeader
from lit_vlm.interfaces.records import Completion, RewardOutput, Sample, Verdict
from lit_vlm.interfaces.roles import Reward
from lit_vlm.interfaces.run_module import RunModule
from lit_vlm.interfaces.weights import ModelReference, TensorSource, TrainedWeight
from lit_vlm.models.backbone import Backbone
from lit_vlm.models.checkpoint_tensors import open_checkpoint
from lit_vlm.models.processor_encoder import ProcessorEncoder
from lit_vlm.models.support_matrix import check_support
from lit_vlm.models.token_budget import token_budgets
from lit_vlm.models.trained_weights import trained_weights as list_trained_weights
from lit_vlm.models.tuning import summarise_parts
from lit_vlm.models.vision_language_model import GenerationSettings, VisionLanguageModel
from lit_vlm.paradigms.optimization import OptimizerSettings, total_optimizer_steps
from lit_vlm.paradigms.pair_passes import completion_sums, pair_scores
from lit_vlm.paradigms.predicting import ledger_header, predict_completions, prediction_engine
from lit_vlm.paradigms.strategies import strategy_kind
from lit_vlm.parsing.answers import check_answer

POLICY = "_policy."

logger = logging.getLogger(__name__)


class VLMModule(RunModule):
    """Holds a policy, trains it in ``training_step`` (a paradigm's own), and evaluates it by generating.

    Constructors keep settings only; weights are loaded in ``configure_model``, so that building a large recipe costs
    nothing and strategies can shard.

    Args:
        backbone: The model to train.
        optimizer: Learning rate, decay and schedule.
        generation: How completions are decoded in validation, test and predict.
        reward: Scores completions in validation and test, logged beside exact match; None scores nothing.
        max_tokens: Longest training row, prompt included.
    """

    def __init__(
        self,
        backbone: Backbone = Backbone(),
        *,
        optimizer: OptimizerSettings = OptimizerSettings(),
        generation: GenerationSettings = GenerationSettings(),
        reward: Reward | None = None,
        max_tokens: int = 4096,
    ) -> None:
        super().__init__()
        if max_tokens < 2:
            raise UserError(f"model.max_tokens is {max_tokens}; give at least 2")
        self.backbone = backbone
        self.optimizer_settings = optimizer
        self.generation = generation
        self.reward = reward
        self.max_tokens = max_tokens
        # Checkpoints of an adapter run leave the frozen weights out.
        self.strict_loading = backbone.adapter is None
        self.steps_per_batch = 1
        """Optimizer steps that a training batch serves."""
        self._warned_of_totals = False
        self._encoder: ProcessorEncoder | None = None
        self._policy: VisionLanguageModel | None = None
        self._part_summaries: tuple[PartSummary, ...] = ()
        self._trained_names: frozenset[str] = frozenset()
        self.evaluation_metrics = nn.ModuleDict()
        self.pair_metrics = nn.ModuleDict()

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
            self._policy = self.backbone.load_model(self.encoder, run_seed(), self.trainer.strategy.root_device)
            self._policy.train()
            # Lightning warns of frozen parts, which are in evaluation mode on purpose.
            warnings.filterwarnings("ignore", message=r"Found \d+ module\(s\) in eval mode")
            # Counted and named here, since a strategy may cut the weights up and wrap their modules.
            self._part_summaries = summarise_parts(self._policy.model, self._policy.parts)
            self._trained_names = frozenset(name for name, value in self.named_parameters() if value.requires_grad)

    def setup(self, stage: str) -> None:
        """Prepares the metrics for the tasks that the data serve.

        Raises:
            UserError: The Trainer's strategy or precision does not stand how the model is to be loaded.
        """
        if isinstance(self.trainer.precision_plugin, HalfPrecision):
            raise UserError(
                f"trainer.precision {self.trainer.precision} would convert samples and all weights, which is not "
                "supported; give trainer.precision bf16-mixed, with model.backbone.dtype bfloat16 for weights of half "
                "the size"
            )
        strategy = strategy_kind(self.trainer.strategy)
        check_support(strategy, self.backbone)
        if strategy == "fsdp1" and self.optimizer_settings.tells_parameters_apart:
            raise UserError(
                "trainer.strategy fsdp makes flat pieces of the weights, among which model.optimizer can tell neither "
                "matrices nor parts; give weight_decay 0 and no parts, or trainer.strategy ddp"
            )
        tasks = self._data().tasks
        for name in ("validation", "test", "predict"):
            self.evaluation_metrics[name] = EvaluationMetrics(tasks)
            self.pair_metrics[name] = self.new_pair_metrics()

    def part_summaries(self) -> Sequence[PartSummary]:
        """Returns the parts of the model with their sizes, in the order in which data pass them."""
        return self._part_summaries

    def token_budgets(self) -> Sequence[str]:
        """Says in a line each what an image and a video cost, in tokens."""
        return token_budgets(self.encoder)

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
        if self.backbone.adapter is not None:
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
        if self.backbone.adapter is None or not self._trained_names:
            return
        held = {name for name in checkpoint["state_dict"] if name.startswith(POLICY)}
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

    def validation_step(self, batch: EvaluationBatch, batch_idx: int) -> dict[str, Any]:
        """Scores and continues held-out samples; callbacks find the completions under ``completions``."""
        return {COMPLETIONS: self._evaluate(batch, "validation")}

    def test_step(self, batch: EvaluationBatch, batch_idx: int) -> dict[str, Any]:
        """Scores and continues held-out samples; callbacks find the completions under ``completions``."""
        return {COMPLETIONS: self._evaluate(batch, "test")}

    def predict_step(self, batch: EvaluationBatch, batch_idx: int) -> list[Completion]:
        """Writes completions of samples, with all that is known of them; see ``predicting.predict_completions``."""
        return predict_completions(
            self.policy,
            self.encoder,
            batch.prompts,
            self.generation,
            run_seed=run_seed(),
            verdict_of=self.verdict_of,
            reward=self.reward,
        )

    def on_predict_start(self) -> None:
        """Lets prompts be as long as completions leave the model's context.

        Raises:
            UserError: Completions may be as long as the context.
        """
        prediction_engine(self.generation).check(self.policy, self.encoder)
        most = self.policy.context_tokens
        if most is not None:
            # Longer prompts are the data's fault then, each named by its sample.
            self.encoder.leave_room(most, self.generation.max_new_tokens)

    def ledger_header(self) -> LedgerHeader:
        """Tells what holds for all completions of ``predict``, once its weights are set; on all ranks together."""
        return ledger_header(self.policy, self.encoder, self.backbone, self.generation, run_seed())

    def on_validation_epoch_end(self) -> None:
        """Logs the figures of the whole validation set."""
        self._log_evaluation("validation")

    def on_test_epoch_end(self) -> None:
        """Logs the figures of the whole test set."""
        self._log_evaluation("test")

    def export(self, folder: Path) -> None:
        """Writes the policy as a folder that plain ``from_pretrained`` loads, an adapter in PEFT's format.

        Args:
            folder: Where to write; made if absent. Only the first rank writes.
        """
        if self.trainer.is_global_zero:
            self.backbone.save(self.policy, folder)
            self.encoder.processor.save_pretrained(folder)

    def completion_log_probs(self, samples: Sequence[Sample]) -> torch.Tensor:
        """Scores each sample's trained turns under the policy as it is, given what stands before them.

        Returns:
            Sums over their tokens, in nats, fp32, on the CPU, shape ``(N,)``.
        """
        batch = self.encoder.encode(samples).to(self.device)
        with self.policy.decoding():
            scores = self.policy.score(batch)
        sums = torch.zeros(len(samples), device=scores.log_probs.device)
        return sums.index_add(0, scores.rows, scores.log_probs).cpu()

    def complete(self, samples: Sequence[Sample]) -> list[Completion]:
        """Continues each sample's prompt, as validation does."""
        return self._complete(self.encoder.encode_prompts(samples).to(self.device))

    def rewards_of(self, completions: Sequence[Completion]) -> RewardOutput:
        """Scores completions by the module's reward.

        Raises:
            UserError: It has none.
        """
        if self.reward is None:
            raise UserError("completions are to be rewarded, but there is no model.reward; name one")
        return self.reward(completions)

    def new_pair_metrics(self) -> PairMetrics:
        """Makes the counters of figures of pairs, which ``evaluate_pairs`` adds to."""
        return PairMetrics([PAIR_ACCURACY, PAIR_ACCURACY_PER_TOKEN])

    def evaluate_pairs(self, batch: PreferenceBatch, metrics: PairMetrics) -> None:
        """Measures whether the policy finds preferred completions likelier.

        Args:
            batch: One pair or more.
            metrics: What to add to.
        """
        scores = pair_scores(batch, completion_sums(self.policy, batch), None)
        metrics.update(pair_accuracies(scores), scores.has_rejected.sum())

    def verdict_of(self, sample: Sample, text: str) -> Verdict | None:
        """Says whether a completion is right; None where there is nothing to compare it with."""
        return None if sample.answer is None else check_answer(text, sample.answer)

    def count_completions(self, completions: Sequence[Completion], stage: str) -> None:
        """Adds generated completions of a batch to the figures of a stage."""
        metrics = self._metrics(stage)
        metrics.update_completions(completions)
        if self.reward is not None:
            metrics.update_rewards(self.reward(completions))

    def _evaluate(self, batch: EvaluationBatch, stage: str) -> list[Completion]:
        metrics = self._metrics(stage)
        if batch.complete.count().labels:
            metrics.update_scores(self.policy.score(batch.complete))
        if batch.pairs is not None and len(batch.pairs):
            self.evaluate_pairs(batch.pairs, cast(PairMetrics, self.pair_metrics[stage]))
        completions = self._complete(batch.prompts)
        self.count_completions(completions, stage)
        return completions

    def _complete(self, prompts: PromptBatch) -> list[Completion]:
        start = time.perf_counter()
        generated = self.policy.generate(prompts, self.generation)
        seconds = (time.perf_counter() - start) / len(generated)
        completions = []
        for sample, ids in zip(prompts.samples, generated, strict=True):
            text = self.encoder.decode(ids)
            completions.append(
                Completion(
                    sample=sample,
                    prompt=self.encoder.describe_prompt(sample),
                    text=text,
                    verdict=self.verdict_of(sample, text),
                    token_count=len(ids),
                    seconds=seconds,
                )
            )
        return completions

    def _log_evaluation(self, stage: str) -> None:
        for metrics in (self._metrics(stage), cast(PairMetrics, self.pair_metrics[stage])):
            for name, value in metrics.compute().items():
                self.log(f"{stage}/{name}", value, prog_bar=name == "exact_match", batch_size=1)
            metrics.reset()

    def _metrics(self, stage: str) -> EvaluationMetrics:
        return cast(EvaluationMetrics, self.evaluation_metrics[stage])

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
