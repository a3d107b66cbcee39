import pickle

import numpy as np
import pytest
from PIL import Image, ImageOps

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
    assert load_dataset(tmp_path).sample_shape == (3, 224, 224)
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
    save(tmp_path / "flat.png", np.full((4, 4), 200, np.uint8))
    data = load_dataset(tmp_path, test_fraction=0.5)
    assert data.sample_shape == (1, 4, 4) and data.train.values.dtype == np.uint16
    assert sorted(part[0, 0, 0, 0] for part in values(data).values()) == [40_000, 200 * 257]
    save(tmp_path / "colour.png", pixels(0, (4, 4, 3)))
    found = np.concatenate(list(values(load_dataset(tmp_path)).values()))
    assert found.shape == (3, 3, 4, 4) and (found == 40_000).all((1, 2, 3)).any()


def test_every_mode_becomes_what_it_shows(tmp_path):
    red = Image.new("RGB", (8, 6), (200, 30, 40))
    for mode in ("RGB", "RGBA", "P", "CMYK", "L", "1", "LA", "YCbCr"):
        red.convert(mode).save(tmp_path / f"{mode}.{'tif' if mode in ('CMYK', 'YCbCr') else 'png'}")
    data = load_dataset(tmp_path, test_fraction=0.5)
    order = sorted(path.stem for path in tmp_path.iterdir())
    found = dict(zip(order, in_path_order(data), strict=True))
    for mode in ("RGBA", "P", "YCbCr"):
        assert np.abs(found[mode][:, 0, 0].astype(int) - (200, 30, 40)).max() <= (26 if mode == "P" else 2), mode
    assert (found["L"] == found["LA"]).all() and (found["L"][0] == found["L"][2]).all()


def in_path_order(data):
    rows = [
        (k, row)
        for part in ("train", "test")
        for k, row in zip(data.part(part).values.index, values(data)[part], strict=True)
    ]
    return [row for _, row in sorted(rows, key=lambda pair: pair[0])]


