"""Rewards the form of a completion."""

from dataclasses import dataclass
from typing import get_args

from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import Completion
from lit_vlm.parsing.completion_formats import (
    CompletionFormat,
    follows_format,
    with_opened_thought,
    without_spaced_marks,
)
from lit_vlm.rewards.completion_reward import CompletionReward


@dataclass(frozen=True)
class FormatReward(CompletionReward):
    """Gives 1 to a completion that follows a form, else 0.

    Source:
        TRL, EasyR1 and VLM-R1, see ``lit_vlm.parsing.completion_formats`` (confirmed-in-code; ``strict`` is ours).
    """

    kind: CompletionFormat = "strict"
    """``strict``, ``lenient``, ``think_only`` or ``boxed``."""
    prefilled: bool = False
    """Whether the prompt ends with ``<think>``, so that the completion need not begin with it."""
    ignore_spaces_in_tags: bool = False
    """Whether white space around ``<``, ``>`` and ``/`` is dropped first, as in EasyR1."""

    def __post_init__(self) -> None:
        if self.kind not in get_args(CompletionFormat):
            raise UserError(f"kind is {self.kind!r}; give one of {', '.join(get_args(CompletionFormat))}")

    def score(self, completion: Completion) -> float:
        """Tests the form."""
        text = with_opened_thought(completion.text) if self.prefilled else completion.text
        return float(follows_format(without_spaced_marks(text) if self.ignore_spaces_in_tags else text, self.kind))
