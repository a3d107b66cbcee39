"""Steps in a process group: a copy of one rank answers for a group of one, asks no other rank, and never hangs."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

RANK = """
import contextlib
import sys
import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional as F
import viewproof as vp

folder, rank, world, kinds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:]
dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
torch.manual_seed(0)
net = nn.parallel.DistributedDataParallel(nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Linear(8, 4)))
optimizer = torch.optim.SGD(net.parameters(), 0.1)

def gathered(x):
    parts = [torch.zeros_like(x) for _ in range(world)]
    dist.all_gather(parts, x.detach())
    parts[rank] = x
    return torch.cat(parts)

def accumulated(x):
    optimizer.zero_grad()
    for number, part in enumerate(x.chunk(3)):
        outside = {"last": number == 2, "first": number == 0, "nowhere": False}[kind.split()[-1]]
        with contextlib.nullcontext() if outside else net.no_sync():
            (net(F.pad(part[:, :3], (0, 2)))[:, :2] - part[:, 3:]).square().mean().backward()
    optimizer.step()

def step(x):
    if kind.startswith("no_sync"):
        return accumulated(x)
    called = net.module if "passed by" in kind else net
    out = called(x if kind == "leak" else F.pad(x[:, :3], (0, 2)))
    if kind == "leak":
        into = torch.empty_like(out)
        dist.all_gather_into_tensor(into, out.detach())
    if kind.startswith("contrast"):
        a, b = F.normalize(out, dim=1), F.normalize(net(x), dim=1)
        far = "gathered" in kind
        scores = a @ (gathered(b) if far else b).T / 0.1
        loss = F.cross_entropy(scores, torch.arange(len(x)) + far * rank * len(x))
    else:
        kept = gathered(out)[rank * len(x) : (rank + 1) * len(x)] if kind == "gathered" else out
        loss = (kept[:, :2] - x[:, 3:]).square().mean()
    optimizer.zero_grad()
    loss.backward()
    if "by hand" in kind:
        for p in net.parameters():
            dist.all_reduce(p.grad)
            p.grad /= world
    if kind == "logged":
        dist.all_reduce(loss.detach())
    optimizer.step()

torch.manual_seed(1 + rank)
batch = torch.randn(6, 5)
for kind in kinds:
    trains = kind != "passed by" and kind not in ("no_sync, averaged first", "no_sync, averaged nowhere")
    if trains:
        step(batch)
    report = vp.watch(step, batch, local_negatives="declared" in kind)
    gradients = "passed by" in kind or kind == "logged" or "no_sync" in kind
    names = ("C1", "C7", "C8", "C6")[: 3 + gradients]
    found = [f for f in report.findings if f.contract.name in names]
    print("SHOWN", kind, *[f"{f.contract.name} {f.verdict.name}" for f in found])
    print("WHY", kind, report)
    if trains:
        step(batch)
weights = torch.cat([p.detach().flatten() for p in net.parameters()])
others = [torch.zeros_like(weights) for _ in range(world)]
dist.all_gather(others, weights)
assert all(torch.equal(weights, o) for o in others)
dist.destroy_process_group()
print("SHOWN the end")
"""


def shown(folder: Path, world: int, *kinds: str) -> list[str]:
    """What every rank prints, which is the same; a rank that hangs is killed."""
    script = folder / "rank.py"
    script.write_text(RANK)
    words = [sys.executable, str(script), str(folder)]
    runs = [
        subprocess.Popen([*words, str(rank), str(world), *kinds], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        for rank in range(world)
    ]
    try:
        texts = [run.communicate(timeout=200)[0].decode() for run in runs]
    finally:
        for run in runs:
            run.kill()
    lines = [[line for line in text.splitlines() if line.startswith("SHOWN")] for text in texts]
    assert all(one == lines[0] for one in lines) and lines[0], texts
    return [line.removeprefix("SHOWN ") for line in lines[0]]


pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without process groups")


def test_one_rank_is_followed_like_a_plain_module(tmp_path: Path) -> None:
    assert shown(tmp_path, 1, "leak", "gathered") == [
        "leak C8 PROVED C1 REFUTED",
        "gathered C8 PROVED C1 PROVED",
        "the end",
    ]


def test_of_two_ranks_each_is_followed_by_itself(tmp_path: Path) -> None:
    kinds = "logged", "contrast", "contrast declared", "contrast gathered declared", "passed by", "passed by, by hand"
    assert shown(tmp_path, 2, *kinds) == [
        "logged C8 PROVED C1 PROVED C6 PROVED",
        "contrast C8 PROVED C1 VACUOUS C7 PROVED C7 UNKNOWN",
        "contrast declared C8 PROVED C1 VACUOUS C7 PROVED C7 PROVED",
        "contrast gathered declared C8 UNKNOWN C7 REFUTED",
        "passed by C8 PROVED C1 PROVED C6 UNKNOWN",
        "passed by, by hand C8 PROVED C1 PROVED C6 PROVED",
        "the end",
    ]


def test_accumulation_is_averaged_by_its_last_backward(tmp_path: Path) -> None:
    assert shown(tmp_path, 2, "no_sync, averaged last", "no_sync, averaged first", "no_sync, averaged nowhere") == [
        "no_sync, averaged last C8 PROVED C1 PROVED C6 PROVED",
        "no_sync, averaged first C8 PROVED C1 PROVED C6 REFUTED",
        "no_sync, averaged nowhere C8 PROVED C1 PROVED C6 UNKNOWN",
        "the end",
    ]
