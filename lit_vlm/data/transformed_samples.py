"""Samples of a split as a transform makes them."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy
from torch.utils.data import Dataset

from lit_vlm.data.learned_turns import Learn, mark_turns
from lit_vlm.interfaces.errors import BadSampleError, UserError
from lit_vlm.interfaces.records import Message, Sample, TextPart
from lit_vlm.interfaces.roles import SampleTransform

TOLD_AFTER = 5.0
"""Seconds after which a line says what takes so long."""


class ExpandedSamples(Dataset[Sample]):
    """What a transform makes of each sample of a training split: none, one or several.

    Every sample is read once, without decoding its media, to know how many there are. One that cannot be read or
    transformed counts once, and is reported where it is asked for.

    Args:
        samples: By index.
        transform: What to make of them.

    Raises:
        UserError: Nothing is made of any of them.
    """

    def __init__(self, samples: Dataset[Sample], transform: SampleTransform) -> None:
        self._samples = samples
        self._transform = transform
        total = len(samples)  # type: ignore[arg-type]
        counts = numpy.ones(total, dtype=numpy.int64)
        start, told = time.perf_counter(), False
        for index in range(total):
            if not told and time.perf_counter() - start > TOLD_AFTER:
                told = True
                print(f"{type(transform).__name__} reads {total:,} samples", file=sys.stderr, flush=True)
            try:
                counts[index] = len(transform(samples[index]))
            except BadSampleError:
                continue
        self.left_out = int((counts == 0).sum())
        """Samples that nothing was made of."""
        self._ends = numpy.cumsum(counts)
        if not len(self):
            raise UserError(
                f"data.transform: {type(transform).__name__} makes nothing of any of the {total:,} training samples; "
                "change its settings, or give other data"
            )

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, index: int) -> Sample:
        return self._made(index, self._transform)

    def at(self, index: int, epoch: int) -> Sample:
        """Returns a sample as it is trained on in an epoch."""
        return self._made(index, lambda sample: self._transform.in_epoch(sample, epoch))

    def _made(self, index: int, transform: Callable[[Sample], Sequence[Sample]]) -> Sample:
        if not 0 <= index < len(self):
            raise IndexError(index)
        source = int(numpy.searchsorted(self._ends, index, side="right"))
        before = int(self._ends[source - 1]) if source else 0
        return transform(self._samples[source])[index - before]


class EvaluatedSamples(Dataset[Sample]):
    """What a transform makes of each sample of a validation or test split: one.

    Args:
        samples: By index.
        transform: What to make of them.
    """

    def __init__(self, samples: Dataset[Sample], transform: SampleTransform) -> None:
        self._samples = samples
        self._transform = transform

    def __len__(self) -> int:
        return len(self._samples)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> Sample:
        return self._transform.for_evaluation(self._samples[index])


class PreparedSamples(Dataset[Sample]):
    """Marks the turns that are learnt, and puts the system prompt before samples that have none.

    Args:
        samples: By index.
        system_prompt: What to put before them; None leaves them as they are.
        learn: Which turns of the assistant are learnt; None leaves the marks as they are. See ``mark_turns``.
    """

    def __init__(self, samples: Dataset[Sample], system_prompt: str | None, learn: Learn | None = None) -> None:
        self._samples = samples
        self._system_prompt = system_prompt
        self._learn: Learn | None = learn

    def __len__(self) -> int:
        return len(self._samples)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> Sample:
        return self._prepared(self._samples[index])

    def at(self, index: int, epoch: int) -> Sample:
        """Returns a sample as it is trained on in an epoch."""
        samples = self._samples
        return self._prepared(samples.at(index, epoch) if isinstance(samples, ExpandedSamples) else samples[index])

    def _prepared(self, sample: Sample) -> Sample:
        sample = mark_turns(sample, self._learn)
        if self._system_prompt is None:
            return sample
        system = Message("system", (TextPart(self._system_prompt),))
        return replace(
            sample,
            messages=_with_system(sample.messages, system),
            preferences=tuple(
                preference
                if preference.prompt is None
                else replace(preference, prompt=_with_system(preference.prompt, system))
                for preference in sample.preferences
            ),
        )


def _with_system(messages: Sequence[Message], system: Message) -> tuple[Message, ...]:
    has_own = any(message.role == "system" for message in messages)
    return tuple(messages) if has_own else (system, *messages)
