import pickle
import tracemalloc
import zipfile

import numpy as np
import pytest

from viewproof.data import load_dataset
from viewproof.data.arrays import FileArray
from viewproof.data.dataset import Rows
from viewproof.errors import InvalidArgument

X = np.random.default_rng(0).normal(size=(20, 3, 4)).astype(np.float32)
Y = np.arange(20) % 4


def restored(data):
    """Both parts in the order of their original rows' first value, in the source's units."""
    parts = [data.restore(data.fetch(part, range(len(data.part(part))))).numpy() for part in ("train", "test")]
    return np.concatenate(parts)


def same_rows(found, expected):
    def key(rows):
        return rows[np.argsort(rows.reshape(len(rows), -1)[:, 0])]

    np.testing.assert_allclose(key(found), key(np.asarray(expected, np.float32)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("array", [X, np.asfortranarray(X), X.astype(">f8"), X.reshape(20, 12)])
def test_npy_stays_on_disk(array, tmp_path):
    np.save(tmp_path / "x.npy", array)
    data = load_dataset(str(tmp_path / "x.npy"))
    assert isinstance(data.train.values, Rows) and isinstance(data.train.values.base, FileArray)
    assert isinstance(data.train.values.base.mapped, np.memmap)
    assert (len(data.train), len(data.test), data.sample_shape) == (18, 2, array.shape[1:])
    assert (len(data.train.values), data.train.labels, data.class_names) == (18, None, None)
    same_rows(restored(data), array)


def test_pickling_a_mapped_array_copies_no_data(tmp_path):
    array = np.arange(100_000.0).reshape(1000, 100)
    np.save(tmp_path / "x.npy", array)
    values = load_dataset(tmp_path / "x.npy").train.values.base
    values[np.array([0])]
    assert len(pickle.dumps(values)) < 2000
    assert np.array_equal(pickle.loads(pickle.dumps(values))[np.array([5])], array[[5]])


@pytest.mark.parametrize("container", ["npy", "npz"])
def test_loading_takes_a_small_part_of_the_files_size(container, tmp_path):
    file, size = tmp_path / f"big.{container}", 64 * 2**20
    mapped = np.lib.format.open_memmap(tmp_path / "big.npy", mode="w+", dtype=np.float32, shape=(1024, size // 4096))
    mapped[:, 0] = np.arange(1024)
    mapped.flush()
    if container == "npz":
        with zipfile.ZipFile(file, "w") as archive:
            archive.write(tmp_path / "big.npy", "x.npy")
    del mapped
    load_dataset("digits")
    tracemalloc.start()
    data = load_dataset(file)
    x = data.fetch("train", range(8))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < size // 2, f"{peak} bytes held for a file of {size}"
    assert x.shape == (8, size // 4096)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_of_one_array_and_labels(save, tmp_path):
    save(tmp_path / "x.npz", x=X, y=Y + 5, unrelated=np.zeros(2))
    data = load_dataset(tmp_path / "x.npz", test_fraction=0.25)
    assert (len(data.train), len(data.test), data.class_names) == (15, 5, ("5", "6", "7", "8"))
    same_rows(restored(data), X)
    for part in (data.train, data.test):
        for value, label in zip(part.values[np.arange(len(part))], part.labels, strict=True):
            assert label == Y[np.flatnonzero((value == X).all((1, 2)))]
    assert isinstance(data.train.values, Rows if save is np.savez else np.ndarray)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_with_its_own_parts(save, tmp_path):
    names = np.array(["dog", "cat"])
    save(tmp_path / "x.npz", train=X[:15], test=X[15:], train_labels=names[Y[:15] % 2], test_labels=names[Y[15:] % 2])
    data = load_dataset(tmp_path / "x.npz")
    assert np.array_equal(data.train.values[np.arange(15)], X[:15])
    assert np.array_equal(data.test.values[np.arange(5)], X[15:])
    assert data.class_names == ("cat", "dog")
    assert data.test.labels.tolist() == (1 - Y[15:] % 2).tolist()
    assert isinstance(data.train.values, FileArray if save is np.savez else np.ndarray)


def test_npz_without_labels(tmp_path):
    np.savez(tmp_path / "x.npz", train=X[:15], test=X[15:])
    assert load_dataset(tmp_path / "x.npz").classes is None


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": X}, r"holds \['images'\], but must hold either 'x' or both 'train' and 'test'"),
        ({"train": X}, "must hold either"),
        ({"x": X, "train": X, "test": X}, "must hold either"),
        ({"train": X, "test": X, "test_labels": Y}, "holds 'test_labels' only"),
        ({"x": X, "y": Y[:5]}, r"\('y'\): labels of shape \(5,\) and dtype int64 must be 20 integers or strings"),
        ({"x": X, "y": Y + 0.5}, "dtype float64 must be 20 integers or strings"),
        ({"x": X, "y": np.array(3)}, r"labels of shape \(\)"),
        ({"x": np.array(3.0)}, r"\('x'\): shape \(\) has no sample axes"),
        ({"x": X[:0]}, r"\('x'\): shape \(0, 3, 4\) is empty"),
        ({"x": X.astype(complex)}, "dtype complex64|dtype complex128"),
        ({"x": X.astype(object)}, r"\('x'\): dtype object is not of real numbers"),
        ({"x": X, "y": Y.astype(object)}, r"\('y'\): dtype object is not of real numbers"),
        ({"train": X, "test": X[:, :2]}, "must have one shape"),
    ],
)
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_other_npz_files_are_refused(save, arrays, message, tmp_path):
    save(tmp_path / "bad.npz", **arrays)
    with pytest.raises(InvalidArgument, match=rf"bad\.npz.*({message})"):
        load_dataset(tmp_path / "bad.npz")


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.array(1.0), r"shape \(\) has no sample axes"),
        (np.ones(5), r"shape \(5,\) has no sample axes"),
        (np.ones((0, 5)), "is empty"),
        (np.ones((1, 5)), "1 sample cannot be split"),
        (np.full((5, 2), "text"), "not of real numbers"),
        (np.ones((5, 2), [("a", "f4")]), "not of real numbers"),
        (np.array([[None, 1]] * 5), "dtype object is not of real numbers"),
    ],
)
def test_other_npy_files_are_refused(array, message, tmp_path):
    np.save(tmp_path / "bad.npy", array)
    with pytest.raises(InvalidArgument, match=rf"bad\.npy: .*{message}"):
        load_dataset(tmp_path / "bad.npy")


