"""A picture of how figures went during training, in the run's folder."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from lightning import Callback, LightningModule, Trainer
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from lit_vlm.callbacks.run_folder import is_trial_run, run_folder
from lit_vlm.interfaces.errors import UserError

FIGURES = (
    "train/reward/mean",
    "train/correct",
    "train/entropy",
    "train/kl",
    "train/completion_length",
    "validation/strict_match",
)
"""What tells how reinforcement learning goes."""
COLUMNS = 3
SMOOTHED = 20
"""Steps that the strong line is a mean of."""


class TrainingCurves(Callback):
    """Draws figures over optimizer steps: every value pale, their moving average strong.

    The picture is written at the end of each validation and of training; figures that were never logged are left out.
    Where bounds are logged beside a figure (``NAME_low`` and ``NAME_high``), they are drawn too.

    Args:
        figures: Names of logged figures, a panel each; None for those of reinforcement learning.
        file: Name of the picture within the run's folder.
    """

    def __init__(self, figures: Sequence[str] | None = None, file: str = "curves.png") -> None:
        self.figures = tuple(FIGURES if figures is None else figures)
        if not self.figures:
            raise UserError("TrainingCurves.figures is empty; name at least one figure, or leave it out")
        if not file.endswith(".png") or "/" in file:
            raise UserError(f"TrainingCurves.file is {file!r}; give a name that ends with .png, without folders")
        self.file = file
        self._points: dict[str, list[tuple[int, float]]] = {}

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keeps the figures of the step."""
        self._keep(trainer, "train/")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keeps the figures of the validation, and draws what there is."""
        self._keep(trainer, "validation/")
        self._draw(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draws the picture."""
        self._draw(trainer)

    def state_dict(self) -> dict[str, Any]:
        """Returns the points so far."""
        return {"points": {name: [list(point) for point in points] for name, points in self._points.items()}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continues the curves of an earlier run."""
        self._points = {
            name: [(step, value) for step, value in points] for name, points in state_dict["points"].items()
        }

    def _keep(self, trainer: Trainer, stage: str) -> None:
        for figure in self.figures:
            if not figure.startswith(stage):
                continue
            for name in (figure, f"{figure}_low", f"{figure}_high"):
                value = float(trainer.callback_metrics.get(name, math.nan))
                points = self._points.setdefault(name, [])
                if not math.isnan(value) and (not points or points[-1][0] != trainer.global_step):
                    points.append((trainer.global_step, value))

    def _draw(self, trainer: Trainer) -> None:
        folder = run_folder(trainer)
        shown = [figure for figure in self.figures if self._points.get(figure)]
        if not trainer.is_global_zero or is_trial_run(trainer) or not shown:
            return
        rows = math.ceil(len(shown) / COLUMNS)
        picture = Figure(figsize=(4 * COLUMNS, 2.8 * rows), layout="constrained")
        FigureCanvasAgg(picture)
        for place, figure in enumerate(shown):
            axes = picture.add_subplot(rows, COLUMNS, place + 1)
            steps, values = zip(*self._points[figure], strict=True)
            if figure.startswith("validation/"):
                axes.plot(steps, values, "o-", color="tab:blue")
                low, high = self._points.get(f"{figure}_low"), self._points.get(f"{figure}_high")
                if low and high and len(low) == len(high) == len(steps):
                    axes.fill_between(
                        steps, [value for _, value in low], [value for _, value in high], color="tab:blue", alpha=0.2
                    )
            else:
                axes.plot(steps, values, color="tab:blue", alpha=0.3, linewidth=0.8)
                axes.plot(steps, moving_average(values, SMOOTHED), color="tab:blue")
            axes.set_title(figure, fontsize=10)
            axes.set_xlabel("optimizer step", fontsize=8)
            axes.tick_params(labelsize=8)
            axes.grid(alpha=0.3)
        folder.mkdir(parents=True, exist_ok=True)
        picture.savefig(folder / self.file, dpi=100)


def moving_average(values: Sequence[float], window: int) -> list[float]:
    """Averages each value with those before it, ``window`` of them at most.

    Example:
        >>> moving_average([1.0, 2.0, 3.0], 2)
        [1.0, 1.5, 2.5]
    """
    averages = []
    for place in range(len(values)):
        part = values[max(0, place + 1 - window) : place + 1]
        averages.append(sum(part) / len(part))
    return averages
