"""How completions are sampled."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lit_vlm.interfaces.errors import UserError

LEAST_TEMPERATURE = 0.01
"""Below it logits over the temperature leave what 32 bits resolve."""


@dataclass(frozen=True)
class SamplingSettings:
    """Cuts are made in this order: repetition penalty, temperature, top-k, top-p, min-p; ties at a cut all stay."""

    max_new_tokens: int = 256
    """Longest completion, in tokens."""
    temperature: float = 1.0
    """Divides the logits; 0 takes the likeliest token, and reports log-probabilities at temperature 1."""
    top_p: float = 1.0
    """Samples among the fewest likeliest tokens that have this probability together, in (0, 1]."""
    top_k: int = 0
    """Samples among this many likeliest tokens; 0 means all."""
    min_p: float = 0.0
    """Samples among tokens at least this likely relative to the likeliest, in [0, 1)."""
    repetition_penalty: float = 1.0
    """Divides the positive logits of tokens that the row holds already, and multiplies the negative ones; 1 is none."""
    stop_strings: tuple[str, ...] = ()
    """Texts that end a completion, and stay in it."""

    def __post_init__(self) -> None:
        """Checks each field.

        Raises:
            UserError: One is out of range.
        """
        if self.max_new_tokens < 1:
            raise _out_of_range("max_new_tokens", self.max_new_tokens, "at least 1")
        if self.temperature != 0 and not LEAST_TEMPERATURE <= self.temperature < math.inf:
            raise _out_of_range("temperature", self.temperature, f"0 or a number from {LEAST_TEMPERATURE} on")
        if not 0 < self.top_p <= 1:
            raise _out_of_range("top_p", self.top_p, "more than 0 and at most 1")
        if self.top_k < 0:
            raise _out_of_range("top_k", self.top_k, "0 for all tokens, or how many")
        if not 0 <= self.min_p < 1:
            raise _out_of_range("min_p", self.min_p, "at least 0 and less than 1")
        if not 0 < self.repetition_penalty < math.inf:
            raise _out_of_range("repetition_penalty", self.repetition_penalty, "more than 0; 1 is none")
        if isinstance(self.stop_strings, str) or not all(self.stop_strings):
            raise _out_of_range("stop_strings", repr(self.stop_strings), "a list of texts, none of them empty")

    @property
    def is_greedy(self) -> bool:
        """Whether the likeliest token is taken."""
        return self.temperature == 0


def _out_of_range(field: str, value: object, wanted: str) -> UserError:
    return UserError(f"sampling.{field} is {value}; give {wanted}")
