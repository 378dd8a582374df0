"""Encodes completions that are compared, each prompt with its media once, however many completions follow it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from lit_vlm.interfaces.batches import CompletionSet, GroupBatch, PreferenceBatch
from lit_vlm.interfaces.errors import BadSampleError
from lit_vlm.interfaces.records import BadSample, Message, Preference, Sample, TokenCount
from lit_vlm.interfaces.roles import SampleCorruption
from lit_vlm.models.conversation import origin_of
from lit_vlm.models.token_row import TokenRow

if TYPE_CHECKING:
    from lit_vlm.models.processor_encoder import ProcessorEncoder

CORRECT = "correct"
"""Grade of a candidate that groups are scored by."""
NONE = -1
"""Stands for a completion that there is not."""


@dataclass(frozen=True)
class _Continuation:
    """Tokens that follow a prompt, the end of the turn included."""

    ids: tuple[int, ...]
    trained: tuple[bool, ...]

    def cut(self, length: int) -> _Continuation:
        return _Continuation(self.ids[:length], self.trained[:length])


@dataclass
class _Collected:
    """Prompts and completions of a batch as they are found; equal ones are kept once."""

    encoder: ProcessorEncoder
    samples: list[Sample] = field(default_factory=list)
    rows: list[TokenRow] = field(default_factory=list)
    completions: dict[tuple[int, _Continuation], int] = field(default_factory=dict)
    """Number of each completion, by its prompt and its tokens."""
    dropped: list[BadSample] = field(default_factory=list)

    def add_prompt(self, sample: Sample, row: TokenRow) -> int:
        """Adds a prompt and returns its number."""
        self.samples.append(sample)
        self.rows.append(row)
        return len(self.rows) - 1

    def add_completion(self, prompt: int, continuation: _Continuation) -> int:
        """Returns the number of a completion, adding it where the prompt has no equal one."""
        return self.completions.setdefault((prompt, continuation), len(self.completions))

    def batch(self) -> CompletionSet:
        """Pads what was found."""
        encoder = self.encoder
        longest = max((len(continuation.ids) for _, continuation in self.completions), default=0)
        token_ids = torch.full((len(self.completions), longest), encoder.padding_id)
        mask, counted = torch.zeros_like(token_ids), torch.zeros_like(token_ids)
        for number, (_, continuation) in enumerate(self.completions):
            length = len(continuation.ids)
            token_ids[number, :length] = torch.tensor(continuation.ids)
            mask[number, :length] = 1
            counted[number, :length] = torch.tensor(continuation.trained).long()
        return CompletionSet(
            prompts=encoder.pad_prompts(self.rows, self.samples),
            token_ids=token_ids,
            mask=mask,
            counted=counted,
            prompt_of=torch.tensor([prompt for prompt, _ in self.completions], dtype=torch.long),
            digests=self._digests() if encoder.names_completions else (),
            dropped=tuple(self.dropped),
        )

    def _digests(self) -> tuple[str, ...]:
        prompts = [row.digest() for row in self.rows]
        return tuple(
            hashlib.blake2b(prompts[prompt] + repr(continuation).encode(), digest_size=16).hexdigest()
            for prompt, continuation in self.completions
        )


def encode_pairs(
    encoder: ProcessorEncoder, samples: Sequence[Sample], corrupt: SampleCorruption | None
) -> PreferenceBatch:
    """Encodes the preferences of samples; see ``SampleEncoder.encode_pairs``.

    Completions are cut to what the prompt leaves of ``max_tokens``. A sample is dropped and named where no completion
    token is left of a half, or both halves are the same tokens.

    Raises:
        BadSampleError: A sample has no preference, a completion is empty or shows media, or it cannot be encoded.
    """
    found = _Collected(encoder)
    chosen, rejected, corrupted, weights, sample_of = [], [], [], [], []
    distinct = [_distinct_prompts(sample) for sample in samples]
    rows = _encoded(encoder, distinct)
    spoilt = [
        [corrupt(prompt) for prompt in prompts if _shows_media(prompt)] if corrupt else [] for prompts in distinct
    ]
    spoilt_rows = _encoded(encoder, spoilt)
    kept = 0
    for place, sample in enumerate(samples):
        asked = {prompt.messages: (prompt, row) for prompt, row in zip(distinct[place], rows[place], strict=True)}
        pairs = [
            _Pair.of(encoder, preference, *asked[_messages(sample, preference)]) for preference in sample.preferences
        ]
        reason = next(filter(None, (pair.reason_to_drop() for pair in pairs)), None)
        if reason is not None:
            found.dropped.append(BadSample(origin_of(sample), reason.format(encoder.max_tokens)))
            continue
        numbers = {messages: found.add_prompt(*both) for messages, both in asked.items()}
        shown = [prompt.messages for prompt in distinct[place] if _shows_media(prompt)] if corrupt else []
        spoilt_numbers = {
            messages: found.add_prompt(other, row)
            for messages, other, row in zip(shown, spoilt[place], spoilt_rows[place], strict=True)
        }
        for pair, preference in zip(pairs, sample.preferences, strict=True):
            messages = _messages(sample, preference)
            good, bad = cast(_Continuation, pair.good), pair.bad
            chosen.append(found.add_completion(numbers[messages], good))
            rejected.append(NONE if bad is None else found.add_completion(numbers[messages], bad))
            other = spoilt_numbers.get(messages)
            corrupted.append(NONE if other is None else found.add_completion(other, good))
            weights.append(preference.weight)
            sample_of.append(kept)
        kept += 1
    whole = found.batch()
    return PreferenceBatch(
        **vars(whole),
        chosen=_rows(chosen),
        rejected=_rows(rejected),
        corrupted=_rows(corrupted),
        weights=torch.tensor(weights, dtype=torch.float32),
        sample_of=_rows(sample_of),
    )


def encode_groups(encoder: ProcessorEncoder, samples: Sequence[Sample]) -> GroupBatch:
    """Encodes the candidates of samples; see ``SampleEncoder.encode_groups``.

    Completions are cut to what the prompt leaves of ``max_tokens``; equal ones of a prompt are encoded once.

    Raises:
        BadSampleError: A candidate lacks its score, a completion is empty or shows media, or it cannot be encoded.
    """
    found = _Collected(encoder)
    scores: list[float] = []
    reference = []
    for sample, row in zip(samples, encoder.prompt_rows(samples), strict=True):
        asked = _asked(encoder, sample)
        room = encoder.max_tokens - len(row.ids)
        if room < 1:
            found.dropped.append(BadSample(origin_of(sample), NO_ROOM.format(encoder.max_tokens)))
            continue
        number = found.add_prompt(sample, row)
        imitated = NONE
        if sample.messages[-1].role == "assistant":
            continuation = _continuation(encoder, sample, asked, sample.messages[-1:])
            imitated = NONE if continuation is None else found.add_completion(number, continuation.cut(room))
            scores.append(float("nan"))
        reference.append(imitated)
        for candidate in sample.candidates:
            if CORRECT not in candidate.scores:
                raise BadSampleError(origin_of(sample), f"a candidate has no score {CORRECT!r}, which groups need")
            continuation = _continuation(encoder, sample, asked, candidate.messages)
            if continuation is None:
                raise BadSampleError(origin_of(sample), "a candidate is empty; leave it out")
            place = found.add_completion(number, continuation.cut(room))
            scores += [float("nan")] * (place + 1 - len(scores))
            scores[place] = float(candidate.scores[CORRECT])
    whole = found.batch()
    return GroupBatch(**vars(whole), scores=torch.tensor(scores, dtype=torch.float32), reference=_rows(reference))


def count_comparison_tokens(encoder: ProcessorEncoder, sample: Sample) -> TokenCount:
    """Counts what ``encode_pairs`` or ``encode_groups`` would encode; see ``SampleEncoder.count_comparison_tokens``."""
    prompts = _distinct_prompts(sample) if sample.preferences else [_prompt(sample, sample.prompt)]
    followed = [
        (_messages(sample, preference), half) for preference in sample.preferences for half in _halves(preference)
    ]
    if not followed:
        followed = [(sample.prompt, candidate.messages) for candidate in sample.candidates]
        followed += [(sample.prompt, sample.messages[-1:])] if sample.messages[-1].role == "assistant" else []
    asked = {prompt.messages: (prompt, _asked(encoder, prompt)) for prompt in prompts}
    continuations = {(messages, _continuation(encoder, *asked[messages], turns)) for messages, turns in followed}
    added = sum(len(continuation.ids) for _, continuation in continuations if continuation is not None)
    counts = [encoder.count_prompt_tokens(prompt) for prompt in prompts]
    return TokenCount(sum(count.text for count in counts) + added, sum(count.media for count in counts))


NO_ROOM = "no completion is left within {} tokens, which its prompt fills; raise model.max_tokens or lower the pixels"
SAME_HALVES = (
    "its chosen and rejected completions are the same within {} tokens, so that there is nothing to prefer; leave it "
    "out, or raise model.max_tokens"
)


@dataclass(frozen=True)
class _Pair:
    """The halves of a preference, cut to what their prompt leaves of a row."""

    good: _Continuation | None
    bad: _Continuation | None
    room: int

    @classmethod
    def of(cls, encoder: ProcessorEncoder, preference: Preference, prompt: Sample, row: TokenRow) -> _Pair:
        room = encoder.max_tokens - len(row.ids)
        asked = _asked(encoder, prompt)
        good, bad = (
            None if half is None else half.cut(max(room, 0))
            for half in (
                _continuation(encoder, prompt, asked, turns) for turns in (preference.chosen, preference.rejected)
            )
        )
        return cls(good, bad, room)

    def reason_to_drop(self) -> str | None:
        if self.room < 1:
            return NO_ROOM
        return SAME_HALVES if self.good == self.bad else None


def _messages(sample: Sample, preference: Preference) -> tuple[Message, ...]:
    """What a preference's completions follow."""
    return sample.prompt if preference.prompt is None else preference.prompt


