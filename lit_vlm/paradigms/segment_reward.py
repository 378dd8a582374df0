"""Training of reward models that judge the sub-sentences of responses."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, cast

from torch import Tensor, nn

from lit_vlm.evaluation.segment_metrics import SegmentMetrics
from lit_vlm.interfaces.batches import EvaluationBatch, PromptBatch
from lit_vlm.interfaces.capabilities import COMPLETIONS
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import Completion, Sample
from lit_vlm.interfaces.segments import HALLUCINATIONS, Hallucination
from lit_vlm.models.backbone import Backbone
from lit_vlm.models.segment_classifier import SegmentClassifier, SegmentLogits, save_segment_classifier
from lit_vlm.models.segment_encoding import SegmentEncoder
from lit_vlm.models.vision_language_model import VisionLanguageModel
from lit_vlm.paradigms.base import VLMModule
from lit_vlm.paradigms.halved_batches import HalvesBatches
from lit_vlm.paradigms.halved_passes import rows_of
from lit_vlm.paradigms.optimization import OptimizerSettings
from lit_vlm.paradigms.policy_module import run_seed
from lit_vlm.paradigms.step_figures import StepFigures


class SegmentRewardModule(HalvesBatches, VLMModule):
    """Teaches a model with a linear head to tell which sub-sentences are wrong, by one kind of hallucination.

    The loss is cross-entropy over the three classes of a sub-sentence at the token that ends it, and nowhere else: a
    mean over all sub-sentences of the optimizer step, across accumulated micro-batches and ranks. The encoder labels
    nothing but these tokens, so that the loader's count of labels is the number of sub-sentences.

    Args:
        backbone: The model to train.
        hallucination: What is judged: ``existence`` of objects, their ``attribute``, or their ``relation``. One model
            is trained for each; samples carry the labels in ``meta.extra["segment_labels"]``.
        optimizer: Learning rate, decay and schedule.
        max_tokens: Longest row, prompt included; a response that does not fit is refused.

    Source:
        Jing and Du, FGAIF: Aligning Large Vision-Language Models with Fine-grained AI Feedback (2024);
        ``RLHF/models/fine_reward_model.py`` of the authors (confirmed-in-code), but for the meaning of the classes,
        which is ours, and the place that is read, see ``SegmentClassifier``.
    """

    def __init__(
        self,
        backbone: Backbone = Backbone(),
        *,
        hallucination: Hallucination,
        optimizer: OptimizerSettings = OptimizerSettings(),
        max_tokens: int = 4096,
    ) -> None:
        super().__init__(backbone, optimizer=optimizer, max_tokens=max_tokens)
        if hallucination not in HALLUCINATIONS:
            raise UserError(f"model.hallucination is {hallucination!r}; give one of {', '.join(HALLUCINATIONS)}")
        self.hallucination: Hallucination = hallucination
        self.segment_metrics = nn.ModuleDict()

    @property
    def encoder(self) -> SegmentEncoder:
        """Encodes samples for this model, with the classes of their sub-sentences; loaded when first asked for."""
        if self._encoder is None:
            plain = self.backbone.load_encoder(self.max_tokens)
            self._encoder = SegmentEncoder(
                plain.processor,
                self.hallucination,
                max_tokens=plain.max_tokens,
                max_video_frames=plain.max_video_frames,
            )
        return cast(SegmentEncoder, self._encoder)

    @property
    def classifier(self) -> SegmentClassifier:
        """The model being trained.

        Raises:
            RuntimeError: ``configure_model`` has not run.
        """
        return cast(SegmentClassifier, self.policy)

    def with_head(self, policy: VisionLanguageModel) -> SegmentClassifier:
        """Puts the head on the model."""
        return SegmentClassifier(policy, run_seed())

    def setup(self, stage: str) -> None:
        """Prepares the metrics.

        Raises:
            UserError: As the base.
        """
        super().setup(stage)
        for name in ("validation", "test"):
            self.segment_metrics[name] = SegmentMetrics()

    def training_step(self, batch: PromptBatch, batch_idx: int) -> Tensor:
        """Computes this micro-batch's share of the step's loss.

        Returns:
            ``W K`` times the share: the strategy averages over ranks (``W``), Lightning over micro-batches (``K``).
        """
        totals, parts = self.step_totals(batch)

        def run(rows: PromptBatch) -> tuple[Tensor, StepFigures]:
            judged = self.classifier.judge(rows)
            share = self._summed_loss(judged) / (max(totals.labels, 1) * parts)
            figures, hits = StepFigures(), (judged.logits.argmax(-1) == judged.classes).sum()
            figures.add_shares({"loss": share})
            figures.add_means({"accuracy": hits}, hits.new_tensor(len(judged.classes)))
            return share, figures

        share = self.summed_passes(len(batch), partial(rows_of, self.policy, self.encoder, batch), run)
        return share * self.averaged_parts

    def validation_step(self, batch: EvaluationBatch, batch_idx: int) -> dict[str, Any]:
        """Judges held-out responses; nothing is generated."""
        return self._judge(batch, "validation")

    def test_step(self, batch: EvaluationBatch, batch_idx: int) -> dict[str, Any]:
        """Judges held-out responses; nothing is generated."""
        return self._judge(batch, "test")

    def predict_step(self, batch: EvaluationBatch, batch_idx: int) -> list[Completion]:
        """Refuses: there is no text to write.

        Raises:
            UserError: Always.
        """
        self._writes_nothing()

    def complete(self, samples: Sequence[Sample]) -> list[Completion]:
        """Refuses: there is no text to write.

        Raises:
            UserError: Always.
        """
        self._writes_nothing()

    def completion_log_probs(self, samples: Sequence[Sample]) -> Tensor:
        """Refuses: words have no likelihood here.

        Raises:
            UserError: Always.
        """
        self._writes_nothing()

    def export(self, folder: Path) -> None:
        """Writes the model as a folder that ``FolderSegmentScorer`` loads.

        Args:
            folder: Where to write; made if absent. Only the first rank writes.
        """
        if self.trainer.is_global_zero:
            save_segment_classifier(self.classifier, self.backbone, self.hallucination, self.encoder, folder)

    def _judge(self, batch: EvaluationBatch, stage: str) -> dict[str, Any]:
        judged = self.classifier.judge(batch.complete)
        cast(SegmentMetrics, self.segment_metrics[stage]).update(judged.logits, judged.classes)
        return {COMPLETIONS: []}

    def _log_evaluation(self, stage: str) -> None:
        metrics = cast(SegmentMetrics, self.segment_metrics[stage])
        for name, value in metrics.compute().items():
            self.log(f"{stage}/{name}", value, prog_bar=name == "accuracy", batch_size=1)
        metrics.reset()

    @staticmethod
    def _summed_loss(judged: SegmentLogits) -> Tensor:
        return nn.functional.cross_entropy(judged.logits, judged.classes, reduction="sum")

    def _writes_nothing(self) -> NoReturn:
        raise UserError(
            "a segment reward model judges responses and writes none; remove what asks it for completions or their "
            "likelihood, and run test to see how well it judges"
        )
