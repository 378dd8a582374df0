"""The side of this framework in ``grpo_step.py``: ``GRPOModule`` under a Lightning Trainer, a step at a time."""

from typing import Any

import torch
from grpo_step_turns import QUESTION, Setting, Work, reward_of
from lightning import Callback, LightningModule, Trainer
from step_trainer import step_trainer
from turns import Turns, changes_since, pictures, snapshot

from lit_vlm.data.vlm_data_module import Samples, VLMDataModule
from lit_vlm.interfaces.records import Completion, MediaRef, Sample, SampleMeta, Split, user_message
from lit_vlm.interfaces.rollouts import Iteration
from lit_vlm.models.backbone import Backbone
from lit_vlm.objectives.clipped_policy_loss import ClippedPolicyLoss
from lit_vlm.paradigms.grpo import GRPOModule
from lit_vlm.paradigms.optimization import OptimizerSettings
from lit_vlm.paradigms.reference_policy import ReferenceSettings
from lit_vlm.rewards.completion_reward import CompletionReward
from lit_vlm.rollouts.hf_rollout_engine import HFRolloutEngine
from lit_vlm.rollouts.sampling_settings import SamplingSettings


class Pictures(VLMDataModule):
    """Serves the prompts of both sides."""

    def __init__(self, setting: Setting, **options: Any) -> None:
        super().__init__(**options)
        self._samples = [
            Sample(
                str(row), (user_message(QUESTION, images=1),), (MediaRef(pil=image),), meta=SampleMeta(category="all")
            )
            for row, image in enumerate(pictures(setting.image_tokens, 8 * setting.prompts))
        ]

    @property
    def tasks(self) -> tuple[str, ...]:
        """There is one."""
        return ("all",)

    def samples(self, split: Split) -> Samples:
        """Returns the samples."""
        return self._samples  # type: ignore[return-value]


class Score(CompletionReward):
    """Scores completions as TRL's side does."""

    def score(self, completion: Completion) -> float:
        """Scores one completion."""
        return reward_of(completion.text)


class Endless(GRPOModule):
    """Lets no token end a completion."""

    def configure_model(self) -> None:
        """Loads the weights."""
        super().configure_model()
        self.policy.model.generation_config.eos_token_id = None


class StepByStep(Callback):
    """Waits for its turn between steps, and tells what the last one did."""

    def __init__(self, turns: Turns) -> None:
        self.turns = turns
        self.before: dict[str, torch.Tensor] = {}
        self.iteration: Iteration | None = None

    def on_before_rollout(self, trainer: Trainer, pl_module: GRPOModule, iteration: Iteration) -> None:
        """Nothing."""

    on_after_rollout = on_after_rewards = on_after_advantages = on_before_rollout

    def on_after_update(self, trainer: Trainer, pl_module: GRPOModule, iteration: Iteration) -> None:
        """Keeps the round for its end."""
        self.iteration = iteration

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Waits for the first turn."""
        assert isinstance(pl_module, GRPOModule)
        self.before = snapshot(pl_module.policy.model)
        self.turns.begin()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Ends a turn: the optimizer has stepped."""
        self.turns.stop_clock()
        assert self.iteration is not None
        assert isinstance(pl_module, GRPOModule)
        rollouts = self.iteration.rollouts
        assert rollouts is not None
        ids = rollouts.prompts.input_ids
        optimizer = trainer.optimizers[0]
        first = optimizer.param_groups[0]["params"][0]
        work = Work(
            completions=len(rollouts),
            completion_tokens=int(rollouts.mask.sum()),
            prompts=len({sample.id for sample in rollouts.prompts.samples}),
            prompt_tokens=int(ids.shape[1]),
            image_tokens=int(torch.isin(ids[0], torch.tensor(pl_module.encoder.media_token_ids)).sum()),
            optimizer_steps=int(optimizer.state[first]["step"]),
            changed=changes_since(self.before, pl_module.policy.model),
        )
        del rollouts, ids
        self.iteration = None
        self.before = snapshot(pl_module.policy.model)
        if not self.turns.end(work):
            trainer.should_stop = True


def run(setting: Setting, turns: Turns) -> None:
    """Trains until the turns end.

    Args:
        setting: What both sides do.
        turns: When.
    """
    torch.set_num_threads(setting.threads)
    module = Endless(
        Backbone(min_pixels=1, max_pixels=2**24),
        engine=HFRolloutEngine(SamplingSettings(max_new_tokens=setting.completion_tokens)),
        reward=Score(),
        objective=ClippedPolicyLoss(kl=setting.kl),
        group_size=setting.group,
        reference=ReferenceSettings() if setting.kl > 0 else None,
        optimizer=OptimizerSettings(learning_rate=setting.learning_rate, schedule="constant", warmup=0),
    )
    data = Pictures(setting, encoder=module.encoder, batch_size=setting.prompts, num_workers=0)
    step_trainer(StepByStep(turns)).fit(module, data)
