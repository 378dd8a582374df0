"""A module that answers without a model, and a real Trainer around it."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import lightning
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from lit_vlm.interfaces.batches import EvaluationBatch, PromptBatch
from lit_vlm.interfaces.records import (
    Answer,
    Completion,
    MediaRef,
    Sample,
    SampleMeta,
    Verdict,
    assistant_message,
    user_message,
)
from lit_vlm.interfaces.rollouts import Advantages, Iteration, Rewards, Rollouts

NO_NOISE = [
    "ignore:.*does not have many workers.*",
    "ignore:.*isinstance.treespec, LeafSpec.*",
    "ignore:.*GPU available but not used.*",
    "ignore:.*smaller than the logging interval.*",
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Lets Lightning's remarks on such small runs pass, in this folder only."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            for warning in NO_NOISE:
                item.add_marker(pytest.mark.filterwarnings(warning))


def make_completion(index: int, correct: bool | None = True, images: int = 1, text: str | None = None) -> Completion:
    """Completion ``index``; the true answer is 7, a wrong one is 3; None gives no verdict."""
    given = "7" if correct else "3"
    sample = Sample(
        id=f"sample-{index}",
        messages=(user_message("Which digit is this?", images=images), assistant_message("<answer>7</answer>")),
        images=tuple(MediaRef(pil=Image.new("RGB", (16, 16), (40 * index % 256, 90, 200))) for _ in range(images)),
        answer=None if correct is None else Answer("number", "7"),
        meta=SampleMeta(source="test", category=("read", "sum")[index % 2]),
    )
    verdict = None if correct is None else Verdict(correct=correct, parsed=given, formatted=True)
    return Completion(sample, "prompt", text or f"<think>i see {given}</think><answer>{given}</answer>", verdict)


@pytest.fixture(name="make_completion")
def make_completion_fixture():
    return make_completion


def encode(samples: Sequence[Sample]) -> PromptBatch:
    """Sample ``i`` of a batch has ``i + 1`` tokens that count."""
    mask = torch.ones(len(samples), len(samples), dtype=torch.long).tril()
    return PromptBatch(mask, mask, {}, tuple(samples))


def encode_twice(samples: Sequence[Sample]) -> EvaluationBatch:
    return EvaluationBatch(encode(samples), encode(samples))


class Answers(lightning.LightningModule):
    """Is wrong about everything at step 0, later right about all but every third sample."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.completions: list[Completion] = []

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)

    def training_step(self, batch, batch_idx):
        loss = (self.weight**2).sum()
        self.log("train/loss", loss, prog_bar=True, batch_size=1)
        return loss

    def validation_step(self, batch, batch_idx):
        return self.answer(batch)

    def predict_step(self, batch, batch_idx):
        return self.answer(batch)

    def answer(self, batch):
        numbers = [int(sample.id.removeprefix("sample-")) for sample in batch.prompts.samples]
        given = [make_completion(number, correct=self.global_step > 0 and number % 3 > 0) for number in numbers]
        self.completions += given
        return given

    def on_validation_epoch_end(self):
        self.log("validation/loss", 1.5, batch_size=1)
        for name, task in (("exact_match", None), ("exact_match/read", "read"), ("exact_match/sum", "sum")):
            asked = [item for item in self.completions if task in (None, item.sample.meta.category)]
            share = sum(item.verdict.correct for item in asked) / max(1, len(asked))
            bounds = {"": share, "_low": max(0, share - 0.1), "_high": min(1, share + 0.1), "_total": len(asked)}
            for bound, value in bounds.items():
                prog_bar = name + bound == "exact_match"
                self.log(f"validation/{name}{bound}", float(value), prog_bar=prog_bar, batch_size=1)
        self.completions = []


@pytest.fixture
def answers() -> Answers:
    return Answers()


@pytest.fixture
def make_loader():
    """Makes a loader of ``count`` samples."""

    def make(count: int, batch_size: int = 2, training: bool = False):
        samples = [make_completion(index).sample for index in range(count)]
        return DataLoader(samples, batch_size=batch_size, collate_fn=encode if training else encode_twice)

    return make


@pytest.fixture
def make_trainer(tmp_path):
    """Makes a quiet Trainer on the CPU whose files go to ``tmp_path``."""

    def make(*callbacks, **options):
        has_bar = any(isinstance(callback, lightning.pytorch.callbacks.ProgressBar) for callback in callbacks)
        options = {
            "accelerator": "cpu",
            "max_epochs": 1,
            "logger": False,
            "default_root_dir": tmp_path,
            "enable_checkpointing": False,
            "enable_model_summary": False,
            "enable_progress_bar": has_bar,
            "use_distributed_sampler": False,
            "num_sanity_val_steps": 0,
            "log_every_n_steps": 1,
            **options,
        }
        return lightning.Trainer(callbacks=list(callbacks), **options)

    return make


