"""The side of TRL in ``grpo_step.py``: its GRPOTrainer, a step at a time."""

import tempfile
from typing import Any

import torch
from datasets import Dataset, Features, Image, Value
from grpo_step_turns import QUESTION, Setting, Work, reward_of
from transformers import AutoModelForImageTextToText, AutoProcessor, TrainerCallback
from trl import GRPOConfig, GRPOTrainer  # type: ignore[import-not-found]
from turns import Turns, changes_since, pictures, snapshot

from lit_vlm.models.backbone import Backbone


def dataset(setting: Setting) -> Dataset:
    """Makes the prompts as TRL wants them."""
    images = pictures(setting.image_tokens, 8 * setting.prompts)
    return Dataset.from_dict(
        {
            "prompt": [[{"role": "user", "content": QUESTION}] for _ in images],
            "image": images,
        },
        features=Features({"prompt": [{"role": Value("string"), "content": Value("string")}], "image": Image()}),
    )


def score(completions: list[list[dict[str, str]]], **_: Any) -> list[float]:
    """Scores completions as ours does."""
    return [reward_of(completion[0]["content"]) for completion in completions]


class StepByStep(TrainerCallback):
    """Waits for its turn between steps, and tells what the last one did."""

    def __init__(self, turns: Turns) -> None:
        self.turns = turns
        self.trainer: GRPOTrainer | None = None
        self.before: dict[str, torch.Tensor] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Waits for the first turn."""
        assert self.trainer is not None
        self.before = snapshot(self.trainer.model)
        self.turns.begin()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Ends a turn: the optimizer has stepped."""
        trainer = self.trainer
        assert trainer is not None
        self.turns.stop_clock()
        buffered = trainer._buffered_inputs
        image_id = trainer.model.config.image_token_id
        first = trainer.optimizer.param_groups[0]["params"][0]
        work = Work(
            completions=sum(len(part["completion_ids"]) for part in buffered),
            completion_tokens=int(sum(part["completion_mask"].sum() for part in buffered)),
            prompts=distinct_images(buffered),
            prompt_tokens=int(buffered[0]["prompt_ids"].shape[1]),
            image_tokens=int((buffered[0]["prompt_ids"][0] == image_id).sum()),
            optimizer_steps=int(trainer.optimizer.state[first]["step"]),
            changed=changes_since(self.before, trainer.model),
        )
        self.before = snapshot(trainer.model)
        if not self.turns.end(work):
            control.should_training_stop = True


def distinct_images(buffered: list[dict[str, torch.Tensor]]) -> int:
    """Counts images that differ, by sums of their pixels."""
    found = set()
    for part in buffered:
        rows = part["image_grid_thw"].prod(1).tolist()
        found |= {tuple(pixels.double().sum(0)[:16].tolist()) for pixels in part["pixel_values"].split(rows)}
    return len(found)


def run(setting: Setting, turns: Turns, trl_batch: int) -> None:
    """Trains until the turns end.

    Args:
        setting: What both sides do.
        turns: When.
        trl_batch: Completions of a pass; gradients of as many passes as there must be are accumulated.
    """
    torch.set_num_threads(setting.threads)
    source = Backbone().source
    processor = AutoProcessor.from_pretrained(source, padding_side="left")
    processor.image_processor.size["longest_edge"] = 2**24
    processor.image_processor.size["shortest_edge"] = 1
    model = AutoModelForImageTextToText.from_pretrained(source, dtype=torch.float32)
    # No token ends a completion.
    suppressed = sorted(
        {model.config.image_token_id, model.config.video_token_id, processor.tokenizer.pad_token_id}
        | {processor.tokenizer.eos_token_id}
    )
    rows = setting.prompts * setting.group
    with tempfile.TemporaryDirectory() as folder:
        configuration = GRPOConfig(
            output_dir=folder,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            per_device_train_batch_size=trl_batch,
            gradient_accumulation_steps=rows // trl_batch,
            num_generations=setting.group,
            max_completion_length=setting.completion_tokens,
            generation_kwargs={"suppress_tokens": suppressed},
            beta=setting.kl,
            learning_rate=setting.learning_rate,
            lr_scheduler_type="constant",
            shuffle_dataset=False,
            max_steps=10**6,
            logging_strategy="no",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            dataloader_num_workers=0,
        )
        callback = StepByStep(turns)
        trainer = GRPOTrainer(
            model=model,
            reward_funcs=score,
            args=configuration,
            train_dataset=dataset(setting),
            processing_class=processor,
            callbacks=[callback],
        )
        callback.trainer = trainer
        trainer.train()
