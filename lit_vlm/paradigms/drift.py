"""Supervised fine-tuning whose gradients are biased towards a reasoning model's weights."""

from __future__ import annotations

from torch.optim import Optimizer

from lit_vlm.functional.gradient_directions import ALPHA_SHARE
from lit_vlm.interfaces.coefficients import Coefficient, Coefficients
from lit_vlm.interfaces.roles import AttachedTransform, GradientTransform, Reward, SupervisedObjective
from lit_vlm.models.backbone import Backbone
from lit_vlm.models.vision_language_model import GenerationSettings
from lit_vlm.objectives.sft_loss import SFTLoss
from lit_vlm.paradigms.optimization import OptimizerSettings
from lit_vlm.paradigms.saved_coefficients import SavesCoefficients
from lit_vlm.paradigms.sft import SFTModule


class DRIFTModule(SavesCoefficients, SFTModule):
    """Fine-tunes on the data's completions, each step's gradient being biased before it is clipped.

    Nothing is merged, and the loss is that of ``SFTModule``. The coefficient ``alpha_share``, 1 at the start,
    multiplies the strength of the bias, so that ``CoefficientSchedule`` can let it grow or fade. The same bias acts
    under any other module by the callback ``GradientBias``.

    Source:
        DRIFT: Directional Reasoning Injection for Fine-Tuning MLLMs (2025), with the authors' code
        (confirmed-in-code); see ``DirectionalBias`` for where we differ.

    Args:
        backbone: The model to train.
        bias: What is done to the gradients, ``DirectionalBias`` with the prior's checkpoint.
        objective: The loss over label tokens.
        optimizer: Learning rate, decay and schedule.
        generation: How completions are decoded in validation, test and predict.
        reward: Scores completions in validation and test, logged beside exact match; None scores nothing.
        max_tokens: Longest training row, prompt included.
        chunk_tokens: Label tokens whose logits exist at one time.
    """

    def __init__(
        self,
        backbone: Backbone = Backbone(),
        *,
        bias: GradientTransform,
        objective: SupervisedObjective = SFTLoss(),
        optimizer: OptimizerSettings = OptimizerSettings(),
        generation: GenerationSettings = GenerationSettings(),
        reward: Reward | None = None,
        max_tokens: int = 4096,
        chunk_tokens: int = 1024,
    ) -> None:
        super().__init__(
            backbone,
            objective=objective,
            optimizer=optimizer,
            generation=generation,
            reward=reward,
            max_tokens=max_tokens,
            chunk_tokens=chunk_tokens,
        )
        self.bias = bias
        self.coefficients = Coefficients({ALPHA_SHARE: Coefficient(1.0)})
        self._attached: AttachedTransform | None = None

    def setup(self, stage: str) -> None:
        """Checks the bias, so that what does not fit fails before anything is loaded.

        Raises:
            UserError: The prior is not there, or does not fit the model.
        """
        super().setup(stage)
        if stage == "fit":
            self.bias.check(self)

    def on_train_start(self) -> None:
        """Chooses the weights to bias, and reads the direction of each.

        Raises:
            UserError: There is nothing to act on, or the prior does not fit the model.
        """
        self._attached = self.bias.attach(self)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Biases the gradients of the whole step, and logs its figures."""
        super().on_before_optimizer_step(optimizer)
        if self._attached is None:
            raise RuntimeError("on_train_start has not run")
        for name, value in self._attached(self.coefficients).items():
            self.log(f"train/drift/{name}", value)
        self.log(f"train/drift/{ALPHA_SHARE}", self.coefficients[ALPHA_SHARE])

    def on_fit_end(self) -> None:
        """Lets go of the directions."""
        self._attached = None
