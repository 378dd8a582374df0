"""What flows between the parts: samples, answers, verdicts, batches.

Legend: ``B`` rows of a batch, ``L`` padded tokens of a row.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from lit_vlm.interfaces.critiques import Critique

Role = Literal["system", "user", "assistant", "tool"]
Split = Literal["train", "validation", "test"]
AnswerType = Literal[
    "choice",
    "multi_choice",
    "number",
    "text",
    "yesno",
    "list",
    "boxes",
    "point",
    "point_in_box",
    "span",
    "text_span",
    "assignment",
    "route",
    "steps",
    "open",
]
CoordinateSpace = Literal["pixel", "norm1", "norm1000"]
FinishReason = Literal["stop", "length"]
"""``stop``: an end-of-turn token or a stop string; ``length``: the limit of tokens."""
AnswerPlace = Literal["tags", "boxed", "stated", "whole", "any"]

IGNORED_LABEL = -100
INJECTED_ERROR = "injected_error"
"""``Candidate.model`` of a right completion into which an error was put."""


@dataclass(frozen=True)
class MediaRef:
    """Points at one image without decoding it; exactly one of the sources is set."""

    path: str | None = None
    """File, relative to ``root`` where that is given."""
    root: str | None = None
    """Folder that ``path`` may not leave."""
    bytes: bytes | None = None
    """Encoded file contents."""
    url: str | None = None
    """Remote address; only read where a recipe allows downloads."""
    pil: Any = None
    """A decoded PIL image (embedded tasks draw theirs)."""
    size: tuple[int, int] | None = None
    """Width and height of the original in pixels, where known."""
    max_pixels: int | None = None
    """Most pixels it may decode to; None for the reader's own limit."""
    max_bytes: int | None = None
    """Most bytes that may be read of it; None for the reader's own limit."""

    def __post_init__(self) -> None:
        given = [name for name in ("path", "bytes", "url", "pil") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"a MediaRef needs exactly one of path, bytes, url, pil; given: {given or 'none'}")


@dataclass(frozen=True)
class VideoRef:
    """Points at a video: one file, or its frames in order."""

    file: MediaRef | None = None
    """The encoded video."""
    frames: tuple[MediaRef, ...] = ()
    """Frames in order, where the video is a folder of images."""
    start: float | None = None
    """First second used."""
    end: float | None = None
    """Last second used."""
    fps: float | None = None
    """Frames per second of ``frames``, or to sample from ``file``."""
    max_seconds: float | None = None
    """Longest span that may be read from ``file``; None for the reader's own limit."""

    def __post_init__(self) -> None:
        if (self.file is None) == (not self.frames):
            raise ValueError("a VideoRef needs either a file or frames")


@dataclass(frozen=True)
class TextPart:
    """A run of text."""

    text: str


@dataclass(frozen=True)
class ImagePart:
    """Shows ``Sample.images[index]`` at this place."""

    index: int


@dataclass(frozen=True)
class VideoPart:
    """Shows ``Sample.videos[index]`` at this place."""

    index: int


Part = TextPart | ImagePart | VideoPart


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: tuple[Part, ...]
    train: bool = False
    """Whether supervised losses count this turn (assistant turns only)."""

    @property
    def text(self) -> str:
        """The turn's text parts, joined."""
        return "".join(part.text for part in self.content if isinstance(part, TextPart))


@dataclass(frozen=True)
class Answer:
    """Ground truth that a verifier can compare with; ``value``'s form follows ``type``."""

    type: AnswerType
    value: Any
    """number, text, choice, yesno: str; boxes: list of (x1, y1, x2, y2); point: (x, y); point_in_box: one box;
    list, steps: list of str; assignment: dict name -> role; open: str or None."""
    options: tuple[str, ...] = ()
    """Choice texts without their letters."""
    accept: tuple[str, ...] = ()
    """Other accepted strings."""
    coords: CoordinateSpace | None = None
    """Space of boxes and points."""
    tolerance: float | None = None
    """number: relative tolerance; boxes: IoU needed; point: largest distance, in the unit of ``coords``."""
    grader: str | None = None
    """Overrides the default grader of the type."""
    place: AnswerPlace = "tags"
    """Where in a completion the answer has to stand."""


