import logging
import pickle

import pyarrow
import pyarrow.parquet
import pytest
from datasets import Dataset, DatasetDict

from lit_vlm.data.records import columnar_files
from lit_vlm.data.records.columnar_files import ParquetFile, SavedDataset
from lit_vlm.interfaces.errors import UserError

ROWS = [{"n": n, "image": {"bytes": bytes([n]) * 5, "path": None}, "turns": [{"role": "user"}] * n} for n in range(7)]


@pytest.fixture
def parquet(tmp_path):
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "a.parquet", row_group_size=3)
    return ParquetFile(tmp_path / "a.parquet")


@pytest.fixture
def saved(tmp_path):
    Dataset.from_list(ROWS).save_to_disk(tmp_path / "saved", num_shards=2)
    return SavedDataset(tmp_path / "saved")


@pytest.mark.parametrize("kind", ["parquet", "saved"])
def test_rows_are_read_in_any_order_and_images_stay_bytes(kind, request):
    file = request.getfixturevalue(kind)
    assert len(file) == 7
    assert [file[index].values for index in (6, 0, 3, 2, 5)] == [ROWS[index] for index in (6, 0, 3, 2, 5)]
    assert [record.values for record in file] == ROWS
    assert file[4].origin == file.origin(4) == f"{file.path}, row 5"
    with pytest.raises(IndexError):
        file[7]


@pytest.mark.parametrize("kind", ["parquet", "saved"])
def test_a_copy_in_another_process_reads_the_same(kind, request):
    file = request.getfixturevalue(kind)
    assert file[1].values == ROWS[1]
    assert pickle.loads(pickle.dumps(file))[6].values == ROWS[6]


def test_paths_count_from_the_folder_of_the_data(parquet, saved, tmp_path):
    assert parquet[0].folder == tmp_path
    assert saved[0].folder == tmp_path / "saved"


def test_no_more_row_groups_are_kept_than_allowed(parquet, monkeypatch):
    monkeypatch.setattr(columnar_files, "CACHED_BYTES", 1)
    for index in (0, 3, 6, 0):
        assert parquet[index].values == ROWS[index]
        assert len(columnar_files._cached_groups) == 1


def test_large_row_groups_are_told(parquet, monkeypatch, caplog):
    monkeypatch.setattr(columnar_files, "CACHED_BYTES", 1)
    monkeypatch.setattr(columnar_files, "LARGE_GROUP", 1)
    with caplog.at_level(logging.WARNING):
        ParquetFile(parquet.path)
    assert "write it with row groups of about a hundred rows" in caplog.text


def test_broken_files_and_several_splits_are_named(tmp_path, saved):
    (tmp_path / "b.parquet").write_bytes(b"no parquet")
    with pytest.raises(UserError, match="b.parquet is no readable Parquet file"):
        ParquetFile(tmp_path / "b.parquet")
    DatasetDict({"train": Dataset.from_list(ROWS)}).save_to_disk(tmp_path / "splits")
    assert SavedDataset.is_saved_dataset(tmp_path / "splits")
    assert not SavedDataset.is_saved_dataset(tmp_path)
    with pytest.raises(UserError, match=r"holds the splits \['train'\]; name one of them, e.g. .*splits/train"):
        SavedDataset(tmp_path / "splits")
    state = saved.path / "state.json"
    for content in ("{}", '{"_data_files": [1]}', '{"_data_files": []}', '{"_data_files": [{}]}'):
        (tmp_path / "state.json").write_text(content)
        with pytest.raises(UserError, match="state.json names no Arrow files"):
            SavedDataset(tmp_path)
    state.write_text(state.read_text().replace("data-00000", "../data-00000"))
    with pytest.raises(UserError, match="names a file outside its folder"):
        SavedDataset(saved.path)
