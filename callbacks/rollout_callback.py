"""The base of callbacks that watch or steer the rounds of an on-policy paradigm."""

from __future__ import annotations

from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from lit_vlm.interfaces.capabilities import HasCoefficients, SamplesRollouts
from lit_vlm.interfaces.coefficients import Coefficients
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.rollouts import Iteration


class RolloutCallback(Callback):
    """Adds five hooks to Lightning's, one after each stage of a round; they do nothing until they are overridden.

    A round is one ``training_step``: ``on_before_rollout``, rollouts, ``on_after_rollout``, rewards,
    ``on_after_rewards``, advantages, ``on_after_advantages``, one or more optimizer steps, ``on_after_update``. Where
    groups are filtered and sampled again until there are enough, the first three hooks run once for every batch of
    prompts that this takes, the last two once. What the first three gather is best kept aside until
    ``on_after_update``, since batches of a round that a checkpoint cuts short are sampled again.

    All hooks run on every rank, in the order of ``trainer.callbacks``, with what lies on this rank: it may be no
    completion at all, tensors of length 0 then. Collectives, ``sum_over_ranks`` among them, must be called on all ranks
    alike, whatever lies there. What a hook may change stands with it; all else in ``Iteration`` is to be read only.
    Numbers of the loss are turned through ``coefficients_of(pl_module)``.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Checks that the module calls the hooks.

        Raises:
            UserError: It makes no rollouts.
        """
        if stage == "fit" and not isinstance(pl_module, SamplesRollouts):
            raise UserError(
                f"trainer.callbacks has {type(self).__name__}, which watches rollouts, but {type(pl_module).__name__} "
                "makes none; leave it out, or train with a module that does, such as GRPOModule"
            )

    def on_before_rollout(self, trainer: Trainer, pl_module: LightningModule, iteration: Iteration) -> None:
        """Runs when prompts are there and nothing is sampled.

        Reads ``step`` and ``prompts``. The place to turn coefficients: what is set here holds for the whole round.
        """

    def on_after_rollout(self, trainer: Trainer, pl_module: LightningModule, iteration: Iteration) -> None:
        """Runs when completions are sampled.

        Reads ``rollouts`` too: tokens, texts with verdicts, the sampling policy's log-probabilities and entropies.
        """

    def on_after_rewards(self, trainer: Trainer, pl_module: LightningModule, iteration: Iteration) -> None:
        """Runs when completions are scored, before groups are filtered.

        Reads ``rewards`` too, and may put others of the same shapes in their place.
        """

    def on_after_advantages(self, trainer: Trainer, pl_module: LightningModule, iteration: Iteration) -> None:
        """Runs once a round when advantages are there and nothing is learnt.

        Reads ``advantages`` too, and may put others of the same shape in their place. From here on ``rollouts`` and
        ``rewards`` are those that are trained on.
        """

    def on_after_update(self, trainer: Trainer, pl_module: LightningModule, iteration: Iteration) -> None:
        """Runs once a round when its optimizer steps are taken; ``trainer.global_step`` counts them already.

        Reads ``log_probs`` and ``figures`` too; ``figures`` are the same on all ranks.
        """

    @staticmethod
    def coefficients_of(pl_module: LightningModule) -> Coefficients:
        """Returns the numbers that callbacks may turn.

        Raises:
            UserError: The module has none.
        """
        if not isinstance(pl_module, HasCoefficients):
            raise UserError(f"{type(pl_module).__name__} has no coefficients that a callback may turn")
        return pl_module.coefficients

    @staticmethod
    def sum_over_ranks(trainer: Trainer, value: Tensor) -> Tensor:
        """Adds a tensor up over all ranks, which must all call this; alone it is a copy.

        Args:
            trainer: Whose strategy knows the ranks.
            value: Any shape, the same on all ranks.

        Returns:
            The sum, on the device of ``value``.
        """
        copy = value.detach().clone()
        if trainer.world_size == 1:
            return copy
        summed: Tensor = trainer.strategy.reduce(copy.to(trainer.strategy.root_device), reduce_op="sum")
        return summed.to(value.device)

    @staticmethod
    def log_figure(pl_module: LightningModule, name: str, value: float) -> None:
        """Logs a number of this round that is the same on all ranks."""
        pl_module.log(name, value, on_step=True, on_epoch=False, batch_size=1)

    def steps_of_run(self, trainer: Trainer, option: str) -> int:
        """Tells how many optimizer steps the run has by ``trainer.max_steps``.

        ``trainer.estimated_stepping_batches`` would know more, but reading it breaks resuming in mid-epoch.

        Args:
            trainer: Of the run.
            option: The callback's option that gives the number instead, for the message.

        Raises:
            UserError: The run is not bounded in steps.
        """
        if trainer.max_steps < 1:
            raise UserError(
                f"{type(self).__name__}.{option} is not given, and trainer.max_steps, which would stand in for it, "
                "sets no number of optimizer steps; give either"
            )
        return trainer.max_steps
