"""What flows between the parts: samples, answers, verdicts, batches.

Legend: ``B`` rows of a batch, ``L`` padded tokens of a row.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

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
AnswerPlace = Literal["tags", "boxed", "stated", "whole", "any"]

IGNORED_LABEL = -100


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
class StepTotals:
    """Denominators of a loss."""

    labels: int
    """Tokens that are predicted."""
    sequences: int
    """Rows with at least one such token."""


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


@dataclass
class TokenScores:
    """What a policy thinks of the label tokens of a batch; one entry a token, ``N`` in all, row by row."""

    log_probs: Tensor
    """Log-probability of each label token given what precedes it, fp32, in nats; shape ``(N,)``."""
    rows: Tensor
    """Row of the batch each token belongs to; shape ``(N,)``."""
    is_top: Tensor
    """Whether the label was the likeliest token, bool; shape ``(N,)``."""


@dataclass
class PromptBatch:
    """Tokens and media of a batch, checked once and carried to every pass.

    Rows are right-padded where ``labels`` are given (teacher forcing), left-padded otherwise (generation).
    """

    input_ids: Tensor
    """Token ids, shape ``(B, L)``."""
    attention_mask: Tensor
    """1 where a token counts, shape ``(B, L)``."""
    visual: dict[str, Tensor]
    """What the family's forward takes for media (pixels, grids, token types); only ``lit_vlm.models`` opens it."""
    samples: tuple[Sample, ...] = ()
    """The samples of the rows, in order."""
    labels: Tensor | None = None
    """Next-token targets before the shift, ``-100`` where none, shape ``(B, L)``."""
    step_totals: StepTotals | None = None
    """Counts over the whole optimizer step, where the loader knows them."""
    dropped: tuple[BadSample, ...] = ()
    """Samples left out of this batch."""

    def __len__(self) -> int:
        return int(self.input_ids.shape[0])

    def count(self) -> StepTotals:
        """Counts the labels left after the shift by one, and the rows that have any."""
        if self.labels is None:
            return StepTotals(labels=0, sequences=0)
        labelled = self.labels[:, 1:] != IGNORED_LABEL
        return StepTotals(labels=int(labelled.sum()), sequences=int(labelled.any(dim=1).sum()))

    def _map(self, function: Any) -> PromptBatch:
        return replace(
            self,
            input_ids=function(self.input_ids),
            attention_mask=function(self.attention_mask),
            labels=None if self.labels is None else function(self.labels),
            visual={name: function(tensor) for name, tensor in self.visual.items()},
        )

    def to(self, *args: Any, **kwargs: Any) -> PromptBatch:
        """Moves the tensors, as ``Tensor.to`` does; the samples stay where they are."""
        return self._map(lambda tensor: tensor.to(*args, **kwargs))

    def pin_memory(self) -> PromptBatch:
        """Pins the tensors for a fast copy to the GPU."""
        return self._map(lambda tensor: tensor.pin_memory())


@dataclass
class EvaluationBatch:
    """The same samples twice: with completions for the loss, without for generation. The media are shared."""

    complete: PromptBatch
    prompts: PromptBatch

    def __len__(self) -> int:
        return len(self.complete)

    def to(self, *args: Any, **kwargs: Any) -> EvaluationBatch:
        """Moves the tensors, as ``Tensor.to`` does."""
        return EvaluationBatch(self.complete.to(*args, **kwargs), self.prompts.to(*args, **kwargs))

    def pin_memory(self) -> EvaluationBatch:
        """Pins the tensors for a fast copy to the GPU."""
        return EvaluationBatch(self.complete.pin_memory(), self.prompts.pin_memory())


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
