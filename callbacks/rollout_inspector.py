"""Pages that show what a policy wrote in a round, what it was paid for it, and what the update made of each token."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger

from lit_vlm.callbacks.contact_sheet import draw_comparison_sheet
from lit_vlm.callbacks.rollout_callback import RolloutCallback
from lit_vlm.callbacks.rollout_page import (
    INDEX_NAME,
    PageEntry,
    link_next,
    page_entry,
    rollout_index,
    rollout_page,
)
from lit_vlm.callbacks.rollout_views import PromptView, round_view
from lit_vlm.callbacks.run_folder import is_trial_run, run_folder
from lit_vlm.interfaces.capabilities import SamplesRollouts
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.rollouts import Iteration

FOLDER = "rollouts"
ENTRIES_NAME = "pages.json"
TAG = "rollouts/best_and_worst"


class RolloutInspector(RolloutCallback):
    """Writes an HTML page every so often: prompts with pictures and answers, and their completions token by token.

    The pages lie in ``rollouts`` in the run's folder, with ``index.html`` that lists them, and need neither network nor
    any other file. Tokens are coloured by entropy, log-ratio, KL to the reference or advantage; completions are sorted
    and filtered by reward. With a TensorBoard logger, a picture of each prompt's best and worst completion goes there.
    Only prompts of rank 0 are shown, those that are trained on. Trial runs (``trainer.fast_dev_run``) write nothing.

    Args:
        every_n_steps: Optimizer steps between pages; the first round is always shown.
        max_prompts: Prompts on a page at most.
        tensorboard: Whether pictures go to TensorBoard, where it is a logger.
    """

    def __init__(self, every_n_steps: int = 50, max_prompts: int = 8, tensorboard: bool = True) -> None:
        for name, value in (("every_n_steps", every_n_steps), ("max_prompts", max_prompts)):
            if value < 1:
                raise UserError(f"RolloutInspector.{name} is {value}; give at least 1")
        self.every_n_steps = every_n_steps
        self.max_prompts = max_prompts
        self.tensorboard = tensorboard
        self.next_step = 0
        self._folder = Path()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Checks the module, and finds the run's folder, on every rank.

        Raises:
            UserError: The module makes no rollouts.
        """
        super().setup(trainer, pl_module, stage)
        self._folder = run_folder(trainer) / FOLDER

    def on_after_update(self, trainer: Trainer, pl_module: LightningModule, iteration: Iteration) -> None:
        """Writes the page of a round that is due."""
        if iteration.step < self.next_step:
            return
        self.next_step = (iteration.step // self.every_n_steps + 1) * self.every_n_steps
        if not trainer.is_global_zero or is_trial_run(trainer):
            return
        view = round_view(iteration, cast(SamplesRollouts, pl_module).encoder, self.max_prompts)
        name = f"step_{iteration.step:06d}.html"
        entries = _read_entries(self._folder / ENTRIES_NAME)
        earlier = [entry for step, entry in sorted(entries.items()) if step < iteration.step]
        previous = earlier[-1].name if earlier else None
        self._folder.mkdir(parents=True, exist_ok=True)
        write_whole(self._folder / name, rollout_page(view, previous))
        if previous is not None and (self._folder / previous).is_file():
            page = (self._folder / previous).read_text(encoding="utf-8")
            write_whole(self._folder / previous, link_next(page, name))
        entries[iteration.step] = page_entry(view, name)
        listed = list(entries.values())
        write_whole(self._folder / ENTRIES_NAME, json.dumps([asdict(entry) for entry in listed], indent=1))
        write_whole(self._folder / INDEX_NAME, rollout_index(listed))
        if self.tensorboard:
            _draw(trainer, view.step, view.prompts)

    def state_dict(self) -> dict[str, Any]:
        """Returns from which step on the next page is due."""
        return {"next_step": self.next_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continues the count of an earlier run."""
        self.next_step = state_dict["next_step"]


def write_whole(path: Path, text: str) -> None:
    """Writes a file so that whoever opens it meanwhile reads the old one or the new one, and never a part.

    Args:
        path: The file; its folder is there.
        text: Its contents; half surrogate pairs, which UTF-8 cannot write, are not allowed.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_text(text, encoding="utf-8")
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def _read_entries(path: Path) -> dict[int, PageEntry]:
    """Reads what pages there are, by step: those of an earlier run of the same folder too."""
    if not path.is_file():
        return {}
    entries = [PageEntry(**entry) for entry in json.loads(path.read_text(encoding="utf-8"))]
    return {entry.step: entry for entry in entries}


def _draw(trainer: Trainer, step: int, prompts: tuple[PromptView, ...]) -> None:
    loggers = [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
    shown = [prompt.scored for prompt in prompts if prompt.scored]
    if not loggers or not shown:
        return
    pairs = [(scored[0].completion, scored[-1].completion) for scored in shown]
    headings = [(f"best: reward {scored[0].reward:.3g}", f"worst: reward {scored[-1].reward:.3g}") for scored in shown]
    sheet = draw_comparison_sheet(pairs, headings=headings, columns=2, title=f"step {step:,}")
    pixels = torch.frombuffer(bytearray(sheet.tobytes()), dtype=torch.uint8).view(sheet.height, sheet.width, 3)
    for logger in loggers:
        logger.experiment.add_image(TAG, pixels, step, dataformats="HWC")
