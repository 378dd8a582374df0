"""Turns samples into the tensors of any model that has a Hugging Face processor.

Legend: ``B`` rows of a batch, ``L`` padded tokens of a row.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

from lit_vlm.functional.media import open_image, open_video
from lit_vlm.interfaces.batches import EvaluationBatch, GroupBatch, PreferenceBatch, PromptBatch
from lit_vlm.interfaces.errors import BadSampleError, UserError
from lit_vlm.interfaces.policy_roles import EnginePrompt
from lit_vlm.interfaces.records import IGNORED_LABEL, BadSample, Sample, TokenCount
from lit_vlm.interfaces.roles import SampleCorruption, SampleEncoder
from lit_vlm.models import comparison_encoding
from lit_vlm.models.conversation import ConversationRenderer, Segment, origin_of
from lit_vlm.models.engine_prompts import engine_prompt, prompt_ids
from lit_vlm.models.expected_text import expected_text
from lit_vlm.models.families.discovery import family_of
from lit_vlm.models.families.family import Family, MediaCounts, Run, Visual
from lit_vlm.models.row_weights import check_weights, row_weights
from lit_vlm.models.token_row import TokenRow

TOKEN_KEYS = ("input_ids", "attention_mask", "mm_token_type_ids", "token_type_ids")
DECODED_AT_ONCE = 1 << 24
"""Pixels of a batch that are held decoded before they are processed; the last medium may exceed it."""
Cut = Callable[[Sample], list[Segment]]
_Processed = tuple[list[int], list[int], dict[str, Any]]


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
        self._way_to_room = "raise model.max_tokens"
        self.max_video_frames = max_video_frames
        self.names_completions = False
        """Whether completions that are compared are named by a hash of all that the model reads of them."""
        self._text_only = processor is self.tokenizer
        self.family = Family() if self._text_only else family_of(processor)
        self._placeholders = MediaCounts(-1, -1) if self._text_only else self.family.placeholder_ids(processor)
        self.media_token_ids = [
            token_id for token_id in (self._placeholders.image, self._placeholders.video) if token_id >= 0
        ]
        self._media_tokens: list[str] = self.tokenizer.convert_ids_to_tokens(self.media_token_ids)
        self._runs = re.compile(r"({})\1+".format("|".join(map(re.escape, self._media_tokens))))
        # A composite processor's template wins; text-only checkpoints keep theirs in the tokenizer.
        owner = processor if getattr(processor, "chat_template", None) else self.tokenizer
        self.renderer = ConversationRenderer(
            owner,
            self.tokenizer,
            [] if self._text_only else self.family.control_tokens(processor),
            text_only=self._text_only,
            begin=self._beginning(),
            choose_template=None if self._text_only else partial(self.family.chat_template, processor),
        )

    @property
    def padding_id(self) -> int:
        """Token id that fills rows; masked everywhere."""
        return int(
            self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else self.tokenizer.eos_token_id
        )

    def tokenise(self, text: str) -> list[int]:
        """Turns a run of text into ids, without special tokens around it."""
        return self.tokenise_all([text])[0]

    def tokenise_all(self, texts: list[str]) -> list[list[int]]:
        """Turns several runs of text into ids, likewise."""
        # Templates write their own first token where a family has one.
        ids: list[list[int]] = self.tokenizer(texts, add_special_tokens=False)["input_ids"]
        return ids

    def decode(self, token_ids: Sequence[int]) -> str:
        """Turns completion ids into text, without special tokens."""
        return str(self.tokenizer.decode(list(token_ids), skip_special_tokens=True))

    def describe_prompt(self, sample: Sample) -> str:
        """Renders a prompt as the model reads it, before placeholders are multiplied."""
        return self.renderer.prompt_segments(sample)[0].text

    def encode(self, samples: Sequence[Sample]) -> PromptBatch:
        """Encodes prompts with their completions, right-padded, with labels on trained assistant turns only.

        Raises:
            BadSampleError: A medium cannot be decoded, its placeholders do not match its features, the chat template
                cannot be cut into turns, or a weight is no number from 0 on.
        """
        check_weights(samples)
        rows = self._rows(samples, self.renderer.segments)
        reasons = [self._reason_to_drop(row) for row in rows]
        dropped = tuple(
            BadSample(origin_of(sample), reason)
            for sample, reason in zip(samples, reasons, strict=True)
            if reason is not None
        )
        kept = [index for index, reason in enumerate(reasons) if reason is None]
        samples = [samples[index] for index in kept]
        rows = [rows[index] for index in kept] or [TokenRow([self.padding_id], [False], [0])]
        for row in rows:
            for values in (row.ids, row.trained, row.media_types):
                del values[self.max_tokens :]
        batch = self._pad(rows, self._visual(rows), samples, left=False)
        batch.weights = row_weights(samples)
        batch.dropped = dropped
        return batch

    def encode_prompts(self, samples: Sequence[Sample]) -> PromptBatch:
        """Encodes the prompts alone, left-padded, ready to be continued.

        Raises:
            BadSampleError: A prompt is longer than ``max_tokens``, or cannot be encoded.
        """
        return self.pad_prompts(self.prompt_rows(samples), samples)

    def prompt_rows(self, samples: Sequence[Sample]) -> list[TokenRow]:
        """Encodes the prompts alone, without padding."""
        return self._rows(samples, self.renderer.prompt_segments)

    def pad_prompts(self, rows: list[TokenRow], samples: Sequence[Sample]) -> PromptBatch:
        """Puts encoded prompts into a batch, as ``encode_prompts`` does."""
        return self._pad_prompts(rows, self._visual(rows), samples)

    def encode_pairs(self, samples: Sequence[Sample], corrupt: SampleCorruption | None = None) -> PreferenceBatch:
        """Encodes the preferences of samples, each prompt once; see ``comparison_encoding.encode_pairs``."""
        return comparison_encoding.encode_pairs(self, samples, corrupt)

    def encode_groups(self, samples: Sequence[Sample]) -> GroupBatch:
        """Encodes the candidates of samples, each prompt once; see ``comparison_encoding.encode_groups``."""
        return comparison_encoding.encode_groups(self, samples)

    def engine_prompts(self, prompts: PromptBatch) -> list[EnginePrompt]:
        """Puts prompts as programs want them that process images themselves; see ``engine_prompts.engine_prompt``."""
        return [
            engine_prompt(sample, ids, self.renderer.prompt_segments(sample), self.media_token_ids, self.processor)
            for sample, ids in zip(prompts.samples, prompt_ids(prompts), strict=True)
        ]

    def leave_room(self, context: int, completion: int) -> None:
        """Lowers the longest prompt to what a completion leaves of the model's context.

        Args:
            context: Tokens that the model holds.
            completion: Longest completion, shorter than that.
        """
        if context - completion < self.max_tokens:
            self.max_tokens = context - completion
            self._way_to_room = f"lower max_new_tokens ({completion}, of a context of {context})"

    def encode_evaluation(self, samples: Sequence[Sample]) -> EvaluationBatch:
        """Encodes both forms, decoding each image once; no row is cut or dropped.

        Raises:
            BadSampleError: A prompt is longer than ``max_tokens``, or cannot be encoded.
        """
        rows = self._rows(samples, self._evaluation_segments)
        visual = self._visual(rows)
        paired = [sample for sample in samples if sample.preferences]
        return EvaluationBatch(
            complete=self._pad(rows, visual, samples, left=False),
            prompts=self._pad_prompts([row.prompt() for row in rows], visual, samples),
            pairs=self.encode_pairs(paired) if paired else None,
        )

    def count_tokens(self, sample: Sample) -> TokenCount:
        """Counts the tokens of a sample with its completions, before any cut.

        Media are not decoded where the family tells their tokens by their size, which stands in the reference or in an
        image's header; others are encoded.

        Raises:
            BadSampleError: The sample cannot be encoded.
        """
        return self._count(sample, self.renderer.segments(sample))

    def count_prompt_tokens(self, sample: Sample) -> TokenCount:
        """Counts the tokens of a prompt as ``encode_prompts`` makes it, likewise.

        Raises:
            BadSampleError: The sample cannot be encoded.
        """
        return self._count(sample, self.renderer.prompt_segments(sample))

    def count_comparison_tokens(self, sample: Sample) -> TokenCount:
        """Counts the tokens of a sample's prompts and of the completions that are compared, each once."""
        return comparison_encoding.count_comparison_tokens(self, sample)

    def _count(self, sample: Sample, segments: Sequence[Segment]) -> TokenCount:
        in_row = sum(len(segment.images) for segment in segments)
        text = media = 0
        for segment in segments:
            written: str | None = segment.text
            if _shows_media(segment):
                self._check_placeholders(origin_of(sample), segment)
                with _blaming(origin_of(sample)):
                    written = expected_text(self.family, self.processor, sample, segment, in_row, self.max_video_frames)
            if written is None:
                ((_, types, _),) = self._process([(origin_of(sample), self._decode(sample, segment, in_row))])
                placeholders = sum(kind > 0 for kind in types)
                text, media = text + len(types) - placeholders, media + placeholders
            else:
                # Special tokens split text, so that a run of placeholders need not be tokenised to be counted.
                ids = self.tokenise_all([self._runs.sub(r"\1", written)])[0]
                text += sum(token_id not in self.media_token_ids for token_id in ids)
                media += sum(written.count(token) for token in self._media_tokens)
        return TokenCount(text, media)

    def _beginning(self) -> str:
        """The token that the tokenizer puts before any text, for templates that leave it to the tokenizer."""
        token_id = self.tokenizer.bos_token_id
        ids = self.tokenizer("a")["input_ids"]
        return str(self.tokenizer.bos_token) if token_id is not None and ids[0] == token_id else ""

    def _evaluation_segments(self, sample: Sample) -> list[Segment]:
        answered = sample.messages[-1].role == "assistant" and sample.messages[-1].train
        return self.renderer.segments(sample) if answered else self.renderer.prompt_segments(sample)

    def _pad_prompts(self, rows: list[TokenRow], visual: Visual, samples: Sequence[Sample]) -> PromptBatch:
        if not samples:
            nothing = torch.zeros(0, 0, dtype=torch.long)
            return PromptBatch(nothing, nothing, {})
        for row, sample in zip(rows, samples, strict=True):
            if len(row.ids) > self.max_tokens:
                raise BadSampleError(
                    origin_of(sample),
                    f"the prompt of sample {sample.id!r} has {len(row.ids)} tokens, more than max_tokens="
                    f"{self.max_tokens}; {self._way_to_room} or lower the pixel budget",
                )
        batch = self._pad(rows, visual, samples, left=True)
        batch.labels = None
        return batch

    def _reason_to_drop(self, row: TokenRow) -> str | None:
        if not any(row.trained[1 : self.max_tokens]):
            return f"no completion is left within {self.max_tokens} tokens; raise model.max_tokens or lower the pixels"
        if any(row.media_types[self.max_tokens :]):
            return f"its media go beyond {self.max_tokens} tokens; raise model.max_tokens or lower the pixels"
        return None

    def _rows(self, samples: Sequence[Sample], cut: Cut) -> list[TokenRow]:
        """Tokenises every segment, media segments through the processor and the rest through the tokenizer."""
        cuts = [cut(sample) for sample in samples]
        texts = [segment.text for segments in cuts for segment in segments if not _shows_media(segment)]
        tokenised = iter(self.tokenise_all(texts) if texts else [])
        processed = self._process_media(samples, cuts)
        rows = []
        for segments in cuts:
            row = TokenRow()
            for segment in segments:
                if _shows_media(segment):
                    ids, types, output = next(processed)
                    row.outputs.append(output)
                else:
                    ids = next(tokenised)
                    types = [0] * len(ids)
                row.add(ids, types, segment.trained)
            rows.append(row)
        return rows

    def _process_media(self, samples: Sequence[Sample], cuts: Sequence[Sequence[Segment]]) -> Iterator[_Processed]:
        """Encodes all segments with media, in order, several in one go since a call of a processor takes its time.

        Yields:
            Token ids, the kind of each (0 text, 1 image, 2 video), and the processor's output.

        Raises:
            BadSampleError: The media or their placeholders are at fault.
        """
        waiting: list[tuple[str, Run]] = []
        decoded = 0  # pixels
        for sample, segments in zip(samples, cuts, strict=True):
            in_row = sum(len(segment.images) for segment in segments)
            for segment in filter(_shows_media, segments):
                run = self._decode(sample, segment, in_row)
                waiting.append((origin_of(sample), run))
                frames = (frame for frames, _ in run.videos for frame in frames)
                decoded += sum(image.width * image.height for image in (*run.images, *frames))
                if decoded > DECODED_AT_ONCE:
                    yield from self._process(waiting)
                    waiting, decoded = [], 0
        yield from self._process(waiting)

    def _decode(self, sample: Sample, segment: Segment, in_row: int) -> Run:
        """Opens the media of a segment."""
        origin = origin_of(sample)
        self._check_placeholders(origin, segment)
        with _blaming(origin):
            images = [open_image(sample.images[index]) for index in segment.images]
            read = [open_video(sample.videos[index], self.max_video_frames) for index in segment.videos]
        return Run(segment.text, images, self.family.even(read, self.max_video_frames), in_row)

    def _process(self, waiting: Sequence[tuple[str, Run]]) -> Iterator[_Processed]:
        """Runs the processor on segments, and looks for the one at fault where it refuses them."""
        try:
            outputs = self.family.process_all(self.processor, [run for _, run in waiting]) if waiting else []
        except ValueError as fault:
            if len(waiting) > 1:
                for one in waiting:
                    yield from self._process([one])
                return
            reason = str(fault).strip().splitlines()[0]
            raise BadSampleError(waiting[0][0], f"the processor refuses the images or videos: {reason}") from fault
        for (origin, _), output in zip(waiting, outputs, strict=True):
            yield self._checked(origin, dict(output))

    def _checked(self, origin: str, output: dict[str, Any]) -> _Processed:
        """Tells the kinds of a segment's tokens, and compares their numbers with the features."""
        ids = output["input_ids"][0]
        types = torch.zeros_like(ids)
        for kind, token_id in enumerate((self._placeholders.image, self._placeholders.video), start=1):
            types[ids == token_id] = kind
        found = MediaCounts(int((types == 1).sum()), int((types == 2).sum()))
        expected = self.family.feature_rows(self.processor, self._tensors(output))
        if expected is not None and found != expected:
            raise BadSampleError(
                origin,
                f"its media have {found.image} image and {found.video} video placeholder tokens, but "
                f"{expected.image} and {expected.video} feature rows; the processor does not belong to this model",
            )
        return ids.tolist(), types.tolist(), output

    def _check_placeholders(self, origin: str, segment: Segment) -> None:
        for kind, shown in (("image", segment.images), ("video", segment.videos)):
            token = getattr(self.processor, f"{kind}_token", None)
            if shown and getattr(self.processor, f"{kind}_processor", None) is None:
                raise BadSampleError(
                    origin, f"this model takes no {kind}s; leave the sample out or choose another model"
                )
            if token is not None and segment.text.count(token) != len(shown):
                reason = (
                    f"a turn has {kind}s: {len(shown)}, of which the chat template shows {segment.text.count(token)}"
                )
                raise BadSampleError(origin, reason)

    def _tensors(self, output: dict[str, Any]) -> Visual:
        names = [*self.processor.model_input_names, "pixel_values", "pixel_values_videos"]
        return {
            name: torch.as_tensor(value) for name, value in output.items() if name in names and name not in TOKEN_KEYS
        }

    def _visual(self, rows: list[TokenRow]) -> Visual:
        """Puts the media of a batch together, with the name of the token types, whose values padding fills in."""
        if self._text_only:
            return {}
        visual = self.family.join([[self._tensors(output) for output in row.outputs] for row in rows])
        token_types = self.family.token_types([output for row in rows for output in row.outputs])
        if token_types is not None:
            visual[token_types] = torch.empty(0)
        return visual

    def _pad(self, rows: list[TokenRow], visual: Visual, samples: Sequence[Sample], *, left: bool) -> PromptBatch:
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
        visual = {name: media_types if name in TOKEN_KEYS else tensor for name, tensor in visual.items()}
        return PromptBatch(input_ids, attention_mask, visual, tuple(samples), labels)


@contextmanager
def _blaming(origin: str) -> Iterator[None]:
    """Turns what is wrong with a medium into what is wrong with its sample."""
    try:
        yield
    except UserError as fault:
        raise BadSampleError(origin, str(fault)) from fault


def _shows_media(segment: Segment) -> bool:
    return bool(segment.images or segment.videos)
