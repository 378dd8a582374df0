"""Merging as an experiment: differences of checkpoints, added to a model by a factor that validation chooses."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch.trainer.states import TrainerFn

from lit_vlm.evaluation.evaluation_metrics import EvaluationMetrics
from lit_vlm.functional.weight_coefficients import (
    CoefficientRule,
    WeightCoefficient,
    check_coefficient,
    check_filters,
)
from lit_vlm.functional.weight_names import canonical_name, decoder_layers, weight_place
from lit_vlm.interfaces.batches import EvaluationBatch, PromptBatch
from lit_vlm.interfaces.capabilities import COMPLETIONS
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.roles import Reward
from lit_vlm.interfaces.weights import ModelReference
from lit_vlm.merging.coefficient_search import WHOLE, Candidate, CoefficientSearch
from lit_vlm.merging.merge_settings import Donor, MergeSettings, NamePair
from lit_vlm.merging.merge_vector import write_merged_vector
from lit_vlm.merging.scaled_task_arithmetic import ScaledTaskArithmetic
from lit_vlm.merging.task_arithmetic import TaskArithmetic
from lit_vlm.models.backbone import Backbone
from lit_vlm.models.sharding import is_cut
from lit_vlm.models.vision_language_model import GenerationSettings
from lit_vlm.paradigms.merge_trials import Factors, MeasuredFigure, MergeTrials, figure_table
from lit_vlm.paradigms.weight_space import WeightSpaceModule

CHECKPOINT_KEY = "merge_trials"
SUBTRACTED = -1.0
"""The factor that must hurt where the vector carries what is measured."""


class ReasoningVectorModule(WeightSpaceModule):
    """Adds ``alpha (mask * v)`` to a model, with ``v = plus - minus`` the difference of two other checkpoints.

    ``validate`` and ``predict`` are about ``alpha``, or after a fit, also of an earlier run by its checkpoint, about
    what that found best. ``fit`` tries what ``search`` proposes, one candidate an epoch, whose one training batch is
    not looked at, and ends with the best in memory. The model as it is counts among the candidates where the sanity
    check runs over the whole validation set. ``test`` goes through the test set with the vector subtracted (alpha -1),
    left out (0) and as ``validate`` has it.

    Args:
        backbone: The model that the vector is added to.
        plus: Checkpoint that has learnt what the vector is to carry.
        minus: Checkpoint that lacks just that: same start, same data.
        vectors: In the place of ``plus`` and ``minus``: several differences that are added up, each by its weight;
            models with their bases, or saved vectors.
        alpha: Factor of what is added.
        mask: Which weights it is added to and how strongly: a number (all but embedding and head), anchors over the
            depth, or rules with filters.
        search: Chooses alpha in ``fit``.
        metric: What the search goes by, as validation logs it, without ``validation/``.
        mode: Whether more of it is better.
        save_vector: Folder to write the best vector to when ``fit`` ends, alpha and mask included.
        vocabulary: How rows of embedding and head are matched between models, where the mask names these.
        names: Brings donors' names to the model's, where families name the same weight otherwise.
        merge_device: Where merged weights are computed.
        generation: How completions are decoded in validation, test and predict.
        reward: Scores completions in validation and test, logged beside exact match; None scores nothing.
        max_tokens: Longest row of an evaluation, prompt included.

    Source:
        Reasoning Vectors: Transferring Chain-of-Thought Capabilities via Task Arithmetic (from-paper-text): plus is a
        model after GRPO, minus the one after SFT that it began with, alpha 1 for all weights.
    """

    def __init__(
        self,
        backbone: Backbone = Backbone(),
        *,
        plus: str | ModelReference | None = None,
        minus: str | ModelReference | None = None,
        vectors: Sequence[Donor] = (),
        alpha: float = 1.0,
        mask: WeightCoefficient = 1.0,
        search: CoefficientSearch | None = None,
        metric: str = "exact_match",
        mode: Literal["max", "min"] = "max",
        save_vector: str | None = None,
        vocabulary: Literal["shared_rows", "by_token"] = "shared_rows",
        names: Sequence[NamePair] = (),
        merge_device: str = "cpu",
        generation: GenerationSettings = GenerationSettings(),
        reward: Reward | None = None,
        max_tokens: int = 4096,
    ) -> None:
        super().__init__(backbone, generation=generation, reward=reward, max_tokens=max_tokens)
        if not math.isfinite(alpha):
            raise UserError(f"model.alpha is {alpha}; give a finite number")
        check_coefficient(mask, "model.mask")
        self.donors = _donors(plus, minus, vectors, mask)
        self.alpha = alpha
        self.mask = mask
        self.search = search
        self.metric = metric
        self.save_vector = save_vector
        self.vocabulary: Literal["shared_rows", "by_token"] = vocabulary
        self.names = list(names)
        self.merge_device = merge_device
        self.trials = None if search is None else MergeTrials(search, metric, mode)
        self._trying: Candidate | None = None
        self._present: Factors | None = None

    def merge_settings(self) -> MergeSettings:
        """Describes the sum for alpha 1."""
        return MergeSettings(
            operation=TaskArithmetic(),
            donors=self.donors,
            target=self.target,
            vocabulary=self.vocabulary,
            names=self.names,
            dtype=None if self.backbone.dtype == "auto" else self.backbone.dtype,
            device=self.merge_device,
        )

    @property
    def chosen(self) -> Factors:
        """What the vector is multiplied by: what the search found best, or else alpha."""
        best = None if self.trials is None else self.trials.best
        if best is None or self.trials is None:
            return Factors((self.alpha,))
        return Factors.of(self.trials.search, best)

    def set_chosen(self) -> None:
        """Sets the weights to what is chosen."""
        self._set(self.chosen)

    def setup(self, stage: str) -> None:
        """Checks how the Trainer runs a search, and makes room for the figures of each pass over the test set.

        Raises:
            UserError: ``fit`` has no search, the Trainer's options do not let it run, or the mask finds no weight.
        """
        self._check_mask()
        super().setup(stage)
        if stage == "fit":
            self._check_search()
        if stage == "test":
            for index in range(3):
                self.evaluation_metrics[f"test_{index}"] = EvaluationMetrics(self._data().tasks)
                self.pair_metrics[f"test_{index}"] = self.new_pair_metrics()

    def training_step(self, batch: PromptBatch, batch_idx: int) -> None:
        """Sets the weights to the next candidate, or to the best where the search is over."""
        trials = self._searching()
        self._trying = trials.next_candidate
        factors = self.chosen if self._trying is None else Factors.of(trials.search, self._trying)
        self.take_step(lambda: self._set(factors))
        for group, value in zip(factors.groups or (WHOLE,), factors.values, strict=True):
            self.log(f"search/{group}", value, batch_size=1)

    def on_validation_epoch_end(self) -> None:
        """Logs the figures, and takes down how the candidate did."""
        super().on_validation_epoch_end()
        if self.trainer.state.fn != TrainerFn.FITTING:
            return
        trials = self._searching()
        logged = {name.removeprefix("validation/"): value for name, value in self.trainer.callback_metrics.items()}
        figure = MeasuredFigure.read(logged, self.metric, "model.metric")
        if self.trainer.sanity_checking:
            # A run that resumes may check again, with the weights of its last candidate.
            if self.trainer.num_sanity_val_steps == float("inf") and not trials.tried:
                trials.unchanged = figure
        elif self._trying is not None:
            trials.add(self._trying, figure)
            self._trying = None

    def on_train_epoch_end(self) -> None:
        """Ends the run where the search is over and the best is in memory.

        Raises:
            UserError: There was no validation to judge the candidate by.
        """
        trials = self._searching()
        if self._trying is not None:
            raise UserError(
                "no validation ran in this epoch, so that the search cannot go on; leave out trainer.val_check_interval"
            )
        self.write_record("search.json", trials.to_json())
        if trials.next_candidate is None and self._present == self.chosen:
            self.trainer.should_stop = True

    def on_train_end(self) -> None:
        """Shows what was tried, and saves the vector."""
        self.say(self._searching().lines())
        if self.save_vector is not None and not getattr(self.trainer, "fast_dev_run", False):
            if self.trainer.is_global_zero:
                self.write_vector(Path(self.save_vector), self.chosen)
            self.trainer.strategy.barrier("save_vector")

    @property
    def test_passes(self) -> int:
        """Passes over the test set: subtracted, left out, and as chosen where that is neither."""
        return len(self._compared)

    def on_test_start(self) -> None:
        """Checks that the DataModule serves its test batches as often as they are wanted.

        Raises:
            UserError: It does not.
        """
        loaders = len(self.trainer.num_test_batches)
        if loaders != self.test_passes:
            raise UserError(
                f"{type(self).__name__} goes through the test set {self.test_passes} times, but the DataModule gave "
                f"{loaders} loader(s); use a VLMDataModule, or give as many as the module's test_passes"
            )
        # Its table would have a column for each pass, all of them with all figures.
        self.trainer.test_loop.verbose = False

    def test_step(self, batch: EvaluationBatch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Any]:
        """Scores and continues samples with the vector as this pass has it; each pass has a loader of its own."""
        self._set(self._compared[dataloader_idx])
        return {COMPLETIONS: self._evaluate(batch, f"test_{dataloader_idx}")}

    def on_test_epoch_end(self) -> None:
        """Logs the figures of each pass (``test/alpha_-1/exact_match``), and those of what is chosen as ``test/…``."""
        self.policy.release()
        if is_cut(self.policy):
            # What passes set lay open, and is gone with the release.
            present, self._present = self._present, None
            self._set(present or self.chosen)
        found: list[tuple[Factors, dict[str, float], bool]] = []
        record = {}
        for index, factors in enumerate(self._compared):
            figures = self._metrics(f"test_{index}").compute()
            is_chosen = factors == self.chosen
            for metric, value in figures.items():
                self.log(f"test/{factors.name}/{metric}", value, batch_size=1)
                if is_chosen:
                    self.log(f"test/{metric}", value, batch_size=1)
            found.append((factors, figures, is_chosen))
            strict = {metric: value if math.isfinite(value) else None for metric, value in figures.items()}
            record[factors.name] = {"alpha": str(factors), "chosen": is_chosen, **strict}
            self._metrics(f"test_{index}").reset()
        self.write_record("test_by_alpha.json", {"metric": self.metric, "by_alpha": record})
        # A metric that is not there costs the table alone.
        rows = [
            (str(factors), MeasuredFigure.read(figures, self.metric, "model.metric"), is_chosen)
            for factors, figures, is_chosen in found
        ]
        self.say(figure_table(WHOLE, self.metric, "test", rows))

    def write_vector(self, folder: Path, factors: Factors) -> None:
        """Writes what is added to the model as a saved vector, float32, which ``vectors`` and any merge can read.

        Args:
            folder: Where to write; absent or empty.
            factors: What the vector is multiplied by, such as ``chosen``.

        Raises:
            UserError: The folder holds something.
        """
        operation = ScaledTaskArithmetic(factors=factors.rules)
        settings = replace(self.plan.settings, operation=operation, dtype=None)
        recipe = f"alpha: {factors}\nmetric: {self.metric}\n"
        write_merged_vector(replace(self.plan, settings=settings), folder, recipe)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keeps the history of the search."""
        super().on_save_checkpoint(checkpoint)
        if self.trials is not None:
            checkpoint[CHECKPOINT_KEY] = self.trials.state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Continues the search of an earlier run.

        Raises:
            UserError: That run searched otherwise.
        """
        super().on_load_checkpoint(checkpoint)
        self._present = None
        if self.trials is not None and CHECKPOINT_KEY in checkpoint:
            self.trials.restore(checkpoint[CHECKPOINT_KEY])

    @property
    def _compared(self) -> list[Factors]:
        """What the vector is multiplied by in each pass over the test set."""
        return list(dict.fromkeys([Factors((SUBTRACTED,)), Factors((0.0,)), self.chosen]))

    def _set(self, factors: Factors) -> None:
        """Sets the weights, where they are others."""
        if factors != self._present:
            self._present = None
            self.set_weights(ScaledTaskArithmetic(factors=factors.rules))
            self._present = factors

    def _searching(self) -> MergeTrials:
        if self.trials is None:
            raise UserError(
                f"fit chooses {WHOLE}, but {type(self).__name__} has no model.search; name one, such as GridSearch, or "
                f"run lit-vlm validate with model.alpha"
            )
        return self.trials

    def _check_mask(self) -> None:
        """Refuses filters that find nothing, by the name that they have here."""
        if isinstance(self.mask, int | float):
            return
        names = self.open_weights(self.target).names
        layers = decoder_layers([known for name in names if (known := canonical_name(name)) is not None])
        check_filters(self.mask, [weight_place(name, layers) for name in [*names, "lm_head.weight"]], "model.mask")

    def _check_search(self) -> None:
        search = self._searching().search
        merged = [planned.place for planned in self.plan.outputs if planned.merged]
        check_filters([CoefficientRule(group, 1.0) for group in search.groups], merged, "model.search.filters")
        if self.save_vector is not None:
            self._check_vector_folder(Path(self.save_vector))
        # The best is returned to in an epoch of its own, where it was not the last.
        self.check_epochs(search.most_trials + 1)

    def _check_vector_folder(self, folder: Path) -> None:
        """Refuses a folder that the vector could not be written to, before anything is searched."""
        if folder.exists():
            raise UserError(f"model.save_vector: {str(folder)!r} exists already; name another folder")
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
        except OSError as fault:
            raise UserError(
                f"model.save_vector: {str(folder)!r} cannot be written: {fault}; name another folder"
            ) from fault


def _donors(
    plus: str | ModelReference | None,
    minus: str | ModelReference | None,
    vectors: Sequence[Donor],
    mask: WeightCoefficient,
) -> list[Donor]:
    """Reads which differences are added, each with the mask in its weight."""
    if vectors and (plus is not None or minus is not None):
        raise UserError("model.vectors stands in the place of model.plus and model.minus; give either")
    for index, donor in enumerate(vectors):
        check_coefficient(donor.weight, f"model.vectors[{index}].weight")
        if donor.density != 1.0:
            raise UserError(
                f"model.vectors[{index}].density is set, but vectors are added whole; leave it out, or trim the vector "
                "with lit-vlm merge --as_vector first"
            )
    if vectors:
        return [_masked(donor, mask, f"model.vectors[{index}]") for index, donor in enumerate(vectors)]
    if plus is None or minus is None:
        raise UserError("model.plus and model.minus name the checkpoints whose difference is added; give both")
    return [Donor(model=plus, base=minus, weight=mask)]


def _masked(donor: Donor, mask: WeightCoefficient, option: str) -> Donor:
    """Multiplies a donor's weight by the mask."""
    if isinstance(mask, int | float):
        return replace(donor, weight=_times(donor.weight, mask))
    if isinstance(donor.weight, int | float):
        return replace(donor, weight=_times(mask, donor.weight))
    raise UserError(f"{option}.weight and model.mask both depend on the place; give the mask in the weights alone")


def _times(coefficient: WeightCoefficient, factor: float) -> WeightCoefficient:
    if isinstance(coefficient, int | float):
        return coefficient * factor
    rules = [item for item in coefficient if isinstance(item, CoefficientRule)]
    if rules:
        return [replace(rule, value=_scaled(rule.value, factor)) for rule in rules]
    return [item * factor for item in coefficient if not isinstance(item, CoefficientRule)]


def _scaled(value: float | list[float], factor: float) -> float | list[float]:
    return value * factor if isinstance(value, int | float) else [item * factor for item in value]
