"""Joint embeddings without a mask: SimCLR, MoCo, VICReg, Barlow Twins, SimSiam and SwAV steps."""

import copy
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from viewproof.bugzoo.steps.step import Built, drift, training_step


def encoder(outputs: int = 8) -> nn.Sequential:
    """A small convolutional network with projector."""
    stem = [nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1)]
    return nn.Sequential(*stem, nn.Flatten(), nn.Linear(8, 16), nn.ReLU(inplace=True), nn.Linear(16, outputs))


def views(n: int = 6) -> tuple[Tensor, Tensor]:
    """Two noisy views of the same images."""
    clean = torch.randn(n, 3, 8, 8)
    return clean + 0.1 * torch.randn_like(clean), clean + 0.1 * torch.randn_like(clean)


def simclr(bug: bool, fault: str) -> Built:
    """SimCLR: both views through one network, InfoNCE over all other samples."""
    net, fault = encoder(), fault if bug else ""
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)

    def augment(x: Tensor, generator: torch.Generator) -> Tensor:
        return x + 0.2 * torch.randn(x.shape, generator=generator)

    def step(batch: tuple[Tensor, Tensor]) -> float:
        images, _ = batch
        generator = torch.Generator().manual_seed(int(torch.randint(10**6, ())))
        state = generator.get_state()
        first = augment(images, generator)
        if fault == "generator set back":
            generator.set_state(state)
        x = torch.cat([first, augment(images, generator)])
        z = F.normalize(net(x), dim=1)
        similarity, n = z @ z.T / 0.5, len(images)
        if fault != "self among the others":
            similarity = similarity.masked_fill(torch.eye(2 * n, dtype=torch.bool), float("-inf"))
        labels = (torch.arange(2 * n) + n) % (2 * n)
        loss = F.cross_entropy(similarity, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step, (views()[0], torch.randint(10, (6,)))


@training_step("SimCLR: both views from one generator state", "synthetic", contracts="C7 C8")
def generator_set_back(bug: bool) -> Built:
    """The generator is set back between the views: they are the same, bit for bit."""
    return simclr(bug, "generator set back")


@training_step(
    "SimCLR: the anchor among its negatives", "confirmed", "vturrisi/solo-learn/issues/206", contracts="C4 C7"
)
def self_among_others(bug: bool) -> Built:
    """A row's own column is not struck out: similarity 1 to itself is the strongest negative."""
    return simclr(bug, "self among the others")


class Queue(nn.Module):
    """Keys of earlier batches, one a column."""

    queue: Tensor
    pointer: Tensor

    def __init__(self, dim: int, size: int) -> None:
        super().__init__()
        self.register_buffer("queue", F.normalize(torch.randn(dim, size), dim=0))
        self.register_buffer("pointer", torch.zeros(1, dtype=torch.long))


def moco(bug: bool, fault: str) -> Built:
    """MoCo: a query, its key from the EMA encoder, and a queue of older keys."""
    fault = fault if bug else ""
    query, key = encoder(), encoder()
    key.load_state_dict(query.state_dict())
    key.requires_grad_(fault == "keys with gradient")
    drift(key)
    state = Queue(8, 24)
    optimizer = torch.optim.SGD(query.parameters(), 0.03, momentum=0.9)

    def enqueue(keys: Tensor) -> None:
        at, columns = int(state.pointer), keys.shape[0]
        state.queue = torch.cat([state.queue[:, :at], keys.T, state.queue[:, at + columns :]], dim=1)
        state.pointer[0] = (at + columns) % 24

    def step(images: tuple[Tensor, Tensor]) -> Tensor:
        q = F.normalize(query(images[0]), dim=1)
        with torch.set_grad_enabled(fault == "keys with gradient"):
            k = F.normalize(key(images[1]), dim=1)
        if fault == "positive among the negatives":
            enqueue(k)
        positive = torch.einsum("nc,nc->n", [q, k]).unsqueeze(-1)
        negative = torch.einsum("nc,ck->nk", [q, state.queue.clone().detach()])
        logits = torch.cat([positive, negative], dim=1) / 0.07
        loss = F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for p, e in zip(query.parameters(), key.parameters(), strict=True):
                e.data = e.data * 0.999 + p.data * (1.0 - 0.999)
        if fault != "positive among the negatives":
            enqueue(k)
        return loss

    return step, views()


@training_step("MoCo: keys and queue with gradient", "synthetic", contracts="C6")
def keys_with_gradient(bug: bool) -> Built:
    """Keys are queued with their graph: the key encoder gets a gradient, and memory grows."""
    return moco(bug, "keys with gradient")


@training_step("MoCo: the positive among the negatives", "synthetic", contracts="C4 C7")
def positive_among_negatives(bug: bool) -> Built:
    """Keys are queued before the logits: each positive is a negative too."""
    return moco(bug, "positive among the negatives")


def vicreg(bug: bool, fault: str) -> Built:
    """VICReg after Bardes, Ponce and LeCun: invariance, variance and covariance of two views."""
    net, fault = encoder(), fault if bug else ""
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)

    def step(batch: dict[str, Tensor]) -> dict[str, float]:
        x = net(batch["view_1"])
        y = net(batch["view_1" if fault == "same view twice" else "view_2"])
        invariance = F.mse_loss(x, y)
        x, y = x - x.mean(0), y - y.mean(0)
        if fault == "half":
            x, y = (300 * x).half(), (300 * y).half()
        variance = sum(F.relu(1 - torch.sqrt(v.var(0) + 1e-4)).mean() for v in (x, y)) / 2
        covariance = torch.zeros(())
        for v in (x, y):
            c = v.T @ v / (len(v) - 1)
            if fault != "diagonal":
                c = c.masked_fill(torch.eye(8, dtype=torch.bool), 0)
            covariance = covariance + c.pow(2).sum() / 8
        loss = 25 * invariance + (0 if fault == "term not added" else 25 * variance) + covariance
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return {"loss": float(loss), "variance": float(variance), "covariance": float(covariance)}

    return step, dict(zip(("view_1", "view_2"), views(), strict=True))