@pytest.fixture
def fit(answers, make_loader, make_trainer):
    """Trains on 8 samples (4 steps) and validates on 6."""

    def run(*callbacks, module=None, ckpt_path=None, **options):
        trainer = make_trainer(*callbacks, **options)
        trainer.fit(module or answers, make_loader(8, training=True), make_loader(6), ckpt_path=ckpt_path)
        return trainer

    return run


class WordEncoder:
    """Gives each word an id of its own; id 0 ends a completion and has no text."""

    def __init__(self) -> None:
        self.words = [""]

    def ids(self, words: Sequence[str]) -> list[int]:
        for word in words:
            if word not in self.words:
                self.words.append(word)
        return [self.words.index(word) for word in words]

    def decode(self, token_ids: Sequence[int]) -> str:
        return "".join(self.words[token_id] for token_id in token_ids)


class Rounds:
    """Makes rounds out of words, and holds the encoder that reads them."""

    def __init__(self) -> None:
        self.encoder = WordEncoder()

    def make(
        self,
        groups: Sequence[Sequence[tuple[Sequence[str], float]]],
        samples: Sequence[Sample] | None = None,
        step: int = 0,
        reference: bool = True,
    ) -> Iteration:
        """Makes a finished round.

        Args:
            groups: For each prompt its completions: their words, and the reward, NaN for none; 1 is right.
            samples: Of the prompts; None for one image each.
            step: Optimizer steps before it.
            reference: Whether there is one.
        """
        samples = samples or [make_completion(index).sample for index in range(len(groups))]
        rows = [(place, words, reward) for place, group in enumerate(groups) for words, reward in group]
        token_ids = [[*self.encoder.ids(words), 0] for _, words, _ in rows]
        length = max(map(len, token_ids), default=0)
        mask = torch.tensor([[int(place < len(ids)) for place in range(length)] for ids in token_ids]).view(
            len(rows), length
        )
        padded = torch.tensor([ids + [0] * (length - len(ids)) for ids in token_ids], dtype=torch.long)
        ramp = torch.arange(1, mask.numel() + 1).view(mask.shape) / max(1, mask.numel()) * mask
        total = torch.tensor([reward for _, _, reward in rows], dtype=torch.float32)
        completions = tuple(
            Completion(
                samples[place],
                "<prompt>",
                "".join(words),
                Verdict(reward == 1, "".join(words)[-1:], True) if samples[place].answer else None,
            )
            for place, words, reward in rows
        )
        rollouts = Rollouts(
            prompts=encode(samples),
            prompt_of=torch.tensor([place for place, _, _ in rows], dtype=torch.long),
            token_ids=padded.view(mask.shape),
            mask=mask,
            log_probs=-ramp,
            is_truncated=torch.zeros(len(rows), dtype=torch.bool),
            completions=completions,
            entropies=2 * ramp,
            reference_log_probs=-1.5 * ramp if reference else None,
        )
        return Iteration(
            step=step,
            prompts=rollouts.prompts,
            rollouts=rollouts,
            rewards=Rewards(
                total=total,
                parts=torch.stack([total, torch.full_like(total, math.nan)], dim=1),
                weights=torch.tensor([1.0, 0.5]),
                names=("exact_match", "length"),
                details={"length/over": total * 2},
            ),
            advantages=Advantages((total.nan_to_num(0.5)[:, None] - 0.5) * mask, total == total),
            log_probs=(-ramp + 0.25) * mask,
            figures={"reward/mean": 0.5, "kl": 0.01, "loss": 1.0},
        )

    @staticmethod
    def select(iteration: Iteration, rows: Sequence[int]) -> Iteration:
        """Keeps some completions, as a round does whose other groups were dropped."""
        kept = torch.tensor(rows, dtype=torch.long)
        rollouts = iteration.rollouts.select(kept)
        length = rollouts.token_ids.shape[1]
        rewards, advantages = iteration.rewards, iteration.advantages
        return replace(
            iteration,
            rollouts=rollouts,
            rewards=replace(
                rewards,
                total=rewards.total[kept],
                parts=rewards.parts[kept],
                details={name: value[kept] for name, value in rewards.details.items()},
            ),
            advantages=Advantages(advantages.values[kept, :length], advantages.is_informative[kept]),
            log_probs=iteration.log_probs[kept, :length],
        )

    @staticmethod
    def without(iteration: Iteration, *fields: str) -> Iteration:
        """Takes away what a round may lack: ``entropies``, ``log_probs``, ``advantages``, ``rewards``, ``rollouts``."""
        for field in fields:
            if field == "entropies":
                iteration = replace(iteration, rollouts=replace(iteration.rollouts, entropies=None))
            else:
                iteration = replace(iteration, **{field: None})
        return iteration


@pytest.fixture
def rounds() -> Rounds:
    """Makes rounds of rollouts."""
    return Rounds()
