import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import skimage
from PIL import Image

from viewproof.data import DATASETS, load_dataset
from viewproof.data.named import PHOTOS
from viewproof.errors import InvalidArgument


def test_digits():
    data = load_dataset("digits")
    assert (data.sample_shape, data.train.values.dtype, data.classes) == ((1, 8, 8), np.uint8, 10)
    assert (data.train.values.min(), data.train.values.max()) == (0, 16)
    assert len(data.train) + len(data.test) == 1797 and len(load_dataset("digits", test_fraction=0.5).test) == 898
    assert set(data.test.labels) == set(range(10))


def test_digits_are_scikit_learns_with_their_labels():
    bunch = pytest.importorskip("sklearn.datasets").load_digits()
    known = {image.astype(np.uint8).tobytes(): label for image, label in zip(bunch.images, bunch.target, strict=True)}
    data = load_dataset("digits")
    for part in (data.train, data.test):
        assert all(known[image.tobytes()] == label for image, label in zip(part.values[:, 0], part.labels, strict=True))


@pytest.mark.parametrize(("size", "fraction"), [((32, 32), 0.1), ((20, 48), 0.3)])
def test_photos_are_every_crop_once_and_the_test_part_is_their_right(size, fraction):
    data = load_dataset("photos", size=size, test_fraction=fraction)
    assert data.sample_shape == (3, *size) and data.class_names == tuple(PHOTOS)
    for label, file in enumerate(PHOTOS.values()):
        photo = np.asarray(Image.open(Path(skimage.__file__).parent / "data" / file).convert("RGB"))
        rows, columns = photo.shape[0] // size[0], photo.shape[1] // size[1]
        held_out = round(columns * fraction)
        crops = [part.values[part.labels == label] for part in (data.train, data.test)]
        assert [len(part) for part in crops] == [rows * (columns - held_out), rows * held_out]
        grids = [crops[0].reshape(rows, -1, 3, *size), crops[1].reshape(rows, -1, 3, *size)]
        rebuilt = np.concatenate(grids, axis=1).transpose(0, 3, 1, 4, 2).reshape(rows * size[0], columns * size[1], 3)
        assert np.array_equal(rebuilt, photo[: rows * size[0], : columns * size[1]])


def test_photos_default_to_32_pixels():
    assert load_dataset("photos").sample_shape == (3, 32, 32)


def test_too_large_crops_are_refused():
    with pytest.raises(
        InvalidArgument, match=r"size=\(300, 256\) is too large for the photograph 'cat' of \(300, 451\)"
    ):
        load_dataset("photos", size=(300, 256))


@pytest.mark.parametrize(
    ("name", "module", "package"),
    [("digits", "sklearn.datasets", "scikit-learn"), ("photos", "skimage", "scikit-image")],
)
def test_a_missing_package_names_the_extra(name, module, package, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InvalidArgument, match=rf"data set '{name}' needs {package}; pip install 'viewproof\[train\]'"):
        load_dataset(name)


def test_importing_the_data_layer_loads_no_extra():
    code = (
        "import sys; before = set(sys.modules); import viewproof.data;"
        "print({'sklearn', 'skimage', 'PIL', 'pytorch_lightning'} & (set(sys.modules) - before))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("name", "close"),
    [("digit", "digits"), ("photo", "photos"), ("fashion_mnist", "fashion-mnist"), ("cifar10", "cifar-10")],
)
def test_unknown_names_list_the_known_and_suggest_the_nearest(name, close):
    with pytest.raises(InvalidArgument, match=f"unknown data set '{name}'.*did you mean '{close}'") as error:
        load_dataset(name)
    assert all(known in str(error.value) for known in (*DATASETS, ".npy", ".npz", "FOLDER"))


def test_nothing_near_suggests_nothing(tmp_path):
    (tmp_path / "table.csv").write_text("1,2")
    for name in ("zzzzzzzz", tmp_path / "missing.npy", tmp_path / "table.csv"):
        with pytest.raises(InvalidArgument, match="unknown data set") as error:
            load_dataset(name)
        assert "did you mean" not in str(error.value)


def test_names_with_and_without_folders(tmp_path):
    with pytest.raises(InvalidArgument, match="data set 'digits' takes no folder"):
        load_dataset(f"digits:{tmp_path}")


def test_size_must_apply_and_be_two_positive_integers(tmp_path):
    np.save(tmp_path / "x.npy", np.ones((4, 3)))
    for name in ("digits", "fashion-mnist", tmp_path / "x.npy"):
        with pytest.raises(InvalidArgument, match=r"size=\(8, 8\) does not apply"):
            load_dataset(name, size=(8, 8))
    with pytest.raises(InvalidArgument, match=r"size\[1\]=0 must be an integer of at least 1"):
        load_dataset("photos", size=(8, 0))


@pytest.mark.parametrize("name", ["digits", "fashion-mnist"])
def test_test_fraction_is_checked_for_every_source(name):
    with pytest.raises(InvalidArgument, match=r"test_fraction=1\.5"):
        load_dataset(name, test_fraction=1.5)


@pytest.mark.parametrize("name", ["a" * 5000, "none/" * 999, "~nobody-of-this-name/x", "\0"])
def test_what_is_no_path_is_one_line(name):
    with pytest.raises(InvalidArgument, match="data set"):
        load_dataset(name)


@pytest.mark.parametrize("text", ["", " "])
def test_an_empty_name_is_not_this_folder(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidArgument, match="names no data; pass a name"):
        load_dataset(text)
