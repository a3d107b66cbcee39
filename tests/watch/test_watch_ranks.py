"""Steps of several ranks: each is followed by itself, and nothing of a copy reaches the others."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

RANK = """
import sys
import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional as F
import viewproof as vp

folder, rank, world, kind = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
torch.manual_seed(0)
net = nn.parallel.DistributedDataParallel(nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Linear(8, 4)))
optimizer = torch.optim.SGD(net.parameters(), 0.1)

def step(x):
    out = net(x if kind == "leak" else F.pad(x[:, :3], (0, 2)))
    if kind == "contrast":
        a, b = F.normalize(out, dim=1), F.normalize(net(x), dim=1)
        loss = F.cross_entropy(a @ b.T, torch.arange(len(x)))
    elif kind == "gathered":
        parts = [torch.zeros_like(out) for _ in range(world)]
        dist.all_gather(parts, out.detach())
        loss = (out[:, :2] - x[:, 3:]).square().mean() + sum(p.sum() for p in parts)
    else:
        loss = (out[:, :2] - x[:, 3:]).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

torch.manual_seed(1 + rank)
batch = torch.randn(6, 5)
step(batch)
report = vp.watch(step, batch, local_negatives=kind == "contrast" and world > 1 and rank == 0)
step(batch)
weights = torch.cat([p.detach().flatten() for p in net.parameters()])
others = [torch.zeros_like(weights) for _ in range(world)]
dist.all_gather(others, weights)
assert all(torch.equal(weights, o) for o in others)
verdicts = {f.contract.name: f.verdict.name for f in report.findings}
print("SHOWN", verdicts["C8"], verdicts.get("C1"), verdicts.get("C7"), report.findings[0].detail)
dist.destroy_process_group()
"""


def shown(folder: Path, world: int, kind: str) -> list[str]:
    words = [sys.executable, "-c", RANK, str(folder)]
    runs = [
        subprocess.Popen([*words, str(rank), str(world), kind], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        for rank in range(world)
    ]
    texts = [run.communicate(timeout=240)[0].decode() for run in runs]
    lines = [line for text in texts for line in text.splitlines() if line.startswith("SHOWN")]
    assert len(lines) == world, texts
    return lines


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without ranks")
@pytest.mark.parametrize(
    ("world", "kind", "words"),
    [
        (1, "leak", ["SHOWN PROVED REFUTED PROVED"]),
        (1, "gathered", ["SHOWN PROVED PROVED PROVED"]),
        (2, "contrast", ["SHOWN PROVED VACUOUS VACUOUS", "SHOWN PROVED VACUOUS UNKNOWN"]),
        (2, "gathered", ["SHOWN UNKNOWN None None the step raised RuntimeError: allgather needs the other ranks"] * 2),
    ],
)
def test_a_rank_is_followed_by_itself(world: int, kind: str, words: list[str], tmp_path: Path) -> None:
    lines = shown(tmp_path, world, kind)
    assert all(line.startswith(word) for line, word in zip(lines, words, strict=True)), lines
