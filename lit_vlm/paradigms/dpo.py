"""Direct preference optimisation, and its kin by other objectives."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lit_vlm.evaluation.pair_metrics import PAIR_ACCURACY, PAIR_ACCURACY_PER_TOKEN, PairMetrics
from lit_vlm.interfaces.batches import CompletionSet, PreferenceBatch, StepTotals
from lit_vlm.interfaces.capabilities import BatchForm
from lit_vlm.interfaces.comparisons import PairScores
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.roles import PreferenceObjective, Reward, SampleCorruption
from lit_vlm.models.adapter_off import without_adapter
from lit_vlm.models.backbone import Backbone
from lit_vlm.models.completion_scoring import PrefixPass
from lit_vlm.models.log_prob_cache import LogProbCache, ModelName
from lit_vlm.models.media_features import MediaFeatures
from lit_vlm.models.vision_language_model import GenerationSettings
from lit_vlm.models.weight_fingerprint import weight_fingerprint
from lit_vlm.objectives.preference_loss import PreferenceLoss
from lit_vlm.paradigms.completion_learning import ComparisonModule
from lit_vlm.paradigms.optimization import OptimizerSettings
from lit_vlm.paradigms.pair_figures import no_pairs, pair_figures
from lit_vlm.paradigms.pair_passes import completion_sums, frozen_media, pair_scores
from lit_vlm.paradigms.pair_uncertainty import PairUncertainty, UncertaintyWeights
from lit_vlm.paradigms.reference_cache import ServesPairs, cache_file, load_cache, make_cache
from lit_vlm.paradigms.reference_policy import ReferencePolicy, ReferenceSettings, reference_for
from lit_vlm.paradigms.step_figures import StepFigures
from lit_vlm.paradigms.strategies import strategy_kind
from lit_vlm.synthesis.image_corruption import ImageCorruption

PAIR_LOSS, REWARD_ACCURACY = "pair_loss", "reward_accuracy"


@dataclass(frozen=True)
class ReferencedPairs:
    """Pairs, and what is known of them before the policy reads them."""

    batch: PreferenceBatch
    """``C`` completions."""
    reference: Tensor | None
    """Sums of their log-probabilities under the reference, shape ``(C,)``; None where there is none."""
    media: MediaFeatures | None
    """Features of the prompts' media; None where the policy makes its own."""


