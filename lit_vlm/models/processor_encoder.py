"""Turns samples into the tensors of any model that has a Hugging Face processor.

Legend: ``B`` rows of a batch, ``L`` padded tokens of a row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lit_vlm.functional.media import open_image, open_video
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import IGNORED_LABEL, BadSample, EvaluationBatch, PromptBatch, Sample
from lit_vlm.interfaces.roles import SampleEncoder
from lit_vlm.models.conversation import ConversationRenderer, Segment

TOKEN_KEYS = ("input_ids", "attention_mask", "mm_token_type_ids", "token_type_ids")


@dataclass
class _Row:
    """One encoded sample before padding."""

    ids: list[int] = field(default_factory=list)
    trained: list[bool] = field(default_factory=list)
    media_types: list[int] = field(default_factory=list)
    """0 text, 1 image, 2 video; one a token."""
    completion_start: int | None = None
    """Where the last trained segment begins."""

    def prompt(self) -> _Row:
        """The part before the last completion."""
        end = self.completion_start
        return _Row(self.ids[:end], self.trained[:end], self.media_types[:end])


class ProcessorEncoder(SampleEncoder):
    """Encodes with a processor (or, for text-only models, a tokenizer).

    Args:
        processor: Hugging Face processor or tokenizer.
        max_tokens: Longest row; longer completions are cut, rows whose media or whole completion would be cut are
            dropped and counted.
        max_video_frames: Frames read from a video at most.
    """

    def __init__(self, processor: Any, *, max_tokens: int = 4096, max_video_frames: int = 8) -> None:
        self.processor = processor
        self.tokenizer = getattr(processor, "tokenizer", processor)
        self.max_tokens = max_tokens
        self.max_video_frames = max_video_frames
        named = [getattr(processor, f"{kind}_token", None) for kind in ("image", "video")]
        media_tokens = [token for token in named if isinstance(token, str)]
        self.media_token_ids = [int(self.tokenizer.convert_tokens_to_ids(token)) for token in media_tokens]
        owner = processor if getattr(processor, "chat_template", None) else self.tokenizer
        self._renderer = ConversationRenderer(owner, self.tokenizer, media_tokens)

    @property
    def padding_id(self) -> int:
        """Token id that fills rows; masked everywhere."""
        return int(
            self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else self.tokenizer.eos_token_id
        )

    def decode(self, token_ids: Sequence[int]) -> str:
        """Turns completion ids into text, without special tokens."""
        return str(self.tokenizer.decode(list(token_ids), skip_special_tokens=True))

    def describe_prompt(self, sample: Sample) -> str:
        """Renders a prompt as the model reads it, before placeholders are multiplied."""
        return self._renderer.prompt_segments(sample)[0].text

    def encode(self, samples: Sequence[Sample]) -> PromptBatch:
        """Encodes prompts with their completions, right-padded, with labels on trained assistant turns only.

        Raises:
            UserError: A medium cannot be decoded, or the chat template cannot be cut into turns.
        """
        rows, visual = self._rows(samples, self._renderer.segments)
        reasons = [self._reason_to_drop(row) for row in rows]
        kept = [index for index, reason in enumerate(reasons) if reason is None]
        dropped = tuple(
            BadSample(sample.meta.origin or sample.id, reason)
            for sample, reason in zip(samples, reasons, strict=True)
            if reason is not None
        )
        if dropped:
            samples = [samples[index] for index in kept]
            # Media are packed over the batch, so those of dropped rows leave by encoding the rest again.
            if samples:
                rows, visual = self._rows(samples, self._renderer.segments)
            else:
                rows, visual = [_Row([self.padding_id], [False], [0])], {}
        for row in rows:
            for values in (row.ids, row.trained, row.media_types):
                del values[self.max_tokens :]
        batch = self._pad(rows, visual, samples, left=False)
        batch.dropped = dropped
        return batch

    def encode_prompts(self, samples: Sequence[Sample]) -> PromptBatch:
        """Encodes the prompts alone, left-padded, ready to be continued.

        Raises:
            UserError: A prompt is longer than ``max_tokens``.
        """
        rows, visual = self._rows(samples, self._renderer.prompt_segments)
        return self._pad_prompts(rows, visual, samples)

    def encode_evaluation(self, samples: Sequence[Sample]) -> EvaluationBatch:
        """Encodes both forms, decoding each image once; no row is cut or dropped."""
        rows, visual = self._rows(samples, self._evaluation_segments)
        return EvaluationBatch(
            complete=self._pad(rows, visual, samples, left=False),
            prompts=self._pad_prompts([row.prompt() for row in rows], visual, samples),
        )

    def _evaluation_segments(self, sample: Sample) -> list[Segment]:
        answered = sample.messages[-1].role == "assistant" and sample.messages[-1].train
        return self._renderer.segments(sample) if answered else self._renderer.prompt_segments(sample)

    def _pad_prompts(self, rows: list[_Row], visual: dict[str, Tensor], samples: Sequence[Sample]) -> PromptBatch:
        for row, sample in zip(rows, samples, strict=True):
            if len(row.ids) > self.max_tokens:
                raise UserError(
                    f"the prompt of sample {sample.id!r} has {len(row.ids)} tokens, more than max_tokens="
                    f"{self.max_tokens}; raise model.max_tokens or lower the pixel budget"
                )
        batch = self._pad(rows, visual, samples, left=True)
        batch.labels = None
        return batch

    def _reason_to_drop(self, row: _Row) -> str | None:
        if not any(row.trained[1 : self.max_tokens]):
            return "no completion left within max_tokens"
        if any(row.media_types[self.max_tokens :]):
            return "media beyond max_tokens"
        return None

    def _rows(
        self, samples: Sequence[Sample], cut: Callable[[Sample], list[Segment]]
    ) -> tuple[list[_Row], dict[str, Tensor]]:
        """Tokenises every segment, media segments through the processor and the rest through the tokenizer."""
        segments = [(index, segment) for index, sample in enumerate(samples) for segment in cut(sample)]
        with_media = [position for position, (_, segment) in enumerate(segments) if segment.images or segment.videos]
        text_only = [
            position for position, (_, segment) in enumerate(segments) if not (segment.images or segment.videos)
        ]
        encoded: dict[int, tuple[list[int], list[int]]] = {}
        visual: dict[str, Tensor] = {}
        if with_media:
            rows, visual = self._process_media([(samples[segments[p][0]], segments[p][1]) for p in with_media])
            encoded.update(zip(with_media, rows, strict=True))
        if text_only:
            texts = [segments[position][1].text for position in text_only]
            for position, ids in zip(text_only, self._tokenise(texts), strict=True):
                encoded[position] = (ids, [0] * len(ids))
        rows_out = [_Row() for _ in samples]
        for position, (index, segment) in enumerate(segments):
            ids, media_types = encoded[position]
            row = rows_out[index]
            if segment.trained:
                row.completion_start = len(row.ids)
            row.ids.extend(ids)
            row.media_types.extend(media_types)
            row.trained.extend([segment.trained] * len(ids))
        return rows_out, visual

    def _tokenise(self, texts: list[str]) -> list[list[int]]:
        # Templates write their own first token where a family has one.
        ids: list[list[int]] = self.tokenizer(texts, add_special_tokens=False)["input_ids"]
        return ids

    def _process_media(
        self, items: list[tuple[Sample, Segment]]
    ) -> tuple[list[tuple[list[int], list[int]]], dict[str, Tensor]]:
        if self.processor is self.tokenizer:
            raise UserError("this model reads text only, but the data has images; choose a vision-language checkpoint")
        images = [[open_image(sample.images[index]) for index in segment.images] for sample, segment in items]
        videos = [
            open_video(sample.videos[index], self.max_video_frames)
            for sample, segment in items
            for index in segment.videos
        ]
        options: dict[str, Any] = {}
        if any(images):
            options["images"] = [shown for shown in images if shown]
        if videos:
            options["videos"] = [frames for frames, _ in videos]
            options["video_metadata"] = [
                {"fps": rate, "total_num_frames": len(frames), "frames_indices": list(range(len(frames)))}
                for frames, rate in videos
            ]
            options["do_sample_frames"] = False
        output = self.processor(
            text=[segment.text for _, segment in items],
            return_tensors="pt",
            padding=True,
            add_special_tokens=False,
            **options,
        )
        masks = output["attention_mask"].bool()
        ids = output["input_ids"]
        types = output.get("mm_token_type_ids")
        if types is None:
            types = torch.zeros_like(ids)
            for kind, token_id in enumerate(self.media_token_ids, start=1):
                types[ids == token_id] = kind
        rows = [(ids[row, mask].tolist(), types[row, mask].tolist()) for row, mask in enumerate(masks)]
        visual = {name: torch.as_tensor(value) for name, value in output.items() if name not in TOKEN_KEYS}
        if "mm_token_type_ids" in output:
            visual["mm_token_type_ids"] = types  # replaced by the padded rows below
        return rows, visual

    def _pad(
        self, rows: list[_Row], visual: dict[str, Tensor], samples: Sequence[Sample], *, left: bool
    ) -> PromptBatch:
        length = max(len(row.ids) for row in rows)
        input_ids = torch.full((len(rows), length), self.padding_id)
        attention_mask = torch.zeros_like(input_ids)
        labels = torch.full_like(input_ids, IGNORED_LABEL)
        media_types = torch.zeros_like(input_ids)
        for index, row in enumerate(rows):
            span = slice(length - len(row.ids), length) if left else slice(0, len(row.ids))
            ids = torch.tensor(row.ids)
            input_ids[index, span] = ids
            attention_mask[index, span] = 1
            media_types[index, span] = torch.tensor(row.media_types)
            trained = torch.tensor(row.trained) & (media_types[index, span] == 0)
            labels[index, span] = torch.where(trained, ids, IGNORED_LABEL)
        visual = dict(visual)
        if "mm_token_type_ids" in visual:
            visual["mm_token_type_ids"] = media_types
        return PromptBatch(input_ids, attention_mask, visual, tuple(samples), labels)
