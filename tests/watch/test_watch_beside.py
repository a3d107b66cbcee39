"""What stands beside the source in the batch: a copy, scaled, turned, noisy or augmented, that the model sees."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from trained_step import Built, trained

from viewproof.watch import watch
from viewproof.watch.related import related


def images(count: int = 6) -> Tensor:
    """Smooth shades with some grain."""
    shades = F.interpolate(torch.randn(count, 1, 4, 4), scale_factor=4, mode="bilinear")
    return shades + 0.1 * torch.randn_like(shades)


def patches(x: Tensor) -> Tensor:
    """[samples, 16, 16]: patches of 4 x 4 pixels, row-major."""
    return F.unfold(x, 4, stride=4).mT


class Masked(nn.Module):
    """Predicts every patch of what it is shown from what is not hidden, and from all of a second image if given one."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.other = nn.Linear(16, 24), nn.Linear(16, 24)
        self.place, self.token = nn.Parameter(0.1 * torch.randn(16, 24)), nn.Parameter(torch.zeros(24))
        layer = nn.TransformerEncoderLayer(24, 2, 48, 0.0, batch_first=True)
        self.blocks, self.head = nn.TransformerEncoder(layer, 2), nn.Linear(24, 16)

    def forward(self, x: Tensor, hidden: Tensor, second: Tensor | None = None) -> Tensor:
        tokens = torch.where(hidden[..., None], self.token, self.embed(patches(x))) + self.place
        if second is not None:
            tokens = torch.cat([tokens, self.other(patches(second)) + self.place], 1)
        return self.head(self.blocks(tokens))[:, :16]


def masked(shown: Callable[[Any, Tensor], tuple[Any, ...]], batch: Any, source: Callable[[Any], Tensor]) -> Built:
    """Trains on the hidden patches of ``source(batch)``; ``shown`` gives the arguments of the model."""
    model = Masked()

    def loss(inputs: Any) -> Tensor:
        x = source(inputs)
        hidden = torch.rand(len(x), 16).argsort(1) < 8
        return (model(*shown(inputs, hidden)) - patches(x))[hidden].square().mean()

    return trained(model, loss, batch)


COPIES: dict[str, Callable[[Tensor], Tensor]] = {
    "noisy": lambda x: x + 0.5 * x.std() * torch.randn_like(x),
    "scaled": lambda x: 0.5 * x + 1,
    "negative": lambda x: -x,
    "flipped": lambda x: x.flip(-1),
    "rolled": lambda x: x.roll((3, 2), (-1, -2)),
    "transposed": lambda x: x.mT.contiguous(),
    "brighter by sample": lambda x: x * (0.5 + torch.rand(len(x), 1, 1, 1)) + torch.rand(len(x), 1, 1, 1),
    "flipped and noisy": lambda x: x.flip(-2) + 0.3 * x.std() * torch.randn_like(x),
    "moved and noisy": lambda x: x.roll((1, 2), (-1, -2)) + 0.2 * x.std() * torch.randn_like(x),
    "half the size": lambda x: F.interpolate(F.avg_pool2d(x, 2), scale_factor=2),
}


@pytest.mark.parametrize("kind", COPIES)
def test_a_copy_that_shows_what_is_asked_for_is_asked_about(kind: str) -> None:
    torch.manual_seed(0)
    x = images()
    leaks = masked(lambda b, h: (b["clean"], h, b["copy"]), {"clean": x, "copy": COPIES[kind](x)}, lambda b: b["clean"])
    found = next(f for f in watch(*leaks).findings if f.contract.name == "C1")
    assert found.verdict.name == "UNKNOWN", found
    assert 'batch["copy"] shows' in found.detail and 'allow={"C1"' in found.detail


def first_seen(batch: Any, hidden: Tensor) -> tuple[Tensor, Tensor]:
    """The copy, hidden where the loss asks."""
    return batch[1], hidden


PROVED: dict[str, tuple[Callable[[Any, Tensor], tuple[Any, ...]], Callable[[Tensor], Any]]] = {
    "the same patches are hidden in a noisy copy": (first_seen, lambda x: (x, COPIES["noisy"](x))),
    "the same patches are hidden in a scaled copy": (first_seen, lambda x: (x, 0.5 * x)),
    "a copy that nothing reads": (lambda b, h: (b[0], h), lambda x: (x, COPIES["noisy"](x))),
    "another image beside it": (lambda b, h: (b[0], h, b[1]), lambda x: (x, images())),
    "another sample's image beside it": (lambda b, h: (b[0], h, b[1]), lambda x: (x, images().roll(1, 0))),
}


