import pickle

import numpy as np
import pytest
from PIL import Image

from viewproof.data import load_dataset
from viewproof.errors import InvalidArgument


def pixels(seed, shape=(6, 8, 3)):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def values(data):
    return {part: data.part(part).values[np.arange(len(data.part(part)))] for part in ("train", "test")}


def test_flat_folder_in_path_order(tmp_path):
    for name in ("c.TIF", "a.png", "b.bmp"):
        save(tmp_path / name, pixels(ord(name[0])))
    (tmp_path / "notes.txt").write_text("no image")
    save(tmp_path / ".hidden.png", pixels(9, (2, 2)))
    data = load_dataset(tmp_path, test_fraction=0.34)
    assert (data.sample_shape, data.classes, data.train.labels) == ((3, 6, 8), None, None)
    assert (len(data.train.values), data.train.values.dtype, len(data.test)) == (2, np.uint8, 1)
    assert data.test.values.index.tolist() == [2] and data.train.values.index.tolist() == [0, 1]
    found = np.concatenate(list(values(data).values()))
    assert np.array_equal(found, np.stack([pixels(ord(name)).transpose(2, 0, 1) for name in "abc"]))


def test_grey_folder_has_one_channel_and_one_colour_image_makes_it_rgb(tmp_path):
    for seed in range(3):
        save(tmp_path / f"{seed}.png", pixels(seed, (6, 8)))
    data = load_dataset(tmp_path)
    assert data.sample_shape == (1, 6, 8)
    found = np.concatenate(list(values(data).values()))
    assert sorted(found[:, 0, 0, 0]) == sorted(pixels(seed, (6, 8))[0, 0] for seed in range(3))
    save(tmp_path / "0.png", pixels(0))
    assert load_dataset(tmp_path).sample_shape == (3, 6, 8)


def test_sub_folders_are_classes(tmp_path):
    for seed in range(10):
        save(tmp_path / ("dog" if seed % 2 else "cat/deep") / f"{seed}.png", np.full((4, 4, 3), seed % 2, np.uint8))
    data = load_dataset(tmp_path, test_fraction=0.3)
    assert data.class_names == ("cat", "dog") and len(data.test) == 3
    for part, found in values(data).items():
        assert np.array_equal(found[:, 0, 0, 0], data.part(part).labels)


def test_train_and_test_folders_are_the_parts(tmp_path):
    for seed in range(6):
        save(tmp_path / ("test" if seed < 2 else "train") / f"class{seed % 2}" / f"{seed}.png", pixels(seed))
    data = load_dataset(tmp_path, test_fraction=0.9)
    assert data.class_names == ("class0", "class1")
    assert data.test.labels.tolist() == [0, 1] and sorted(data.train.labels) == [0, 0, 1, 1]
    assert np.array_equal(values(data)["test"][1], pixels(1).transpose(2, 0, 1))


def test_images_are_decoded_when_fetched(tmp_path):
    for seed in range(4):
        save(tmp_path / f"{seed}.png", pixels(seed, (60, 80, 3)))
    data = load_dataset(tmp_path)
    assert len(pickle.dumps(data.train.values)) < 60 * 80
    (tmp_path / "0.png").unlink()
    with pytest.raises(InvalidArgument, match=r"0\.png: not a readable image"):
        values(data)


def test_size_cuts_about_the_centre_and_resizes(tmp_path):
    wide = np.zeros((4, 12, 3), np.uint8)
    wide[:, 4:8] = 200
    save(tmp_path / "a.png", wide)
    save(tmp_path / "b.png", np.full((9, 5, 3), 200, np.uint8))
    with pytest.raises(InvalidArgument, match=r"b\.png: \(9, 5\) pixels differ from \(4, 12\) of .*pass size=\(H, W\)"):
        load_dataset(tmp_path)
    data = load_dataset(tmp_path, size=(4, 4))
    assert data.sample_shape == (3, 4, 4)
    assert all((part == 200).all() for part in values(data).values())
    assert load_dataset(tmp_path, size=(2, 3)).sample_shape == (3, 2, 3)


@pytest.mark.parametrize("name", ["z.png", "z.jpeg", "z.bmp", "z.tif", "z.webp"])
@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_truncated_image_names_the_file(name, tmp_path):
    for seed in range(3):
        save(tmp_path / f"{seed}.png", pixels(seed, (40, 40, 3)))
    save(tmp_path / name, pixels(9, (40, 40, 3)))
    content = (tmp_path / name).read_bytes()
    assert load_dataset(tmp_path).sample_shape == (3, 40, 40)
    for keep in (0, 20, len(content) // 2):
        (tmp_path / name).write_bytes(content[:keep])
        with pytest.raises(InvalidArgument, match=rf"{name}: not a readable image .*; replace or remove it"):
            load_dataset(tmp_path)


def test_sixteen_bits_are_not_cut_to_eight(tmp_path):
    save(tmp_path / "deep.png", np.full((4, 4), 40_000, np.uint16))
    with pytest.raises(InvalidArgument, match=r"deep\.png: mode I;16 has more than 8 bits"):
        load_dataset(tmp_path)


def test_a_folder_without_images_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(InvalidArgument, match=r"no image \(\.png, \.jpg.* in this folder"):
        load_dataset(tmp_path)


def test_images_beside_class_folders_are_refused(tmp_path):
    save(tmp_path / "loose.png", pixels(0))
    save(tmp_path / "cat" / "a.png", pixels(1))
    with pytest.raises(InvalidArgument, match=r"1 images lie beside the class folders \('cat',\)"):
        load_dataset(tmp_path)
