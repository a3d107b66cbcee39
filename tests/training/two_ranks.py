"""Two forked processes run `viewproof pretrain` after `viewproof pretrain`, in the environment that a launcher gives.

They find each other by a port a run. The losses of all steps are written down, and what each rank was given.
"""

import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist

import viewproof as vp
from viewproof.cli import main
from viewproof.masks.random.draws import Draws
from viewproof.masks.random.rule import RandomRule
from viewproof.methods.mae import MaskedPretraining
from viewproof.runs import train
from viewproof.training.base import JointPretraining
from viewproof.training.callbacks import MetricsFile

Seen = list[tuple[int, Tensor, Tensor | None]]


def watch(seen: Seen, change: Callable[..., Any], die: Callable[[int], bool] = lambda step: False) -> None:
    """Every training step notes its ids and masks and writes its loss; nothing is measured afterwards."""

    def watched(step: Any) -> Any:
        def training_step(module: Any, batch: Any, batch_idx: int) -> Tensor:
            if die(module.global_step):
                os.kill(os.getpid(), signal.SIGKILL)
            hidden = None
            if isinstance(module, MaskedPretraining):
                view = module.sample(batch, module.global_step, module.current_epoch).view
                hidden = None if view is None else view.hidden.clone()
            seen.append((module.global_step, batch[1].clone(), hidden))
            loss: Tensor = step(module, batch, batch_idx)
            return loss

        return training_step

    for kind in (JointPretraining, MaskedPretraining):
        change(kind, "training_step", watched(kind.training_step))
    change(MetricsFile, "on_train_start", every_step(MetricsFile.on_train_start))
    change(train, "finish", lambda run, say: say("finished") or 0)


def every_step(start: Any) -> Any:
    def on_train_start(self: MetricsFile, *arguments: Any) -> None:
        self.every = 1
        start(self, *arguments)

    return on_train_start


@dataclass(frozen=True)
class Uneven(RandomRule):
    """Hides a share of a sample's coordinates that differs from sample to sample."""

    seed: int = 0

    def draw(self, shape: tuple[int, ...], draws: Draws, lengths: Tensor | None = None) -> Tensor:
        return draws.words(shape[0]) % 7 < 1 + draws.sample_ids[:, None] % 5


def mean_of_means(batch: Any, _: int) -> Tensor:
    """A rank's own mean, to be averaged over ranks."""
    sample = Uneven().sample(batch[0], sample_ids=batch[1])
    return vp.masked_mse(sample.x, sample)


def uneven(rows: Tensor, ids: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Value and gradient of the training step, and of a loss that does not know of other ranks."""
    module, found = MaskedPretraining(nn.Identity(), Uneven()), {}
    for name, loss in (("training_step", module.training_step), ("mean of means", mean_of_means)):
        leaf = rows.clone().requires_grad_()
        value = loss((leaf, ids), 0)
        found[name] = value.detach(), torch.autograd.grad(value, leaf)[0]
    return found


def uneven_ranks(number: int, folder: str) -> None:
    rows, ids = torch.arange(96.0).double().sin().reshape(8, 12), torch.arange(8)
    if number == 0:
        torch.save(uneven(rows, ids)["training_step"], f"{folder}/uneven.pt")
    dist.init_process_group("gloo", f"file://{folder}/store", rank=number, world_size=2)
    torch.save(uneven(rows.split([3, 5])[number], ids.split([3, 5])[number]), f"{folder}/uneven{number}.pt")
    dist.destroy_process_group()


def rank(number: int, jobs: list[tuple[list[str], int, str]], folder: str) -> None:
    """All runs of one rank; one that keeps checkpoints within an epoch is killed at step 9."""
    said = os.open(f"{folder}/said{number}", os.O_WRONLY | os.O_CREAT)
    os.dup2(said, 1)
    uneven_ranks(number, folder)
    seen: Seen = []
    killed = False
    watch(seen, setattr, lambda step: killed and step == 9)
    os.environ.update(LOCAL_RANK=str(number), NODE_RANK="0", WORLD_SIZE="2", MASTER_ADDR="127.0.0.1")
    for words, port, out in jobs:
        os.environ["MASTER_PORT"] = str(port)
        killed = "--checkpoint-every" in words
        assert main([*words, "--out", out]) == 0
        torch.save(list(seen), f"{out}.rank{number}.pt")
        seen.clear()
        sys.stdout.flush()


if __name__ == "__main__":
    torch.set_num_threads(1)
    children = []
    for number in range(2):
        children.append(os.fork())
        if children[-1] == 0:
            rank(number, json.loads(sys.argv[1]), sys.argv[2])
            os._exit(0)
    # The last run ends with a kill; whichever rank is first to end, the other has nobody to talk to.
    ended, status = os.wait()
    (other,) = {*children} - {ended}
    os.kill(other, signal.SIGKILL)
    os.waitpid(other, 0)
    assert status == signal.SIGKILL and Path(sys.argv[2], "said1").exists(), status
