from pathlib import Path

import pytest

from lit_vlm.data.records.record import Record, RecordFile


class Numbers(RecordFile):
    def __len__(self):
        return 3

    def __getitem__(self, index):
        self._check_index(index)
        return Record({"number": index}, self.origin(index), Path())

    def origin(self, index):
        return f"numbers, row {index + 1}"


def test_a_file_yields_its_records_in_order():
    assert [record.values["number"] for record in Numbers()] == [0, 1, 2]
    assert [record.origin for record in Numbers()] == ["numbers, row 1", "numbers, row 2", "numbers, row 3"]


@pytest.mark.parametrize("index", [3, -1])
def test_an_index_outside_the_file_is_refused(index):
    with pytest.raises(IndexError):
        Numbers()[index]
