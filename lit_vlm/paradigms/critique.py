"""Fine-tuning on critiques: imitate judging, and measure judging and solving."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from torch import nn

from lit_vlm.evaluation.critique_metrics import VERDICT, CritiqueMetrics
from lit_vlm.evaluation.judgement import judged_verdict
from lit_vlm.interfaces.records import Completion, Sample, Verdict
from lit_vlm.paradigms.sft import SFTModule


class CritiqueModule(SFTModule):
    """Raises the likelihood of critiques, of completions that solve, or of both, as the data mix them.

    Training is that of ``SFTModule``; which turns are learnt is said by the data (``data.learn``). In validation and
    test a sample with ``critique`` is a judging question, whose completion is read as a critique and compared with it;
    any other is solved, and counts for exact match and reward. Both are logged, see ``CritiqueMetrics`` and
    ``EvaluationMetrics``.

    Source:
        Wang et al., "Unleashing the Reasoning Potential of Pre-trained LLMs by Critique Fine-Tuning on One Problem"
        (2025), ``train/train_on_math_reasoning.sh`` (confirmed-in-code); the figures of judging are those of Ai et al.,
        "ProJudge" (2025; reconstructed).
    """

    def setup(self, stage: str) -> None:
        """Prepares the metrics of judging beside those of solving."""
        super().setup(stage)
        self.critique_metrics = nn.ModuleDict({name: CritiqueMetrics() for name in ("validation", "test")})

    def verdict_of(self, sample: Sample, text: str) -> Verdict | None:
        """Says whether a critique judges rightly, or a solution is right."""
        return super().verdict_of(sample, text) if sample.critique is None else judged_verdict(sample, text)

    def count_completions(self, completions: Sequence[Completion], stage: str) -> None:
        """Adds critiques to the figures of judging, and solutions to those of solving."""
        self._judging(stage).update(completions)
        solved = [completion for completion in completions if completion.sample.critique is None]
        if solved:
            super().count_completions(solved, stage)

    def on_validation_epoch_end(self) -> None:
        """Logs the figures of both abilities."""
        super().on_validation_epoch_end()
        self._log_judging("validation")

    def on_test_epoch_end(self) -> None:
        """Logs the figures of both abilities."""
        super().on_test_epoch_end()
        self._log_judging("test")

    def _log_judging(self, stage: str) -> None:
        metrics = self._judging(stage)
        for name, value in metrics.compute().items():
            self.log(f"{stage}/{name}", value, prog_bar=name == VERDICT, batch_size=1)
        metrics.reset()

    def _judging(self, stage: str) -> CritiqueMetrics:
        return cast(CritiqueMetrics, self.critique_metrics[stage])