@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_nan_names_the_file_and_the_count(suffix, tmp_path):
    bad = X.copy()
    bad[[0, 5, 11], 1, 2] = np.nan, np.inf, np.nan
    file = tmp_path / f"bad.{suffix}"
    np.save(file, bad) if suffix == "npy" else np.savez(file, x=bad)
    with pytest.raises(InvalidArgument, match=rf"bad\.{suffix}: 3 of 240 values are NaN"):
        load_dataset(file)


@pytest.mark.parametrize("keep", [0, 5, 9, 40, -1])
def test_truncated_npy_is_refused(keep, tmp_path):
    file = tmp_path / "cut.npy"
    np.save(file, X)
    whole = file.read_bytes()
    file.write_bytes(whole[:keep])
    expected = rf"expected {len(whole)} bytes, found {len(whole) - 1}" if keep == -1 else "not a whole npy array"
    with pytest.raises(InvalidArgument, match=rf"cut\.npy: {expected}"):
        load_dataset(file)
    file.write_bytes(whole + b"\0")
    with pytest.raises(InvalidArgument, match=f"expected {len(whole)} bytes, found {len(whole) + 1}"):
        load_dataset(file)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("keep", [0, 10, 300, -1])
def test_truncated_npz_is_refused(save, keep, tmp_path):
    file = tmp_path / "cut.npz"
    save(file, x=X)
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(InvalidArgument, match=r"cut\.npz: not a whole npz file"):
        load_dataset(file)


def test_a_damaged_compressed_member_is_refused(tmp_path):
    file = tmp_path / "bad.npz"
    np.savez_compressed(file, x=X)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0xFF
    file.write_bytes(content)
    with pytest.raises(InvalidArgument, match=r"bad\.npz"):
        load_dataset(file)


def test_suffixes_in_capitals(tmp_path):
    np.save(tmp_path / "x.npy", X)
    np.savez(tmp_path / "z.npz", x=X, y=Y)
    for name in ("x.npy", "z.npz"):
        (tmp_path / name).rename(tmp_path / name.upper())
        assert load_dataset(str(tmp_path / name.upper())).sample_shape == (3, 4)
    (tmp_path / "T.TXT").write_text("text " * 100)
    assert load_dataset(str(tmp_path / "T.TXT")).sample_shape == (128,)
    (tmp_path / "t.csv").write_text("1,2")
    with pytest.raises(InvalidArgument, match=r"t\.csv': a file of another kind; pass digits"):
        load_dataset(str(tmp_path / "t.csv"))


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_images_with_their_channels_last_are_refused(channels, tmp_path):
    images = np.zeros((6, 8, 8, channels), np.uint8)
    np.save(tmp_path / "x.npy", images)
    with pytest.raises(InvalidArgument, match=r"channels last; save \[N, C, H, W\]: x\.transpose\(0, 3, 1, 2\)"):
        load_dataset(str(tmp_path / "x.npy"))
    np.save(tmp_path / "x.npy", images.transpose(0, 3, 1, 2))
    assert load_dataset(str(tmp_path / "x.npy")).sample_shape == (channels, 8, 8)
    np.save(tmp_path / "x.npy", images.astype(np.float32))  # sensors, times and axes, perhaps
    assert load_dataset(str(tmp_path / "x.npy")).sample_shape == (8, 8, channels)
