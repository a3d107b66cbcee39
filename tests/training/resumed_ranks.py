"""Two forked processes run every case, keep the run folder as a kill would leave it, and resume that copy."""

import json
import os
import shutil
import signal
import sys
from typing import Any

import pytorch_lightning as pl
import torch
from two_ranks import every_step

from viewproof.cli import main
from viewproof.runs import train
from viewproof.training.callbacks import MetricsFile


def copied_after(step: int, row: Any) -> Any:
    """After the row of this step, which is after the last checkpoint, the first rank copies the folder, once."""

    def on_train_batch_end(self: MetricsFile, trainer: pl.Trainer, *arguments: Any) -> None:
        row(self, trainer, *arguments)
        run = self.path.parent
        copy = run.with_name(f"{run.name}-resumed")
        if trainer.is_global_zero and trainer.global_step == step and not copy.exists() and "-resumed" not in run.name:
            shutil.copytree(run, copy)

    return on_train_batch_end


def rank(number: int, jobs: list[tuple[list[str], list[int], str]]) -> None:
    MetricsFile.on_train_start = every_step(MetricsFile.on_train_start)  # type: ignore[method-assign]
    MetricsFile.on_train_batch_end = copied_after(3, MetricsFile.on_train_batch_end)  # type: ignore[method-assign]
    train.finish = lambda run, say: 0
    os.environ.update(LOCAL_RANK=str(number), NODE_RANK="0", WORLD_SIZE="2", MASTER_ADDR="127.0.0.1")
    for words, ports, out in jobs:
        for given, port in zip(
            ([*words, "--out", out], ["pretrain", "--resume", f"{out}-resumed"]), ports, strict=True
        ):
            os.environ["MASTER_PORT"] = str(port)
            assert main(given) == 0, given


if __name__ == "__main__":
    torch.set_num_threads(1)
    children = []
    for number in range(2):
        children.append(os.fork())
        if children[-1] == 0:
            rank(number, json.loads(sys.argv[1]))
            os._exit(0)
    # One that fails leaves the other waiting for it.
    ended, status = os.wait()
    (other,) = {*children} - {ended}
    if status:
        os.kill(other, signal.SIGKILL)
    assert (status, os.waitpid(other, 0)[1]) == (0, 0)
