"""Rewards a span of time."""

from dataclasses import dataclass
from typing import Literal

from lit_vlm.functional.boxes import interval_iou
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import Completion
from lit_vlm.parsing.ground_truth import true_span
from lit_vlm.parsing.time_spans import parse_time_span
from lit_vlm.rewards.completion_reward import CompletionReward, answer_text, gold_value


@dataclass(frozen=True)
class IntervalReward(CompletionReward):
    """Scores a span against the true one, in [0, 1]; 0 where there is none or its start is not before its end.

    Source:
        LongVT ``custom_rewards/vl_agent.py`` (confirmed-in-code). It divides by the hull, which is the union wherever
        the spans overlap.
    """

    kind: Literal["iou", "recall"] = "iou"
    """``iou``: shared length over the length covered together; ``recall``: over the true length."""

    def __post_init__(self) -> None:
        if self.kind not in ("iou", "recall"):
            raise UserError(f"kind is {self.kind!r}; give iou or recall")

    def score(self, completion: Completion) -> float:
        """Compares the span.

        Raises:
            UserError: The true span has no length or cannot be read; the message names the sample.
        """
        gold = gold_value(completion, true_span)
        text = answer_text(completion)
        given = None if text is None else parse_time_span(text)
        if given is None:
            return 0.0
        if self.kind == "iou":
            return interval_iou(given, gold)
        return max(0.0, min(given[1], gold[1]) - max(given[0], gold[0])) / (gold[1] - gold[0])
