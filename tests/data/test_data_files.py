import gzip

import numpy as np
import pytest

from viewproof.data import load_dataset
from viewproof.data.named import DEBIAN, DTYPES, RECORD, load_cifar10, read_idx
from viewproof.errors import InvalidArgument

RNG = np.random.default_rng(0)
IMAGES = {"train": RNG.integers(0, 256, (12, 5, 4), np.uint8), "t10k": RNG.integers(0, 256, (6, 5, 4), np.uint8)}


def idx(array, code=0x08):
    shape = b"".join(extent.to_bytes(4, "big") for extent in array.shape)
    return bytes([0, 0, code, array.ndim]) + shape + array.astype(DTYPES[code]).tobytes()


def write(path, content):
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


@pytest.fixture
def folder(tmp_path, request):
    suffix = getattr(request, "param", "")
    for part, images in IMAGES.items():
        write(tmp_path / f"{part}-images-idx3-ubyte{suffix}", idx(images))
        write(tmp_path / f"{part}-labels-idx1-ubyte{suffix}", idx(np.arange(len(images)) % 10))
    return tmp_path


@pytest.mark.parametrize("folder", ["", ".gz"], indirect=True)
def test_fashion_mnist_from_a_folder(folder):
    data = load_dataset(f"fashion-mnist:{folder}")
    assert (data.name, data.sample_shape, data.classes) == ("fashion-mnist", (1, 5, 4), 10)
    assert np.array_equal(data.train.values[:, 0], IMAGES["train"])
    assert np.array_equal(data.test.values[:, 0], IMAGES["t10k"])
    assert data.train.labels.tolist() == [*range(10), 0, 1]
    assert data.mean.item() == pytest.approx(IMAGES["train"].mean())


@pytest.mark.skipif(not DEBIAN.is_dir(), reason="Debian's dataset-fashion-mnist is not installed")
def test_debians_fashion_mnist():
    data = load_dataset("fashion-mnist")
    assert (len(data.train), len(data.test), data.sample_shape) == (60_000, 10_000, (1, 28, 28))
    assert np.bincount(data.train.labels).tolist() == [6000] * 10
    assert (data.mean.item() / 255, data.std.item() / 255) == pytest.approx((0.2860, 0.3530), abs=1e-4)


@pytest.mark.parametrize("code", DTYPES)
@pytest.mark.parametrize("shape", [(3,), (2, 3), (2, 3, 4, 5), ()])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_idx_of_every_dtype_and_rank(code, shape, suffix, tmp_path):
    array = np.arange(np.prod(shape, dtype=int)).reshape(shape)
    write(tmp_path / f"a{suffix}", idx(array, code))
    found = read_idx(tmp_path / f"a{suffix}")
    assert found.dtype == np.dtype(DTYPES[code]) and np.array_equal(found, array) and found.shape == shape


def test_idx_extents_are_big_endian(tmp_path):
    (tmp_path / "a").write_bytes(bytes([0, 0, 0x0B, 1, 0, 0, 0, 2, 1, 2, 0xFF, 0xFE]))
    assert read_idx(tmp_path / "a").tolist() == [258, -2]


@pytest.mark.parametrize("keep", [0, 3, 9, 20, -1])
def test_truncated_idx_names_file_and_bytes(keep, tmp_path):
    content = idx(IMAGES["train"])
    (tmp_path / "cut").write_bytes(content[:keep])
    found = len(content[:keep])
    expected = 4 if found < 4 else 16 if found < 16 else len(content)
    with pytest.raises(InvalidArgument, match=f"cut: expected {expected} bytes, found {found}; the file is damaged"):
        read_idx(tmp_path / "cut")


def test_idx_with_bytes_to_spare_is_refused(tmp_path):
    content = idx(IMAGES["train"])
    (tmp_path / "long").write_bytes(content + b"\0")
    with pytest.raises(InvalidArgument, match=f"long: expected {len(content)} bytes, found {len(content) + 1}"):
        read_idx(tmp_path / "long")


@pytest.mark.parametrize("cut", [1, 8, 100])
def test_truncated_gzip_is_refused_even_if_only_its_checksum_is_cut(cut, tmp_path):
    content = idx(IMAGES["train"])
    (tmp_path / "cut.gz").write_bytes(gzip.compress(content)[:-cut])
    with pytest.raises(InvalidArgument, match=rf"cut\.gz: expected {len(content)} bytes, found \d+ \(.*end-of-stream"):
        read_idx(tmp_path / "cut.gz")


