"""Map-style data sets, Hugging Face's and tar shards: what they hold is what is trained on, keyed by id."""

import gzip
import io
import os
import pickle
import tarfile
import wave
from pathlib import Path

import numpy as np
import plain
import pytest
import torch
from PIL import Image

from viewproof.data import Batches, batches, from_indexed, load_dataset
from viewproof.errors import InvalidArgument

N = 12


def pixels(k: int) -> np.ndarray:
    return np.random.default_rng(k).integers(0, 256, (6, 8, 3), np.uint8)


def png(k: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels(k)).save(file, "PNG")
    return file.getvalue()


def wav(k: int, rate: int = 8000) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(rate)
        tone = np.sin(2 * np.pi * 200 * (k + 1) * np.arange(2000) / rate)
        sound.writeframes((tone * 20_000).astype("<i2").tobytes())
    return file.getvalue()


class Pictures(torch.utils.data.Dataset):
    """As torchvision's: (image, label) and ``targets``."""

    def __init__(self):
        self.targets = [k % 3 for k in range(N)]

    def __len__(self):
        return N

    def __getitem__(self, k):
        return Image.fromarray(pixels(k)), self.targets[k]


def all_pixels(data):
    rows = {}
    for part in ("train", "test"):
        values = data.part(part).values
        for k, row in zip(values.index, values[np.arange(len(values))], strict=True):
            rows[int(k)] = row
    return [rows[k] for k in sorted(rows)]


def assert_these_pictures(data):
    assert all(np.array_equal(row, pixels(k).transpose(2, 0, 1)) for k, row in enumerate(all_pixels(data)))
    for part in (data.train, data.test):
        assert part.labels.tolist() == [int(k) % 3 for k in part.values.index]


def test_a_torchvision_style_data_set_gives_its_images_and_targets():
    data = from_indexed(Pictures(), name="pictures")
    assert (data.sample_shape, data.classes, data.natural) == ((3, 6, 8), 3, True)
    assert_these_pictures(data)


def test_arrays_tensors_and_mappings():
    arrays = [np.full((2, 3), k, np.float32) for k in range(N)]
    for dataset, key in (
        (arrays, None),
        ([torch.from_numpy(a) for a in arrays], None),
        ([(a, 0) for a in arrays], None),
        ([{"x": a, "id": 1} for a in arrays], "x"),
    ):
        data = from_indexed(dataset, key=key)
        assert data.sample_shape == (2, 3) and data.classes is None and not data.natural
        assert [row[0, 0] for row in all_pixels(data)] == list(range(N))


