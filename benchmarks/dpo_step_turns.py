"""What both sides of ``dpo_step.py`` share: the setting, the texts of the pairs, and telling what was done."""

from dataclasses import dataclass

QUESTION = "Which digit is this? Think, then answer."
DIGITS = "0123456789"


@dataclass(frozen=True)
class Setting:
    """What a step consists of, on both sides."""

    image_tokens: int
    pairs: int = 16
    completion_tokens: int = 32
    beta: float = 0.1
    learning_rate: float = 1e-6
    threads: int = 2


@dataclass(frozen=True)
class Work:
    """What a step did, as found in the trainer after it."""

    pairs: int
    completion_tokens: int
    """Of all completions, their end tokens included."""
    prompt_tokens: int
    """Of a prompt."""
    image_tokens: int
    """Of those, the ones of its image."""
    optimizer_steps: int
    """Since the beginning."""
    changed: dict[str, bool]
    """Whether the weights of each part changed."""


def halves(setting: Setting, row: int) -> tuple[str, str]:
    """Writes the completions of a pair, of as many tokens each as the setting says, the end token included."""
    # A digit and the space before it are tokens of their own in the bundled model's vocabulary.
    length = setting.completion_tokens - 1
    texts = []
    for shift in (0, 5):
        text = "".join(DIGITS[(row + place + shift) % 10] for place in range(length))
        texts.append(text)
    return texts[0], texts[1]
