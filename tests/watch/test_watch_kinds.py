"""Kinds of steps that strangers write: noise that is undone, graphs, views written in place, pairs written by hand."""

from contextlib import ExitStack
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from trained_step import trained

import viewproof as vp
from viewproof.watch.report import WatchReport

LEAK = "no scored group of the source is seen"


def verdict(report: WatchReport, claim: str) -> str | None:
    return next((f.verdict.name for f in report.findings if f.claim == claim), None)


@pytest.mark.parametrize(
    ("asked", "noise", "expected"),
    [
        ("hidden", True, "PROVED"),
        ("visible", True, "REFUTED"),
        ("all", True, "UNKNOWN"),
        ("hidden", False, "PROVED"),
        ("all", False, "REFUTED"),
    ],
)
def test_a_loss_over_everything_may_undo_noise(asked: str, noise: bool, expected: str) -> None:
    """Noise stands for what is hidden: one value, such as zero, is none, and such a loss forgot its mask."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(10, 16), nn.ReLU(), nn.Linear(16, 10))

    def loss(x: Tensor) -> Tensor:
        swapped = torch.rand(x.shape) < 0.4
        error = (net(torch.where(swapped, torch.randn(x.shape) if noise else 0.0, x)) - x).square()
        return {"hidden": error[swapped], "visible": error[~swapped], "all": error}[asked].mean()

    report = vp.watch(*trained(net, loss, torch.randn(8, 10)))
    assert verdict(report, LEAK) == expected, str(report)
    assert ("undoes noise" in str(report)) == (expected == "UNKNOWN")
    assert (
        not vp.watch(*trained(net, loss, torch.randn(8, 10)), allow={LEAK: "noise"}).failures() or expected == "REFUTED"
    )


class Layer(nn.Module):
    """Of a graph: each node takes the sum of what its neighbours give."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Linear(inputs, outputs)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        return edges @ self.weight(x)


@pytest.mark.parametrize(("masked", "expected"), [(True, "PROVED"), (False, "REFUTED")])
def test_the_edges_of_a_graph_are_not_asked_for(masked: bool, expected: str) -> None:
    torch.manual_seed(0)
    first, last = Layer(4, 16), Layer(16, 4)
    batch = {"x": torch.randn(12, 4), "edges": (torch.rand(12, 12) < 0.4) + torch.eye(12)}

    def loss(batch: dict[str, Tensor]) -> Tensor:
        x, edges = batch["x"], batch["edges"]
        hidden = torch.rand(12) < 0.5
        seen = x.masked_fill(hidden[:, None], 0) if masked else x
        return (last(first(seen, edges).relu(), edges) - x)[hidden].square().mean()

    report = vp.watch(*trained(nn.ModuleList([first, last]), loss, batch))
    assert verdict(report, LEAK) == expected, str(report)
    assert not any(bool(s.scored.any()) for s in report.sources if "edges" in s.path)


@pytest.mark.parametrize(("masked", "expected"), [(True, "PROVED"), (False, "REFUTED")])
def test_a_step_without_a_loader_may_begin_with_its_teacher(masked: bool, expected: str) -> None:
    torch.manual_seed(0)
    student, teacher, head = nn.Linear(4, 8), nn.Linear(4, 8), nn.Sequential(nn.Linear(64, 64), nn.Unflatten(1, (8, 8)))
    teacher.load_state_dict(student.state_dict())
    teacher.requires_grad_(False)
    optimizer = torch.optim.SGD([*student.parameters(), *head.parameters()], 0.1)
    with vp.watch.recording() as seen:
        for x in torch.randn(18, 8, 4).split(6):
            hidden = torch.rand(6, 8) < 0.5
            with torch.no_grad():
                target = teacher(x)
            out = head(student(x.masked_fill(hidden[..., None], 0) if masked else x).flatten(1))
            optimizer.zero_grad()
            (out - target)[hidden].square().mean().backward()
            optimizer.step()
            with torch.no_grad():
                for t, s in zip(teacher.parameters(), student.parameters(), strict=True):
                    t.lerp_(s, 0.1)
    assert seen.report is not None
    assert verdict(seen.report, LEAK) == expected, str(seen.report)