@pytest.mark.parametrize(
    ("dataset", "options", "message"),
    [
        ([], {}, "must have len"),
        (iter([1]), {}, "must have len"),
        ([{"a": 1}], {}, r"samples have the columns \['a'\]; pass key="),
        ([np.ones(2)] * 3, {"size": (2, 2)}, "does not apply to arrays"),
        ([np.ones(2), np.ones(3), np.ones(2)], {}, "all must be"),
        ([np.ones(2), np.full(2, np.nan), np.ones(2)], {}, "NaN or infinite"),
        ([np.ones(2)] * 3, {"labels": [0.5, 1, 2]}, "one integer or string a sample"),
        ([np.ones(2)] * 3, {"labels": [0, 1]}, "do not match 3 samples"),
        ([b"nothing"] * 3, {}, "not a readable image"),
        (None, {}, "must have len"),
        ({1: 2}, {}, r"dataset\[0\] fails"),
        ([{"a": 1, 2: 3}], {}, r"samples have the columns \['2', 'a'\]"),
        ([np.ones(2)] * 3, {"key": "x"}, "key='x' is not in dataset"),
        ([(np.ones(2), 0)] * 3, {"key": 7}, "key=7 is not in dataset"),
        ([np.ones(2)] * 3, {"labels": [[0], [0, 1], [2]]}, "one integer or string a sample"),
        ([np.ones(2)] * 3, {"labels": ["a", "b", "a"], "class_names": [3]}, "labels must be integers"),
        ([np.ones(2)] * 3, {"labels": [0, 1, 0], "class_names": 3}, "class_names=3 must be"),
        ([np.ones(2)] * 3, {"labels": [0, 1, 0], "class_names": "ab"}, "class_names='ab' must be"),
        ([np.ones(2)] * 3, {"kind": "video"}, "kind='video' must be"),
        ([np.ones(2)] * 3, {"kind": "audio"}, "a recording of type ndarray must be a path"),
        ([png(0)] * 3, {"kind": "audio"}, "not a readable recording"),
        ([2] * 3, {"kind": "audio"}, "a recording of type int must be a path"),  # not the file that has this number
        ([2] * 3, {"kind": "image"}, "not a readable image"),
        ([np.ones(2)] * 3, {"test_fraction": None}, "test_fraction=None must"),
        ([np.ones(2)] * 3, {"max_pixels": 0}, "max_pixels=0 must"),
        ([np.ones(2)] * 3, {"size": (None, 2)}, r"size\[0\]=None must"),
        ([np.ones(2)] * 3, {"size": "44"}, "size='44' must be"),
        ([png(0)] * 3, {"size": (2**40, 2**40)}, "more pixels than max_pixels"),
        ([np.ones(2)] * 3, {"statistics": 3}, "statistics=3 must be"),
        ([np.ones(2)] * 3, {"statistics": "ab"}, "mean='a' must be"),
        ([np.ones(2)] * 3, {"statistics": ((None,), (1.0,))}, "mean="),
        ([np.ones(2)] * 3, {"statistics": (3, 4)}, "mean=3 must be"),
    ],
)
def test_what_cannot_be_read_is_refused(dataset, options, message):
    with pytest.raises(plain.InvalidArgument, match=message):
        data = plain.from_indexed(dataset, **options)
        for part in ("train", "test"):
            data.fetch(part, range(len(data.part(part))))


def test_order_and_crops_are_functions_of_seed_epoch_and_id_with_workers_and_resumed():
    data = from_indexed(Pictures())
    loaders = [batches(data, "train", 4, seed=3, min_area=0.3, num_workers=n) for n in (0, 2)]
    for loader in loaders:
        loader.sampler.set_epoch(5)
    (first, second) = ([(x, ids) for x, ids in loader] for loader in loaders)
    assert all(torch.equal(a, b) and torch.equal(i, j) for (a, i), (b, j) in zip(first, second, strict=True))
    loaders[0].load_state_dict({"epoch": 5, "batch": 1})
    resumed = next(iter(loaders[0]))
    assert torch.equal(resumed[0], first[1][0]) and torch.equal(resumed[1], first[1][1])
    x, ids = first[0]
    alone, _ = Batches(data, "train", seed=3, min_area=0.3)[5, ids[2:3]]
    assert torch.equal(alone, x[2:3])
    assert not torch.equal(Batches(data, "train", seed=3, min_area=0.3)[6, ids[2:3]][0], alone)
    assert not torch.equal(Batches(data, "train", seed=4, min_area=0.3)[5, ids[2:3]][0], alone)


# Hugging Face


@pytest.fixture
def hub(tmp_path, monkeypatch):
    hub = pytest.importorskip("datasets")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    hub.disable_progress_bars()
    return hub


def table(hub, image=True, **more):
    columns = {"label": [k % 3 for k in range(N)], **more}
    features = {"label": hub.ClassLabel(names=["a", "b", "c"])}
    if image:
        columns["photo"] = [{"bytes": png(k), "path": None} for k in range(N)]
        features["photo"] = hub.Image()
    for name, values in more.items():
        features[name] = hub.features.features.generate_from_arrow_type(__import__("pyarrow").array(values).type)
    return hub.Dataset.from_dict(columns, features=hub.Features(features))