class DPOModule(ComparisonModule):
    """Learns from pairs of a preferred and another completion of the same prompt, against a reference.

    Both completions go through one pass that computes their prompt, images included, once. The loss is a mean over the
    samples of the whole optimizer step, across accumulated micro-batches and ranks. DPO, cDPO, IPO, SimPO, mDPO and
    their kin are the same module with another ``objective``; its coefficients are this module's.

    ``train/kl`` is the mean over the tokens of the data's completions of the log-ratio of policy and reference: what
    the policy would sample does not enter, so that it may be negative.

    Source:
        Rafailov et al., Direct Preference Optimization (2023), and TRL 1.16 ``trl/trainer/dpo_trainer.py``
        (confirmed-in-code). We differ in the pass, and in denominators that count the whole optimizer step.

    Args:
        backbone: The model to train.
        objective: Turns log-probabilities of pairs into a loss.
        reference: What the policy is compared with. None: where the objective needs one, the model without its adapter
            if that is new, otherwise a frozen copy.
        corruption: Spoils the images that the preferred completion is read behind a second time, where the objective
            asks for that, as mDPO does; of no effect otherwise.
        uncertainty: Weighs pairs by how far a reward fitted to them can be trusted on each; None weighs all alike.
        dropout: Whether the policy's own pass leaves activations out at random, where model or adapter say so.
        prefix: ``shared`` computes each prompt once for all its completions, where the model can; ``naive`` once for
            each.
        chunk_tokens: Completion tokens whose logits exist at one time.
        optimizer: Learning rate, decay and schedule.
        generation: How completions are decoded in validation, test and predict.
        reward: Scores generated completions in validation and test; None scores nothing.
        max_tokens: Longest prompt with a completion, in tokens.
    """

    def __init__(
        self,
        backbone: Backbone = Backbone(),
        *,
        objective: PreferenceObjective = PreferenceLoss(),
        reference: ReferenceSettings | None = None,
        corruption: SampleCorruption = ImageCorruption(),
        uncertainty: UncertaintyWeights | None = None,
        dropout: bool = False,
        prefix: PrefixPass = "shared",
        chunk_tokens: int = 1024,
        optimizer: OptimizerSettings = OptimizerSettings(),
        generation: GenerationSettings = GenerationSettings(),
        reward: Reward | None = None,
        max_tokens: int = 4096,
    ) -> None:
        super().__init__(
            backbone,
            objective=objective,
            prefix=prefix,
            chunk_tokens=chunk_tokens,
            optimizer=optimizer,
            generation=generation,
            reward=reward,
            max_tokens=max_tokens,
        )
        self.objective = objective
        is_needed = objective.needs_reference or uncertainty is not None
        self.reference_settings = reference_for(reference, backbone.adapter, is_needed=is_needed)
        if uncertainty is not None:
            uncertainty.check(self.reference_settings)
        self.uncertainty_settings = uncertainty
        self.dropout = dropout
        self._corruption = corruption
        self._reference: ReferencePolicy | None = None
        self._uncertainty: PairUncertainty | None = None
        self._start: ModelName | None = None
        self._cache: LogProbCache | None = None
        self._is_resumed = False
        self._steps_followed = 0

    @property
    def batch_form(self) -> BatchForm:
        """Training batches hold pairs."""
        return "pairs"

    @property
    def corruption(self) -> SampleCorruption | None:
        """Spoils images where the objective asks for that."""
        return self._corruption if self.objective.needs_corrupted else None

    @property
    def _is_cached(self) -> bool:
        return self.reference_settings is not None and self.reference_settings.kind == "cached"

    @property
    def _starts_without_adapter(self) -> bool:
        """Whether the policy at the start is the model that a new adapter is put into."""
        return self.backbone.adapter is not None and self.backbone.adapter.load is None

    def setup(self, stage: str) -> None:
        """Prepares metrics, and has the encoder name completions where their log-probabilities lie in a file.

        Raises:
            UserError: As in ``VLMModule``; or the strategy or the data do not go with such a file.
        """
        super().setup(stage)
        if not self._is_cached:
            return
        if strategy_kind(self.trainer.strategy) == "deepspeed_3":
            raise UserError(
                "model.reference.kind cached tells models apart by their whole weights, which DeepSpeed stage 3 cuts "
                "up; give trainer.strategy ddp, or another kind"
            )
        self.encoder.names_completions = True

    def configure_model(self) -> None:
        """Loads the weights, and keeps or names those of the reference."""
        super().configure_model()
        self.policy.dropout = self.dropout
        self.policy.train(self.policy.training)
        if self._is_cached:
            if self._start is None:
                weights = weight_fingerprint(self.policy.model, with_adapter=not self._starts_without_adapter)
                self._start = ModelName(self.backbone.checkpoint, weights)
        elif self.reference_settings is not None and self._reference is None:
            self._reference = ReferencePolicy(self.reference_settings, self.policy)

    def on_fit_start(self) -> None:
        """Finds the reference's log-probabilities of all pairs, or computes them, where they lie in a file.

        Where pairs are weighed by uncertainty, the reward that this goes by is fitted to the training pairs.

        Raises:
            UserError: The file is of another model or lacks pairs, or it can no longer be made; or there are no pairs
                to fit a reward to.
        """
        if self._is_cached and self._cache is None:
            self._cache = self._find_cache()
        if self.uncertainty_settings is not None and self._reference is not None:
            self._uncertainty = PairUncertainty(
                self.uncertainty_settings, self.policy, self._reference, self.sum_over_ranks, self.pass_sizes
            )
            with self.trainer.precision_plugin.forward_context():
                batches = (batch.to(self.device) for batch in self._pairs().pair_batches("train"))
                self._uncertainty.fit(batches, self.trainer.world_size)

    def prepared(self, batch: PreferenceBatch) -> ReferencedPairs:
        """Scores pairs under the reference, and weighs them where that is asked for."""
        media = self._shared_media(batch)
        reference = self._reference_sums(batch, media)
        if self._uncertainty is not None:
            batch = replace(batch, weights=batch.weights * self._uncertainty.weights(batch, media))
        return ReferencedPairs(batch, reference, media)

    def share_of(self, prepared: ReferencedPairs, totals: StepTotals, parts: int) -> tuple[Tensor, StepFigures]:
        """Computes the share that pairs of a micro-batch have in the loss over ``totals``, and its figures."""
        scores = self._score(prepared)
        loss = self.objective(scores, totals, self.coefficients)
        share = loss.share / parts
        if not len(prepared.batch):
            # Of no completion there is no graph; the step must still reach every parameter.
            share = share + self.policy.touch(self.policy.parameters())
        told, kept = pair_figures(scores, loss), StepFigures()
        samples = max(totals.sequences, 1) * parts
        kept.add_shares(
            {"loss": loss.share / parts, **{name: value / samples for name, value in told.per_sample.items()}}
        )
        kept.add_means(told.per_pair, told.pairs)
        kept.add_means(told.per_token, told.tokens)
        if self._uncertainty is not None:
            kept.add_means({"pair_weight": scores.weights.sum()}, scores.weights.new_tensor(len(scores.weights)))
        return share, kept

    def on_train_start(self) -> None:
        """Counts the steps that a reference follows from here: a resumed run's are known by now."""
        self._steps_followed = self.trainer.global_step

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Lets a reference follow the policy where it is to."""
        self._follow()

    def _follow(self) -> None:
        step = self.trainer.global_step
        if self._reference is not None and step > self._steps_followed:
            self._steps_followed = step
            self._reference.follow(step)

    def new_pair_metrics(self) -> PairMetrics:
        """Makes the counters of figures of pairs: those of any module, the objective's, and the divergence."""
        nothing = no_pairs(has_reference=self.reference_settings is not None)
        loss = self.objective(nothing, StepTotals(labels=1, sequences=1), self.coefficients)
        shares = [PAIR_ACCURACY, PAIR_ACCURACY_PER_TOKEN, REWARD_ACCURACY]
        names = pair_figures(nothing, loss).names
        return PairMetrics(shares, [PAIR_LOSS, *(name for name in names if name not in shares)])

    def evaluate_pairs(self, batch: PreferenceBatch, metrics: PairMetrics) -> None:
        """Measures how often policy and implicit rewards are right, and the objective.

        Where the reference lies in a file, it is known in training runs only; otherwise the policy is measured alone.
        A likelihood that the objective averages over tokens is averaged over those of each batch, then over samples.

        Args:
            batch: One pair or more.
            metrics: What to add to.
        """
        if self._is_cached and self._cache is None:
            super().evaluate_pairs(batch, metrics)
            return
        totals = batch.count()
        policy, *reference = self.scored(batch, self._sums_of_both).unbind(1)
        with_corrupted = self.objective.needs_corrupted
        scores = pair_scores(batch, policy, reference[0] if reference else None, with_corrupted=with_corrupted)
        loss = self.objective(scores, totals, self.coefficients)
        figures = pair_figures(scores, loss)
        metrics.update({PAIR_LOSS: loss.share.detach() * totals.sequences, **figures.per_sample}, totals.sequences)
        metrics.update(figures.per_pair, figures.pairs)
        metrics.update(figures.per_token, figures.tokens)

    def on_validation_epoch_start(self) -> None:
        """Puts policy and reference together, where their weights are cut up."""
        self._gather_reference()
        super().on_validation_epoch_start()

    def on_test_epoch_start(self) -> None:
        """Puts policy and reference together, where their weights are cut up."""
        self._gather_reference()
        super().on_test_epoch_start()

    def on_validation_epoch_end(self) -> None:
        """Logs the figures, and lets go of what was put together."""
        super().on_validation_epoch_end()
        self._release_reference()

    def on_test_epoch_end(self) -> None:
        """Logs the figures, and lets go of what was put together."""
        super().on_test_epoch_end()
        self._release_reference()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds a reference that follows the policy, after this step if it is to."""
        super().on_save_checkpoint(checkpoint)
        self._follow()
        if self._reference is not None:
            checkpoint["reference"] = self._reference.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Takes up a reference that follows the policy."""
        super().on_load_checkpoint(checkpoint)
        self._is_resumed = True
        if self._reference is not None and checkpoint.get("reference"):
            self._reference.load_state_dict(checkpoint["reference"])

    def _gather_reference(self) -> None:
        if self._reference is not None:
            self._reference.gather()

    def _release_reference(self) -> None:
        if self._reference is not None:
            self._reference.release()

    def _score(self, pairs: ReferencedPairs) -> PairScores:
        policy = self._sums(pairs.batch, pairs.media)
        return pair_scores(pairs.batch, policy, pairs.reference, with_corrupted=self.objective.needs_corrupted)

    def _sums_of_both(self, batch: CompletionSet) -> Tensor:
        """Scores completions under policy and reference; of the former alone where there is no reference."""
        media = self._shared_media(batch)
        reference = self._reference_sums(batch, media)
        policy = self._sums(batch, media)
        return torch.stack([policy] if reference is None else [policy, reference], 1)

    def _shared_media(self, batch: CompletionSet) -> MediaFeatures | None:
        """Encodes media for reference and policy, where both see them alike."""
        shares = self._reference is not None and self._reference.shares_vision
        return frozen_media(self.policy, batch) if shares else None

    def _reference_sums(self, batch: CompletionSet, media: MediaFeatures | None) -> Tensor | None:
        if self._cache is not None:
            return self._cache.look_up(batch.digests).to(self.device)
        if self._reference is None:
            return None
        with self._reference.installed():
            return self._sums(batch, media)

    def _sums(self, batch: CompletionSet, media: MediaFeatures | None = None) -> Tensor:
        return completion_sums(self.policy, batch, media=media, prefix=self.prefix, chunk_tokens=self.chunk_tokens)

    def _pairs(self) -> ServesPairs:
        data = getattr(self.trainer, "datamodule", None)
        if not isinstance(data, ServesPairs):
            raise UserError(
                "model.reference.kind cached and model.uncertainty go through all pairs ahead, which "
                f"{type(data).__name__} cannot; give a DataModule of this package, or leave them out"
            )
        return data

    def _find_cache(self) -> LogProbCache:
        data = self._pairs()
        if self.reference_settings is None or self._start is None:
            raise RuntimeError("the reference is settled in configure_model, which the Trainer calls")
        file = self.trainer.strategy.broadcast(cache_file(data, self.reference_settings.cache))
        if self.trainer.strategy.broadcast(file.is_file()):
            return load_cache(file, self._start, data)
        if self._is_resumed and not self._starts_without_adapter:
            raise UserError(
                f"{file} is not there, and the policy of the checkpoint has moved on from where its reference was "
                "computed; put the file back, or begin the run anew"
            )
        # A run that only tries the code leaves nothing behind.
        writes = self.trainer.is_global_zero and not getattr(self.trainer, "fast_dev_run", False)
        with self.policy.decoding():  # ranks have different numbers of pairs
            return make_cache(file, self._start, data, self._start_sums, writes=writes)

    def _start_sums(self, batch: PreferenceBatch) -> Tensor:
        """Scores completions under the policy as it is at the start of the run."""
        off = without_adapter(self.policy.model) if self._starts_without_adapter else nullcontext()
        with self.trainer.precision_plugin.forward_context(), self.policy.decoding(), off:
            return self.scored(batch.to(self.device), self._sums)
