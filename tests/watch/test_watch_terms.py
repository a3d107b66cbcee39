"""What a loss is made of: dropped terms, negatives that are the anchor or the positive, fresh memory, one vector."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from trained_step import Built, trained

from viewproof.certify.report import Contract
from viewproof.watch import watch


def itself(bug: bool) -> Built:
    """Cosines of all pairs of embeddings, each row's own among them if wrong."""
    model = nn.Linear(5, 4)

    def loss(views: tuple[Tensor, Tensor]) -> Tensor:
        z = model(torch.cat(views))
        cosines = F.cosine_similarity(z[:, None], z[None], dim=-1) / 0.2
        if not bug:
            cosines = cosines - 1e9 * torch.eye(8)
        return F.nll_loss(F.log_softmax(cosines, 1), torch.arange(8).roll(4))

    return trained(model, loss, (torch.randn(4, 5), torch.randn(4, 5)))


def positive(bug: bool) -> Built:
    """Each row's positive, and then all others as negatives; with the positive among them if wrong."""
    model = nn.Linear(5, 4)

    def loss(views: tuple[Tensor, Tensor]) -> Tensor:
        a, b = (F.normalize(model(v), dim=1) for v in views)
        rest = a @ b.T
        if not bug:
            rest = rest[~torch.eye(6, dtype=torch.bool)].view(6, 5)
        scores = torch.cat([(a * b).sum(1, keepdim=True), rest], dim=1)
        return F.cross_entropy(scores / 0.1, torch.zeros(6, dtype=torch.long))

    return trained(model, loss, (torch.randn(6, 5), torch.randn(6, 5)))


def dropped(bug: bool) -> Built:
    """The loss of each view, of which the last alone counts if wrong."""
    model = nn.Linear(5, 5)

    def loss(views: list[Tensor]) -> Tensor:
        total = torch.zeros(())
        for view in views:
            term = F.mse_loss(model(view), views[0] + view)
            total = term if bug else total + term
        return total / len(views)

    return trained(model, loss, [torch.randn(4, 5) for _ in range(3)])


def fresh(bug: bool) -> Built:
    """Tokens written into new memory, the last row of which nothing writes if wrong."""
    model = nn.Linear(5, 5)

    def loss(x: Tensor) -> Tensor:
        rows = torch.empty(4, 6)
        rows[: 3 if bug else 4, :5] = x[: 3 if bug else 4]
        rows[:, 5] = 0
        return F.mse_loss(model(rows[:, :5].clamp(-9, 9).nan_to_num()), x)

    return trained(model, loss, torch.randn(4, 5))


def one_vector(bug: bool) -> Built:
    """Hidden tokens are answered from a token and their place, which is left out there if wrong."""
    model = nn.ModuleDict({"embed": nn.Linear(5, 8), "mix": nn.Linear(8, 8), "head": nn.Linear(8, 5)})
    token, place = nn.Parameter(torch.randn(8)), nn.Parameter(torch.randn(6, 8))
    model.register_parameter("token", token)
    model.register_parameter("place", place)

    def loss(x: Tensor) -> Any:
        hidden = torch.rand(x.shape[:2]).argsort(1) < 3
        seen = torch.where(hidden[..., None], 0, (model["embed"](x) + place).tanh()).mean(1, keepdim=True)
        y = token.expand(*x.shape[:2], -1) if bug else token + place
        return (model["head"](model["mix"](y + seen).relu()) - x)[hidden].square().mean()

    return trained(model, loss, torch.randn(3, 6, 5))


@pytest.mark.parametrize(
    ("build", "contract"),
    [
        (itself, Contract.C7),
        (positive, Contract.C7),
        (dropped, Contract.C4),
        (fresh, Contract.C9),
        (one_vector, Contract.C10),
    ],
)
def test_a_wrong_part_of_the_loss_is_refuted_and_its_twin_spared(
    build: Callable[[bool], Built], contract: Contract
) -> None:
    torch.manual_seed(0)
    report = watch(*build(False))
    assert not report.refuted, str(report)
    torch.manual_seed(0)
    report = watch(*build(True))
    refuted = [f.contract for f in report.refuted]
    # What new memory holds decides whether the step repeats, and so whether its other claims are asked.
    assert refuted == [contract] or (build is fresh and contract in refuted), str(report)


