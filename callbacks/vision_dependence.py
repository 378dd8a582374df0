"""How much the pictures matter to a policy, over the course of training."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor

from lit_vlm.callbacks.rollout_callback import RolloutCallback
from lit_vlm.callbacks.vision_probes import VARIANTS, Probe, ProbePlan, plan_probes, read_probes
from lit_vlm.interfaces.capabilities import ProbesPolicy, ServesSamples
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import Sample
from lit_vlm.interfaces.roles import SampleEncoder

PREFIX = "vision_dependence/"
KINDS = (
    ("log_prob", "gap", "probes"),
    ("log_prob_per_token", "gap_per_token", "probes"),
    ("reward", "reward_gap", "rewarded"),
)
"""What is measured, what the cost of another picture is called, and what the sums are divided by."""
SUMS = (
    "probes",
    *(f"log_prob{variant}" for variant in VARIANTS),
    *(f"log_prob_per_token{variant}" for variant in VARIANTS),
    "rewarded",
    *(f"reward{variant}" for variant in VARIANTS),
)
"""What is added up over probes and ranks, in this order."""


class VisionDependence(Callback):
    """Asks a fixed set of validation samples with their pictures, with blank ones and with other samples' pictures.

    A policy that looks gives the right completion a higher log-probability, and earns more, with the picture that
    belongs to the question. Measured before the first step and every so often afterwards, and logged over optimizer
    steps as ``vision_dependence/…``, means over the probes of all ranks:

    - ``log_prob``: sum of the right completion's log-probabilities, in nats; ``log_prob_per_token`` divides each by
      its tokens. A sample without a completion is scored on its answer alone.
    - ``reward``: what the module's own completions earn, decoded as in validation.
    - each with ``_blank`` (mid grey of the same size) and ``_shuffled`` (another probe's picture), and what these lose
      against the right picture: ``gap_blank``, ``gap_per_token_blank``, ``reward_gap_blank``, and with ``_shuffled``.
    - ``probes``: how many were asked.

    Who gets whose picture is fixed: another picture of the same size where there is one, else one that is resized.
    Frames of videos are replaced like images. Random streams and the modes of modules are left as they were, so that a
    run goes as it would without this callback. Each probe is measured on one rank.

    Args:
        every_n_steps: Optimizer steps between measurements.
        probes: Samples to ask: the first of the validation split that have a picture and a right answer.
        batch_size: Samples that are asked at once.
        reward_every: Completions are generated at every n-th measurement, which takes longest; 0 for never.
        video_frames: Frames of a video file that are shown, at most.
    """

    def __init__(
        self,
        every_n_steps: int = 50,
        probes: int = 64,
        batch_size: int = 8,
        reward_every: int = 1,
        video_frames: int = 8,
    ) -> None:
        least = {"every_n_steps": 1, "probes": 2, "batch_size": 1, "reward_every": 0, "video_frames": 1}
        given = (every_n_steps, probes, batch_size, reward_every, video_frames)
        for (name, lowest), value in zip(least.items(), given, strict=True):
            if value < lowest:
                raise UserError(f"VisionDependence.{name} is {value}; give at least {lowest}")
        self.every_n_steps = every_n_steps
        self.probes = probes
        self.batch_size = batch_size
        self.reward_every = reward_every
        self.video_frames = video_frames
        self.next_step = 0
        self.measurements = 0
        self._plan = ProbePlan((), 0)
        self._own: list[Probe] | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Chooses the probes, on rank 0 for all.

        Raises:
            UserError: The module cannot be probed, the data cannot be read one by one, or too few have pictures.
        """
        if stage != "fit":
            return
        if not isinstance(pl_module, ProbesPolicy) or not isinstance(_encoder(pl_module), SampleEncoder):
            raise UserError(
                f"VisionDependence asks a policy about samples, which {type(pl_module).__name__} does not offer; leave "
                "it out, or train with a module that does, such as GRPOModule"
            )
        data = _data(trainer)
        if not isinstance(data, ServesSamples):
            raise UserError(
                f"VisionDependence reads single samples, which the data ({type(data).__name__}) do not serve; leave it "
                "out, or give a DataModule of lit_vlm.data"
            )
        plan: Any = plan_probes(data.prepared("validation"), self.probes) if trainer.is_global_zero else None
        self._plan = trainer.strategy.broadcast(plan)
        self._own = None
        if len(self._plan.cycles) < trainer.world_size:
            raise UserError(
                f"VisionDependence found {sum(map(len, self._plan.cycles))} validation samples with a right answer and "
                f"different pictures; it needs {2 * trainer.world_size}, two for each rank. Leave it out, or validate "
                "on samples with pictures"
            )
        if self._plan.resized:
            rank_zero_info(
                f"VisionDependence shows {self._plan.resized} of its {sum(map(len, self._plan.cycles))} probes another "
                "sample's picture resized, since none of another question has their size"
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measures before the first step."""
        self._measure_where_due(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Measures where enough optimizer steps were taken."""
        self._measure_where_due(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        """Returns when the next measurement is due, and how many there were."""
        return {"next_step": self.next_step, "measurements": self.measurements}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continues the count of an earlier run."""
        self.next_step, self.measurements = state_dict["next_step"], state_dict["measurements"]

    def _measure_where_due(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.global_step < self.next_step:
            return
        self.next_step = (trainer.global_step // self.every_n_steps + 1) * self.every_n_steps
        with_rewards = self.reward_every > 0 and self.measurements % self.reward_every == 0
        self.measurements += 1
        with _untouched(pl_module), trainer.precision_plugin.val_step_context():
            rows = self._measure(trainer, pl_module, with_rewards)
        figures = figures_of(RolloutCallback.sum_over_ranks(trainer, rows))
        # Written at once: what a module logs is kept only where the step is one of trainer.log_every_n_steps.
        for logger in trainer.loggers:
            logger.log_metrics(figures, step=trainer.global_step)
            logger.save()
        trainer.callback_metrics.update({name: torch.tensor(value) for name, value in figures.items()})

    def _measure(self, trainer: Trainer, pl_module: Any, with_rewards: bool) -> Tensor:
        """Asks the probes of this rank; returns the sums that ``figures_of`` reads."""
        rank, ranks = trainer.global_rank, trainer.world_size
        if self._own is None:
            samples = _data(trainer).prepared("validation")
            self._own = read_probes(samples, self._plan.of_rank(rank, ranks), _encoder(pl_module))
        sums = torch.zeros(len(SUMS), dtype=torch.float64)
        # Where ranks hold pieces of the weights, all must ask equally often: the last probes are asked again for that.
        calls = math.ceil(self._plan.most_of_a_rank(ranks) / self.batch_size)
        for call in range(calls if self._own else 0):
            asked = self._own[call * self.batch_size : (call + 1) * self.batch_size]
            rows = self._ask(pl_module, asked or self._own[:1], with_rewards)
            if asked:
                sums += rows
        return sums

    def _ask(self, pl_module: Any, probes: list[Probe], with_rewards: bool) -> Tensor:
        """Asks some probes in all variants."""
        tokens = torch.tensor([probe.tokens for probe in probes], dtype=torch.float64)
        log_probs, rewards = [], []
        for samples in zip(*(probe.variants(self.video_frames) for probe in probes), strict=True):
            asked: list[Sample] = list(samples)
            log_probs.append(pl_module.completion_log_probs(asked).double().cpu())
            if with_rewards:
                rewards.append(pl_module.rewards_of(pl_module.complete(asked)).total.double().cpu())
        scores, shares = torch.stack(log_probs), torch.stack(log_probs) / tokens
        # Gaps compare the same samples, so that one without a reward in any variant counts in none.
        earned = torch.stack(rewards) if rewards else torch.full_like(scores, math.nan)
        scored = ~earned.isnan().any(0)
        count, rewarded = torch.tensor([len(probes)]), scored.sum()[None]
        return torch.cat([count, scores.sum(1), shares.sum(1), rewarded, earned[:, scored].sum(1)]).double()


def figures_of(sums: Tensor) -> dict[str, float]:
    """Makes means and gaps of sums over all probes.

    Args:
        sums: As ``SUMS`` names them, over all ranks.

    Returns:
        Figures by name; those of rewards only where any probe has them.
    """
    by_name = dict(zip(SUMS, sums.tolist(), strict=True))
    figures: dict[str, float] = {}
    for kind, gap, count in KINDS:
        if by_name[count] == 0:
            continue
        means = {variant: by_name[f"{kind}{variant}"] / by_name[count] for variant in VARIANTS}
        figures |= {f"{PREFIX}{kind}{variant}": mean for variant, mean in means.items()}
        figures |= {f"{PREFIX}{gap}{variant}": means[""] - mean for variant, mean in means.items() if variant}
    return figures | {f"{PREFIX}probes": by_name["probes"]}


@contextmanager
def _untouched(pl_module: LightningModule) -> Iterator[None]:
    """Gives random streams and the modes of modules back as they were."""
    modes = [(module, module.training) for module in pl_module.modules()]
    with isolate_rng():
        yield
    for module, training in modes:
        module.training = training


def _encoder(pl_module: Any) -> Any:
    return getattr(pl_module, "encoder", None)


def _data(trainer: Any) -> Any:
    return getattr(trainer, "datamodule", None)
