"""Two ranks that are killed and resumed are two that ran through, whatever the method, strategy and optimizer."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import resumed_ranks
from sklearn.datasets import load_digits
from test_layouts import environment, free_ports
from test_resume import checkpoint, metrics, same

# 3 steps an epoch: the checkpoint of step 2 is amid the first, the run ends in the second.
SMALL = "--steps 4 --checkpoint-every 2 --batch-size 16 --dim 16 --depth 1 --heads 2 --projector-dim 12 --threads 1"
SMALL += " --accelerator cpu --devices 2 --logger csv"
METHODS = {
    "dino": "digits.npy --method dino --prototypes 12 --local-views 1",
    "lejepa": "digits.npy --method lejepa --local-views 1",
    "data2vec": "digits.npy --method data2vec --momentum 0.9",
    "mlm": "text.txt --method mlm",
}
LAYOUTS = {"fsdp": "--strategy fsdp", "ddp, muon, average": "--optimizer muon --ema 0.9"}
CASES = [*((method, "fsdp") for method in METHODS), *((method, "ddp, muon, average") for method in ("dino", "mlm"))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Each case's run, and the copy that was resumed from its checkpoint of step 2."""
    folder = tmp_path_factory.mktemp("resumed_ranks")
    np.save(folder / "digits.npy", load_digits().images[:60, None].astype(np.float32))
    (folder / "text.txt").write_text("The quick brown fox jumps over the lazy dog. " * 180)
    ports, jobs = free_ports(2 * len(CASES)), []
    for number, (method, layout) in enumerate(CASES):
        data, *words = METHODS[method].split()
        words = ["pretrain", str(folder / data), *words, *SMALL.split(), *LAYOUTS[layout].split()]
        jobs.append((words, ports[2 * number : 2 * number + 2], str(folder / f"{method} {layout}")))
    started = [sys.executable, resumed_ranks.__file__, json.dumps(jobs)]
    done = subprocess.run(started, env=environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize(("method", "layout"), CASES)
def test_two_resumed_ranks_are_two_that_ran_through(method: str, layout: str, folder: Path) -> None:
    """Weights, teacher, centres, average, optimizer, schedule, and every row of metrics.csv but the speed."""
    straight, resumed = folder / f"{method} {layout}", folder / f"{method} {layout}-resumed"
    ours, theirs = checkpoint(resumed), checkpoint(straight)
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "global_step", "epoch"):
        assert same(ours[part], theirs[part]), part
    assert metrics(resumed) == metrics(straight)
    names = theirs["state_dict"]
    assert theirs["global_step"] == 4 and any(name.startswith("average.") for name in names) == ("average" in layout)
    assert method != "dino" or (names["class_centre"].any() and names["patch_centre"].any())
    assert (resumed / "model.safetensors").read_bytes() == (straight / "model.safetensors").read_bytes()
