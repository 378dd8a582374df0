"""Samples of one split by index, and how a split is parted from another."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy
from torch.utils.data import Dataset

from lit_vlm.data.records.record import Record
from lit_vlm.data.records.record_files import RecordFiles
from lit_vlm.data.records.sample_reader import REPAIRS, SampleReader
from lit_vlm.data.records.structured_values import is_empty
from lit_vlm.functional.media import resolve_media_path
from lit_vlm.interfaces.errors import BadSampleError, UserError
from lit_vlm.interfaces.records import BadSample, MediaRef, Sample

FIRST_RECORDS = 20
"""Records from which the convention is told."""


class RecordSamples(Dataset[Sample]):
    """Reads a record and makes a sample of it when asked; holds no record itself.

    Args:
        records: All records of the files.
        reader: Makes samples of them.
        indices: Which of the records belong here, None for all.
    """

    def __init__(self, records: RecordFiles, reader: SampleReader, indices: numpy.ndarray | None = None) -> None:
        self.records = records
        self.reader = reader
        self.indices = indices

    def __len__(self) -> int:
        return len(self.records) if self.indices is None else len(self.indices)

    def __getitem__(self, index: int) -> Sample:
        return self.reader(self.records[self._place(index)])

    def origin(self, index: int) -> str:
        """Says where a sample stands, without reading it."""
        return self.records.origin(self._place(index))

    def categories(self) -> list[str]:
        """Lists the tasks of the samples, each once; broken records are left out.

        Every record is read, media aside.
        """
        column = self.reader.reading.columns.get("category")
        found: dict[str, None] = {}
        for index in range(len(self) if column is not None else 0):
            try:
                value = self.records[self._place(index)].values.get(column or "")
            except BadSampleError:
                continue
            if not is_empty(value):
                found[str(value)] = None
        return list(found)

    def _place(self, index: int) -> int:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return index if self.indices is None else int(self.indices[index])


def first_readable(records: RecordFiles) -> list[Record]:
    """Reads the first records, leaving out broken ones.

    Raises:
        BadSampleError: All of them are broken.
    """
    read = []
    first_fault: BadSampleError | None = None
    for index in range(min(FIRST_RECORDS, len(records))):
        try:
            read.append(records[index])
        except BadSampleError as fault:
            first_fault = first_fault or fault
    if not read and first_fault is not None:
        raise first_fault
    return read


def some_readable(samples: RecordSamples, count: int) -> list[Sample]:
    """Reads up to ``count`` samples, evenly spaced, leaving out bad ones."""
    read = []
    wanted = min(count, len(samples))
    for position in range(wanted):
        try:
            read.append(samples[position * len(samples) // wanted])
        except BadSampleError:
            continue
    return read


def split_off(
    records: RecordFiles, content: Callable[[Record], bytes], share: float
) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Parts records by a hash of what they say and show, so that equal ones fall on the same side.

    Where a record falls does not depend on the others, on their order, or on the number of files.

    Args:
        records: All records.
        content: Writes what counts of a record, as ``SampleReader.content`` does.
        share: Expected share of the second part, in (0, 1).

    Returns:
        Indices of the rest, and of the share that is split off.
    """
    is_off = numpy.zeros(len(records), dtype=bool)
    for index, found in enumerate(records.scan()):
        if isinstance(found, BadSampleError):
            continue  # it stays with the rest, where it is reported
        hashed = int.from_bytes(hashlib.blake2b(content(found), digest_size=8).digest(), "big")
        is_off[index] = hashed < share * 2**64
    return numpy.flatnonzero(~is_off), numpy.flatnonzero(is_off)


@dataclass(frozen=True)
class Review:
    """What a look at some samples of a split showed."""

    looked_at: int
    repairs: Counter[str]
    """Samples by the mend that was made."""
    bad: tuple[BadSample, ...]


def review(samples: RecordSamples, count: int | None) -> Review:
    """Reads samples, evenly spaced, and looks for their media files without decoding them.

    Args:
        samples: The split.
        count: How many to look at, None for all.
    """
    total = len(samples)
    wanted = total if count is None else min(count, total)
    repairs: Counter[str] = Counter()
    bad = []
    for position in range(wanted):
        index = position * total // wanted
        try:
            sample = samples[index]
            _find_media(sample)
        except BadSampleError as fault:
            bad.append(BadSample(fault.origin, fault.reason))
        else:
            repairs.update(sample.meta.extra.get(REPAIRS, ()))
    return Review(wanted, repairs, tuple(bad))


def shown_faults(bad: Sequence[BadSample], count: int = 3) -> str:
    """Writes the first faults one after the other, those with the same reason once."""
    alike: dict[str, list[str]] = {}
    for fault in bad:
        alike.setdefault(fault.reason, []).append(fault.origin)
    texts = []
    for reason, origins in islice(alike.items(), count):
        more = f" ({len(origins) - 1:,} more likewise)" if len(origins) > 1 else ""
        texts.append(f"{origins[0]}: {reason}{more}")
    return "; ".join(texts)


def _find_media(sample: Sample) -> None:
    files: list[MediaRef] = [*sample.images]
    for video in sample.videos:
        files += [*video.frames, *([video.file] if video.file else [])]
    for file in files:
        if file.path is not None:
            try:
                if resolve_media_path(file).stat().st_size == 0:
                    raise UserError(f"the media file {file.path!r} is empty; restore it")
            except UserError as fault:
                raise BadSampleError(sample.meta.origin, str(fault)) from fault