@training_step("VICReg: the same view twice", "synthetic", contracts="C4 C7 C8")
def same_view_twice(bug: bool) -> Built:
    """A slip of the key: both embeddings are of the first view, and the second is never read."""
    return vicreg(bug, "same view twice")


@training_step(
    "VICReg: a term computed, logged, not added",
    "reported",
    "mims-harvard/TFC-pretraining/issues/21",
    contracts="C4 C6 C7",
    needs="a declaration",
)
def term_not_added(bug: bool) -> Built:
    """The variance is reported in every step and not differentiated, like a metric."""
    return vicreg(bug, "term not added")


@training_step("VICReg: covariance with its diagonal", "synthetic", contracts="C7", needs="a declaration")
def covariance_with_diagonal(bug: bool) -> Built:
    """The diagonal is penalised too. A step does not say which formula is meant."""
    return vicreg(bug, "diagonal")


@training_step("VICReg: squares overflow in half precision", "synthetic", contracts="C9")
def overflow(bug: bool) -> Built:
    """Embeddings in float16 are squared and summed: beyond 65504 the loss is infinite."""
    return vicreg(bug, "half")


def simsiam(bug: bool, fault: str) -> Built:
    """SimSiam: two views, a predictor, and a stop-gradient instead of a teacher."""
    net, fault = encoder(), fault if bug else ""
    predictor = nn.Sequential(nn.Linear(8, 4, bias=False), nn.BatchNorm1d(4), nn.ReLU(inplace=True), nn.Linear(4, 8))
    parameters: list[dict[str, Any]] = [{"params": net.parameters()}, {"params": predictor.parameters(), "lr": 0.1}]
    optimizer = torch.optim.SGD(parameters, lr=0.05)
    criterion = nn.CosineSimilarity(dim=1)

    def step(images: tuple[Tensor, Tensor]) -> float:
        z1, z2 = net(images[0]), net(images[1])
        p1, p2 = predictor(z1), predictor(z2)
        if fault == "detached the wrong one":
            p1, p2 = p1.detach(), p2.detach()
        else:
            z1, z2 = z1.detach(), z2.detach()
        loss = -(criterion(p1, z2).mean() + criterion(p2, z1).mean()) * 0.5
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step, views()


