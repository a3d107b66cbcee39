"""certify_target_branch: a right pipeline passes, each planted mistake is refuted, and everything is put back."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import viewproof as vp
from viewproof.certify.target import TargetBranch, certify_target_branch
from viewproof.verdict import Verdict

X = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))


class Distiller:
    def __init__(self, momentum: float = 0.9) -> None:
        torch.manual_seed(1)
        self.online = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.GELU(), nn.Linear(6, 3))
        self.head = nn.Linear(3, 3)
        self.target = copy.deepcopy(self.online)
        self.momentum = momentum
        self.optimizer = torch.optim.AdamW([*self.online.parameters(), *self.head.parameters()], lr=1e-2)

    def loss(self, x: Tensor) -> Tensor:
        return (self.head(self.online(x)) - self.target(x).detach()).square().mean()

    @torch.no_grad()
    def update(self, _: int = 0) -> None:
        for t, o in zip(self.target.parameters(), self.online.parameters(), strict=True):
            t.mul_(self.momentum).add_(o, alpha=1 - self.momentum)
        for t, o in zip(self.target.buffers(), self.online.buffers(), strict=True):
            t.copy_(o)

    def step(self, batches: Sequence[Tensor]) -> None:
        self.optimizer.zero_grad()
        for batch in batches:
            (self.loss(batch) / len(batches)).backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.update()

    def branch(self) -> TargetBranch:
        return TargetBranch(
            self.loss, self.online, self.target, update=self.update, momentum=self.momentum, step=self.step,
            trained=(self.online, self.head), frozen=(self.target,), stateful=(self.optimizer,),
        )  # fmt: skip


def refuted(branch: TargetBranch, words: str) -> bool:
    report = certify_target_branch(branch, X)
    found = [f for f in report.refuted if words in f.claim]
    return bool(found) and all(f.witness is not None and f.witness.what for f in found)


def test_a_right_pipeline() -> None:
    report = certify_target_branch(Distiller().branch(), X)
    assert report.verdict() is Verdict.PROVED, str(report)
    assert len(report.findings) == 8


def test_it_is_left_as_it_was_found() -> None:
    d = Distiller()
    d.step([X])
    d.target.eval()
    d.online[0].weight.grad = kept = torch.ones(6, 4)  # type: ignore[union-attr]
    everything: Any = [copy.deepcopy(m.state_dict()) for m in (d.online, d.head, d.target, d.optimizer)]
    state, parameters = torch.get_rng_state(), [id(p) for p in d.online.parameters()]
    certify_target_branch(d.branch(), X)
    again: Any = [m.state_dict() for m in (d.online, d.head, d.target, d.optimizer)]
    for old, new in zip(everything[:3], again[:3], strict=True):
        assert all(torch.equal(old[k], new[k]) for k in old)
    for key, held in everything[3]["state"].items():
        assert all(torch.equal(torch.as_tensor(v), torch.as_tensor(again[3]["state"][key][k])) for k, v in held.items())
    assert d.online[0].weight.grad is kept and bool((kept == 1).all())  # type: ignore[union-attr]
    assert torch.equal(torch.get_rng_state(), state) and [id(p) for p in d.online.parameters()] == parameters
    assert not d.target.training and d.online.training


def leaking(d: Distiller) -> TargetBranch:
    return replace(d.branch(), loss=lambda x: (d.head(d.online(x)) - d.target(x)).square().mean())


def unused(d: Distiller) -> TargetBranch:
    return replace(d.branch(), loss=lambda x: (d.head(d.online(x)) - d.online(x).detach()).square().mean())


def other_momentum(d: Distiller) -> TargetBranch:
    return replace(d.branch(), momentum=0.9001)


def late(d: Distiller) -> TargetBranch:
    return replace(d.branch(), update=lambda step: d.update() if step < 3 else None)


def one_parameter_left_out(d: Distiller) -> TargetBranch:
    def update(_: int) -> None:
        kept = d.target[3].bias.detach().clone()  # type: ignore[union-attr]
        d.update()
        d.target[3].bias.data.copy_(kept)  # type: ignore[union-attr]

    return replace(d.branch(), update=update)


def four_moves(d: Distiller) -> TargetBranch:
    def step(batches: Sequence[Tensor]) -> None:
        d.step(batches)
        for _ in batches[1:]:
            d.update()

    return replace(d.branch(), step=step)


def no_gradient(d: Distiller) -> TargetBranch:
    return replace(d.branch(), loss=lambda x: (d.head(d.online(x).detach()) - d.target(x).detach()).square().mean())


def not_optimised(d: Distiller) -> TargetBranch:
    d.optimizer = torch.optim.AdamW(d.online.parameters(), lr=1e-2)
    return replace(d.branch(), stateful=(d.optimizer,))


def dropout(d: Distiller) -> TargetBranch:
    d.target = nn.Sequential(*d.target, nn.Dropout(0.5))
    d.online = nn.Sequential(*d.online, nn.Identity())
    return d.branch()


def thawed(d: Distiller) -> TargetBranch:
    frozen = nn.Linear(4, 3)
    return replace(d.branch(), loss=lambda x: d.loss(x) + frozen(x).square().mean(), frozen=(frozen,))


def written_back(d: Distiller) -> TargetBranch:
    def update(_: int) -> None:
        d.update()
        d.online.load_state_dict(d.target.state_dict())

    return replace(d.branch(), update=update)


class Silenced(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return gradient * 0


def silenced(d: Distiller) -> TargetBranch:
    def loss(x: Tensor) -> Tensor:
        online: Tensor = Silenced.apply(d.online(x))  # type: ignore[no-untyped-call]
        return (d.head(online) - d.target(x).detach()).square().mean()

    return replace(d.branch(), loss=loss)


@pytest.mark.parametrize(
    ("mistake", "words"),
    [
        (leaking, "takes no gradient"),
        (unused, "uses the target module"),
        (other_momentum, "declared average"),
        (late, "declared average"),
        (one_parameter_left_out, "declared average"),
        (written_back, "declared average"),
        (four_moves, "move the target once"),
        (no_gradient, "every trained parameter gets"),
        (silenced, "every trained parameter gets"),
        (not_optimised, "every trained parameter moves"),
        (dropout, "draws nothing"),
        (thawed, "no frozen parameter gets"),
    ],
)
def test_mistakes(mistake: Callable[[Distiller], TargetBranch], words: str) -> None:
    assert refuted(mistake(Distiller()), words)


def test_buffers_as_declared() -> None:
    assert refuted(replace(Distiller().branch(), buffers="average"), "declared average")
    assert refuted(replace(Distiller().branch(), buffers="keep"), "declared average")


def test_a_schedule() -> None:
    d = Distiller()

    def update(step: int) -> None:
        d.momentum = 0.9 + step / 100
        d.update()

    branch = replace(d.branch(), update=update, step=None)
    assert not refuted(replace(branch, momentum=lambda step: 0.9 + step / 100), "declared average")
    assert refuted(replace(branch, momentum=lambda step: 0.9 + (step + 1) / 100), "declared average")


def test_targets() -> None:
    encoder = nn.Linear(4, 2)
    loss = TargetBranch(lambda x, y: (encoder(x) - y).square().mean(), targets=lambda x: encoder(x + 1))
    assert refuted(loss, "takes no gradient")
    detached = replace(loss, loss=lambda x, y: (encoder(x) - y.detach()).square().mean())
    assert certify_target_branch(detached, X).verdict() is Verdict.PROVED


def test_a_gradient_that_happens_to_be_zero_is_unknown() -> None:
    encoder = nn.Linear(4, 2)
    branch = TargetBranch(lambda x, y: encoder(x).square().mean() + 0 * y.sum(), targets=lambda x: encoder(x + 1))
    report = certify_target_branch(branch, X)
    assert report.findings[0].verdict is Verdict.UNKNOWN and "a path to targets(batch)" in report.findings[0].detail


def test_a_shared_encoder_is_no_target_that_can_be_told_apart() -> None:
    d = Distiller()
    d.target = d.online
    report = certify_target_branch(replace(d.branch(), frozen=()), X)
    assert report.findings[0].verdict is Verdict.UNKNOWN and "pass targets" in report.findings[0].detail
    assert "shares every parameter" in str(report)


def test_exceptions_and_what_is_missing() -> None:
    def broken(x: Tensor) -> Tensor:
        raise KeyError("x")

    d = Distiller()
    report = certify_target_branch(replace(d.branch(), loss=broken, step=None, update=None), X)
    assert report.verdict() is Verdict.UNKNOWN and "raised KeyError" in str(report)
    nothing = certify_target_branch(TargetBranch(lambda x: x.sum()), X)
    assert nothing.verdict() is Verdict.VACUOUS


@pytest.mark.parametrize(
    ("changes", "steps", "message"),
    [
        ({}, 0, "steps=0 compares nothing"),
        ({"buffers": "move"}, 4, "buffers='move' must be"),
        ({"buffers": {"*": "move"}}, 4, "buffers='move' must be"),
        ({"order": "first"}, 4, "order='first' must be 'after' or 'before'"),
        (
            {"trained": ("*.wieght",)},
            4,
            "trained='.*wieght' must fit the name of a parameter; there are online.0.weight",
        ),
        ({"online": None}, 4, "target is given without online"),
        ({"online": nn.Linear(2, 2)}, 4, "target has '0.weight' of shape"),
    ],
)
def test_bad_arguments(changes: dict[str, Any], steps: int, message: str) -> None:
    branch = copy.copy(Distiller().branch())
    for key, value in changes.items():
        object.__setattr__(branch, key, value)
    with pytest.raises(vp.InvalidArgument, match=message):
        certify_target_branch(branch, X, steps=steps)


class Halved(Distiller):
    """In bfloat16, where 0.996 moves nothing."""

    def __init__(self) -> None:
        super().__init__(0.996)
        for module in (self.online, self.target, self.head):
            module.bfloat16()

    def branch(self) -> TargetBranch:
        return TargetBranch(lambda x: self.loss(x.bfloat16()), self.online, self.target, update=self.update,
                            momentum=self.momentum)  # fmt: skip


def test_a_move_below_rounding_is_not_told_from_none() -> None:
    halved = Halved()
    for branch in (halved.branch(), replace(halved.branch(), update=lambda _: None, buffers="keep")):
        found = [f for f in certify_target_branch(branch, X).findings if "average" in f.claim]
        assert found[0].verdict is Verdict.UNKNOWN and "(bfloat16) would move by less than rounding" in found[0].detail
    d = Distiller()
    d.update = lambda _=0: None  # type: ignore[method-assign]
    ends = replace(d.branch(), update=None, momentum=lambda k: 1.0 if k >= 10 else 0.99)
    found = [f for f in certify_target_branch(ends, X).findings if "micro-batches" in f.claim]
    assert found[0].verdict is Verdict.UNKNOWN


def test_a_rebound_buffer_is_put_back() -> None:
    d = Distiller()

    class Centred(nn.Module):
        centre: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("centre", torch.zeros(3))

        def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
            self.centre = 0.9 * self.centre + 0.1 * teacher.detach().mean(0)
            return (student - teacher.detach() + self.centre).square().mean()

    criterion = Centred()
    centre = criterion.centre
    d.loss = lambda x: criterion(d.head(d.online(x)), d.target(x))  # type: ignore[method-assign]
    certify_target_branch(replace(d.branch(), loss=d.loss, stateful=(d.optimizer, criterion)), X)
    assert criterion.centre is centre and not bool(centre.any())


def test_a_list_of_targets_and_augmentation_by_numpy() -> None:
    d = Distiller()

    def loss(x: Tensor, targets: Sequence[Tensor]) -> Tensor:
        noise = torch.from_numpy(np.random.randn(*x.shape)).float()
        return torch.stack([(d.head(d.online(x + noise)) - t).square().mean() for t in targets]).mean()

    open_branch = TargetBranch(loss, targets=lambda x: [d.target(x), d.target(-x)])
    witness = certify_target_branch(open_branch, X).refuted[0].witness
    assert witness is not None and witness.what.startswith("targets(batch), tensor 0 gets a gradient of norm")
    d.target.requires_grad_(False)
    branch = replace(open_branch, online=d.online, target=d.target)
    claims = {f.claim: f.verdict for f in certify_target_branch(branch, X).findings}
    assert claims["the target takes no gradient"] is claims["the loss uses the target module"] is Verdict.PROVED


def test_a_parameter_that_cannot_train_is_named_so() -> None:
    d = Distiller()
    d.head.weight.requires_grad_(False)
    branch = d.branch()
    assert "hence not trained: trained[1].weight" in str(certify_target_branch(branch, X))
    asked = replace(branch, trained=(d.online, d.head.weight, d.head))
    assert "gets none, for its requires_grad is False" in str(certify_target_branch(asked, X))
    d.head.requires_grad_(False)
    assert "trained[1].weight gets none, for its requires_grad is False" in str(certify_target_branch(branch, X))


class Positioned(nn.Module):
    """A frozen table of positions before a trained layer."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.net = nn.Parameter(torch.randn(4), requires_grad=False), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x + self.table)  # type: ignore[no-any-return]