def test_a_parquet_file(hub, tmp_path):
    table(hub).to_parquet(str(tmp_path / "x.parquet"))
    data = load_dataset(f"hf:{tmp_path}/x.parquet")
    assert (data.class_names, data.sample_shape, data.natural) == (("a", "b", "c"), (3, 6, 8), True)
    assert_these_pictures(data)


def test_a_saved_data_set_with_splits_and_a_saved_one_without(hub, tmp_path):
    whole = table(hub)
    hub.DatasetDict({"train": whole.select(range(8)), "validation": whole.select(range(8, N))}).save_to_disk(
        str(tmp_path / "parts")
    )
    data = load_dataset(f"hf:{tmp_path}/parts")
    assert (len(data.train), len(data.test)) == (8, 4)
    assert np.array_equal(data.test.values[np.array([1])][0], pixels(9).transpose(2, 0, 1))
    assert data.test.labels.tolist() == [2, 0, 1, 2]
    whole.save_to_disk(str(tmp_path / "whole"))
    assert_these_pictures(load_dataset(f"hf:{tmp_path}/whole"))


def test_an_imagefolder(hub, tmp_path):
    for k in range(N):
        path = tmp_path / "pictures" / "train" / "abc"[k % 3] / f"{k:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(k))
    data = load_dataset(f"hf:{tmp_path}/pictures")
    assert (data.class_names, data.sample_shape) == (("a", "b", "c"), (3, 6, 8))


def test_arrays_recordings_and_the_columns_that_are_named(hub, tmp_path):
    series = [[[float(k), 0.5], [1.0, float(k)], [2.0, 2.0]] for k in range(N)]
    whole = table(hub, image=False, series=series, text=[f"t{k % 2}" for k in range(N)])
    whole.save_to_disk(str(tmp_path / "series"))
    data = load_dataset(f"hf:{tmp_path}/series", label_column="text")
    assert data.sample_shape == (3, 2) and data.class_names == ("t0", "t1")
    assert [row[0, 0] for row in all_pixels(data)] == list(range(N))
    encoded = {"bytes": [wav(k) for k in range(N)], "path": [None] * N}
    rows = [{"bytes": content, "path": path} for content, path in zip(*encoded.values(), strict=True)]
    stored = {"audio": {"bytes": hub.Value("binary"), "path": hub.Value("string")}}
    sounds = hub.Dataset.from_dict({"audio": rows}, features=hub.Features(stored)).cast_column("audio", hub.Audio())
    sounds.save_to_disk(str(tmp_path / "sounds"))
    data = load_dataset(f"hf:{tmp_path}/sounds")
    assert data.sample_shape == (1, 64, 32) and data.classes is None and not data.natural


def test_images_that_another_writer_left_as_bytes(hub, tmp_path):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    files = [png(k) for k in range(N)]
    labels = ["abc"[k % 3] for k in range(N)]
    for name, column in (("a", files), ("B", [{"bytes": file, "path": "gone.png"} for file in files])):
        path = tmp_path / f"{name}.parquet".replace("B.parquet", "B.PARQUET")
        parquet.write_table(arrow.table({"label": labels, "photo": column}), path)
        data = load_dataset(f"hf:{path}")
        assert data.class_names == ("a", "b", "c")
        assert_these_pictures(data)


def labelled(hub, labels, kind):
    rows = {"photo": [{"bytes": png(k), "path": None} for k in range(len(labels))], "label": labels}
    return hub.Dataset.from_dict(rows, features=hub.Features({"photo": hub.Image(), "label": kind}))


@pytest.mark.parametrize("labels", [[0.5 * k for k in range(N)], [[k % 3] * (1 + k % 2) for k in range(N)], [None] * N])
def test_a_column_called_label_that_names_no_classes_is_no_label(labels, hub, tmp_path):
    kind = hub.List(hub.Value("int64")) if isinstance(labels[0], list) else hub.Value("float64")
    labelled(hub, labels, hub.Value("int64") if labels[0] is None else kind).to_parquet(str(tmp_path / "x.parquet"))
    assert load_dataset(f"hf:{tmp_path}/x.parquet").classes is None


