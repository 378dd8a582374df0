"""Samples of one set of records with those of another mixed in."""

from __future__ import annotations

from lit_vlm.data.records.record_samples import RecordSamples
from lit_vlm.functional.distributions import spread_evenly
from lit_vlm.interfaces.records import Sample


class MixedRecordSamples(RecordSamples):
    """All samples of one set, then some of another, repeated or thinned out evenly to a number.

    Args:
        first: All of them are taken.
        second: What is mixed in, at least one.
        wanted: How many of the second there are in the end.
    """

    def __init__(self, first: RecordSamples, second: RecordSamples, wanted: int) -> None:
        super().__init__(first.records, first.reader, first.indices)
        self.second = second
        whole, part = divmod(wanted, len(second))
        self._taken = [*list(range(len(second))) * whole, *spread_evenly(len(second), part)]

    def __len__(self) -> int:
        return super().__len__() + len(self._taken)

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < len(self):
            raise IndexError(index)
        before = super().__len__()
        return super().__getitem__(index) if index < before else self.second[self._taken[index - before]]

    def origin(self, index: int) -> str:
        """Says where a sample stands, without reading it."""
        before = super().__len__()
        return super().origin(index) if index < before else self.second.origin(self._taken[index - before])
