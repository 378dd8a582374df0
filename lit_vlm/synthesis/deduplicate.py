"""Leaves out samples, or completions, that repeat an earlier one or are nearly the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from lit_vlm.functional.near_duplicates import first_similar, shingles
from lit_vlm.functional.sample_digests import image_digests, media_digest
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import Message, Sample
from lit_vlm.synthesis.completions import completion_key
from lit_vlm.synthesis.curation import CountingOperator, check_names, check_one_of, with_candidates

KeyPart = Literal["text", "media", "answer", "completion", "solution"]
Of = Literal["samples", "candidates"]


@dataclass(frozen=True)
class Deduplicate(CountingOperator):
    """Keeps the first of what is the same; white space does not count.

    Many sets have one text for all questions, which differ in the picture alone, so that text by itself never tells two
    samples apart. Some repeat one question by design, as One-Shot-CFT does, with another solution each time: name
    ``solution`` or ``completion`` in ``key`` for these, or their source in ``by_design``.

    Source:
        Exact keys: the traps of DAPO-Math-17k, which holds each question 100 times, and of CLEVR counting, which asks
        one question of all pictures. Near duplicates by the Jaccard similarity of runs of characters: Broder, On the
        Resemblance and Containment of Documents (1997); here compared exactly instead of by hashes.
    """

    of: Of = "samples"
    """``samples``: those of the set; ``candidates``: the completions of each sample, by what they say."""
    key: tuple[KeyPart, ...] = ("text", "media", "answer")
    """What two samples must share: the ``text`` of the prompt without the system's turn, the contents of their
    ``media``, the ``answer``, the ``completion`` (the last assistant turn), the ``solution`` that they judge."""
    near: float | None = None
    """Least similarity of two texts that count as the same, above 0 and up to 1, such as 0.8; None for texts that are
    the same. The rest of the key must be the same in any case, so that ``3 + 4`` is not taken for ``3 + 5``."""
    shingle: int = 8
    """Characters of the runs that similarity is told by."""
    by_design: tuple[str, ...] = ()
    """Sources (``meta.source``) whose samples all stay."""

    def __post_init__(self) -> None:
        check_one_of("of", self.of, get_args(Of))
        check_names("key", self.key)
        for part in self.key:
            check_one_of("key", part, get_args(KeyPart))
        if self.key == ("text",):
            raise UserError("key is text alone, which takes one question about many pictures for one; add media")
        if self.near is not None and not 0 < self.near <= 1:
            raise UserError(f"near is {self.near}; give a similarity above 0 and up to 1, or null")
        if self.near is not None and self.of == "samples" and "text" not in self.key:
            raise UserError(f"near is {self.near}, but key does not hold text; add it")
        if self.shingle < 1:
            raise UserError(f"shingle is {self.shingle}; give at least 1")

    def choose(self, samples: Sequence[Sample], left_out: Counter[str]) -> list[Sample]:
        """Returns the samples that repeat none before them, or all with the candidates that do not.

        Raises:
            UserError: All samples share one key, so that one would be left; or a media file cannot be read.
        """
        if self.of == "candidates":
            return [self._with_distinct(sample, left_out) for sample in samples]
        compared = [sample for sample in samples if sample.meta.source not in self.by_design]
        keys = [tuple(_key_part(sample, part) for part in self.key if not self._is_near(part)) for sample in compared]
        texts = [_prompt_text(sample) for sample in compared]
        repeats = self._repeats(keys, texts)
        if len(compared) > 1 and sum(repeats) == len(compared) - 1:
            raise UserError(
                f"Deduplicate: all {len(compared):,} samples have the same {', '.join(self.key)}, so that one would be "
                "left; where a set repeats one question by design, add completion or solution to key, or name its "
                "source in by_design"
            )
        reason = "samples that repeat an earlier one" if self.near is None else f"samples at least {self.near:g} alike"
        is_repeat = iter(repeats)
        kept = []
        for sample in samples:
            if sample.meta.source in self.by_design or not next(is_repeat):
                kept.append(sample)
            else:
                left_out[reason] += 1
        return kept

    def _with_distinct(self, sample: Sample, left_out: Counter[str]) -> Sample:
        keys: list[Hashable] = [
            None if self.near is not None else completion_key(candidate.messages) for candidate in sample.candidates
        ]
        repeats = self._repeats(keys, [candidate.text for candidate in sample.candidates])
        kept = [candidate for candidate, repeat in zip(sample.candidates, repeats, strict=True) if not repeat]
        alike = "that repeat an earlier one" if self.near is None else f"at least {self.near:g} alike"
        if any(repeats):
            left_out[f"candidates {alike}"] += sum(repeats)
        return with_candidates(sample, kept)

    def _is_near(self, part: KeyPart) -> bool:
        return part == "text" and self.near is not None

    def _repeats(self, keys: Sequence[Hashable], texts: Sequence[str]) -> list[bool]:
        """Tells of each entry whether it repeats an earlier one that stays."""
        if self.near is None:
            first: dict[Hashable, int] = {}
            return [first.setdefault(key, place) != place for place, key in enumerate(keys)]
        groups: dict[Hashable, list[int]] = {}
        for place, key in enumerate(keys):
            groups.setdefault(key, []).append(place)
        repeats = [False] * len(keys)
        for places in groups.values():
            found = first_similar([shingles(texts[place], self.shingle) for place in places], self.near)
            for place, earlier in zip(places, found, strict=True):
                repeats[place] = earlier is not None
        return repeats


def _key_part(sample: Sample, part: KeyPart) -> Hashable:
    match part:
        case "text":
            return completion_key(_asked(sample))
        case "media":
            return (*image_digests(sample), *_video_digests(sample))
        case "answer":
            return None if sample.answer is None else repr((sample.answer.type, sample.answer.value))
        case "completion":
            return completion_key(sample.messages[len(sample.prompt) :])
    return None if sample.critique is None else " ".join(sample.critique.response.split())


def _asked(sample: Sample) -> list[Message]:
    return [message for message in sample.prompt if message.role != "system"]


def _prompt_text(sample: Sample) -> str:
    return "\n".join(message.text for message in _asked(sample))


def _video_digests(sample: Sample) -> Iterator[Hashable]:
    for video in sample.videos:
        contents = video.frames if video.file is None else (video.file,)
        yield video.start, video.end, *map(media_digest, contents)