def untouched(kind: str) -> Built:
    """Steps that look like one of these and are right."""
    model = nn.Linear(5, 4)

    def loss(views: tuple[Tensor, Tensor]) -> Any:
        a, b = (F.normalize(model(v), dim=1) for v in views)
        if kind == "a term that is looked at":
            terms = []
            for z in (a, b):
                term = (z - 1).square().mean()
                terms.append(float(term))
            return term * 1.0
        if kind == "the last of several refinements":
            z = a
            for _ in range(3):
                z = z + model(z @ model.weight)
                term = F.mse_loss(z, b.detach())
            return term * 1.0
        if kind == "rows compared for uniformity":
            return F.mse_loss(a, b) + torch.logsumexp((a @ a.T * 2).flatten(), 0)
        # The label is the diagonal, and nothing is compared with itself.
        return F.cross_entropy(a @ b.T, torch.arange(len(a)))

    return trained(model, loss, (torch.randn(6, 5), torch.randn(6, 5)))


@pytest.mark.parametrize(
    "kind", ["a term that is looked at", "the last of several refinements", "rows compared for uniformity", "two views"]
)
def test_what_is_right_is_not_refuted(kind: str) -> None:
    torch.manual_seed(0)
    report = watch(*untouched(kind))
    assert not report.refuted, str(report)


@pytest.mark.parametrize(
    ("term", "verdict"),
    [
        ("left out", "UNKNOWN"),
        ("added", None),
        ("detached", None),
        ("of the loss", None),
        ("without gradient", None),
        ("of a second loss", None),
    ],
)
def test_a_term_that_no_loss_has_is_asked_about(term: str, verdict: str | None) -> None:
    """A term that is computed with gradient and logged may be forgotten, or a metric."""
    torch.manual_seed(0)
    model = nn.Linear(5, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def step(x: Tensor) -> dict[str, float]:
        z = model(x)
        invariance = F.mse_loss(z, x[:, :4])
        with torch.set_grad_enabled(term != "without gradient"):
            spread = (z.detach() if term == "detached" else z).std(0)
            variance = invariance.exp() if term == "of the loss" else (1 - spread).relu().mean()
        optimizer.zero_grad()
        (invariance + (variance if term == "added" else 0)).backward(retain_graph=term == "of a second loss")
        if term == "of a second loss":
            variance.backward()
        optimizer.step()
        return {"invariance": float(invariance), "variance": float(variance)}

    found = [f for f in watch(step, torch.randn(6, 5)).findings if f.claim.startswith("every term")]
    assert [f.verdict.name for f in found] == ([verdict] if verdict else [])
    assert not found or ("test_watch_terms.py" in found[0].detail and 'allow={"C4"' in found[0].detail)


@pytest.mark.parametrize(
    ("term", "asked"),
    [
        ("vector left out", True),
        ("unreduced left out", True),
        ("vector added", False),
        ("unreduced added", False),
        ("a row", False),
        ("the worst of the loss", False),
    ],
)
def test_a_vector_that_no_loss_has_is_asked_about(term: str, asked: bool) -> None:
    """Of samples or features, as terms are before their mean; a row of an activation is no term."""
    torch.manual_seed(0)

    def loss(x: Tensor) -> Tensor:
        z = model(x)
        each = (z - x[:, :4]).square().mean(1)
        if term.startswith("vector"):
            more = (1 - z.std(0)).relu()
        elif term.startswith("unreduced"):
            more = F.smooth_l1_loss(z, x[:, 1:], reduction="none")
        else:
            more = z[0] if term == "a row" else each.topk(2).values
        logged.append(more)
        return each.mean() + (more.mean() if term.endswith("added") else 0)

    model, logged = nn.Linear(5, 4), list[Tensor]()
    report = watch(*trained(model, loss, torch.randn(6, 5)))
    found = [f for f in report.findings if f.claim.startswith("every term")]
    assert [f.verdict.name for f in found] == ["UNKNOWN"] * asked, str(report)


@pytest.mark.parametrize("bug", [False, True])
def test_positives_that_are_one_vector_are_refuted(bug: bool) -> None:
    """Frames are asked for among others of their sample; the targets are made after the mask if wrong."""
    torch.manual_seed(0)
    model = nn.ModuleDict({"embed": nn.Linear(5, 8), "mix": nn.Linear(9, 9), "target": nn.Linear(8, 8)})
    token = nn.Parameter(torch.randn(8))
    model.register_parameter("token", token)
    others = torch.arange(9).roll(1), torch.arange(9).roll(4)

    def loss(x: Tensor) -> Tensor:
        hidden = torch.rand(x.shape[:2]).argsort(1) < 4
        frames = model["embed"](x).tanh()
        masked = torch.where(hidden[..., None], token, frames)
        q, c = model["target"](masked if bug else frames), model["mix"](masked.mT).mT
        scores = F.cosine_similarity(c[:, :, None], torch.stack([q, *(q[:, o] for o in others)], 2), dim=-1)
        return F.cross_entropy(scores.flatten(0, 1), torch.where(hidden, 0, -100).flatten())

    report = watch(*trained(model, loss, torch.randn(3, 9, 5)))
    assert [f.contract for f in report.refuted] == [Contract.C3] * bug, str(report)
