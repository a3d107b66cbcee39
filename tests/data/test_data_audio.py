"""Recordings as log-mel spectrograms with stated parameters."""

import numpy as np
import pytest
from PIL import Image

from viewproof.data import load_dataset
from viewproof.data.audio import FLOOR, LogMel
from viewproof.errors import InvalidArgument
from viewproof.runs.config import PretrainConfig
from viewproof.runs.folder import prepare

sound = pytest.importorskip("soundfile")


def tone(frequency: float, samples: int = 4000, rate: int = 8000) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * frequency * np.arange(samples) / rate)


def folder(path, count=6, rate=8000):
    for k in range(count):
        (path / str(k % 2)).mkdir(parents=True, exist_ok=True)
        sound.write(path / str(k % 2) / f"{k}.{'flac' if k % 3 else 'wav'}", tone(300 * (k + 1)), rate)
    return path


def test_a_folder_of_wav_and_flac_with_classes(tmp_path):
    data = load_dataset(folder(tmp_path))
    assert (data.sample_shape, data.class_names, data.natural) == ((1, 64, 64), ("0", "1"), False)
    assert load_dataset(tmp_path, size=(32, 48)).sample_shape == (1, 32, 48)
    assert data.fetch("train", [0]).isfinite().all()


def test_a_tone_lies_in_its_filter_and_power_is_full_scale_at_one():
    mel = LogMel(8000, frames=20, mels=40)
    centres = 700 * (10 ** (np.linspace(0, 2595 * np.log10(1 + 4000 / 700), 42)[1:-1] / 2595) - 1)
    for frequency in (250, 1000, 3000):
        found = mel(tone(frequency))[:, 10]
        assert abs(centres[found.argmax()] - frequency) < np.diff(centres).max()
    quiet, loud = mel(tone(1000) / 100), mel(tone(1000))
    assert (loud - quiet)[:, 10].max() == pytest.approx(np.log(10_000), abs=1e-3)
    assert np.allclose(mel(np.zeros(4000)), np.log(FLOOR))
    assert np.allclose(mel.filters.sum(1), 1) and (mel.filters >= 0).all()


def test_short_and_long_recordings_are_centred():
    mel = LogMel(8000, frames=20)
    short, long = mel(tone(1000, 400)), mel(np.concatenate([np.zeros(4000), tone(1000, 800), np.zeros(4000)]))
    for spectrogram in (short, long):
        assert spectrogram.shape == (64, 20)
        loud = np.flatnonzero(spectrogram.max(0) > -8)
        assert abs(loud.mean() - 9.5) <= 1


def test_bad_recordings_are_one_line(tmp_path):
    folder(tmp_path)
    sound.write(tmp_path / "1" / "z.wav", tone(100), 16_000)
    with pytest.raises(InvalidArgument, match="sampling rates 8000 and 16000 Hz in one folder; convert to one"):
        load_dataset(tmp_path)
    (tmp_path / "1" / "z.wav").write_bytes(b"RIFF")
    with pytest.raises(InvalidArgument, match=r"1 of 7 files cannot be read: .*z\.wav: not a readable recording"):
        load_dataset(tmp_path)
    assert len(load_dataset(tmp_path, skip_unreadable=True).skipped) == 1
    sound.write(tmp_path / "1" / "z.wav", np.zeros(0), 8000)
    with pytest.raises(InvalidArgument, match="a recording of no samples"):
        load_dataset(tmp_path)
    sound.write(tmp_path / "1" / "z.wav", np.full(100, np.nan), 8000, subtype="FLOAT")
    with pytest.raises(InvalidArgument, match=r"z\.wav: a recording with NaN or infinite samples"):
        data = load_dataset(tmp_path)
        for part in ("train", "test"):
            data.fetch(part, range(len(data.part(part))))


def test_two_views_of_recordings_are_moved_and_never_mirrored(tmp_path):
    folder(tmp_path / "sounds", count=24)

    def chosen(**values):
        config = PretrainConfig(str(tmp_path / "sounds"), batch_size=4, depth=1, **values)
        return prepare(config, tmp_path).config.method

    method = chosen(method="vicreg")
    assert (method.augment, method.flip) == ("Affine(0, 0.1, 0.1), ColourJitter(0.3)", False)
    assert chosen(method="vicreg", min_area=0.5).augment == "none" and chosen().augment == "none"


def test_recordings_of_other_formats_are_listed(tmp_path):
    (folder(tmp_path) / "0" / "x.mp3").write_bytes(b"not looked at")
    assert load_dataset(tmp_path).skipped == ("0/x.mp3: of a format that is not read",)


def test_a_cover_beside_recordings_does_not_make_them_images(tmp_path):
    folder(tmp_path)
    Image.new("RGB", (8, 8)).save(tmp_path / "0" / "cover.png")
    data = load_dataset(tmp_path)
    assert len(data.train) + len(data.test) == 6 and data.sample_shape[0] == 1
    assert data.skipped == ("0/cover.png: an image, and most are not",)


def test_a_folder_of_shards_or_tables_says_how_it_is_read(tmp_path):
    for kind, name in (("wds", "a.tar"), ("hf", "a.parquet")):
        (tmp_path / name).write_bytes(b"")
        with pytest.raises(InvalidArgument, match=f"no image .* in this folder; pass '{kind}:"):
            load_dataset(tmp_path)
        with pytest.raises(InvalidArgument, match=f"is read under another name; pass '{kind}:.*{name}'"):
            load_dataset(tmp_path / name)
