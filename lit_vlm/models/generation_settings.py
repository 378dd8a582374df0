"""How completions are decoded where they are evaluated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lit_vlm.interfaces.errors import UserError


@dataclass(frozen=True)
class GenerationSettings:
    """How completions are decoded."""

    max_new_tokens: int = 256
    """Longest completion, in tokens."""
    temperature: float = 0.0
    """Sampling temperature; 0 decodes greedily."""
    top_p: float = 1.0
    """Nucleus: smallest set of tokens with this probability, in (0, 1]."""
    top_k: int = 0
    """Samples among this many likeliest tokens; 0 means all."""
    completions: int = 1
    """Completions of each prompt that ``predict`` writes; validation and test look at one."""

    def __post_init__(self) -> None:
        if self.completions < 1:
            raise UserError(f"generation.completions is {self.completions}; give at least 1")
        if self.completions > 1 and self.temperature == 0:
            raise UserError(
                f"generation.completions is {self.completions} and generation.temperature 0, so that all of a prompt's "
                "are the same; give a temperature above 0, such as 1"
            )
        if self.max_new_tokens < 1:
            raise UserError(f"generation.max_new_tokens is {self.max_new_tokens}; give at least 1")
        if self.temperature < 0 or not 0 < self.top_p <= 1 or self.top_k < 0:
            raise UserError(
                f"generation has temperature {self.temperature}, top_p {self.top_p}, top_k {self.top_k}; "
                "wanted are temperature >= 0, 0 < top_p <= 1, top_k >= 0"
            )

    def options(self) -> dict[str, Any]:
        """The keyword arguments of ``generate``."""
        if self.temperature == 0:
            return {
                "max_new_tokens": self.max_new_tokens,
                "do_sample": False,
                "temperature": None,
                "top_p": None,
                "top_k": None,
            }
        return {
            "max_new_tokens": self.max_new_tokens,
            "do_sample": True,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": self.top_k,
        }