class Asks(nn.Module):
    """Has its input take gradients, as an encoder whose first layers are checkpointed."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 16))

    def forward(self, x: Tensor) -> Tensor:
        x.requires_grad = True
        out: Tensor = self.net(x)
        return out


@pytest.mark.parametrize("how", ["sample by sample", "requires_grad"])
@pytest.mark.parametrize(("holes", "expected"), [(True, "PROVED"), (False, "REFUTED")])
def test_steps_in_which_only_the_watched_source_takes_gradients(how: str, holes: bool, expected: str) -> None:
    torch.manual_seed(0)
    net = Asks() if how == "requires_grad" else nn.Linear(16, 16)

    def loss(x: Tensor) -> Tensor:
        drawn = [int(torch.randint(12, ())) for _ in x]
        seen, hidden = x.clone(), torch.zeros(x.shape, dtype=torch.bool)
        for row, mask, start in zip(seen, hidden, drawn, strict=True):
            mask[start : start + 4] = True
            if holes and how == "sample by sample":
                row[start : start + 4] = torch.randn(4)
        seen = seen.masked_fill(hidden, 0) if holes and how == "requires_grad" else seen
        return (net(seen) - x)[hidden].square().mean()

    report = vp.watch(*trained(net, loss, torch.randn(6, 16)))
    assert verdict(report, LEAK) == expected, str(report)


@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize("itself", [False, True])
def test_a_contrast_by_hand_in_which_rows_are_their_own_negatives(stacked: bool, itself: bool) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 4))

    def loss(x: Tensor) -> Tensor:
        z = F.normalize(torch.cat([net(x), net(x + 0.1 * torch.randn(x.shape))]), dim=-1)
        z = z.transpose(0, 1) if stacked else z
        n = z.shape[-2]
        scores = z @ z.mT if stacked else F.cosine_similarity(z[:, None], z[None], dim=2)
        left = torch.ones(n, n) if itself else 1 - torch.eye(n)
        positive = scores[..., torch.arange(n), (torch.arange(n) + n // 2) % n]
        return (((scores / 0.5).exp() * left).sum(-1).log() - positive / 0.5).mean()

    report = vp.watch(*trained(net, loss, torch.randn(6, 3, 8) if stacked else torch.randn(6, 8)))
    found = verdict(report, "no negative is the anchor or its positive")
    assert found == ("REFUTED" if itself else None), str(report)


@pytest.mark.parametrize("twice", [False, True])
def test_a_term_that_is_added_twice_in_the_place_of_another(twice: bool) -> None:
    torch.manual_seed(0)
    image, text = nn.Linear(8, 4), nn.Linear(6, 4)

    def loss(batch: tuple[Tensor, Tensor]) -> Tensor:
        scores = F.normalize(image(batch[0]), dim=1) @ F.normalize(text(batch[1]), dim=1).T
        labels = torch.arange(len(scores))
        one, other = F.cross_entropy(scores, labels), F.cross_entropy(scores if twice else scores.T, labels)
        return (one + other) / 2

    report = vp.watch(*trained(nn.ModuleList([image, text]), loss, (torch.randn(6, 8), torch.randn(6, 6))))
    found = verdict(report, "every term that is computed is part of the loss")
    assert found == ("UNKNOWN" if twice else None), str(report)
    assert not report.refuted


class Sentences(nn.Module):
    """The mean over the tokens of each text, of padding too if told so."""

    def __init__(self, drop: float, pads: bool = False) -> None:
        super().__init__()
        self.words, self.drop, self.pads, self.out = nn.Embedding(20, 8), nn.Dropout(drop), pads, nn.Linear(8, 8)

    def forward(self, ids: Tensor, attention_mask: Tensor) -> Tensor:
        x = self.drop(self.words(ids)).tanh()
        kept = torch.ones(*ids.shape, 1) if self.pads else attention_mask[..., None]
        out: Tensor = self.out((x * kept).sum(1) / attention_mask.sum(1, keepdim=True))
        return out


@pytest.mark.parametrize(("drop", "pads"), [(0.3, False), (0.3, True), (0.0, False)])
def test_sentences_encoded_twice(drop: float, pads: bool) -> None:
    torch.manual_seed(0)
    net = Sentences(drop, pads)
    real = torch.arange(6) < torch.tensor([6, 4, 3, 5])[:, None]
    batch = {"ids": torch.arange(2, 26).view(4, 6) % 18 * real, "attention_mask": real.long()}

    def loss(batch: dict[str, Tensor]) -> Tensor:
        a, b = (F.normalize(net(**batch), dim=1) for _ in range(2))
        return F.cross_entropy(a @ b.T / 0.1, torch.arange(4))

    report = vp.watch(*trained(net, loss, batch))
    assert verdict(report, "padding that the batch names is left out") == ("UNKNOWN" if pads else None), str(report)
    assert verdict(report, "two views of a sample differ") == (None if drop else "UNKNOWN"), str(report)
    assert not report.refuted


def test_a_backward_that_a_library_runs_stands_at_the_line_that_called_it() -> None:
    net = nn.Linear(4, 4)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)

    def step(x: Tensor) -> Any:
        with ExitStack() as at_end:
            at_end.callback(net(x).square().mean().backward)
        optimizer.step()

    (loss,) = vp.watch(step, torch.randn(6, 4)).losses
    assert "test_watch_kinds.py" in loss.place


@pytest.mark.parametrize(("hidden", "expected"), [(True, "PROVED"), (False, "UNKNOWN")])
def test_a_span_that_stays_in_the_text_that_an_encoder_reads(hidden: bool, expected: str) -> None:
    torch.manual_seed(0)
    words, mix, out = nn.Embedding(40, 8), nn.GRU(8, 16, batch_first=True), nn.Linear(16, 40)
    text = torch.randint(3, 40, (6, 12))
    ids = text.clone()
    if hidden:
        ids[:, 4:8] = 2
    begun = torch.ones(6, 1, dtype=torch.long)

    def loss(batch: dict[str, Tensor]) -> Tensor:
        _, state = mix(words(batch["input_ids"]))
        labels = batch["labels"]
        x, _ = mix(words(torch.cat([begun, labels[:, :-1]], 1)), state)
        return F.cross_entropy(out(x).flatten(0, 1), labels.flatten())

    batch = {"input_ids": ids, "labels": text[:, 4:8].clone()}
    report = vp.watch(*trained(nn.ModuleList([words, mix, out]), loss, batch))
    assert verdict(report, "no row reads the token that it is asked for") == expected, str(report)