def _prompt(sample: Sample, messages: tuple[Message, ...]) -> Sample:
    """A sample that is only a prompt."""
    return replace(sample, messages=messages)


def _distinct_prompts(sample: Sample) -> list[Sample]:
    """The prompts of a sample's preferences, each once.

    Raises:
        BadSampleError: There is no preference, or one without a chosen completion.
    """
    if not sample.preferences or not all(preference.chosen for preference in sample.preferences):
        raise BadSampleError(
            origin_of(sample), "it has no preference to learn from: give it a chosen and a rejected completion"
        )
    wanted = dict.fromkeys(_messages(sample, preference) for preference in sample.preferences)
    return [_prompt(sample, messages) for messages in wanted]


def _encoded(encoder: ProcessorEncoder, prompts: Sequence[Sequence[Sample]]) -> list[list[TokenRow]]:
    """Encodes the prompts of several samples in one go."""
    rows = iter(encoder.prompt_rows([prompt for of_sample in prompts for prompt in of_sample]))
    return [[next(rows) for _ in of_sample] for of_sample in prompts]


def _asked(encoder: ProcessorEncoder, prompt: Sample) -> str:
    """A prompt as the chat template writes it."""
    (segment,) = encoder.renderer.prompt_segments(prompt)
    return segment.text


