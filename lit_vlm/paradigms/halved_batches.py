"""Training batches that are learnt from in pieces where memory runs out, with the loss and figures of the whole."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.checkpoint import checkpoint

from lit_vlm.functional.memory_errors import is_out_of_memory
from lit_vlm.interfaces.errors import UserError
from lit_vlm.paradigms.halved_passes import moves_together
from lit_vlm.paradigms.policy_module import PolicyModule
from lit_vlm.paradigms.step_figures import StepFigures

Piece = TypeVar("Piece")


class HalvesBatches(PolicyModule):
    """Goes before the other base of a module with automatic optimisation, which trains on ``summed_passes``.

    Forward passes are tried again whatever the number of micro-batches and ranks. A backward pass is tried again from
    the start of the step, which is possible on one rank without accumulated micro-batches only.
    """

    _rows_of_batch = 1
    """Rows of the batch that is trained on."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._figures = StepFigures()

    def summed_passes(
        self, rows: int, take: Callable[[range], Piece], run: Callable[[Piece], tuple[Tensor, StepFigures]]
    ) -> Tensor:
        """Runs a pass over a training batch, in pieces where the whole does not fit, and keeps its figures.

        Of pieces nothing is kept for the backward pass, which computes each anew, one after the other.

        Args:
            rows: How many the batch has: rows, pairs or groups.
            take: Takes rows out of the batch, all or some, with what is computed of them without a graph.
            run: Returns a piece's share of the step's loss, a scalar with a graph, and its figures; both of pieces add
                up to those of the whole.

        Returns:
            The sum of the shares.

        Raises:
            UserError: A single row is too much.
        """
        self._rows_of_batch = rows

        def over(some: range) -> tuple[Tensor, StepFigures]:
            piece = take(some)
            if len(some) == rows:
                return run(piece)
            found: tuple[Tensor, StepFigures] = checkpoint(run, piece, use_reentrant=False)
            return found

        parts = self.pass_sizes.in_pieces("training", rows, over, together=moves_together(self.policy))
        shares, figures = zip(*parts, strict=True)
        self._figures = sum(figures, self._figures)
        return torch.stack(shares).sum() if len(shares) > 1 else shares[0]

    def step_figures(self, figures: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Returns what is logged of a step under ``train/``: all its figures, where nothing else is said."""
        return figures

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Logs the figures of the whole step, over its micro-batches and ranks."""
        for name, value in self.step_figures(self._figures.take(self.sum_over_ranks)).items():
            self.log(f"train/{name}", value, prog_bar=name == "loss", batch_size=1)
        self.log("train/learning_rate", optimizer.param_groups[0]["lr"], batch_size=1)

    def backward(self, loss: Tensor, *arguments: Any, **options: Any) -> None:
        """Runs the backward pass of a micro-batch.

        Raises:
            UserError: Memory ran out where gradients of other micro-batches or ranks are mixed in.
        """
        try:
            super().backward(loss, *arguments, **options)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or self._begins_anew:
                raise
            raise UserError(
                "memory ran out in a backward pass whose gradients are added to those of other micro-batches or ranks, "
                "so that it cannot be tried again; lower data.batch_size and raise trainer.accumulate_grad_batches"
            ) from error

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Callable[[], Any] | None = None
    ) -> None:
        """Takes a step, from its beginning again while memory runs out in the backward pass."""
        given = optimizer_closure
        if given is None:
            super().optimizer_step(epoch, batch_idx, optimizer, None)
            return

        def whole_step() -> Any:
            if self._begins_anew:
                self._figures = StepFigures()
            return given()

        def closure() -> Any:
            return self.pass_sizes.retried(
                "training",
                whole_step,
                lambda: self.pass_sizes.most("training", self._rows_of_batch),
                together=not self._begins_anew,
            )

        super().optimizer_step(epoch, batch_idx, optimizer, closure)

    @property
    def _begins_anew(self) -> bool:
        """Whether a step is nothing but the batch at hand."""
        return int(self.trainer.accumulate_grad_batches * self.trainer.world_size) == 1