def test_a_frozen_parameter_in_a_trained_module_is_not_trained() -> None:
    d = Distiller()
    d.online = Positioned()  # type: ignore[assignment]
    d.target = copy.deepcopy(d.online).requires_grad_(False)
    d.optimizer = torch.optim.AdamW([p for m in (d.online, d.head) for p in m.parameters() if p.requires_grad], lr=1e-2)
    report = certify_target_branch(d.branch(), X)
    assert report.verdict() is Verdict.PROVED, str(report)
    assert "without requires_grad, hence not trained: trained[0].table" in str(report)
    moving = replace(d.branch(), frozen=(d.target, "online.net.bias"))
    claims = {f.claim for f in certify_target_branch(moving, X).refuted}
    assert claims == {"no frozen parameter gets a gradient", "no frozen parameter moves"}


class Stemmed(Distiller):
    """A stem feeds both branches; the frozen target's output is detached, or is not."""

    def __init__(self, detached: bool, first: nn.Module | None = None) -> None:
        super().__init__()
        self.stem, self.detached = nn.Linear(4, 4), detached
        self.online = nn.Sequential(first or nn.Linear(4, 6), nn.Tanh(), nn.Linear(4 if first else 6, 3))
        self.target = copy.deepcopy(self.online).requires_grad_(False)
        self.optimizer = torch.optim.AdamW([p for m in (self.stem, self.online, self.head) for p in m.parameters()])

    def loss(self, x: Tensor) -> Tensor:
        z = self.stem(x)
        target = self.target(z)
        return (self.head(self.online(z)) - (target.detach() if self.detached else target)).square().mean()


