"""Judges the sub-sentences of completions by a saved segment classifier."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from lit_vlm.functional.token_texts import token_texts
from lit_vlm.interfaces.errors import BadSampleError, UserError
from lit_vlm.interfaces.records import Completion, Message, Sample, TextPart, assistant_message
from lit_vlm.interfaces.segments import SEGMENT_CLASSES, Hallucination, SegmentScorer
from lit_vlm.models.adapters import AdapterSettings
from lit_vlm.models.backbone import Backbone
from lit_vlm.models.processor_encoder import ProcessorEncoder
from lit_vlm.models.segment_classifier import DESCRIPTION, HEAD, SegmentClassifier
from lit_vlm.models.segment_encoding import label_segments
from lit_vlm.parsing.segments import split_segments


class _Loaded(NamedTuple):
    classifier: SegmentClassifier
    encoder: ProcessorEncoder


@dataclass(frozen=True)
class FolderSegmentScorer(SegmentScorer):
    """Judges by the model in a folder that training of a segment reward has exported; it is loaded at first use."""

    folder: str
    """The folder."""
    hallucination: Hallucination
    """What the model judges; the folder must say the same."""
    checkpoint: str | None = None
    """Base model of an exported adapter; None for the one that it was trained on."""
    dtype: Literal["float32", "bfloat16", "float16", "auto"] = "float32"
    """Type of the weights in memory."""
    device: str | None = None
    """Such as ``cuda:1``; None for the process's own GPU, or the CPU where there is none."""
    batch_size: int = 8
    """Completions that are read at one time."""
    max_tokens: int = 4096
    """Longest row, prompt and completion; a longer one is an error."""
    system_prompt: str | None = None
    """System turn that the model was trained behind; the samples' own are left out, None puts none in their place."""

    def __post_init__(self) -> None:
        for name in ("batch_size", "max_tokens"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} of a segment scorer is {getattr(self, name)}; give at least 1")

    @property
    def kind(self) -> Hallucination:
        """What it looks for."""
        return self.hallucination

    def __call__(self, completions: Sequence[Completion]) -> list[Tensor]:
        """Judges each sub-sentence of each completion; a blank one has none.

        Raises:
            UserError: The folder is no such model, or a completion cannot be encoded whole.
        """
        judged = [torch.zeros(0, len(SEGMENT_CLASSES)) for _ in completions]
        rows = [row for row, completion in enumerate(completions) if split_segments(completion.text)]
        for start in range(0, len(rows), self.batch_size):
            chunk = rows[start : start + self.batch_size]
            for row, probabilities in zip(chunk, self._judge([completions[row] for row in chunk]), strict=True):
                judged[row] = probabilities
        return judged

    def token_texts(self, token_ids: Sequence[int]) -> list[str]:
        """Tells what each token of a response adds to its text by the folder's tokenizer."""
        return token_texts(token_ids, self._loaded.encoder.decode) if token_ids else []

    def _judge(self, completions: Sequence[Completion]) -> Sequence[Tensor]:
        classifier, encoder = self._loaded
        batch = encoder.encode([self._with_response(completion) for completion in completions])
        for bad in batch.dropped:
            raise BadSampleError(bad.origin, bad.reason)
        counts = [len(split_segments(completion.text)) for completion in completions]
        marked = label_segments(encoder, batch, [(0,) * count for count in counts])
        with classifier.decoding():
            logits = classifier.judge(marked.to(classifier.model.device)).logits
        judged: tuple[Tensor, ...] = torch.split(logits.softmax(-1).cpu(), counts)
        return judged

    def _with_response(self, completion: Completion) -> Sample:
        prompt = tuple(message for message in completion.sample.prompt if message.role != "system")
        system = () if self.system_prompt is None else (Message("system", (TextPart(self.system_prompt),)),)
        return replace(completion.sample, messages=(*system, *prompt, assistant_message(completion.text)))

    @cached_property
    def _loaded(self) -> _Loaded:
        """Loads the model.

        Raises:
            UserError: The folder lacks something, or judges something else.
        """
        folder = Path(self.folder)
        description = self._description(folder)
        base = self.checkpoint or description.get("checkpoint")
        backbone = Backbone(
            checkpoint=str(folder) if base is None else str(base),
            revision=None if self.checkpoint else description.get("revision"),
            dtype=self.dtype,
            adapter=None if base is None else AdapterSettings(load=str(folder)),
            min_pixels=description.get("min_pixels"),
            max_pixels=description.get("max_pixels"),
            max_video_frames=description.get("max_video_frames", Backbone.max_video_frames),
        )
        device = torch.device(self.device or ("cuda" if torch.cuda.is_available() else "cpu"))
        encoder = backbone.load_encoder(self.max_tokens)
        classifier = SegmentClassifier(backbone.load_model(encoder, device=device))
        _load_head(classifier, folder / HEAD)
        return _Loaded(classifier.requires_grad_(False).to(device).eval(), encoder)

    def _description(self, folder: Path) -> dict[str, Any]:
        path = folder / DESCRIPTION
        if not path.is_file():
            raise UserError(
                f"there is no {DESCRIPTION} in {self.folder!r}; give the folder that a segment reward was exported to"
            )
        try:
            description = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as fault:
            raise UserError(f"{str(path)!r} is no JSON: {fault}; export the model again") from fault
        judges = description.get("hallucination") if isinstance(description, dict) else None
        if judges != self.hallucination:
            raise UserError(
                f"hallucination is {self.hallucination!r}, but the model in {self.folder!r} judges {judges!r}; "
                "give the same, or another folder"
            )
        return dict(description)


def _load_head(classifier: SegmentClassifier, path: Path) -> None:
    """Fills the head.

    Raises:
        UserError: The file is missing or damaged, or holds other weights.
    """
    if not path.is_file():
        raise UserError(f"there is no {path.name} in {str(path.parent)!r}; export the model again")
    try:
        state = load_file(path)
    except SafetensorError as fault:
        raise UserError(f"{str(path)!r} is damaged or cut short: {fault}; export the model again") from fault
    wanted = {name: tuple(value.shape) for name, value in classifier.segment_head.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in state.items()}
    if found != wanted:
        raise UserError(f"{str(path)!r} holds {found}, but this model needs {wanted}; give its own base model")
    classifier.segment_head.load_state_dict(state)
