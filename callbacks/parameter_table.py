"""What is trained, and what media cost, told before training starts."""

from __future__ import annotations

from collections.abc import Sequence

from lightning import Callback, LightningModule, Trainer

from lit_vlm.callbacks.readable_numbers import percent_text
from lit_vlm.interfaces.capabilities import DescribesParts, PartSummary


class ParameterTable(Callback):
    """Prints the parameters of each part of the model, in all and trainable, and the tokens of an image and a video.

    A module that is not ``DescribesParts`` has nothing printed. Only the first rank prints.
    """

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prints the table, when the model is loaded."""
        if trainer.is_global_zero and isinstance(pl_module, DescribesParts):
            lines = [*table_lines(pl_module.part_summaries()), *pl_module.token_budgets()]
            print("\n".join(lines), flush=True)


def table_lines(parts: Sequence[PartSummary]) -> list[str]:
    """Sets the parts as a table with a sum.

    Example:
        >>> for line in table_lines([PartSummary("vision", 1500, 0), PartSummary("language", 4500, 1500)]):
        ...     print(line)
        part      parameters  trainable  share
        vision         1,500          0  0.0 %
        language       4,500      1,500  33.3 %
        all            6,000      1,500  25.0 %
    """
    rows = [*parts, PartSummary("all", sum(p.parameters for p in parts), sum(p.trainable for p in parts))]
    cells = [("part", "parameters", "trainable", "share")] + [
        (row.part, f"{row.parameters:,}", f"{row.trainable:,}", percent_text(row.trainable / max(1, row.parameters)))
        for row in rows
    ]
    widths = [max(len(line[column]) for line in cells) for column in range(3)]
    return [
        f"{name:<{widths[0]}}  {total:>{widths[1]}}  {trained:>{widths[2]}}  {share}"
        for name, total, trained, share in cells
    ]