@pytest.mark.parametrize("first", [None, nn.Identity()])
@pytest.mark.parametrize("detached", [False, True])
def test_a_gradient_through_the_outputs_of_a_frozen_target(detached: bool, first: nn.Module | None) -> None:
    d = Stemmed(detached, first)
    report = certify_target_branch(replace(d.branch(), trained=(d.stem, d.online, d.head)), X)
    claims = {f.claim: f.verdict for f in report.findings}
    assert claims["the target takes no gradient"] is (Verdict.PROVED if detached else Verdict.REFUTED), str(report)


def test_a_stem_within_both_branches_is_told_apart_by_the_outputs() -> None:
    for detached in (False, True):
        d = Stemmed(detached)
        shared = nn.Linear(4, 4)
        d.stem = nn.Identity()  # type: ignore[assignment]
        d.online, d.target = nn.Sequential(shared, nn.Linear(4, 3)), nn.Sequential(shared, nn.Linear(4, 3))
        report = certify_target_branch(TargetBranch(d.loss, d.online, d.target), X)
        assert report.findings[0].verdict is (Verdict.PROVED if detached else Verdict.REFUTED), str(report)


def test_a_target_that_is_not_called_as_a_module_is_not_watched() -> None:
    d = Stemmed(False)
    last: Any = d.target[2]

    def loss(x: Tensor) -> Tensor:
        return (d.head(d.online(d.stem(x))) - nn.functional.linear(d.stem(x), last.weight[:, :4])).square().mean()

    report = certify_target_branch(replace(d.branch(), loss=loss, step=None), X)
    assert report.findings[0].verdict is Verdict.UNKNOWN
    assert [f.verdict for f in report.findings if "draws nothing" in f.claim] == [Verdict.UNKNOWN]