def test_parts_without_labels_and_labelled_in_part(hub, tmp_path):
    classes = hub.ClassLabel(names=["a", "b", "c"])
    known, withheld = (labelled(hub, labels, classes) for labels in ([k % 3 for k in range(N)], [-1] * 4))
    for name, held_out in (("withheld", {"test": withheld}), ("both", {"test": withheld, "val": known.select([5, 1])})):
        hub.DatasetDict({"train": known, **held_out}).save_to_disk(str(tmp_path / name))
    data = load_dataset(f"hf:{tmp_path}/both")
    assert (len(data.train), data.test.labels.tolist()) == (N, [2, 1])
    assert_these_pictures(load_dataset(f"hf:{tmp_path}/withheld"))  # a share of the training part is held out
    for kind, missing in ((classes, -1), (classes, None), (hub.Value("string"), None)):
        values = [missing, *(("b",) if kind is not classes else (1,)) * 3]
        path = tmp_path / f"{kind.dtype}{missing}.parquet"
        labelled(hub, values, kind).to_parquet(str(path))
        with pytest.raises(InvalidArgument, match="label_column='label': 1 of 4 samples have no label; drop"):
            load_dataset(f"hf:{path}")
        assert load_dataset(f"hf:{path}", label_column="").classes is None


def test_missing_images_are_counted_before_any_is_read(hub, tmp_path):
    photos = [None if k % 5 == 4 else {"bytes": png(k), "path": None} for k in range(600)]
    whole = hub.Dataset.from_dict({"photo": photos}, features=hub.Features({"photo": hub.Image()}))
    whole.to_parquet(str(tmp_path / "x.parquet"))
    with pytest.raises(InvalidArgument, match="'photo': 120 of 600 samples are missing; drop these rows"):
        load_dataset(f"hf:{tmp_path}/x.parquet")


def test_unknown_columns_names_and_kinds_are_one_line(hub, tmp_path):
    table(hub, text=["t"] * N).save_to_disk(str(tmp_path / "x"))
    for options, message in (
        ({"image_column": "picture"}, "image_column='picture' is no column; the columns are label, text, photo"),
        ({"label_column": "class"}, "label_column='class' is no column"),
        ({"image_column": "text"}, "image_column='text' holds .* no images, arrays or recordings"),
        ({"label_column": "photo"}, "label_column='photo' holds Image.*, not one integer, string or boolean a sample"),
    ):
        with pytest.raises(InvalidArgument, match=message) as error:
            load_dataset(f"hf:{tmp_path}/x", **options)
        assert len(str(error.value).splitlines()) == 1
    (tmp_path / "y.csv").write_text("1")
    refused = {
        f"{tmp_path}/y.csv": r"no \.parquet file",
        "./none": "no such file or folder",
        "none/x.parquet": "no such file or folder",
        "none/*": "no such file or folder",
        "": "names no data",
        "https://huggingface.co/datasets/a/b": "is an address; pass hf:NAME",
    }
    for name, message in refused.items():
        with pytest.raises(InvalidArgument, match=message):
            load_dataset(f"hf:{name}")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(InvalidArgument, match="cannot be loaded") as error:
        load_dataset(f"hf:{tmp_path}/bad.parquet")
    assert len(str(error.value).splitlines()) == 1 and "check or copy it again" in str(error.value)
    with pytest.raises(InvalidArgument, match="are of hf: data sets"):
        load_dataset("digits", image_column="x")


# Shards


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def write_shard(path: Path, ks, label=True, suffix="png", encode=png):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for k in ks:
            members = [(suffix, encode(k)), ("json", b"{}")] + ([("cls", str(k % 3).encode())] if label else [])
            for extension, content in members:
                add(archive, f"{k:04}.{extension}", content)