@pytest.mark.parametrize("kind", PROVED)
def test_what_does_not_show_it_keeps_the_proof(kind: str) -> None:
    torch.manual_seed(0)
    shown, batch = PROVED[kind]
    found = next(f for f in watch(*masked(shown, batch(images()), lambda b: b[0])).findings if f.contract.name == "C1")
    assert found.verdict.name == "PROVED", found


def test_views_that_are_each_masked_by_themselves_keep_the_proof() -> None:
    """Both views are scored and seen; what is asked for one is answered from that view alone."""
    torch.manual_seed(0)
    model, x = Masked(), images()

    def loss(views: tuple[Tensor, Tensor], crossed: bool) -> Any:
        total: Any = 0
        for view, other in (views, views[::-1]):
            hidden = torch.rand(len(view), 16).argsort(1) < 8
            error = (model(view, hidden, other if crossed else None) - patches(view))[hidden]
            total = total + error.square().mean()
        return total

    views = COPIES["noisy"](x), COPIES["noisy"](x)
    for crossed, verdict in ((False, "PROVED"), (True, "UNKNOWN")):
        step = trained(model, lambda b, crossed=crossed: loss(b, crossed), views)
        found = next(f for f in watch(*step).findings if f.contract.name == "C1")
        assert found.verdict.name == verdict, found


@pytest.mark.parametrize(("noise", "verdict"), [(0.1, "UNKNOWN"), (None, "PROVED")])
def test_the_mean_of_each_patch_shows_it_in_short(noise: float | None, verdict: str) -> None:
    torch.manual_seed(0)
    model, x = Masked(), images()
    model.short = nn.Linear(1, 24)
    means = patches(x).mean(-1) + noise * torch.randn(6, 16) if noise else torch.randn(6, 16)

    def loss(batch: tuple[Tensor, Tensor]) -> Tensor:
        hidden = torch.rand(len(x), 16).argsort(1) < 8
        tokens = torch.where(hidden[..., None], model.token, model.embed(patches(batch[0]))) + model.place
        y = model.head(model.blocks(tokens + model.short(batch[1][..., None])))
        return (y - patches(batch[0]))[hidden].square().mean()

    found = next(f for f in watch(*trained(model, loss, (x, means))).findings if f.contract.name == "C1")
    assert found.verdict.name == verdict, found


def test_two_views_of_a_joint_embedding_are_no_leak() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Flatten(), nn.Linear(256, 16), nn.ReLU(), nn.Linear(16, 8)), images()

    def loss(views: tuple[Tensor, Tensor]) -> Tensor:
        one, two = (F.normalize(model(view), dim=1) for view in views)
        return F.cross_entropy(one @ two.T / 0.2, torch.arange(len(one)))

    report = watch(*trained(model, loss, (x, COPIES["flipped and noisy"](x))))
    assert next(f for f in report.findings if f.contract.name == "C1").verdict.name == "VACUOUS", str(report)


@pytest.mark.parametrize("leak", [False, True])
def test_a_teacher_on_the_clean_image_asks_for_nothing_of_the_noisy_one(leak: bool) -> None:
    torch.manual_seed(0)
    model, x = Masked(), images()
    teacher = nn.Sequential(nn.Linear(16, 16), nn.LayerNorm(16)).requires_grad_(False)

    def loss(views: tuple[Tensor, Tensor]) -> Tensor:
        hidden = torch.rand(len(x), 16).argsort(1) < 8
        with torch.no_grad():
            target = teacher(patches(views[0]))
        return (model(views[1], hidden & (not leak)) - target)[hidden].square().mean()

    report = watch(*trained(model, loss, (x, COPIES["noisy"](x))))
    assert not report.refuted, report
    found = next(f for f in report.findings if f.contract.name == "C1")
    assert found.verdict.name == ("UNKNOWN" if leak else "PROVED"), found


