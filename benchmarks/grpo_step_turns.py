"""What both sides of ``grpo_step.py`` share: the setting, and telling what was done."""

from dataclasses import dataclass

QUESTION = "Which digit is this? Think, then answer."


@dataclass(frozen=True)
class Setting:
    """What a step consists of, on both sides."""

    image_tokens: int
    kl: float
    prompts: int = 8
    group: int = 8
    completion_tokens: int = 32
    learning_rate: float = 1e-6
    threads: int = 2


@dataclass(frozen=True)
class Work:
    """What a step did, as found in the trainer after it."""

    completions: int
    completion_tokens: int
    prompts: int
    """Distinct ones, by their images."""
    prompt_tokens: int
    """Of a prompt."""
    image_tokens: int
    """Of those, the ones of its image."""
    optimizer_steps: int
    """Since the beginning."""
    changed: dict[str, bool]
    """Whether the weights of each part changed."""


def reward_of(text: str) -> float:
    """Scores a completion: cheap, and seldom the same within a group."""
    return len(set(text)) / 100