def test_transparency_is_shown_on_white(tmp_path):
    clear = Image.new("RGBA", (4, 4), (10, 20, 30, 0))
    clear.putpixel((0, 0), (10, 20, 30, 255))
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    for name, image, how in (("a", clear, {}), ("b", palette, {"transparency": 1})):
        image.save(tmp_path / f"{name}.png", **how)
    a, b = in_path_order(load_dataset(tmp_path))
    assert a[:, 0, 0].tolist() == [10, 20, 30] and (a[:, 1:] == 255).all() and (b == 255).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation, tmp_path):
    exif = Image.Exif()
    exif[274] = orientation
    block = np.kron(np.array([[0, 80, 160], [200, 220, 250]], np.uint8), np.ones((16, 16), np.uint8))
    for name in "ab":
        Image.fromarray(block).save(tmp_path / f"{name}.jpg", exif=exif, quality=100)
    data = load_dataset(tmp_path)
    with Image.open(tmp_path / "a.jpg") as image:
        upright = np.asarray(ImageOps.exif_transpose(image))
    assert data.sample_shape == (1, *upright.shape) == ((1, 48, 32) if orientation > 4 else (1, 32, 48))
    assert np.array_equal(in_path_order(data)[0][0], upright)
    # Decoded at a quarter of its size, and turned, a corner is the same corner.
    small = load_dataset(tmp_path, size=tuple(extent // 16 for extent in upright.shape))
    assert np.abs(in_path_order(small)[0][0].astype(int) - upright[8::16, 8::16]).max() < 30


def test_val_is_a_test_part_unless_there_is_one(tmp_path):
    for part, count in (("train", 4), ("val", 3)):
        for seed in range(count):
            save(tmp_path / part / "cat" / f"{seed}.png", pixels(seed))
    assert [len(load_dataset(tmp_path).part(part)) for part in ("train", "test")] == [4, 3]
    save(tmp_path / "test" / "cat" / "x.png", pixels(7))
    assert [len(load_dataset(tmp_path).part(part)) for part in ("train", "test")] == [4, 1]


def test_a_test_part_alone_is_no_class(tmp_path):
    for seed in range(4):
        save(tmp_path / "test" / f"class{seed % 2}" / f"{seed}.png", pixels(seed))
    with pytest.raises(InvalidArgument, match=r"'test' is a test part, and no training part 'train' lies beside it"):
        load_dataset(tmp_path)
    assert load_dataset(tmp_path / "test").class_names == ("class0", "class1")
    for seed in range(4):
        save(tmp_path / "animals" / f"{seed}.png", pixels(seed))
    assert load_dataset(tmp_path).class_names == ("animals", "test")


def test_unlabelled_parts(tmp_path):
    for part in ("train", "test"):
        for seed in range(2):
            save(tmp_path / part / f"{seed}.png", pixels(seed))
    data = load_dataset(tmp_path)
    assert data.classes is None and len(data.test) == 2


def test_unreadable_files_are_counted_three_are_named_or_all_are_skipped(tmp_path):
    for seed in range(6):
        save(tmp_path / f"{seed}.png", pixels(seed))
    for name in "wxyz":
        (tmp_path / f"{name}.jpg").write_bytes(b"" if name == "w" else b"no image")
    with pytest.raises(InvalidArgument) as error:
        load_dataset(tmp_path)
    assert "4 of 10 files cannot be read" in str(error.value) and str(error.value).count("not a readable image") == 3
    data = load_dataset(tmp_path, skip_unreadable=True)
    assert len(data.train) + len(data.test) == 6 and len(data.skipped) == 4
    for path in tmp_path.glob("*.png"):
        path.unlink()
    with pytest.raises(InvalidArgument, match="4 of 4 files cannot be read"):
        load_dataset(tmp_path, skip_unreadable=True)


def test_no_undeclared_format_is_decoded(tmp_path, monkeypatch):
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n"
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(postscript)
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *a, **k: pytest.fail("Ghostscript was started"))
    with pytest.raises(InvalidArgument, match=r"a\.png: not a readable image \(of none of the formats JPEG, PNG, BMP"):
        load_dataset(tmp_path)


def test_a_decompression_bomb_is_refused_before_it_is_decoded(tmp_path):
    for name in "ab":
        Image.new("1", (12_000, 12_000)).save(tmp_path / f"{name}.png")
    with pytest.raises(
        InvalidArgument, match=r"a\.png: 12000 x 12000 pixels are more than max_pixels=67108864"
    ) as error:
        load_dataset(tmp_path)
    assert len(str(error.value).splitlines()) == 1
    with pytest.raises(InvalidArgument, match="max_pixels=1000000000 must be at most 178956970"):
        load_dataset(tmp_path, max_pixels=10**9)
    small = tmp_path / "small"
    save(small / "a.png", pixels(0))
    save(small / "b.png", pixels(1))
    with pytest.raises(InvalidArgument, match="8 x 6 pixels are more than max_pixels=10"):
        load_dataset(small, max_pixels=10)


def test_given_statistics_are_in_units_of_full_scale(tmp_path):
    for seed in range(4):
        save(tmp_path / f"{seed}.png", pixels(seed))
    data = load_dataset(tmp_path, mean=(0.5, 0.4, 0.3), std=(0.2,))
    assert data.mean.flatten().tolist() == pytest.approx([127.5, 102, 76.5]) and data.mean.shape == (3, 1, 1)
    assert data.std.flatten().tolist() == pytest.approx([51.0] * 3)
    for mean, message in (((0.1, 0.2), "must be 1 finite number or 3"), ((float("nan"),), "must be 1 finite")):
        with pytest.raises(InvalidArgument, match=message):
            load_dataset(tmp_path, mean=mean, std=(1.0,))
    with pytest.raises(InvalidArgument, match=r"std=\(0\.0,\) must be positive"):
        load_dataset(tmp_path, mean=(0.0,), std=(0.0,))
    with pytest.raises(InvalidArgument, match="pass both mean and std, or neither"):
        load_dataset(tmp_path, mean=(0.0,))


def test_crops_show_the_region_that_is_drawn(tmp_path):
    ramp = np.broadcast_to(np.arange(240, dtype=np.uint8)[None, :], (120, 240))
    for name in "ab":
        save(tmp_path / f"{name}.png", ramp)
    data = load_dataset(tmp_path, size=(32, 32))
    draws = np.full((2, 16), 0.5)
    draws[:, :4] = [[0.5, 0.5, 0.5, 0.999], [0.0, 0.5, 0.5, 0.001]]
    right, left = data.train.values.crops(np.array([0, 0]), draws, 0.25)[:, 0].astype(float)
    # Shares of the width: sqrt(0.625 * 0.5) = 0.56 at the right end, sqrt(0.25 * 0.5) = 0.35 at the left.
    assert right[16].min() == pytest.approx(107, abs=4) and right[16].max() == pytest.approx(239, abs=3)
    assert left[16].min() <= 3 and left[16].max() == pytest.approx(83, abs=3)
    assert not np.array_equal(right, values(data)["train"][0, 0])
    mirrored = data.train.values.crops(np.array([0, 0]), draws, 0.25, 0.6)
    assert np.array_equal(mirrored[:, :, :, ::-1], data.train.values.crops(np.array([0, 0]), draws, 0.25, 0.4))


def test_a_folder_without_images_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(InvalidArgument, match=r"no image \(\.png, \.jpg.* in this folder"):
        load_dataset(tmp_path)


def test_images_beside_class_folders_are_refused(tmp_path):
    save(tmp_path / "loose.png", pixels(0))
    save(tmp_path / "cat" / "a.png", pixels(1))
    with pytest.raises(InvalidArgument, match=r"1 images lie beside the class folders \('cat',\)"):
        load_dataset(tmp_path)


def test_links_are_followed_and_dead_ones_are_unreadable(tmp_path):
    for k in range(4):
        save(tmp_path / "elsewhere" / f"{k}.png", pixels(k))
    (tmp_path / "own" / "cat").mkdir(parents=True)
    (tmp_path / "own" / "dog").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "own" / "cat" / "linked.png").symlink_to(tmp_path / "elsewhere" / "1.png")
    (tmp_path / "own" / "cat" / "round").symlink_to(tmp_path / "own")
    data = load_dataset(tmp_path / "own")
    assert (len(data.train) + len(data.test), data.class_names) == (5, ("cat", "dog"))
    (tmp_path / "own" / "cat" / "dead.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(InvalidArgument, match=r"1 of 6 files cannot be read: .*dead\.png"):
        load_dataset(tmp_path / "own")
    assert load_dataset(tmp_path / "own", skip_unreadable=True).skipped[0].startswith("cat/dead.png")


@pytest.mark.parametrize(
    ("folders", "sizes"),
    [
        ({"Train/a": 3, "Train/b": 3, "Test/a": 2, "Test/b": 2}, (6, 4)),
        ({"training/a": 3, "training/b": 3, "dev/a": 1, "dev/b": 1}, (6, 2)),
        ({"train/a": 5, "train/b": 5}, (9, 1)),
        ({"train/a": 5, "train/b": 5, "test": 4}, (9, 1)),  # the test images have no labels, the training images do
        ({"train/a": 5, "train/b": 5, "test": 4, "val/a": 3}, (10, 3)),
    ],
)
def test_parts_by_other_names_and_without_labels(folders, sizes, tmp_path):
    for name, count in folders.items():
        for k in range(count):
            save(tmp_path / name / f"{k}.png", pixels(k))
    data = load_dataset(tmp_path)
    assert (len(data.train), len(data.test)) == sizes and data.class_names == ("a", "b")


def test_train_may_be_a_class_among_others(tmp_path):
    for name in ("train", "bus", "car"):
        save(tmp_path / name / "x.png", pixels(0))
    assert load_dataset(tmp_path).class_names == ("bus", "car", "train")


@pytest.mark.parametrize(("beside", "named"), [("docs/x.png", "'docs'"), ("x.png", "a file")])
def test_images_beside_parts_are_refused(beside, named, tmp_path):
    for path in ("train/0.png", "train/1.png", "val/0.png", beside):
        save(tmp_path / path, pixels(0))
    with pytest.raises(InvalidArgument, match=f"{named} lies beside the parts 'train' and 'val'; move it elsewhere"):
        load_dataset(tmp_path)


def test_images_of_other_formats_are_listed(tmp_path):
    for k in range(3):
        save(tmp_path / "a" / f"{k}.png", pixels(k))
    (tmp_path / "a" / "x.HEIC").write_bytes(b"not looked at")
    assert load_dataset(tmp_path).skipped == ("a/x.HEIC: of a format that is not read",)
