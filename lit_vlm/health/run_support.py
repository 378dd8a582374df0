"""Do the Trainer's strategy and precision go with the model, its adapter and its quantisation?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lit_vlm.health.finding import Finding
from lit_vlm.interfaces.errors import UserError
from lit_vlm.models.support_matrix import check_support
from lit_vlm.paradigms.precisions import weights_of_precision
from lit_vlm.paradigms.strategies import strategy_kind

CHECK = "strategy and precision"
MEND = "change the option that is named"


def run_support(module: Any, make_trainer: Callable[[], Any]) -> Finding:
    """Makes the recipe's own Trainer, starting no process, and asks the matrix of what goes together.

    Args:
        module: A ``VLMModule``; its settings stay as they are.
        make_trainer: Makes the Trainer of the recipe.
    """
    try:
        trainer = make_trainer()
        kind = strategy_kind(trainer.strategy)
        check_support(kind, weights_of_precision(trainer.strategy, module.backbone))
    except UserError as fault:
        return Finding.of(CHECK, False, str(fault), MEND)
    told = f"{kind} over {trainer.world_size} devices with precision {trainer.precision} goes with this model"
    return Finding.of(CHECK, True, told, MEND)