def test_the_order_of_average_and_step_is_reported_and_checked() -> None:
    def average_first(d: Distiller, of: tuple[int, ...] = (1, 4)) -> TargetBranch:
        def step(batches: Sequence[Tensor]) -> None:
            if len(batches) not in of:
                d.step(batches)
                return
            d.optimizer.zero_grad()
            for batch in batches:
                (d.loss(batch) / len(batches)).backward()  # type: ignore[no-untyped-call]
            d.update()
            d.optimizer.step()

        return replace(d.branch(), step=step)

    for made, order, other in (
        (Distiller().branch(), "after", "before"),
        (average_first(Distiller()), "before", "after"),
    ):
        report = certify_target_branch(made, X)
        assert f"the average reads online {order} the optimizer's step" in str(report) and not report.refuted
        assert not certify_target_branch(replace(made, order=order), X).refuted
        assert refuted(replace(made, order=other), "move the target once")
    changing = average_first(Distiller(), of=(4,))
    found = [f for f in certify_target_branch(changing, X).findings if "move the target once" in f.claim]
    assert [f.verdict for f in found] == [Verdict.UNKNOWN] and "now before and now after" in found[0].detail
    assert refuted(replace(changing, order="after"), "move the target once")


def test_a_start_at_a_stationary_point() -> None:
    d = Distiller()
    d.online = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
    d.target = copy.deepcopy(d.online)
    d.optimizer = torch.optim.SGD(d.online.parameters(), 0.1)  # type: ignore[assignment]
    d.loss = lambda x: -(d.target(x).detach().softmax(-1) * d.online(x).log_softmax(-1)).sum(-1).mean()  # type: ignore[method-assign]
    report = certify_target_branch(replace(d.branch(), trained=(d.online,)), X)
    assert report.verdict() is Verdict.PROVED, str(report)
    d.optimizer = torch.optim.SGD(list(d.online.parameters())[1:], 0.1)  # type: ignore[assignment]
    assert refuted(replace(d.branch(), trained=(d.online,)), "every trained parameter moves")


def test_buffers_of_a_params_only_average_are_declared_by_name() -> None:
    d = Distiller()

    @torch.no_grad()
    def parameters_only(_: int = 0) -> None:
        for t, o in zip(d.target.parameters(), d.online.parameters(), strict=True):
            t.mul_(d.momentum).add_(o, alpha=1 - d.momentum)

    d.update = parameters_only  # type: ignore[method-assign]
    branch = replace(d.branch(), update=parameters_only)
    assert refuted(branch, "declared average")
    assert not refuted(replace(branch, buffers={"*.running_*": "keep", "*.num_*": "keep"}), "declared average")
    assert refuted(replace(branch, buffers={"*.running_*": "keep"}), "declared average")
