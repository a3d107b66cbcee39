"""Target branches that are not what they were meant to be (C6): small, but with a batch norm and a predictor."""

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from viewproof.bugzoo.specimen import Specimen, Standing
from viewproof.certify.report import Contract, Report, Witness
from viewproof.certify.target import TargetBranch, certify_target_branch

Twin = Callable[[], TargetBranch]
MOMENTUM, STEPS = 0.9, 8


class _Pair:
    """An online encoder with predictor, its averaged copy, and one optimizer."""

    def __init__(self) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.online = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.GELU(), nn.Linear(6, 3))
            self.predictor = nn.Linear(3, 3)
        self.target = copy.deepcopy(self.online).requires_grad_(False)
        self.optimizer = torch.optim.SGD([*self.online.parameters(), *self.predictor.parameters()], lr=0.1)

    def loss(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = self.target(x)
        return F.mse_loss(self.predictor(self.online(x)), wanted)

    def parameters_move(self, momentum: float = MOMENTUM) -> None:
        with torch.no_grad():
            for t, o in zip(self.target.parameters(), self.online.parameters(), strict=True):
                t.lerp_(o, 1 - momentum)

    def buffers_follow(self) -> None:
        with torch.no_grad():
            for t, o in zip(self.target.buffers(), self.online.buffers(), strict=True):
                t.copy_(o)

    def update(self, _: int = 0) -> None:
        self.parameters_move()
        self.buffers_follow()

    def step(self, batches: Sequence[Tensor]) -> None:
        self.optimizer.zero_grad()
        for batch in batches:
            (self.loss(batch) / len(batches)).backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.update()

    def branch(self) -> TargetBranch:
        return TargetBranch(
            self.loss, self.online, self.target, update=self.update, momentum=MOMENTUM, step=self.step,
            trained=(self.online, self.predictor), frozen=(self.target,), stateful=(self.optimizer,),
        )  # fmt: skip


def averaged() -> TargetBranch:
    """The twin of most: parameters averaged, buffers copied, once an optimizer step."""
    return _Pair().branch()


def buffers_forgotten() -> TargetBranch:
    """Only parameters are averaged; the target's batch norm keeps its statistics for ever."""
    pair = _Pair()
    return replace(pair.branch(), update=lambda _: pair.parameters_move())


def online_updated() -> TargetBranch:
    """A fix of the above that was proposed: the statistics are copied, but into the online branch."""
    pair = _Pair()

    def update(_: int) -> None:
        pair.parameters_move()
        with torch.no_grad():
            for t, o in zip(pair.target.buffers(), pair.online.buffers(), strict=True):
                o.copy_(t)

    return replace(pair.branch(), update=update)


def buffers_in_the_wrong_loop() -> TargetBranch:
    """Another such fix: a buffer is copied when its name comes up among the parameters, which it never does."""
    pair = _Pair()

    def update(_: int) -> None:
        online, buffers = dict(pair.online.named_parameters()), dict(pair.online.named_buffers())
        with torch.no_grad():
            for key, t in pair.target.named_parameters():
                t.lerp_(online[key], 1 - MOMENTUM)
                if key in buffers:
                    pair.target.get_buffer(key).copy_(buffers[key])

    return replace(pair.branch(), update=update)


def swapped() -> TargetBranch:
    """The two arguments of the average change places: the target is nearly the online branch."""
    pair = _Pair()

    def update(_: int) -> None:
        pair.parameters_move(1 - MOMENTUM)
        pair.buffers_follow()

    return replace(pair.branch(), update=update)


def _cosine(step: float, length: int) -> float:
    return 1 - (1 - MOMENTUM) * (math.cos(math.pi * min(step / length, 1.0)) + 1) / 2


def _scheduled(length: int) -> TargetBranch:
    pair = _Pair()

    def update(step: int) -> None:
        pair.parameters_move(_cosine(float(step), length))
        pair.buffers_follow()

    branch = replace(pair.branch(), update=update, step=None, trained=(), frozen=())
    return replace(branch, momentum=lambda step: _cosine(float(step), STEPS))


def schedule_in_steps() -> TargetBranch:
    """The momentum reaches 1 at the last step of the last epoch."""
    return _scheduled(STEPS)


def schedule_in_epochs() -> TargetBranch:
    """Counts steps against the number of epochs: the momentum is 1, and the target frozen, after as many steps."""
    return _scheduled(2)


def moved_each_micro_batch() -> TargetBranch:
    """The average hangs on the forward pass, and so moves once a micro-batch."""
    pair = _Pair()

    def step(batches: Sequence[Tensor]) -> None:
        pair.optimizer.zero_grad()
        for batch in batches:
            (pair.loss(batch) / len(batches)).backward()  # type: ignore[no-untyped-call]
            pair.update()
        pair.optimizer.step()

    return replace(pair.branch(), step=step)


def _codes(detached: bool) -> TargetBranch:
    pair = _Pair()
    book = nn.Embedding(5, 3)
    with torch.no_grad():
        book.weight.copy_(torch.linspace(-1, 1, 15).reshape(5, 3))

    def loss(x: Tensor) -> Tensor:
        z = pair.predictor(pair.online(x))
        scores = z @ book.weight.T
        codes = scores.softmax(1) @ book.weight
        return pair.loss(x) + F.mse_loss(z, codes.detach() if detached else codes)

    return replace(pair.branch(), loss=loss, step=None, trained=(pair.online, pair.predictor, book))


def codebook_trained() -> TargetBranch:
    """The codebook learns from what it quantises."""
    return _codes(detached=False)


def codebook_detached() -> TargetBranch:
    """The codes are detached one time too many: the codebook never learns."""
    return _codes(detached=True)


def targets_from_online() -> TargetBranch:
    """The targets come from the online encoder; the averaged one is kept up to date, and used by nobody."""
    pair = _Pair()
    return replace(
        pair.branch(),
        loss=lambda x, wanted: F.mse_loss(pair.predictor(pair.online(x)), wanted),
        targets=lambda x: pair.online(x),
        step=None,
    )


def targets_from_target() -> TargetBranch:
    """The targets come from the averaged encoder, without gradient."""
    pair = _Pair()

    def targets(x: Tensor) -> Tensor:
        with torch.no_grad():
            wanted: Tensor = pair.target(x)
        return wanted

    return replace(
        pair.branch(),
        loss=lambda x, wanted: F.mse_loss(pair.predictor(pair.online(x)), wanted),
        targets=targets,
        step=None,
    )


def predictor_without_optimizer() -> TargetBranch:
    """The predictor is in no parameter group: it gets gradients, and stays as it was drawn."""
    pair = _Pair()
    pair.optimizer = torch.optim.SGD(pair.online.parameters(), lr=0.1)
    return replace(pair.branch(), stateful=(pair.optimizer,))


def _relations(detached: bool) -> TargetBranch:
    pair = _Pair()

    def targets(x: Tensor) -> Tensor:
        z = F.normalize(pair.online(x), dim=1)
        relations: Tensor = z @ z.T
        return relations.detach() if detached else relations

    def loss(x: Tensor, relations: Tensor) -> Tensor:
        z = F.normalize(pair.predictor(pair.online(x)), dim=1)
        return F.mse_loss(z @ z.T, relations)

    return TargetBranch(loss, targets=targets, trained=(pair.online, pair.predictor))


def relations_detached() -> TargetBranch:
    """The matrix of similarities is a label."""
    return _relations(detached=True)


def relations_followed() -> TargetBranch:
    """The matrix of similarities that serves as a label is not detached: it learns to be easy to predict."""
    return _relations(detached=False)


def detach_in_the_loss() -> TargetBranch:
    """The targets come with a graph, and the loss detaches them."""
    pair = _Pair()
    return TargetBranch(
        lambda x, wanted: F.mse_loss(pair.predictor(pair.online(x)), wanted.detach()),
        targets=lambda x: pair.online(x),
        trained=(pair.online, pair.predictor),
    )


def _batch() -> Tensor:
    return torch.randn(8, 4, generator=torch.Generator().manual_seed(1))


def _certify(twin: Twin) -> Report:
    return certify_target_branch(twin(), _batch(), steps=STEPS)


def _gradients(twin: Twin) -> tuple[TargetBranch, list[Tensor | None]]:
    branch = twin()
    leaves = [p for m in branch.trained for p in m.parameters()]
    value = branch.value(_batch())
    return branch, list(torch.autograd.grad(value, leaves, allow_unused=True))


def average_breaks(twin: Twin, witness: Witness) -> bool:
    """Puts the witness's values into fresh modules and makes the one move."""
    branch, given = twin(), witness.inputs
    assert branch.online is not None and branch.target is not None and branch.update is not None
    for module, held in ((branch.online, given["online"]), (branch.target, given["target"])):
        module.load_state_dict(held)
    branch.update(given["step"])
    m, averages = given["momentum"], dict(branch.target.named_parameters())
    for key, new in branch.target.state_dict().items():
        old, other = given["target"][key], given["online"][key]
        wanted = m * old.double() + (1 - m) * other.double() if key in averages else other
        if not torch.allclose(new.double(), wanted.double(), rtol=1e-5, atol=1e-6):
            return True
    return any(not torch.equal(v, given["online"][k]) for k, v in branch.online.state_dict().items())


def accumulation_breaks(twin: Twin, witness: Witness) -> bool:
    """One step over the witness's micro-batches against one move of the average, from before or after it."""
    branch, given = twin(), witness.inputs
    assert branch.online is not None and branch.target is not None and branch.step is not None
    branch.online.load_state_dict(given["online"])
    branch.target.load_state_dict(given["target"])
    branch.step([given["batch"]] * given["count"])
    after = dict(branch.online.named_parameters())
    for online in (after, given["online"]):
        wanted = {k: MOMENTUM * given["target"][k] + (1 - MOMENTUM) * online[k] for k in after}
        if all(torch.allclose(p, wanted[k], atol=1e-6) for k, p in branch.target.named_parameters()):
            return False
    return True


def gradient_breaks(twin: Twin, witness: Witness) -> bool:
    """Whether some parameter that should train gets no gradient."""
    return any(g is None or not bool(g.any()) for g in _gradients(twin)[1])


def moves_breaks(twin: Twin, witness: Witness) -> bool:
    """Whether some parameter of the predictor stays as it was."""
    branch = twin()
    assert branch.step is not None
    before = copy.deepcopy(branch.trained[-1])
    for _ in range(STEPS):
        branch.step([witness.inputs["batch"]])
    return any(map(torch.equal, branch.trained[-1].parameters(), before.parameters()))


def targets_break(twin: Twin, witness: Witness) -> bool:
    """Whether the loss has a gradient with respect to its targets."""
    branch, batch = twin(), witness.inputs["batch"]
    assert branch.targets is not None
    wanted = branch.targets(batch)
    if not wanted.requires_grad:
        return False
    return torch.autograd.grad(branch.loss(batch, wanted), wanted, allow_unused=True)[0] is not None


def _specimens() -> Iterator[Specimen]:
    gh = "https://github.com"

    def specimen(
        name: str, source: str, standing: Standing, fixed: Twin, buggy: Twin, breaks: Callable[[Twin, Witness], bool],
        shown: str, not_shown: str = "the method around it",
    ) -> Specimen:  # fmt: skip
        mechanism = (buggy.__doc__ or "").strip()
        return Specimen(
            name, Contract.C6, source, standing, mechanism, shown, not_shown, _certify, fixed, buggy, breaks
        )

    closed = "a move of the average against its closed form"
    byol = f"{gh}/lucidrains/byol-pytorch/issues/73"
    yield specimen("buffers forgotten", byol, "confirmed", averaged, buffers_forgotten, average_breaks, closed)
    yield specimen("online updated", byol, "confirmed", averaged, online_updated, average_breaks, closed)
    yield specimen(
        "buffers in the wrong loop", byol, "confirmed", averaged, buffers_in_the_wrong_loop, average_breaks, closed
    )
    yield specimen(
        "schedule in epochs", f"{gh}/vturrisi/solo-learn/issues/286", "confirmed", schedule_in_steps,
        schedule_in_epochs, average_breaks, "the trace of the momentum",
    )  # fmt: skip
    yield specimen(
        "moved each micro-batch", f"{gh}/lightly-ai/lightly-train/issues/968", "reported", averaged,
        moved_each_micro_batch, accumulation_breaks, "one step over four micro-batches", "the centre, averaged alike",
    )  # fmt: skip
    yield specimen(
        "codebook detached", f"{gh}/facebookresearch/fairseq2/pull/731", "confirmed", codebook_trained,
        codebook_detached, gradient_breaks, "the declared gradients", "the quantiser: soft codes stand for it",
    )  # fmt: skip
    yield specimen(
        "targets from online", f"{gh}/jerber/lang-jepa/pull/5", "confirmed", targets_from_target, targets_from_online,
        targets_break, "a gradient through the targets",
    )  # fmt: skip
    yield specimen(
        "predictor without optimizer", f"{gh}/openai/parameter-golf/pull/1581", "confirmed", averaged,
        predictor_without_optimizer, moves_breaks, "a parameter that no step moves",
    )  # fmt: skip
    yield specimen(
        "relations not detached", f"{gh}/lightly-ai/lightly/commit/6bd7553b", "confirmed", relations_detached,
        relations_followed, targets_break, "a gradient through the label",
    )  # fmt: skip
    yield specimen("swapped arguments", "synthetic", "synthetic", averaged, swapped, average_breaks, closed)
    yield Specimen(
        "detach in the loss", Contract.C6, f"{gh}/lightly-ai/lightly/issues/559", "false alarm",
        (detach_in_the_loss.__doc__ or "").strip(), "no path from the loss to the targets", "the method around it",
        _certify, detach_in_the_loss,
    )  # fmt: skip


SPECIMENS = tuple(_specimens())