@training_step("SimSiam: the prediction detached instead of the target", "synthetic", contracts="C6")
def detached_wrong_one(bug: bool) -> Built:
    """The stop-gradient stands on the wrong side: the predictor never learns, and the target moves."""
    return simsiam(bug, "detached the wrong one")


@training_step("SwAV: assignments in the graph", "synthetic", contracts="C6", needs="a declaration")
def assignments_in_graph(bug: bool) -> Built:
    """The target assignments carry a gradient; a step does not say which of two outputs they are."""
    net, prototypes = encoder(), nn.Linear(8, 5, bias=False)
    optimizer = torch.optim.SGD([*net.parameters(), *prototypes.parameters()], lr=0.1)

    def sinkhorn(scores: Tensor) -> Tensor:
        q = torch.exp(scores / 0.5)
        for _ in range(3):
            q = q / q.sum(0, keepdim=True) / q.shape[1]
            q = q / q.sum(1, keepdim=True) / q.shape[0]
        return q * q.shape[0]

    def step(images: tuple[Tensor, Tensor]) -> float:
        scores = [prototypes(F.normalize(net(view), dim=1)) for view in images]
        targets = [sinkhorn(s if bug else s.detach()) for s in scores]
        loss = -sum((q * F.log_softmax(p / 0.1, 1)).sum(1).mean() for q, p in zip(targets, scores[::-1], strict=True))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return float(loss)

    return step, views()


@training_step("codebook detached", "confirmed", "facebookresearch/fairseq2/pull/731", contracts="C6")
def codebook_detached(bug: bool) -> Built:
    """The codebook is read without gradient and stands in the optimizer: it never learns."""
    encode, codebook, decode = nn.Linear(6, 4), nn.Embedding(7, 4), nn.Linear(4, 6)
    modules = nn.ModuleList([encode, codebook, decode])
    optimizer = torch.optim.Adam(modules.parameters())

    def step(x: Tensor) -> float:
        z = encode(x)
        index = torch.cdist(z, codebook.weight).argmin(1)
        code = codebook(index).detach() if bug else codebook(index)
        loss = F.mse_loss(code, z.detach()) + 0.25 * F.mse_loss(z, code.detach())
        loss = loss + F.mse_loss(decode(z + (code - z).detach()), x)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step, torch.randn(9, 6)


@training_step(
    "Barlow Twins: gradient over the ranks",
    "confirmed",
    "lightly-ai/lightly/issues/1977",
    contracts="C7",
    needs="several ranks",
)
def raw_all_reduce(bug: bool) -> Built:
    """A plain ``all_reduce`` has the right value, and a gradient that is divided by the ranks."""
    net = encoder()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)

    def step(images: tuple[Tensor, Tensor]) -> float:
        z1, z2 = (F.batch_norm(net(v), None, None, training=True) for v in images)
        c = z1.T @ z2 / len(z1)
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            reduce = torch.distributed if bug else import_module("torch.distributed.nn")
            reduced = reduce.all_reduce(c)
            c = c if reduced is None else reduced
        loss = (c.diagonal() - 1).pow(2).sum() + 5e-3 * (c - torch.diag(c.diagonal())).pow(2).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step, views()


@training_step("momentum encoder is the encoder", "synthetic", contracts="C6")
def same_object(bug: bool) -> Built:
    """Without a copy the target encoder is the encoder itself, and its average is of itself."""
    online = encoder()
    target = online if bug else copy.deepcopy(online)
    predictor = nn.Linear(8, 8)
    if not bug:
        drift(target)
    optimizer = torch.optim.AdamW([*online.parameters(), *predictor.parameters()], lr=1e-3)

    def step(images: tuple[Tensor, Tensor]) -> float:
        with torch.no_grad():
            wanted = F.normalize(target(images[1]), dim=1)
        loss = F.mse_loss(F.normalize(predictor(online(images[0])), dim=1), wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for t, o in zip(target.parameters(), online.parameters(), strict=True):
                t.lerp_(o, 0.01)
        return loss.item()

    return step, views()