@dataclass(frozen=True)
class Candidate:
    """One of several completions of a sample, with what somebody thinks of it."""

    messages: tuple[Message, ...]
    """What follows the prompt; the assistant's turns are marked ``train``."""
    scores: Mapping[str, float] = field(default_factory=dict)
    """Grades by name, such as ``helpfulness`` or ``correct`` (1 for a right answer, 0 for a wrong one)."""
    model: str = ""
    """What wrote it."""
    critique: Critique | None = None
    """What somebody says of it, where that is known."""
    token_ids: tuple[int, ...] = ()
    """The tokens that were sampled, where they are known."""
    log_probs: tuple[float, ...] = ()
    """Of each of ``token_ids`` under what sampled it, in nats."""
    entropies: tuple[float, ...] = ()
    """Entropy at each of ``token_ids``, in nats."""

    @property
    def text(self) -> str:
        """The turns' text, joined."""
        return "".join(message.text for message in self.messages)


@dataclass(frozen=True)
class Preference:
    """Two completions of one prompt, of which the first is preferred."""

    chosen: tuple[Message, ...]
    """What follows the prompt; the assistant's turns are marked ``train``."""
    rejected: tuple[Message, ...]
    """Likewise; empty where ``chosen`` is only to be imitated."""
    prompt: tuple[Message, ...] | None = None
    """The prompt, where it is not the sample's messages, as in a later step of a trace."""
    weight: float = 1.0
    """Factor of the pair's loss, 0 or more."""


@dataclass(frozen=True)
class SampleMeta:
    """Where a sample comes from and what kind it is."""

    source: str = ""
    split: Split | None = None
    category: str = ""
    """The task within the dataset, e.g. ``sum``."""
    difficulty: int | None = None
    origin: str = ""
    """File and line or row it was read from, for messages."""
    extra: dict[str, Any] = field(default_factory=dict)
    """Everything else, never required (embedded tasks keep the scene's truth here)."""


@dataclass(frozen=True)
class Sample:
    """One canonical example of any dataset; the paradigm chooses the fields it reads."""

    id: str
    messages: tuple[Message, ...]
    images: tuple[MediaRef, ...] = ()
    videos: tuple[VideoRef, ...] = ()
    answer: Answer | None = None
    meta: SampleMeta = field(default_factory=SampleMeta)
    candidates: tuple[Candidate, ...] = ()
    """Completions of ``prompt`` with their grades."""
    preferences: tuple[Preference, ...] = ()
    """Pairs to learn from, one for each step where a trace has several; ``prompt`` is theirs unless they say."""
    critique: Critique | None = None
    """The judgement of a solution that this sample is about: what a judge's completion is compared with."""
    weight: float = 1.0
    """Factor of the sample's loss in supervised fine-tuning, 0 or more."""

    @property
    def prompt(self) -> tuple[Message, ...]:
        """The messages before the last assistant turn, or all where the last turn is not the assistant's."""
        return self.messages[:-1] if self.messages and self.messages[-1].role == "assistant" else self.messages

    @property
    def question(self) -> str:
        """Text of the last turn before the completion."""
        return self.prompt[-1].text if self.prompt else ""


@dataclass(frozen=True)
class BadSample:
    """A sample that was left out of a batch."""

    origin: str
    """Where it stands: file and line or row, or its id."""
    reason: str
    """What is wrong with it and how to mend it."""


@dataclass(frozen=True)
class Verdict:
    """What a verifier says of one completion."""

    correct: bool
    """The answer agrees with the ground truth."""
    parsed: str | None
    """The answer as found in the completion, None where there was none."""
    formatted: bool
    """The completion is exactly ``<think>…</think><answer>…</answer>``; where answers stand elsewhere, it has one."""


