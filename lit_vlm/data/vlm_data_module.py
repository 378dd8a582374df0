"""The base of every DataModule: samples in, encoded batches out."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

from lightning import LightningDataModule
from torch.utils.data import Dataset

from lit_vlm.data.bad_samples import BadSampleLedger, BadSamplePolicy, check_limit
from lit_vlm.data.batch_plans import BatchPlan, LengthGroupedBatches, ShardedBatches, TokenBudgetBatches
from lit_vlm.data.bounded_loader import BoundedLoader
from lit_vlm.data.evaluation_loader import EvaluationLoader
from lit_vlm.data.first_batches import LooksAhead
from lit_vlm.data.learned_turns import Learn, check_learn
from lit_vlm.data.loader_options import Batching, check_at_least, check_batching, check_split
from lit_vlm.data.predicted_samples import samples_left
from lit_vlm.data.steered_batches import SteeredBatches, Steering
from lit_vlm.data.step_loader import StepLoader
from lit_vlm.data.token_lengths import TokenLengths, count_lengths
from lit_vlm.data.training_arms import TrainingArms
from lit_vlm.data.transformed_samples import EvaluatedSamples, ExpandedSamples, PreparedSamples
from lit_vlm.functional.random_streams import stream_seed
from lit_vlm.interfaces.batches import PreferenceBatch, TrainingBatch
from lit_vlm.interfaces.capabilities import (
    ArmKind,
    BatchForm,
    ChoosesBatches,
    CorruptsImages,
    RepeatsTest,
    SamplesRollouts,
)
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import BadSample, Sample, Split, TokenCount
from lit_vlm.interfaces.roles import SampleEncoder, SampleTransform

Samples = Dataset[Sample]


class VLMDataModule(LooksAhead, LightningDataModule):
    """Serves samples of any dataset, encoded for the model at hand.

    A subclass says which samples a split has (``samples``) and which tasks they belong to (``tasks``). Training batches
    hold what the module asks for (``ChoosesBatches``): prompts with completions, prompts alone where it samples
    completions itself, pairs, or graded completions; the lengths that batches are put together by are theirs.

    Args:
        encoder: Encodes for the model; the command line fills it in from ``model``.
        batch_size: Samples of a training micro-batch on each rank. With ``batching: token_budget`` the most samples of
            one, None for as many as the budget takes.
        evaluation_batch_size: Samples of a validation, test or predict batch on each rank.
        num_workers: Processes that decode and encode; 0 does so in the training process.
        system_prompt: Put before samples that have no system turn of their own; None adds nothing.
        transform: Makes the samples that are trained and evaluated on; None takes them as they are.
        learn: Turns that supervised losses count: ``all_turns`` of the assistant, the ``last_turn``, or ``critique``
            for the last one of judging questions and all of others; None for those that the data mark.
        batching: How training batches are put together. ``fixed``: ``batch_size`` samples in random order;
            ``length_grouped``: the same number, of similar length; ``token_budget``: as many samples of similar length
            as ``max_batch_tokens`` takes. The last two count the tokens of every sample before training.
        max_batch_tokens: Most tokens of a training micro-batch on each rank, image tokens and padding included.
        bad_samples: What a sample that cannot be read or encoded does: ``error`` stops the run, ``skip`` leaves it out
            and lists it at the end.
        bad_samples_limit: Most samples of a split that may be left out: a whole number, or a share below 1 as 0.01.
        prefetch_bytes: Most bytes of batches waiting in host memory on each rank, over all its workers. One batch is
            always read ahead, and those of the optimizer step in progress do not count.
        predict_split: Split that ``predict`` writes completions for. Of the training split ``transform`` may make
            several samples each, of the others one.
    """

    def __init__(
        self,
        encoder: SampleEncoder | None = None,
        *,
        batch_size: int | None = 8,
        evaluation_batch_size: int = 32,
        num_workers: int = 2,
        system_prompt: str | None = None,
        transform: SampleTransform | None = None,
        learn: Learn | None = None,
        batching: Batching = "fixed",
        max_batch_tokens: int | None = None,
        bad_samples: BadSamplePolicy = "error",
        bad_samples_limit: int | float = 0.05,
        prefetch_bytes: int = 2**30,
        predict_split: Split = "test",
    ) -> None:
        super().__init__()
        check_at_least(1, batch_size=batch_size, evaluation_batch_size=evaluation_batch_size)
        check_at_least(1, max_batch_tokens=max_batch_tokens, prefetch_bytes=prefetch_bytes)
        check_at_least(0, num_workers=num_workers)
        check_batching(batching, batch_size, max_batch_tokens)
        check_limit(bad_samples_limit)
        check_learn(learn)
        check_split(predict_split)
        self._encoder = encoder
        self.batch_size = batch_size
        self.evaluation_batch_size = evaluation_batch_size
        self.num_workers = num_workers
        self.system_prompt = system_prompt
        self.transform = transform
        self.learn: Learn | None = learn
        self.batching: Batching = batching
        self.max_batch_tokens = max_batch_tokens
        self.bad_samples: BadSamplePolicy = bad_samples
        self.bad_samples_limit = bad_samples_limit
        self.prefetch_bytes = prefetch_bytes
        self.predict_split: Split = predict_split
        self._predicted: Collection[str] = ()
        self._ledgers: dict[Split, BadSampleLedger] = {}
        self._lengths: dict[BatchForm, TokenLengths] = {}
        self._transformed: dict[Split, Samples] = {}
        self._arms: TrainingArms | None = None
        self._steering = Steering(self._indices_of_arms)
        self._refused: list[BadSample] = []
        self._module: object = None

    @property
    @abstractmethod
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks among the samples (``meta.category``), in the order they are reported."""

    @abstractmethod
    def samples(self, split: Split) -> Samples:
        """Returns the samples of a split, by index."""

    @property
    def has_runs_of_one_kind(self) -> bool:
        """Whether training samples are laid out in runs that should share a batch."""
        return False

    @property
    def encoder(self) -> SampleEncoder:
        """Encodes samples for the model.

        Raises:
            UserError: None was given.
        """
        if self._encoder is None:
            raise UserError(
                f"{type(self).__name__} needs an encoder; outside the command line pass encoder=model.encoder"
            )
        return self._encoder

    def setup(self, stage: str) -> None:
        """Checks that nobody else shards the data.

        Raises:
            UserError: Lightning's own distributed sampler is on while there are several processes.
        """
        if self.trainer and self.trainer.world_size > 1 and self.trainer._accelerator_connector.use_distributed_sampler:
            raise UserError("this DataModule shards by rank itself; set trainer.use_distributed_sampler to false")
        # What stands where may depend on the number of ranks, which the Trainer tells.
        self._arms = None
        self._transformed = {}

    @property
    def batch_form(self) -> BatchForm:
        """What training batches hold: what the module asks for."""
        module = self._served
        if isinstance(module, ChoosesBatches):
            return module.batch_form
        return "prompts" if isinstance(module, SamplesRollouts) else "completions"

    @property
    def serves_prompts(self) -> bool:
        """Whether training batches hold prompts alone, since the module samples completions itself."""
        return self.batch_form == "prompts"

    def serve(self, module: object) -> None:
        """Names the module that samples are for, where there is no Trainer that knows it."""
        self._module = module

    def arms(self, by: ArmKind) -> Mapping[str, int]:
        """Counts the training samples of each arm, sorted by name, levels by number.

        Every sample is read at the first call; those that cannot be read count as bad and belong to no arm.

        Raises:
            UserError: A sample does not say which arm it belongs to, or is bad and the run may not leave it out.
        """
        return {name: len(indices) for name, indices in self._indices_of_arms(by).items()}

    def steer(self, by: ArmKind, probabilities: Mapping[str, float]) -> None:
        """Draws from now on each training sample's arm with these probabilities, then the next unused sample of it.

        Batches that are read ahead stay as they are: those of the optimizer step in progress, and after them two for
        each of ``num_workers``. So a call acts on the batch after these; before the first batch it acts on all. Epochs
        stay as long as they were. Every rank must make the same calls.

        Args:
            by: What the names name.
            probabilities: Of each arm, none negative; they need not add up to 1; arms left out have none.

        Raises:
            UserError: As ``arms``; or a name is unknown, all probabilities are 0, or batches are made by length.
        """
        if self.batching != "fixed":
            raise UserError(
                f"data.batching is {self.batching}, which makes batches by length, so that samples cannot be drawn by "
                f"{by}; set it to fixed"
            )
        self._steering.steer(by, probabilities)

    def train_batches(self, world_size: int) -> int:
        """Counts the training batches of an epoch on each of ``world_size`` ranks.

        Raises:
            UserError: A sample that has no place in a batch is bad, and the run may not leave it out.
        """
        return len(self._plan(0, world_size))

    def prepared(self, split: Split) -> PreparedSamples:
        """Returns the samples of a split as the loaders read them, the system prompt before them.

        Raises:
            UserError: As ``samples``.
        """
        return PreparedSamples(self._made(split), self.system_prompt, self.learn)

    def pair_batches(self, split: Split) -> Iterator[PreferenceBatch]:
        """Yields this rank's share of the pairs of a split, in order; of each batch what is bad is left out.

        Raises:
            UserError: As ``samples``.
        """
        rank, world_size = self._rank()
        size = self.evaluation_batch_size if self.batch_size is None else self.batch_size
        samples = self.prepared(split)
        mine = range(rank, len(samples), world_size)
        loader: BoundedLoader[PreferenceBatch] = BoundedLoader(
            samples, self._encode_pairs, **self._loader_options(split)
        )
        for reading in loader.read([mine[start : start + size] for start in range(0, len(mine), size)]):
            if reading.fault is not None:
                raise reading.fault
            if reading.batch is not None and len(reading.batch):
                yield reading.batch

    def cache_file(self, name: str) -> Path:
        """Names the file for what is computed once from the data: in the Trainer's folder, where there are no files."""
        return Path(self.trainer.default_root_dir if self.trainer else ".") / name

    def train_dataloader(self) -> StepLoader:
        """Shuffled training batches, with the label counts of their optimizer step where they have labels."""
        trainer, module = self.trainer, self._served
        samples_rollouts = isinstance(module, SamplesRollouts)

        def limit() -> int | None:
            batches = trainer.num_training_batches if trainer else None
            return int(batches) if batches is not None and batches != float("inf") else None

        plan = self._plan(*self._rank())
        return StepLoader(
            self.prepared("train"),
            self._encode,
            SteeredBatches(plan, self._steering) if isinstance(plan, ShardedBatches) else plan,
            accumulation=lambda: trainer.accumulate_grad_batches if trainer else 1,
            limit=limit,
            unfinished=lambda: cast(SamplesRollouts, module).unfinished_batches if samples_rollouts else 0,
            ledger=self._ledger("train"),
            refused=self._refused,
            **self._loader_options("train"),
        )

    def val_dataloader(self) -> EvaluationLoader:
        """Validation batches, in order."""
        return self._evaluation_loader("validation")

    def test_dataloader(self) -> EvaluationLoader | list[EvaluationLoader]:
        """Test batches, in order; as several loaders where the module goes through them several times."""
        module = self._served
        passes = module.test_passes if isinstance(module, RepeatsTest) else 1
        loaders = [self._evaluation_loader("test") for _ in range(passes)]
        return loaders if passes > 1 else loaders[0]

    def predict_dataloader(self) -> EvaluationLoader:
        """Batches of ``predict_split``, in order, to write completions for."""
        return self._evaluation_loader(self.predict_split, self._predicted)

    def leave_out(self, sample_ids: Collection[str]) -> None:
        """Passes by these samples in ``predict``, before its loader is made; the rest is dealt to the ranks evenly."""
        self._predicted = sample_ids

    def _evaluation_loader(self, split: Split, done: Collection[str] = ()) -> EvaluationLoader:
        samples = self.prepared(split)
        return EvaluationLoader(
            samples,
            self.encoder.encode_evaluation,
            samples_left(samples, done, *self._rank()),
            self.evaluation_batch_size,
            ledger=self._ledger(split),
            **self._loader_options(split),
        )

    @property
    def _encode(self) -> Callable[[Sequence[Sample]], TrainingBatch]:
        """Encodes a training batch, in the form that the module asks for."""
        match self.batch_form:
            case "pairs":
                return self._encode_pairs
            case "groups":
                return self.encoder.encode_groups
            case "prompts":
                return self.encoder.encode_prompts
        return self.encoder.encode

    @property
    def _count(self) -> Callable[[Sample], TokenCount]:
        """Counts the tokens of what ``_encode`` encodes."""
        match self.batch_form:
            case "pairs" | "groups":
                return self.encoder.count_comparison_tokens
            case "prompts":
                return self.encoder.count_prompt_tokens
        return self.encoder.count_tokens

    @property
    def _encode_pairs(self) -> Callable[[Sequence[Sample]], PreferenceBatch]:
        module = self._served
        return partial(
            self.encoder.encode_pairs, corrupt=module.corruption if isinstance(module, CorruptsImages) else None
        )

    def _made(self, split: Split) -> Samples:
        """The samples of a split as the transform makes them, where there is one."""
        if self.transform is None:
            return self.samples(split)
        if split not in self._transformed:
            make = ExpandedSamples if split == "train" else EvaluatedSamples
            self._transformed[split] = make(self.samples(split), self.transform)
        return self._transformed[split]

    @property
    def _served(self) -> object:
        """The module that samples are for."""
        return self._module if self.trainer is None else self.trainer.lightning_module

    def _plan(self, rank: int, world_size: int) -> BatchPlan:
        ranks = {"rank": rank, "world_size": world_size, "seed": _run_seed()}
        if self.max_batch_tokens is not None:
            return TokenBudgetBatches(
                self._token_lengths().lengths, self.max_batch_tokens, batch_size=self.batch_size, **ranks
            )
        batch_size = cast(int, self.batch_size)  # the constructor sees to it
        if self.batching == "length_grouped":
            return LengthGroupedBatches(self._token_lengths().lengths, batch_size, **ranks)
        return ShardedBatches(
            len(self.prepared("train")), batch_size, shuffle_batches=self.has_runs_of_one_kind, **ranks
        )

    def _token_lengths(self) -> TokenLengths:
        """Tokens of the training samples or of their prompts, counted once."""
        form = self.batch_form
        if form not in self._lengths:
            samples = self.prepared("train")
            lengths = count_lengths(samples, self._count, num_workers=self.num_workers)
            if self.max_batch_tokens is not None:
                lengths = lengths.limited(self.max_batch_tokens, samples)
            self._refuse(lengths.bad_samples)
            self._lengths[form] = lengths
        return self._lengths[form]

    def _indices_of_arms(self, by: ArmKind) -> Mapping[str, Sequence[int]]:
        """The training samples of each arm, read once."""
        if self._arms is None:
            self._arms = TrainingArms(self._made("train"), self._refuse)
        return self._arms.indices(by)

    def _refuse(self, bad_samples: Sequence[BadSample]) -> None:
        """Counts training samples that no batch will hold, and lets the next batch name them."""
        self._ledger("train").add(bad_samples)
        self._refused.extend(bad for bad in bad_samples if bad not in self._refused)

    def _ledger(self, split: Split) -> BadSampleLedger:
        """The count of a split's bad samples, kept over loaders and epochs."""
        if split not in self._ledgers:
            size = len(self.prepared(split))
            self._ledgers[split] = BadSampleLedger(self.bad_samples, self.bad_samples_limit, split, size)
        return self._ledgers[split]

    def _rank(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def _loader_options(self, split: Split) -> dict[str, Any]:
        return {
            "num_workers": self.num_workers,
            "prefetch_bytes": self.prefetch_bytes,
            "pin_memory": self.trainer is not None and self.trainer.strategy.root_device.type == "cuda",
            "seed": stream_seed(_run_seed(), split, self._rank()[0]),
        }


def _run_seed() -> int:
    # Lightning's seed_everything leaves the run's seed here.
    return int(os.environ.get("PL_GLOBAL_SEED", "0"))