def test_shards_are_read_in_order_by_index(tmp_path):
    pytest.importorskip("braceexpand")
    for n in range(3):
        write_shard(tmp_path / f"part-{n}.tar", range(4 * n, 4 * n + 4))
    for pattern in ("part-{0..2}.tar", "part-*.tar"):
        data = load_dataset(f"wds:{tmp_path}/{pattern}")
        assert (data.sample_shape, data.class_names, len(data.train) + len(data.test)) == (
            (3, 6, 8),
            ("0", "1", "2"),
            N,
        )
        assert_these_pictures(data)
    again = pickle.loads(pickle.dumps(data.train.values))
    assert np.array_equal(again[np.array([1])], data.train.values[np.array([1])])
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"part-{n}.tar" for n in range(3)]


def test_shards_with_a_part_of_their_own_and_without_labels(tmp_path):
    pytest.importorskip("braceexpand")
    write_shard(tmp_path / "train" / "a.tar", range(8), label=False)
    write_shard(tmp_path / "val" / "a.tar", range(8, N), label=False)
    data = load_dataset(f"wds:{tmp_path}/{{train,val}}/a.tar")
    assert (len(data.train), len(data.test), data.classes) == (8, 4, None)
    write_shard(tmp_path / "sounds.tar", range(4), suffix="wav", encode=wav)
    assert load_dataset(f"wds:{tmp_path}/sounds.tar").sample_shape == (1, 64, 32)


def test_missing_and_damaged_shards_are_one_line(tmp_path):
    pytest.importorskip("braceexpand")
    write_shard(tmp_path / "a.tar", range(4))
    content = (tmp_path / "a.tar").read_bytes()
    (tmp_path / "b.tar").write_bytes(content[:700])
    (tmp_path / "c.tar").write_bytes(b"no tar at all" * 100)
    (tmp_path / "d.tar").write_bytes(b"")
    with tarfile.open(tmp_path / "a.tar") as archive:
        third = archive.getmembers()[6].offset  # after two whole samples of four, of three members each
    (tmp_path / "e.tar").write_bytes(content[:third])
    (tmp_path / "g.tar").write_bytes(content[:third] + b"x" + content[third + 1 :])
    (tmp_path / "h.tar").write_bytes(content[: third + 100])
    (tmp_path / "f.tar").write_bytes(gzip.compress(content))
    (tmp_path / "folder").mkdir()
    for pattern, message in (
        ("x-{0..3}.tar", r"no shard .*x-0\.tar"),
        ("x-*.tar", "no such shard"),
        ("{a,c}.tar", r"c\.tar: not a whole tar shard"),
        ("d.tar", r"d\.tar: not a whole tar shard"),
        ("b.tar", r"b\.tar: not a whole tar shard"),
        ("e.tar", r"e\.tar: lacks the empty block that ends a tar file: it is cut, or was not closed; .* truncate"),
        ("g.tar", rf"g\.tar: not a whole tar shard, byte {third} starts no file"),
        ("h.tar", rf"h\.tar: not a whole tar shard, byte {third} starts no file"),
        ("f.tar", r"f\.tar: is compressed .*; decompress it"),
        ("folder", r"folder is a folder; pass 'wds:.*folder/\*\.tar'"),
    ):
        with pytest.raises(InvalidArgument, match=message) as error:
            load_dataset(f"wds:{tmp_path}/{pattern}")
        assert len(str(error.value).splitlines()) == 1
    with pytest.raises(InvalidArgument, match="wds: names no shards"):
        load_dataset("wds:")
    with pytest.raises(InvalidArgument, match="is an address; download the shards"):
        load_dataset("wds:https://example.org/a.tar")


