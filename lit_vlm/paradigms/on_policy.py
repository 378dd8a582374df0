"""What paradigms share that learn from completions of their own policy: rollouts, rewards, and manual updates.

Legend: ``P`` prompts, ``G`` completions of each, ``B`` of all, ``T`` tokens of the longest completion.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, cast

import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lit_vlm.functional.random_streams import stream_seed
from lit_vlm.interfaces.batches import PromptBatch
from lit_vlm.interfaces.capabilities import RolloutObserver
from lit_vlm.interfaces.coefficients import Coefficients
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.policy_roles import AdvantageEstimator, PolicyObjective, RolloutEngine
from lit_vlm.interfaces.records import Sample
from lit_vlm.interfaces.roles import Reward
from lit_vlm.interfaces.rollouts import Iteration, RewardContext, Rewards, Rollouts
from lit_vlm.models.backbone import Backbone
from lit_vlm.models.completion_scoring import CompletionScores
from lit_vlm.models.media_features import MediaFeatures
from lit_vlm.models.sharding import whole
from lit_vlm.models.vision_language_model import GenerationSettings
from lit_vlm.paradigms.base import VLMModule
from lit_vlm.paradigms.group_sampling import GroupSampling, WaitingGroups
from lit_vlm.paradigms.halved_passes import moves_together, pass_tokens, sample_rollouts
from lit_vlm.paradigms.optimization import OptimizerSettings
from lit_vlm.paradigms.policy_module import run_seed
from lit_vlm.paradigms.policy_update import Material, PolicyUpdate, UpdateSettings, policy_totals
from lit_vlm.paradigms.reference_policy import ReferencePolicy, ReferenceSettings
from lit_vlm.paradigms.rollout_figures import log_distributions, rollout_figures
from lit_vlm.paradigms.saved_coefficients import SavesCoefficients
from lit_vlm.rewards.answer_correctness import AnswerCorrectness
from lit_vlm.rewards.weighted_rewards import WeightedRewards
from lit_vlm.rollouts.hf_rollout_engine import HFRolloutEngine


class OnPolicyModule(SavesCoefficients, VLMModule):
    """Samples completions of its own policy, scores them, and takes optimizer steps by hand.

    A ``training_step`` is one round, whatever number of optimizer steps and passes it has. A paradigm's own
    ``training_step`` calls ``roll_out`` and goes through ``updates``; see ``GRPOModule``.

    Args:
        backbone: The model to train.
        parts: What the paradigm turns rewards into a loss with.
        engine: Samples completions.
        reward: Scores completions; ``WeightedRewards`` makes the weights coefficients.
        group_size: Completions of each prompt.
        groups: What becomes of groups that teach nothing.
        update: Inner epochs, mini-batches and the token budget of a pass.
        reference: The policy that divergences are measured from; None for none.
        optimizer: Learning rate, decay and schedule.
        generation: How completions are decoded in validation, test and predict.
        max_tokens: Longest prompt.
    """

    def __init__(
        self,
        backbone: Backbone = Backbone(),
        *,
        parts: Sequence[AdvantageEstimator | PolicyObjective] = (),
        engine: RolloutEngine = HFRolloutEngine(),
        reward: Reward = AnswerCorrectness(),
        group_size: int = 8,
        groups: GroupSampling = GroupSampling(),
        update: UpdateSettings = UpdateSettings(),
        reference: ReferenceSettings | None = None,
        optimizer: OptimizerSettings = OptimizerSettings(),
        generation: GenerationSettings = GenerationSettings(),
        max_tokens: int = 4096,
    ) -> None:
        super().__init__(backbone, optimizer=optimizer, generation=generation, reward=reward, max_tokens=max_tokens)
        self.automatic_optimization = False
        if group_size < 1:
            raise UserError(f"model.group_size is {group_size}; give at least 1")
        if engine.temperature == 0:
            raise UserError(
                "model.engine samples at temperature 0, so that all completions of a prompt are the same and none is "
                "better than another; give a temperature above 0"
            )
        if reference is not None:
            reference.check(backbone.adapter is not None)
            reference.check_on_policy()
        self.engine = engine
        self.group_size = group_size
        self.groups = groups
        self.update_settings = update
        self.reference_settings = reference
        self.rewards = WeightedRewards.of(reward)
        self.coefficients = Coefficients.of(self.rewards, *parts)
        self._needs_reference = any(part.needs_reference for part in parts)
        self.steps_per_batch = update.steps
        self._reference: ReferencePolicy | None = None
        self._waiting = WaitingGroups(groups)
        self._media: MediaFeatures | None = None
        self._gradient_norm = 0.0
        self._is_skipped = False

    @property
    def sampling_temperature(self) -> float:
        """Temperature that log-probabilities and entropies belong to."""
        return self.engine.temperature

    @property
    def unfinished_batches(self) -> int:
        """Batches taken since the last update, which a resumed run samples again."""
        return len(self._waiting)

    def configure_callbacks(self) -> list[Any]:
        """Refuses options of the Trainer that do not apply, before Lightning does in words of its own.

        Raises:
            UserError: One is set; it names the module's option in its place.
        """
        if self.trainer.gradient_clip_val:
            raise UserError(
                f"trainer.gradient_clip_val is {self.trainer.gradient_clip_val}, but {type(self).__name__} clips "
                "gradients itself; leave it out and set model.update.max_gradient_norm"
            )
        if self.trainer.accumulate_grad_batches != 1:
            raise UserError(
                f"trainer.accumulate_grad_batches is {self.trainer.accumulate_grad_batches}, but "
                f"{type(self).__name__} cuts its batches up itself; leave it out, raise data.batch_size (prompts of a "
                "round) and set model.update.micro_batch_tokens to what fits the memory"
            )
        return []

    def configure_model(self) -> None:
        """Loads the weights, and keeps those of the reference."""
        super().configure_model()
        if self.reference_settings is not None and self._reference is None:
            self._reference = ReferencePolicy(self.reference_settings, self.policy)

    def on_fit_start(self) -> None:
        """Checks what can only be checked with the model at hand, before the first step.

        Raises:
            UserError: Settings do not go together, or not with the model or the data.
        """
        if self._needs_reference and self.reference_settings is None:
            raise UserError(
                "the divergence from a reference counts (kl is above 0, or may be), but there is no reference; set "
                "model.reference.kind to frozen_copy, or to adapter_off with an adapter, or set kl to 0"
            )
        self.update_settings.check(getattr(self.trainer.datamodule, "batch_size", None))  # type: ignore[attr-defined]
        self.engine.check(self.policy, self.encoder)
        most = self.policy.context_tokens
        if most is not None:
            # Longer prompts are the data's fault then, each named by its sample.
            self.encoder.leave_room(most, self.engine.max_new_tokens)

    def roll_out(self, prompts: PromptBatch) -> Iteration | None:
        """Samples and scores completions, and chooses those that are trained on.

        Args:
            prompts: ``P`` left-padded prompts.

        Returns:
            Rollouts and rewards; None where groups that are worth it are still too few, so that there is no update.
        """
        iteration = Iteration(step=self.trainer.global_step, prompts=prompts)
        self.tell("on_before_rollout", iteration)
        with self.policy.decoding():  # a rank without prompts goes along
            iteration.rollouts = self._sample(prompts)
        self.tell("on_after_rollout", iteration)
        iteration.rewards = self._reward(iteration.rollouts)
        self.tell("on_after_rewards", iteration)
        log_distributions(self.trainer, iteration.rewards, iteration.rollouts)
        iteration.figures = rollout_figures(iteration.rollouts, iteration.rewards, self.sum_over_ranks)
        if self.groups.uninformative == "keep":
            return iteration
        self._waiting.add(iteration.rollouts, iteration.rewards)
        if not self._waiting.are_enough(len(prompts), self.sum_over_ranks):
            self._log(iteration.figures)
            return None
        chosen = self._waiting.take(len(prompts), self._encode_prompts, self.policy.padding_id)
        iteration.rollouts, iteration.rewards = chosen.rollouts, chosen.rewards
        iteration.figures["batches_per_update"] = float(chosen.batches)
        if chosen.batches > 1:
            self._media = self._encode_media(chosen.rollouts.prompts)
        return iteration

    def with_reference(self, rollouts: Rollouts) -> Rollouts:
        """Adds the reference's log-probabilities, where there is a reference."""
        if self._reference is None:
            return rollouts
        media = self._media if self._reference.shares_vision else None
        with self._reference.installed():
            return replace(rollouts, reference_log_probs=self._fixed_log_probs(rollouts, rollouts.mask, media))

    def updates(self, iteration: Iteration, objective: PolicyObjective) -> Iterator[PolicyUpdate]:
        """Takes an optimizer step after each update that it yields; at the end it tells callbacks and the log.

        Args:
            iteration: With rollouts and advantages.
            objective: Tells what the loss needs of the passes.

        Yields:
            Updates with a token to learn from, ``update.steps`` of them at most.
        """
        rollouts, advantages = iteration.rollouts, iteration.advantages
        if rollouts is None or advantages is None:
            raise RuntimeError("an update needs rollouts and advantages")
        self.tell("on_after_advantages", iteration)
        start = time.perf_counter()
        settings, mask = self.update_settings, rollouts.mask
        if settings.mask_truncated:
            mask = mask * ~rollouts.is_truncated[:, None]
        material = Material(rollouts, advantages.values, mask, rollouts.log_probs.clone())
        material.mismatch = settings.mismatch if self.engine.has_own_weights else None
        # What passes compute; the totals count the others too.
        wanted = mask if objective.needs_all_tokens else mask * (advantages.values != 0).any(1, keepdim=True)
        if settings.steps > 1:
            material.old_log_probs = self._fixed_log_probs(rollouts, wanted, self._media)
        media = None if self._trains_vision else self._media
        steps: list[dict[str, float]] = []
        for rows in settings.minibatch_rows(rollouts, run_seed(), iteration.step):
            totals = policy_totals(mask[rows], self.engine.max_new_tokens, self.sum_over_ranks)
            if not totals.tokens:
                continue
            update = PolicyUpdate(
                material,
                self._passes(rollouts, wanted, rows),
                totals,
                score=lambda rows: self._score_rows(
                    rollouts, mask, rows, media, with_entropies=objective.needs_entropies
                ),
                manual_backward=self.manual_backward,
                strategy=self.trainer.strategy,
                smaller=partial(self._smaller_passes, rollouts, wanted, rows),
            )
            yield update
            steps.append({**update.figures(), **self._take_step()})
        iteration.log_probs = material.log_probs
        iteration.figures |= {
            **{name: sum(step[name] for step in steps) / len(steps) for name in (steps[0] if steps else ())},
            **advantages.figures,
            **{f"coefficient/{name}": value for name, value in self.coefficients.items()},
            "updates": float(len(steps)),
            "seconds/update": time.perf_counter() - start,
        }
        self._log(iteration.figures)
        self.tell("on_after_update", iteration)

    def tell(self, hook: str, iteration: Iteration) -> None:
        """Calls a hook of all callbacks that watch rollouts, in their order."""
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, RolloutObserver):
                getattr(callback, hook)(self.trainer, self, iteration)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Clips the gradients, after precision plugins have unscaled them and callbacks have looked at them."""
        parameters = [value for value in self.policy.parameters() if value.grad is not None]
        most = self.update_settings.max_gradient_norm
        # A callback that leaves a step out takes the gradients away.
        self._is_skipped = not parameters
        norm = torch.nn.utils.clip_grad_norm_(parameters, math.inf if most is None else most)
        self._gradient_norm = float(whole(norm))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds a reference that follows the policy."""
        super().on_save_checkpoint(checkpoint)
        if self._reference is not None:
            checkpoint["reference"] = self._reference.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Takes up a reference that follows the policy."""
        super().on_load_checkpoint(checkpoint)
        if self._reference is not None and checkpoint.get("reference"):
            self._reference.load_state_dict(checkpoint["reference"])

    @property
    def _trains_vision(self) -> bool:
        """Whether features of media change with every update."""
        return bool({"vision", "projector"} & self.policy.trained_parts)

    def _sample(self, prompts: PromptBatch) -> Rollouts:
        self.engine.follow(self.policy, self.encoder, prompts, self.trainer.global_step, self.sum_over_ranks)
        if not len(prompts):
            self._media = None
            return Rollouts.none(prompts)
        start = time.perf_counter()
        self._media = self._encode_media(prompts)
        encoded = time.perf_counter()
        seeds, sizes = self._seeds(prompts), self.pass_sizes
        rollouts = sample_rollouts(
            sizes, self.engine, self.policy, self.encoder, prompts, self.group_size, seeds, self._media
        )
        return replace(rollouts, seconds={"encode": encoded - start, **rollouts.seconds})

    def _seeds(self, prompts: PromptBatch) -> list[int]:
        """Derives a seed for each prompt from run, step and sample, and how often this rank had it since the update."""
        seen = Counter(self._waiting.sample_ids)
        seeds = []
        for sample in prompts.samples:
            seeds.append(stream_seed(run_seed(), "rollout", self.trainer.global_step, sample.id, seen[sample.id]))
            seen[sample.id] += 1
        return seeds

    @torch.no_grad()
    def _encode_media(self, prompts: PromptBatch) -> MediaFeatures | None:
        """Makes the features of media that all passes without a graph share; None where memory once ran out in it."""
        return self.pass_sizes.unless_too_large("features", lambda: self.policy.encode_media(prompts))

    def _encode_prompts(self, samples: Sequence[Sample]) -> PromptBatch:
        return self.encoder.encode_prompts(samples).to(self.device)

    def _reward(self, rollouts: Rollouts) -> Rewards:
        start = time.perf_counter()
        token_ids = zip(rollouts.token_ids.tolist(), rollouts.lengths.tolist(), strict=True)
        context = RewardContext(
            step=self.trainer.global_step,
            group_of=tuple(rollouts.prompt_of.tolist()),
            token_ids=tuple(tuple(ids[:length]) for ids, length in token_ids),
        )
        rewards = self.rewards.score(rollouts.completions, context, self.coefficients)
        rollouts.seconds["rewards"] = time.perf_counter() - start
        return rewards

    def _passes(self, rollouts: Rollouts, mask: Tensor, rows: Tensor) -> list[Tensor]:
        shares = self.policy.shares_prompts is not False
        settings = self.pass_sizes.of_update(self.update_settings)
        return self.policy.padded(settings.micro_batch_rows(rollouts, mask, rows, shares_prompts=shares))

    def _smaller_passes(
        self, rollouts: Rollouts, mask: Tensor, rows: Tensor, failed: Tensor, error: BaseException
    ) -> list[Tensor]:
        """Cuts completions into smaller passes, and drops the gradients of those before, since memory ran out."""
        tokens = pass_tokens(self.policy, self.update_settings, rollouts, mask, failed)
        self.pass_sizes.halve("update", tokens, error, together=moves_together(self.policy))
        cast(LightningOptimizer, self.optimizers()).zero_grad()
        return self._passes(rollouts, mask, rows)

    def _score_rows(
        self, rollouts: Rollouts, mask: Tensor, rows: Tensor, media: MediaFeatures | None, *, with_entropies: bool
    ) -> CompletionScores:
        longest = int(mask[rows].sum(1).max()) if len(rows) else 0
        return self.policy.score_rollouts(
            rollouts.prompts,
            rollouts.token_ids[rows, :longest],
            mask[rows, :longest],
            rollouts.prompt_of[rows],
            temperature=self.engine.temperature,
            with_entropies=with_entropies,
            media=media,
            prefix=self.update_settings.prefix,
        )

    def _fixed_log_probs(self, rollouts: Rollouts, mask: Tensor, media: MediaFeatures | None) -> Tensor:
        """Scores completions under the policy as it is, without a graph and without dropout, shape ``(B, T)``."""
        log_probs = torch.zeros_like(rollouts.log_probs)
        last = every = torch.arange(len(rollouts), device=mask.device)

        def score() -> Tensor:
            nonlocal last
            for last in self._passes(rollouts, mask, every):
                scores = self._score_rows(rollouts, mask, last, media, with_entropies=False)
                log_probs[last, : scores.log_probs.shape[1]] = scores.log_probs
            return log_probs

        with self.policy.evaluating():
            return self.pass_sizes.retried(
                "update",
                score,
                lambda: pass_tokens(self.policy, self.update_settings, rollouts, mask, last),
                together=moves_together(self.policy),
            )

    def _take_step(self) -> dict[str, float]:
        optimizer = cast(LightningOptimizer, self.optimizers())
        rate = float(optimizer.param_groups[0]["lr"])
        optimizer.step()
        optimizer.zero_grad()
        cast(LRScheduler, self.lr_schedulers()).step()
        if self._reference is not None:
            self._reference.follow(self.trainer.global_step)
        # Infinite gradients that are still here are left out by the scaler of the precision.
        skipped = float(self._is_skipped or not math.isfinite(self._gradient_norm))
        return {"learning_rate": rate, "gradient_norm": self._gradient_norm, "skipped_updates": skipped}

    def _log(self, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            self.log(f"train/{name}", value, prog_bar=name in ("loss", "reward/mean"), batch_size=1)
