"""The side of TRL in ``dpo_step.py``: its DPOTrainer, a step at a time."""

import tempfile
from typing import Any

import torch
from datasets import Dataset, Features, Image, Value
from dpo_step_turns import QUESTION, Setting, Work, halves
from transformers import AutoModelForImageTextToText, AutoProcessor, TrainerCallback
from trl import DPOConfig, DPOTrainer  # type: ignore[import-not-found]
from turns import Turns, changes_since, pictures, snapshot

from lit_vlm.models.backbone import Backbone


def dataset(setting: Setting) -> Dataset:
    """Makes the pairs as TRL wants them."""
    images = pictures(setting.image_tokens, 8 * setting.pairs)
    texts = [halves(setting, row) for row in range(len(images))]
    turn = [{"role": Value("string"), "content": Value("string")}]
    return Dataset.from_dict(
        {
            "prompt": [[{"role": "user", "content": QUESTION}] for _ in images],
            "chosen": [[{"role": "assistant", "content": chosen}] for chosen, _ in texts],
            "rejected": [[{"role": "assistant", "content": rejected}] for _, rejected in texts],
            "image": images,
        },
        features=Features({"prompt": turn, "chosen": turn, "rejected": turn, "image": Image()}),
    )


class Keeping(DPOTrainer):  # type: ignore[misc]
    """Keeps the inputs of the last pass, and sums over a step, to tell what was done."""

    done: dict[str, int] | None = None

    def training_step(self, model: Any, inputs: dict[str, torch.Tensor], *args: Any, **options: Any) -> torch.Tensor:
        """Counts, then trains as DPOTrainer does."""
        image_id = self.model.config.image_token_id
        mask, own = inputs["attention_mask"], inputs["completion_mask"]
        done = self.done or {"pairs": 0, "completion_tokens": 0}
        self.done = {
            "pairs": done["pairs"] + len(mask) // 2,
            "completion_tokens": done["completion_tokens"] + self._learnt(inputs),
            "prompt_tokens": int((mask[0] - own[0]).sum()),
            "image_tokens": int((inputs["input_ids"][0] == image_id).sum()),
        }
        loss: torch.Tensor = super().training_step(model, inputs, *args, **options)
        return loss

    def _learnt(self, inputs: dict[str, torch.Tensor]) -> int:
        """Counts completion tokens up to the end of the turn; the template writes a line break behind it."""
        end = self.processing_class.tokenizer.convert_tokens_to_ids("<|im_end|>")
        count = 0
        for ids, own in zip(inputs["input_ids"], inputs["completion_mask"], strict=True):
            completion = ids[own == 1].tolist()
            count += completion.index(end) + 1
        return count


class StepByStep(TrainerCallback):
    """Waits for its turn between steps, and tells what the last one did."""

    def __init__(self, turns: Turns) -> None:
        self.turns = turns
        self.trainer: Keeping | None = None
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
        first = trainer.optimizer.param_groups[0]["params"][0]
        assert trainer.done is not None
        work = Work(
            **trainer.done,
            optimizer_steps=int(trainer.optimizer.state[first]["step"]),
            changed=changes_since(self.before, trainer.model),
        )
        trainer.done = None
        self.before = snapshot(trainer.model)
        if not self.turns.end(work):
            control.should_training_stop = True


def run(setting: Setting, turns: Turns, trl_batch: int) -> None:
    """Trains until the turns end.

    Args:
        setting: What both sides do.
        turns: When.
        trl_batch: Pairs of a pass; gradients of as many passes as there must be are accumulated.
    """
    torch.set_num_threads(setting.threads)
    source = Backbone().source
    processor = AutoProcessor.from_pretrained(source)
    processor.image_processor.size["longest_edge"] = 2**24
    processor.image_processor.size["shortest_edge"] = 1
    model, reference = (AutoModelForImageTextToText.from_pretrained(source, dtype=torch.float32) for _ in range(2))
    with tempfile.TemporaryDirectory() as folder:
        configuration = DPOConfig(
            output_dir=folder,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            per_device_train_batch_size=trl_batch,
            gradient_accumulation_steps=setting.pairs // trl_batch,
            beta=setting.beta,
            learning_rate=setting.learning_rate,
            lr_scheduler_type="constant",
            max_length=None,
            max_steps=10**6,
            logging_strategy="no",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            dataloader_num_workers=0,
        )
        callback = StepByStep(turns)
        trainer = Keeping(
            model=model,
            ref_model=reference,
            args=configuration,
            train_dataset=dataset(setting),
            processing_class=processor,
            callbacks=[callback],
        )
        callback.trainer = trainer
        trainer.train()
