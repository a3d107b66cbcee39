"""Exported embeddings are read back as they were, or the file is not touched."""

import importlib.util

import numpy as np
import pytest

import viewproof as vp
from viewproof.evaluation.export import check_target, write_table

COLUMNS = {
    "embeddings": np.arange(12, dtype=np.float32).reshape(4, 3),
    "sample_ids": np.array([0, 1, 2, 0]),
    "split": np.array(["train"] * 3 + ["test"]),
}


def test_npz_holds_the_columns(tmp_path):
    path = tmp_path / "embeddings.npz"
    write_table(path, COLUMNS)
    with np.load(path, allow_pickle=False) as read:
        assert set(read) == set(COLUMNS)
        for name, values in COLUMNS.items():
            assert read[name].dtype == values.dtype and np.array_equal(read[name], values)
    assert list(tmp_path.iterdir()) == [path]


def test_parquet_holds_the_columns(tmp_path):
    import pyarrow.parquet as parquet

    path = tmp_path / "embeddings.parquet"
    write_table(path, COLUMNS)
    read = parquet.read_table(path)
    assert read.column_names == list(COLUMNS)
    assert str(read.schema.field("embeddings").type) == "fixed_size_list<element: float>[3]"
    assert read["embeddings"].to_pylist() == COLUMNS["embeddings"].tolist()
    assert read["sample_ids"].to_pylist() == [0, 1, 2, 0] and read["split"].to_pylist() == COLUMNS["split"].tolist()
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("embeddings.csv", r"must end in \.npz or \.parquet"),
        ("embeddings", r"must end in \.npz or \.parquet"),
        ("there.npz", "exists; choose another name"),
        ("no/folder.npz", "lies in no folder"),
    ],
)
def test_bad_targets_are_refused_and_nothing_is_touched(tmp_path, name, message):
    (tmp_path / "there.npz").write_text("mine")
    with pytest.raises(vp.InvalidArgument, match=message):
        write_table(tmp_path / name, COLUMNS)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["mine"]


def test_a_failed_write_leaves_no_file_of_that_name(tmp_path, monkeypatch):
    def fail(file, **columns):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(np, "savez", fail)
    with pytest.raises(OSError, match="disk full"):
        write_table(tmp_path / "embeddings.npz", COLUMNS)
    assert list(tmp_path.iterdir()) == []


def test_without_pyarrow_the_remedy_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(vp.InvalidArgument) as caught:
        check_target(tmp_path / "embeddings.parquet")
    assert "needs pyarrow; pip install pyarrow, or export to .npz" in str(caught.value)
    assert "\n" not in str(caught.value)
    check_target(tmp_path / "embeddings.npz")