def test_a_forecast_and_its_past_are_no_copies() -> None:
    torch.manual_seed(0)
    time, count = torch.arange(96), 8
    waves = torch.sin(time * (0.1 + 0.3 * torch.rand(count, 1)) + 6 * torch.rand(count, 1))
    walks = torch.randn(count, 96).cumsum(1)
    for series in (waves + 0.1 * torch.randn_like(waves), walks, walks[..., None]):
        past, future = series[:, :48], series[:, 48:]
        assert related(future, past, torch.ones_like(future, dtype=torch.bool)) is None
        noisy = future + 0.3 * future.std() * torch.randn_like(future)
        assert related(future, noisy, torch.ones_like(future, dtype=torch.bool)) is not None


@pytest.mark.parametrize(("kind", "verdict"), [("of it", "UNKNOWN"), ("of another", "PROVED"), ("hidden", "PROVED")])
def test_ranks_show_a_row_of_a_table(kind: str, verdict: str) -> None:
    torch.manual_seed(0)
    x = torch.randn(16, 12)
    ranks = (x if kind != "of another" else torch.randn_like(x)).argsort(1).argsort(1)
    model = nn.ModuleDict({"rank": nn.Embedding(13, 4), "net": nn.Linear(60, 32), "head": nn.Linear(32, 12)})
    hidden = torch.arange(12) % 3 == 0

    def loss(batch: dict[str, Tensor]) -> Tensor:
        ranks = torch.where(hidden, 12, batch["rank"]) if kind == "hidden" else batch["rank"]
        seen = torch.cat([batch["x"].masked_fill(hidden, 0), model["rank"](ranks).flatten(1)], 1)
        return (model["head"](model["net"](seen).tanh()) - batch["x"])[:, hidden].square().mean()

    found = next(f for f in watch(*trained(model, loss, {"x": x, "rank": ranks})).findings if "scored" in f.claim)
    assert found.verdict.name == verdict, found


@pytest.mark.parametrize(("start", "verdict"), [(16, "UNKNOWN"), (0, "PROVED")])
def test_windows_that_overlap_are_asked_about(start: int, verdict: str) -> None:
    torch.manual_seed(0)
    series = torch.randn(8, 96).cumsum(1)
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 32))
    step = trained(model, lambda b: F.mse_loss(model(b[0]), b[1]), (series[:, start : start + 64], series[:, 64:]))
    found = next(f for f in watch(*step).findings if f.contract.name == "C1")
    assert found.verdict.name == verdict, found


def test_ranks_and_times_are_no_copies_of_each_other() -> None:
    ranks = torch.stack([torch.randperm(32) for _ in range(6)]).float()
    times = torch.arange(32.0).expand(6, -1)
    asked = torch.ones(6, 32, dtype=torch.bool)
    assert related(ranks, times, asked) is None and related(times, ranks, asked) is None


@pytest.mark.parametrize(
    ("kind", "verdict"),
    [
        ("parity", "UNKNOWN"),
        ("segments", "PROVED"),
        ("parity that nothing reads", "PROVED"),
        ("its own copy", "UNKNOWN"),
    ],
)
def test_what_tells_the_hidden_tokens_is_asked_about(kind: str, verdict: str) -> None:
    torch.manual_seed(0)
    model = nn.ModuleDict({"word": nn.Embedding(40, 16), "kind": nn.Embedding(40, 16), "head": nn.Linear(16, 40)})
    model["mix"] = nn.TransformerEncoderLayer(16, 2, 32, 0.0, batch_first=True)
    text = torch.randint(5, 40, (6, 12))
    hidden = torch.rand(text.shape).argsort(1) < 4
    kinds = text % 2
    if kind == "segments":
        kinds = (torch.arange(12) > 5).long().expand(6, -1).clone()
    elif kind == "its own copy":
        kinds = text.masked_fill(~hidden, 0)
    batch = {"ids": text.masked_fill(hidden, 3), "kinds": kinds, "labels": text.masked_fill(~hidden, -100)}

    def loss(b: dict[str, Tensor]) -> Tensor:
        told = model["kind"](b["kinds"] * (0 if "nothing" in kind else 1))
        scores = model["head"](model["mix"](model["word"](b["ids"]) + told))
        return F.cross_entropy(scores.flatten(0, 1), b["labels"].flatten())

    found = next(f for f in watch(*trained(model, loss, batch)).findings if f.contract.name == "C1")
    assert found.verdict.name == verdict, found
    assert verdict == "PROVED" or 'batch["kinds"] tells' in found.detail or found.verdict.name == "REFUTED", found
