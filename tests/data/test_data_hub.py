"""Data sets of the hub: a server on this machine answers as it does, and one that is gone is one line."""

import json
import subprocess
import sys
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from local_hub import COMMIT, Hub
from PIL import Image

NAME = "someone/thing"
CARD = """---
configs:
- config_name: small
  data_files: [{split: train, path: small/train.parquet}, {split: test, path: small/test.parquet},
    {split: validation, path: small/validation.parquet}]
- config_name: large
  data_files: large/*.parquet
---
"""
CHILD = """
import sys, time
from urllib.request import urlopen
from viewproof.cli import main

small = "--size 16 --patch-size 8 --dim 16 --depth 1 --heads 2 --decoder-dim 8 --decoder-depth 1 --decoder-heads 2"
train = ["pretrain", "--steps", "2", "--batch-size", "4", *small.split()]
time.sleep = lambda seconds: None  # the hub's client waits for 23 seconds between its tries
for name in ("thing/small@" + sys.argv[2], "thing/large@none", "other", "thing/none"):
    print(main([*train, "hf:someone/" + name, "--out", name.partition("@")[0].replace("/", "-")]), file=sys.stderr)
urlopen(sys.argv[1] + "/close").close()
print(main(["evaluate", "thing-small"]), file=sys.stderr)  # from the cache
print(main([*train, "hf:someone/new", "--out", "new"]), file=sys.stderr)
"""


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    library = pytest.importorskip("datasets")
    rng = np.random.default_rng(0)

    def rows(count: int, labelled: bool = True) -> object:
        images = []
        for k in range(count):
            buffer = BytesIO()
            Image.fromarray(rng.integers(0, 256, (20 + k, 24, 3), np.uint8)).save(buffer, "PNG")
            images.append({"bytes": buffer.getvalue(), "path": None})
        labels = [k % 2 if labelled else -1 for k in range(count)]
        features = library.Features({"image": library.Image(), "label": library.ClassLabel(names=["cat", "dog"])})
        return library.Dataset.from_dict({"image": images, "label": labels}, features=features)

    folder = tmp_path / "served"
    for place in ("small", "large"):
        (folder / place).mkdir(parents=True)
    (folder / "README.md").write_text(CARD)
    rows(20).to_parquet(str(folder / "small/train.parquet"))  # type: ignore[attr-defined]
    rows(5).to_parquet(str(folder / "small/validation.parquet"))  # type: ignore[attr-defined]
    rows(7, labelled=False).to_parquet(str(folder / "small/test.parquet"))  # type: ignore[attr-defined]
    rows(9).to_parquet(str(folder / "large/all.parquet"))  # type: ignore[attr-defined]
    with Hub("datasets", NAME, folder).running() as server:
        yield server


def test_a_run_on_data_of_a_hub_that_then_is_gone(hub: Hub, tmp_path: Path) -> None:
    environment = hub.environment(tmp_path / "cache") | {"HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
    command = [sys.executable, "-c", CHILD, hub.endpoint, COMMIT]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    # The unlabelled test part is passed over; its labels are withheld.
    assert (
        f"hf:someone/thing/small@{COMMIT}: 20 training and 5 held-out samples of (3, 16, 16) in 2 classes"
        in done.stdout
    ), done.stderr
    complaints = [line for line in done.stderr.splitlines() if "step/s" not in line]
    assert [line for line in complaints if len(line) == 1] == ["0", "2", "2", "2", "0", "2"], done.stderr
    revision, other, no_config, new = (line for line in complaints if len(line) > 1)
    assert revision.startswith("viewproof: hf:someone/thing/large@none cannot be loaded ("), revision
    assert other.startswith("viewproof: hf:someone/other cannot be loaded (DatasetNotFoundError")
    assert "'none' not found. Available: ['small', 'large']" in no_config
    assert new.startswith("viewproof: hf:someone/new cannot be loaded (") and "check the name and the network" in new
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "served", "thing-small"]
    got = {request for request in hub.asked if request.startswith("GET") and request.endswith(".parquet")}
    assert {request.rpartition("/")[2] for request in got} == {"train.parquet", "test.parquet", "validation.parquet"}
    assert json.loads((tmp_path / "thing-small" / "config.json").read_text())["data"] == (
        f"hf:someone/thing/small@{COMMIT}"
    )