def test_a_shard_without_the_block_at_its_end_is_read_once_it_has_one(tmp_path):
    pytest.importorskip("braceexpand")
    write_shard(tmp_path / "a.tar", range(6))
    with tarfile.open(tmp_path / "a.tar") as archive:
        last = archive.getmembers()[-1]
    os.truncate(tmp_path / "a.tar", last.offset_data + 512)
    with pytest.raises(InvalidArgument, match=r"truncate -s \+1024"):
        load_dataset(f"wds:{tmp_path}/a.tar")
    os.truncate(tmp_path / "a.tar", last.offset_data + 512 + 1024)
    assert len(load_dataset(f"wds:{tmp_path}/a.tar").train) == 5


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
@pytest.mark.parametrize("folder", ["a" * 60 + "/" + "b" * 60, "\u00e9" * 20], ids=["long", "accents"])
def test_names_of_members_are_read_whole(tmp_path, form, folder):
    pytest.importorskip("braceexpand")
    with tarfile.open(tmp_path / "a.tar", "w", format=form) as archive:
        for k, name in enumerate(("\u00e9", "\u00ea", "e", "f")):
            add(archive, f"{folder}/{name}.png", png(k))
            add(archive, f"{folder}/{name}.cls", str(k).encode())
        add(archive, "._f.png", b"a hidden file of another system")
        add(archive, "README", b"no sample")
    data = load_dataset(f"wds:{tmp_path}/[a].tar", test_fraction=0.25)
    assert (len(data.train), len(data.test), data.classes) == (3, 1, 4)


def test_samples_of_one_name_are_all_read_and_links_are_refused(tmp_path):
    pytest.importorskip("braceexpand")
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for k in range(4):
            add(archive, "x.png", png(k))
            add(archive, "x.cls", str(k % 2).encode())
    assert len(load_dataset(f"wds:{tmp_path}/a.tar").train) == 3
    with tarfile.open(tmp_path / "a.tar", "a") as archive:
        link = tarfile.TarInfo("y.png")
        link.type, link.linkname = tarfile.SYMTYPE, "x.png"
        archive.addfile(link)
    with pytest.raises(InvalidArgument, match=r"'y\.png' is no whole file but a link .* --dereference"):
        load_dataset(f"wds:{tmp_path}/a.tar")


def test_texts_of_shards_are_labels_or_captions(tmp_path):
    pytest.importorskip("braceexpand")
    for texts, names in (
        (["dog", "cat"] * 3, ("cat", "dog")),
        ([f"a picture of {k}" for k in range(6)], None),
        (["²", "1"] * 3, ("1", "²")),
    ):
        with tarfile.open(tmp_path / "a.tar", "w") as archive:
            for k, text in enumerate(texts):
                add(archive, f"{k}.png", png(k))
                add(archive, f"{k}.txt", text.encode())
        assert load_dataset(f"wds:{tmp_path}/[a].tar").class_names == names
    with tarfile.open(tmp_path / "b.tar", "w") as archive:
        add(archive, "0.png", png(0))
        add(archive, "0.txt", b"\xe9")
    with pytest.raises(InvalidArgument, match="a label is not UTF-8"):
        load_dataset(f"wds:{tmp_path}/b.tar")


def test_samples_of_several_dtypes_are_not_rounded(tmp_path):
    first, second = np.zeros(2, np.uint8), np.full(2, 0.7, np.float32)
    data = from_indexed([first] * 4, [second] * 4, statistics=((0.0,), (1.0,)))
    with pytest.raises(InvalidArgument, match="sample 0 has dtype float32 where another has uint8"):
        data.fetch("test", [0])


def test_tensors_of_a_network_and_of_16_bits_are_taken_and_lists_are_refused():
    for tensor in (torch.ones(3, requires_grad=True), torch.ones(3, dtype=torch.bfloat16)):
        assert from_indexed([tensor] * 3).train.values[np.array([0])].tolist() == [[1, 1, 1]]
    with pytest.raises(InvalidArgument, match=r"sample [0-2] of type list is no array .*; pass key="):
        from_indexed([[np.ones((2, 2)), 1]] * 3)


@pytest.mark.parametrize(("name", "package"), [("hf:x", "datasets"), ("wds:x.tar", "braceexpand")])
def test_a_missing_package_names_the_data_extra(name, package, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, package, None)
    with pytest.raises(InvalidArgument, match=rf"needs {package}; pip install 'viewproof\[data\]'"):
        load_dataset(name)
