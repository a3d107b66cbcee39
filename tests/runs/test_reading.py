"""The data of a run are read by a copy of the process, and are what the process itself would have read."""

import os
import sys
import time
from collections.abc import Callable
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from viewproof.data import Dataset, load_dataset
from viewproof.errors import InvalidArgument
from viewproof.runs import reading as module
from viewproof.runs.config import PretrainConfig
from viewproof.runs.reading import reading

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="copies are forked")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for k in range(12):
        path = tmp_path / "pictures" / "ab"[k % 2] / f"{k}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(path)
    return tmp_path / "pictures"


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Lightning counts as not imported yet; each data set that this process reads itself is noted."""
    monkeypatch.delitem(sys.modules, module.SLOW, raising=False)
    noted, here = list[str](), os.getpid()

    def load(**arguments: Any) -> Dataset:
        if os.getpid() == here:
            noted.append(arguments["name_or_path"])
        return load_dataset(**arguments)

    monkeypatch.setattr(module, "load_dataset", load)
    return noted


def test_a_copy_reads_what_the_process_would(pictures: Path, calls: list[str]) -> None:
    config, plain = PretrainConfig(str(pictures), size="4,4"), load_dataset(pictures, size=(4, 4))
    with reading(config) as data:
        found = data(config)
    assert (found.name, found.class_names) == (plain.name, ("a", "b"))
    assert found.mean.equal(plain.mean) and found.std.equal(plain.std) and found.natural == plain.natural
    index = np.arange(len(plain.train))
    assert np.array_equal(found.train.values[index], plain.train.values[index])
    assert np.array_equal(found.train.labels, plain.train.labels)  # type: ignore[arg-type]
    assert not calls and not active_children()


def test_what_the_copy_raises_is_raised_when_the_data_are_asked_for(pictures: Path, calls: list[str]) -> None:
    (pictures / "a" / "0.png").write_bytes(b"")
    config = PretrainConfig(str(pictures))
    with reading(config) as data, pytest.raises(InvalidArgument, match="1 of 12 files cannot be read"):
        data(config)
    assert not calls


def other(config: PretrainConfig, data: Callable[[PretrainConfig], Dataset]) -> Dataset:
    return data(PretrainConfig(config.data, size="4,4"))


def killed(config: PretrainConfig, data: Callable[[PretrainConfig], Dataset]) -> Dataset:
    (copy,) = active_children()
    copy.kill()
    copy.join()
    return data(config)


@pytest.mark.parametrize("ask", [other, killed])
def test_what_the_copy_does_not_give_the_process_reads(
    ask: Callable[..., Dataset], pictures: Path, calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, load = PretrainConfig(str(pictures)), module.load_dataset

    def slowly(**arguments: Any) -> Dataset:
        found = load(**arguments)
        if not calls:  # in the copy, which is killed meanwhile
            time.sleep(60)
        return found

    monkeypatch.setattr(module, "load_dataset", slowly)
    with reading(config) as data:
        found = ask(config, data)
    assert found.sample_shape == ((3, 4, 4) if ask is other else (3, 8, 8))
    assert calls == [str(pictures)] and not active_children()


def test_no_copy_is_made_of_a_process_that_has_imported_all(pictures: Path, calls: list[str]) -> None:
    import viewproof.training.trainer  # noqa: F401

    config = PretrainConfig(str(pictures))
    with reading(config) as data:
        assert not active_children()
        data(config)
    assert calls == [str(pictures)]
