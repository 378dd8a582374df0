"""Refuses runs that would end without having trained, or without measuring what a callback goes by."""

from __future__ import annotations

from lightning import Trainer

from lit_vlm.interfaces.errors import UserError

VALIDATION = "validation/"


def refuse_empty_fit(trainer: Trainer) -> None:
    """Checks that a ``fit`` takes steps, and that callbacks that go by a validation's metric will have one.

    Raises:
        UserError: It takes none, or they will not.
    """
    for option, value in (
        ("max_steps", trainer.max_steps),
        ("max_epochs", trainer.max_epochs),
        ("limit_train_batches", trainer.limit_train_batches),
    ):
        if value == 0:
            raise UserError(f"trainer.{option} is 0, so that nothing is trained; give at least 1, or use validate")
    if trainer.limit_val_batches != 0:
        return
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        metric = getattr(callback, "monitor", None)
        if isinstance(metric, str) and metric.startswith(VALIDATION):
            raise UserError(
                f"{type(callback).__name__}.monitor is {metric}, but trainer.limit_val_batches is 0, so that nothing "
                "is measured; raise it, or leave the callback out"
            )
