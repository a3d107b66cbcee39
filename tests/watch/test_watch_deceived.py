"""Scripts that the watched step once judged wrongly, or that watching once broke; run as a user runs them."""

import pytest

HEAD = """
import contextlib, torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Dataset
torch.manual_seed(0)
"""
STEP = "o.zero_grad(); loss.backward(); o.step()"

# The model reads the hidden value of each sample from a table that stood before the loop.
TABLE = f"""
data = torch.randn(40, 64)
hidden, mask = data[:, 0].clone(), torch.ones(64)
mask[0] = 0
class M(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(64, 32), nn.Linear(33, 64)
    def forward(self, x, rows):
        return self.b(torch.cat([torch.relu(self.a(x * mask)), hidden[rows][:, None]], 1))
m = M()
o = torch.optim.Adam(m.parameters(), 1e-3)
for _ in range(4):
    rows = torch.randperm(40)[:8]
    x = data[rows]
    loss = (((m(x, rows) - x) * (1 - mask)) ** 2).sum() / 8
    {STEP}
"""
# The context of a checkpoint's forward switches the mask off.
CONTEXT = f"""
from torch.utils.checkpoint import checkpoint
off, mask = [False], torch.ones(16)
mask[:8] = 0
@contextlib.contextmanager
def everything():
    off[0] = True
    try:
        yield
    finally:
        off[0] = False
l1, l2 = nn.Linear(16, 16), nn.Linear(16, 16)
def f(x):
    return l2(torch.relu(l1(x if off[0] else x * mask)))
o = torch.optim.SGD([*l1.parameters(), *l2.parameters()], 0.1)
for x in DataLoader(torch.randn(32, 16), batch_size=8):
    p = checkpoint(f, x, use_reentrant=False, context_fn=lambda: (everything(), everything()))
    loss = ((p - x) * (1 - mask)).square().mean()
    {STEP}
"""
# A reentrant checkpoint shows what is hidden in its first run, which has no gradients and gives the value.
REENTRANT = f"""
from torch.utils.checkpoint import checkpoint
mask = torch.ones(16)
mask[:8] = 0
l0, l1, l2 = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 16)
def f(x, w):
    return l2(torch.relu(l1(x * mask if torch.is_grad_enabled() else x) + 0 * w.sum()))
o = torch.optim.SGD([*l0.parameters(), *l1.parameters(), *l2.parameters()], 0.1)
for x in DataLoader(torch.randn(32, 16), batch_size=8):
    loss = ((checkpoint(f, x, l0.weight, use_reentrant=True) - x) * (1 - mask)).square().mean()
    {STEP}
"""
# A teacher inside a wrapper is a copy of its student, its arguments exchanged.
COPIED = f"""
from torch.optim.swa_utils import AveragedModel
student, head = nn.Linear(8, 8), nn.Linear(8, 8)
teacher = AveragedModel(student, avg_fn=lambda average, model, count: model).requires_grad_(False)
o = torch.optim.SGD([*student.parameters(), *head.parameters()], 0.1)
for x in DataLoader(torch.randn(32, 8), batch_size=8):
    a, b = x + 0.1 * torch.randn_like(x), x + 0.1 * torch.randn_like(x)
    with torch.no_grad():
        t = teacher.module(b)
    loss = (head(student(a)) - t).square().mean()
    {STEP}
    teacher.update_parameters(student)
"""
# The text stands unmasked in another tensor, after a prompt.
PROMPT = f"""
class D(Dataset):
    def __len__(self):
        return 32
    def __getitem__(self, i):
        text = torch.randint(5, 50, (12,), generator=torch.Generator().manual_seed(i))
        labels = text.clone()
        labels[0], labels[1::2] = -100, -100
        return {{"ids": torch.cat([torch.tensor([1, 2, 3]), text]), "labels": labels}}
class M(nn.Module):
    def __init__(self):
        super().__init__()
        self.e, self.h = nn.Embedding(50, 32), nn.Linear(32, 50)
    def forward(self, ids):
        return self.h(self.e(ids))[:, 3:]
m = M()
o = torch.optim.Adam(m.parameters(), 1e-3)
for b in DataLoader(D(), batch_size=8):
    assert bool((b["labels"][:, 0] == -100).all())
    loss = F.cross_entropy(m(b["ids"]).flatten(0, 1), b["labels"].flatten())
    {STEP}
"""
# The average forgets a parameter of the teacher beside its only child.
FORGOTTEN = f"""
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.net, self.scale = nn.Linear(8, 8), nn.Parameter(torch.ones(8))
    def forward(self, x):
        return self.net(x) * self.scale
student, head, teacher = Net(), nn.Linear(8, 8), Net().requires_grad_(False)
o = torch.optim.SGD([*student.parameters(), *head.parameters()], 0.1)
for x in DataLoader(torch.randn(32, 8), batch_size=8):
    a, b = x + 0.1 * torch.randn_like(x), x + 0.1 * torch.randn_like(x)
    with torch.no_grad():
        t = teacher(b)
    loss = (head(student(a)) - t).square().mean()
    {STEP}
    with torch.no_grad():
        for p, q in zip(teacher.net.parameters(), student.net.parameters()):
            p.mul_(0.9).add_(q, alpha=0.1)
"""
# A learned query, the same for every sample, is no positive of the contrast.
POOLED = f"""
class Pooled(nn.Module):
    def __init__(self):
        super().__init__()
        self.e, self.k, self.v, self.o = nn.Linear(16, 32), nn.Linear(32, 32), nn.Linear(32, 32), nn.Linear(32, 16)
        self.q, self.probe = nn.Linear(32, 32), nn.Parameter(torch.randn(1, 1, 32))
    def forward(self, x):
        t = F.gelu(self.e(x))
        q = self.q(self.probe.expand(len(x), -1, -1))
        w = torch.softmax(q @ self.k(t).transpose(1, 2) / 32**0.5, -1)
        return self.o((w @ self.v(t))[:, 0])
m = Pooled()
o = torch.optim.Adam(m.parameters(), 1e-3)
for x in DataLoader(torch.randn(32, 10, 16), batch_size=8):
    za, zb = (F.normalize(m(x + 0.1 * torch.randn_like(x)), dim=-1) for _ in range(2))
    loss = F.cross_entropy(za @ zb.T / 0.2, torch.arange(len(x)))
    {STEP}
"""
# A reconstruction that is off while training warms up.
WARM_UP = f"""
enc, dec = nn.Linear(8, 8), nn.Linear(8, 8)
o = torch.optim.SGD([*enc.parameters(), *dec.parameters()], 0.1)
for i, x in enumerate(DataLoader(torch.randn(32, 8), batch_size=8)):
    a, b = x + 0.1 * torch.randn_like(x), x + 0.1 * torch.randn_like(x)
    za, zb = enc(a), enc(b)
    loss = (za - zb).square().mean() + (1 - za.std(0)).relu().mean()
    loss = loss + (0.0 if i < 2 else 0.5) * (dec(za) - x).square().mean()
    {STEP}
"""
# Freed memory, a tensor without values, a class without a hash, and a module whose making failed.
REMAINS = f"""
freed = torch.randn(64, 64)
freed.untyped_storage().resize_(0)
without_values = torch.empty(3, device="meta")
class Meta(type):
    def __eq__(cls, other):
        return type.__eq__(cls, other)
class Thing(metaclass=Meta):
    pass
thing = Thing()
thing.self = [thing]
m = nn.Linear(8, 8)
o = torch.optim.SGD(m.parameters(), 0.1)
for _ in range(3):
    x = torch.randn(4, 8)
    loss = (m(x) - 1).square().mean()
    {STEP}
print("the end")
"""


@pytest.mark.parametrize(
    ("script", "line", "refuted"),
    [
        (TABLE, "UNKNOWN  C1", False),
        (CONTEXT, " C1  no scored group", None),
        (REENTRANT, "UNKNOWN  C1", False),
        (COPIED, "takes 1 of `student` a step: exchanged?", False),
        (PROMPT, " C1  no row reads the token", None),
        (FORGOTTEN, " C6 ", None),
        (POOLED, "PROVED   C9", False),
        (WARM_UP, "PROVED   C9", False),
        (REMAINS, "PROVED   C9", False),
    ],
    ids=["table", "context", "reentrant", "copied", "prompt", "forgotten", "pooled", "warm up", "remains"],
)
def test_a_script_that_once_deceived(watched, tmp_path, script, line, refuted):
    (tmp_path / "train.py").write_text(HEAD + script)
    done = watched(tmp_path, "train.py")
    text = done.stdout + done.stderr
    assert line in text and "Traceback" not in text, text
    assert done.returncode in ((0, 3) if refuted is False else (1,) if refuted else (1, 3)), text
    assert refuted is None or ("REFUTED" in text) is refuted, text
