"""Negatives that are made of padding, with what the batch says of it and without, and correct twins."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from trained_step import Built, trained

from viewproof.bugzoo.steps.signals import negatives_from_padding
from viewproof.watch import watch
from viewproof.watch.padding_negatives import padding_of


def frames() -> tuple[Tensor, Tensor]:
    """Padded rows of two modalities, and which are real."""
    x = torch.randn(3, 6, 5)
    kept = torch.arange(6) < torch.tensor([6, 4, 3])[:, None]
    return x * kept[..., None], kept


def rows(bug: bool, *, said: bool = True, zeroed: bool = False, soft: bool = False, hand: str = "") -> Built:
    """Frames of two views against all frames of the batch, padded ones among the negatives if wrong."""
    model = nn.ModuleList([nn.Sequential(nn.Linear(5, 16), nn.Tanh(), nn.Linear(16, 8)) for _ in range(2)])
    x, kept = frames()

    def loss(batch: dict[str, Tensor]) -> Tensor:
        x = batch["frames"]
        real = kept.flatten()
        z = [net(x).flatten(0, 1) * (real[:, None] if zeroed else 1) for net in model]
        a, b = (F.normalize(one, dim=1) for one in z)
        labels = torch.where(real, torch.arange(len(real)), -100)
        scores = a @ b.T / 0.2
        if hand:
            e = scores.exp()
            each = -(e.diagonal() / (e if bug and hand == "negatives" else e * real).sum(1)).log()
            return each.mean() if bug and hand == "rows" else each[real].mean()
        if not bug:
            scores = scores.masked_fill(~real, float("-inf"))
        return F.nll_loss(scores.log_softmax(1), labels) if soft else F.cross_entropy(scores, labels)

    return trained(model, loss, {"frames": x} | ({"padding_mask": ~kept} if said else {}))


NEGATIVE, SCORED = "no negative is padding", "no scored position is padding"
READ, UNREAD = "no scored row reads padding", "padding that the batch names is left out"
BUILDS: dict[str, tuple[Callable[..., Built], dict[str, Any], str]] = {
    "wav2vec 2.0": (negatives_from_padding, {}, "REFUTED"),
    "said by a mask": (rows, {}, "REFUTED"),
    "log_softmax": (rows, {"soft": True}, "REFUTED"),
    "by hand": (rows, {"hand": "negatives"}, "REFUTED"),
    "by hand, padded rows": (rows, {"hand": "rows"}, "REFUTED"),
    "zeros at the end": (rows, {"said": False}, "UNKNOWN"),
    "embeddings of zeros": (rows, {"zeroed": True}, "UNKNOWN"),
}


@pytest.mark.parametrize("kind", BUILDS)
def test_negatives_of_padding_are_found_and_the_twin_is_spared(kind: str) -> None:
    build, options, verdict = BUILDS[kind]
    for bug in (False, True):
        torch.manual_seed(0)
        report = watch(*build(bug, **options))
        claim = SCORED if options.get("hand") == "rows" else NEGATIVE
        found = [f for f in report.findings if f.claim == claim]
        assert [f.verdict.name for f in found] == [verdict] * bug, report
        assert not report.refuted or verdict == "REFUTED"


def test_a_full_batch_has_no_padding() -> None:
    x = torch.randn(3, 6, 5)
    assert padding_of({"x": x, "attention_mask": torch.ones(3, 6)}, "x") is None
    assert padding_of({"x": x}, "x") is None
    # A hidden set is no padding: it is not at the end.
    assert padding_of({"x": x, "mask": torch.eye(3, 6).bool()}, "x") is None


class Reader(nn.Module):
    """Fills in a hidden token or frame, from what attention lets it read."""

    def __init__(self, words: int) -> None:
        super().__init__()
        self.into = nn.Embedding(words, 8) if words else nn.Linear(5, 8)
        self.attention, self.out = nn.MultiheadAttention(8, 1, batch_first=True), nn.Linear(8, words or 5)

    def forward(self, x: Tensor, padded: Tensor | None) -> Tensor:
        z = self.into(x)
        return self.out(z + self.attention(z, z, z, key_padding_mask=padded)[0])


@pytest.mark.parametrize(
    ("kind", "how", "claim", "verdict"),
    [
        ("frames", "given", UNREAD, None),
        ("frames", "unread", UNREAD, "UNKNOWN"),
        ("frames", "moved", UNREAD, "UNKNOWN"),
        ("frames", "moved, then read", UNREAD, "UNKNOWN"),
        ("tokens", "given", READ, "PROVED"),
        ("tokens", "found", READ, "UNKNOWN"),
        ("tokens", "unread", READ, "REFUTED"),
    ],
)
def test_padding_that_is_read(kind: str, how: str, claim: str, verdict: str | None) -> None:
    torch.manual_seed(0)
    real = torch.arange(6) < torch.tensor([6, 4, 3])[:, None]
    hidden = torch.zeros(3, 6, dtype=torch.bool)
    hidden[:, 1:3] = True
    ids = torch.arange(2, 20).view(3, 6) * real
    model = Reader(20 if kind == "tokens" else 0)
    given = {"attention_mask": real.long()} if kind == "tokens" else {"lengths": real.sum(1)}

    def loss(batch: dict[str, Tensor]) -> Tensor:
        x = batch["x"]
        if how == "given":
            padded = (
                ~batch["attention_mask"].bool() if kind == "tokens" else torch.arange(6) >= batch["lengths"][:, None]
            )
        else:
            padded = x.eq(0) if how == "found" else None
        masked = x.masked_fill(hidden if kind == "tokens" else hidden[..., None], 1)
        out = model(masked, padded)[hidden]
        moved = batch["lengths"].to(torch.float32) if "moved" in how else torch.ones(1)
        out = out * (moved / moved).mean() if how == "moved, then read" else out
        return F.cross_entropy(out, x[hidden]) if kind == "tokens" else F.mse_loss(out, x[hidden])

    report = watch(*trained(model, loss, {"x": ids if kind == "tokens" else frames()[0]} | given))
    found = [f.verdict.name for f in report.findings if f.claim == claim]
    assert found == [verdict] * (verdict is not None), report
    assert ("nothing reads it" in str(report)) == (how in ("unread", "moved") and kind == "frames")


def test_watching_draws_nothing_from_the_generator_of_the_program() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(20, 8), nn.Flatten(), nn.Linear(48, 8))
    ids = torch.arange(2, 26).view(4, 6) % 20 * (torch.arange(6) < torch.tensor([6, 4, 3, 5])[:, None])

    def loss(batch: dict[str, Tensor]) -> Tensor:
        a, b = (F.normalize(model(x), dim=1) for x in (batch["ids"], batch["other"]))
        return F.cross_entropy(a @ b.T / 0.2, torch.arange(4))

    step, batch = trained(model, loss, {"ids": ids, "other": ids.flip(0), "attention_mask": (ids != 0).long()})
    before = torch.get_rng_state()
    report = watch(step, batch)
    assert torch.equal(torch.get_rng_state(), before)
    # The loss depends on the tokens through its predictions alone.
    assert [f.verdict.name for f in report.findings if f.contract.name == "C1"] == ["VACUOUS"], report