def _halves(preference: Preference) -> list[tuple[Message, ...]]:
    return [half for half in (preference.chosen, preference.rejected) if half]


def _shows_media(sample: Sample) -> bool:
    return bool(sample.images or sample.videos)


def _continuation(
    encoder: ProcessorEncoder, prompt: Sample, asked: str, turns: tuple[Message, ...]
) -> _Continuation | None:
    """Tokenises what follows a prompt, which the template writes as ``asked``; None where nothing does.

    Raises:
        BadSampleError: A turn is empty or shows media, or the template writes another prompt before it.
    """
    if not turns:
        return None
    origin = origin_of(prompt)
    if not any(message.text.strip() for message in turns if message.role == "assistant"):
        raise BadSampleError(origin, "a completion is empty; write one or leave the sample out")
    before = tuple(replace(message, train=False) for message in prompt.prompt)
    learnt = tuple(replace(message, train=message.role == "assistant") for message in turns)
    read, *following = encoder.renderer.segments(replace(prompt, messages=(*before, *learnt)))
    if read.text != asked:
        raise BadSampleError(
            origin, f"the chat template writes another prompt before a completion than before none: {read.text[-80:]!r}"
        )
    if any(segment.images or segment.videos for segment in following):
        raise BadSampleError(origin, "a completion shows an image or a video, which only prompts may")
    ids = encoder.tokenise_all([segment.text for segment in following])
    return _Continuation(
        tuple(token for part in ids for token in part),
        tuple(segment.trained for segment, part in zip(following, ids, strict=True) for _ in part),
    )


def _rows(numbers: Sequence[int]) -> Tensor:
    return torch.tensor(numbers, dtype=torch.long)
