"""Group relative policy optimisation, and its kin by other parts."""

from __future__ import annotations

from typing import Any

from lit_vlm.advantages.group_relative import GroupRelative
from lit_vlm.interfaces.batches import PromptBatch
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.policy_roles import AdvantageEstimator, PolicyObjective, RolloutEngine
from lit_vlm.interfaces.roles import Reward
from lit_vlm.models.backbone import Backbone
from lit_vlm.models.vision_language_model import GenerationSettings
from lit_vlm.objectives.clipped_policy_loss import ClippedPolicyLoss
from lit_vlm.paradigms.group_sampling import GroupSampling
from lit_vlm.paradigms.on_policy import OnPolicyModule
from lit_vlm.paradigms.optimization import OptimizerSettings
from lit_vlm.paradigms.policy_update import UpdateSettings
from lit_vlm.paradigms.reference_policy import ReferenceSettings
from lit_vlm.rewards.answer_correctness import AnswerCorrectness
from lit_vlm.rollouts.hf_rollout_engine import HFRolloutEngine


class GRPOModule(OnPolicyModule):
    """Raises the likelihood of completions that score better than others of the same prompt.

    GRPO, Dr. GRPO, DAPO, GSPO, RLOO and REINFORCE++ are the same module with other parts; see the recipes. Coefficients
    are those of the advantage, the objective and, as ``reward/NAME``, the weights of the rewards.

    Source:
        Shao et al., DeepSeekMath (2024), algorithm 1 (confirmed-in-code, see the parts).

    Args:
        backbone: The model to train.
        engine: Samples completions.
        reward: Scores completions, in validation too.
        advantage: Turns rewards into advantages.
        objective: Turns log-probabilities and advantages into a loss.
        group_size: Completions of each prompt.
        groups: What becomes of groups that teach nothing.
        update: Inner epochs, mini-batches and the token budget of a pass.
        reference: The policy that divergences are measured from; None for none.
        optimizer: Learning rate, decay and schedule.
        generation: How completions are decoded in validation, test and predict.
        max_tokens: Longest prompt, in tokens.
    """

    def __init__(
        self,
        backbone: Backbone = Backbone(),
        *,
        engine: RolloutEngine = HFRolloutEngine(),
        reward: Reward = AnswerCorrectness(),
        advantage: AdvantageEstimator = GroupRelative(),
        objective: PolicyObjective = ClippedPolicyLoss(),
        group_size: int = 8,
        groups: GroupSampling = GroupSampling(),
        update: UpdateSettings = UpdateSettings(),
        reference: ReferenceSettings | None = None,
        optimizer: OptimizerSettings = OptimizerSettings(),
        generation: GenerationSettings = GenerationSettings(),
        max_tokens: int = 4096,
    ) -> None:
        super().__init__(
            backbone,
            parts=(advantage, objective),
            engine=engine,
            reward=reward,
            group_size=group_size,
            groups=groups,
            update=update,
            reference=reference,
            optimizer=optimizer,
            generation=generation,
            max_tokens=max_tokens,
        )
        self.advantage = advantage
        self.objective = objective
        if advantage.needs_groups and group_size < 2:
            raise UserError(
                f"model.group_size is {group_size}, but {type(advantage).__name__} compares completions of the same "
                "prompt; give 2 or more, or choose ReinforcePlusPlus as model.advantage"
            )

    def training_step(self, prompts: PromptBatch, batch_idx: int) -> dict[str, Any] | None:
        """Samples completions, rewards them, and learns from those that did better or worse than their group.

        Returns:
            ``tokens`` that were trained on, prompts included; None where there was no update.
        """
        iteration = self.roll_out(prompts)
        if iteration is None or iteration.rollouts is None or iteration.rewards is None:
            return None
        iteration.rollouts = self.with_reference(iteration.rollouts)
        iteration.advantages = self.advantage(
            iteration.rewards, iteration.rollouts, self.sum_over_ranks, self.coefficients
        )
        for update in self.updates(iteration, self.objective):
            for batch in update:
                update.backward(self.objective(batch, update.totals, self.coefficients))
        return {"tokens": iteration.rollouts.mask.sum() + prompts.attention_mask.sum()}