@dataclass(frozen=True)
class TokenCount:
    """Tokens of one encoded sample."""

    text: int
    """Those of text, marks around media included."""
    media: int
    """Those that features of images and videos replace."""

    @property
    def total(self) -> int:
        """All tokens of the row."""
        return self.text + self.media


@dataclass(frozen=True)
class Completion:
    """One generated completion with its verdict: what validation shows and ``predict`` writes."""

    sample: Sample
    prompt: str
    """The prompt as the model read it, media placeholders shortened."""
    text: str
    verdict: Verdict | None
    """None where the sample has no answer to compare with."""
    log_prob_sum: float | None = None
    """Sum of the completion tokens' log-probabilities, in nats."""
    token_count: int = 0
    seconds: float = 0.0
    """Wall time of the batch that generated it, divided by its rows."""
    index: int = 0
    """Which of its prompt's completions it is, from 0."""
    token_ids: tuple[int, ...] = ()
    """What was sampled, the end-of-turn token included; empty where that is not known."""
    log_probs: tuple[float, ...] = ()
    """Log-probability of each token under what sampled it, in nats; empty where that is not known."""
    entropies: tuple[float, ...] = ()
    """Entropy of the distribution that each token was drawn from, in nats; empty where that is not known."""
    finish_reason: FinishReason | None = None
    """Why it ended."""
    seed: int | None = None
    """Of the random numbers it was drawn with, together with ``index``."""
    rewards: Mapping[str, float] = field(default_factory=dict)
    """Scores by name, ``total`` among them; those that do not apply are left out."""

    def to(self, *_: Any, **__: Any) -> Completion:
        """Stays as it is: it holds no tensor, but Lightning moves predictions and would take it apart otherwise."""
        return self

    def to_json(self) -> dict[str, Any]:
        """A flat record for JSON lines."""
        answer = self.sample.answer
        return {
            "sample_id": self.sample.id,
            "task": self.sample.meta.category,
            "prompt": self.prompt,
            "completion": self.text,
            "answer": None if answer is None else answer.value,
            "answer_type": None if answer is None else answer.type,
            "parsed": None if self.verdict is None else self.verdict.parsed,
            "correct": None if self.verdict is None else self.verdict.correct,
            "formatted": None if self.verdict is None else self.verdict.formatted,
            "log_prob_sum": self.log_prob_sum,
            "token_count": self.token_count,
            "seconds": self.seconds,
        }


@dataclass(frozen=True)
class RewardOutput:
    """Scores of ``B`` completions."""

    total: Tensor
    """The reward, fp32, shape ``(B,)``; NaN where the reward does not apply, and nowhere else."""
    details: dict[str, Tensor] = field(default_factory=dict)
    """Named parts of it for the log, each of shape ``(B,)``, NaN where there is nothing to tell."""
    per_token: tuple[Tensor, ...] | None = None
    """Rewards of single tokens, beside ``total``: for each completion one for each sampled token, fp32."""
    applies: Tensor | None = None
    """Whether the reward applies to a completion, bool, shape ``(B,)``; None where it applies to all."""

    @classmethod
    def of_scores(cls, scores: Sequence[float | None], details: dict[str, Tensor] | None = None) -> RewardOutput:
        """Collects one score a completion; None says that the reward does not apply to it."""
        total = torch.tensor([math.nan if score is None else float(score) for score in scores], dtype=torch.float32)
        applies = torch.tensor([score is not None for score in scores], dtype=torch.bool)
        return cls(total, details or {}, applies=applies)


def user_message(text: str, images: int = 0, first_image: int = 0) -> Message:
    """Builds a user turn that shows ``images`` images before its text."""
    shown: tuple[Part, ...] = tuple(ImagePart(first_image + index) for index in range(images))
    return Message("user", (*shown, TextPart(text)))


def assistant_message(text: str) -> Message:
    """Builds an assistant turn that is trained on."""
    return Message("assistant", (TextPart(text),), train=True)