def test_damaged_gzip_is_refused(tmp_path):
    content = bytearray(gzip.compress(idx(IMAGES["train"])))
    content[-5] ^= 1
    (tmp_path / "bad.gz").write_bytes(content)
    with pytest.raises(InvalidArgument, match=r"bad\.gz: .*CRC"):
        read_idx(tmp_path / "bad.gz")
    (tmp_path / "no.gz").write_bytes(b"plain text")
    with pytest.raises(InvalidArgument, match=r"no\.gz: .*[Nn]ot a gzipped file"):
        read_idx(tmp_path / "no.gz")


@pytest.mark.parametrize("magic", [b"\1\0\x08\1", b"\0\0\x07\1", b"\x93NUM"])
def test_other_magic_numbers_are_refused(magic, tmp_path):
    (tmp_path / "a").write_bytes(magic + bytes(8))
    with pytest.raises(InvalidArgument, match=f"a: magic number {magic.hex()} is not IDX's"):
        read_idx(tmp_path / "a")


def test_a_missing_folder_names_the_package_and_the_form(tmp_path):
    with pytest.raises(InvalidArgument, match=r"dataset-fashion-mnist, or pass 'fashion-mnist:FOLDER'"):
        load_dataset(f"fashion-mnist:{tmp_path / 'none'}")


def test_fashion_mnist_files_must_be_there_and_match(folder):
    labels = folder / "t10k-labels-idx1-ubyte"
    labels.write_bytes(idx(np.arange(5)))
    with pytest.raises(InvalidArgument, match=r"t10k-images-idx3-ubyte holds .* and t10k-labels.* \(5,\)"):
        load_dataset(f"fashion-mnist:{folder}")
    labels.write_bytes(idx(np.arange(6) + 5))
    with pytest.raises(InvalidArgument, match="labels 0 to 10 must lie in 0 to 9"):
        load_dataset(f"fashion-mnist:{folder}")
    labels.unlink()
    with pytest.raises(
        InvalidArgument, match=r"neither t10k-labels-idx1-ubyte nor t10k-labels-idx1-ubyte\.gz is there"
    ):
        load_dataset(f"fashion-mnist:{folder}")


def cifar(folder, records):
    files = [*(f"data_batch_{k}.bin" for k in range(1, 6)), "test_batch.bin"]
    data = RNG.integers(0, 256, (6, records, RECORD), np.uint8)
    data[..., 0] %= 10
    for name, part in zip(files, data, strict=True):
        part.tofile(folder / name)
    return data


def test_cifar_records_are_labels_and_planes(tmp_path):
    records = cifar(tmp_path, 4)
    data = load_cifar10(tmp_path, records=4)
    assert (len(data.train), len(data.test), data.sample_shape, data.classes) == (20, 4, (3, 32, 32), 10)
    assert data.train.labels.tolist() == records[:5, :, 0].flatten().tolist()
    assert data.train.values[6, 2, 3, 4] == records[1, 2, 1 + 2 * 1024 + 3 * 32 + 4]
    assert np.array_equal(data.test.values.reshape(4, -1), records[5, :, 1:])


def test_truncated_cifar_names_the_file(tmp_path):
    cifar(tmp_path, 4)
    with pytest.raises(InvalidArgument, match=r"data_batch_1\.bin: expected 30730000 bytes, found 12292"):
        load_dataset(f"cifar-10:{tmp_path}")
    (tmp_path / "data_batch_3.bin").write_bytes(bytes(4 * RECORD - 1))
    with pytest.raises(InvalidArgument, match=r"data_batch_3\.bin: expected 12292 bytes, found 12291"):
        load_cifar10(tmp_path, records=4)
    (tmp_path / "data_batch_3.bin").unlink()
    with pytest.raises(InvalidArgument, match=r"no file .*data_batch_3\.bin; unpack cifar-10-binary\.tar\.gz"):
        load_cifar10(tmp_path, records=4)


def test_cifar_labels_are_checked(tmp_path):
    cifar(tmp_path, 4)
    (tmp_path / "test_batch.bin").write_bytes(bytes([10]) * (4 * RECORD))
    with pytest.raises(InvalidArgument, match="to 10 must lie in 0 to 9"):
        load_cifar10(tmp_path, records=4)
