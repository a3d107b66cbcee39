"""Target branches with a wrong gradient or a wrong EMA (C6), on a small network."""

import copy
import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from viewproof.bugzoo.specimen import Twin, specimen
from viewproof.certify import Contract, TargetBranch, Witness, certify_target_branch

MOMENTUM, STEPS = 0.9, 8


class OnlineAndTarget:
    """An online encoder with predictor, its EMA copy, and one optimizer; all of it correct."""

    def __init__(self) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.online = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.GELU(), nn.Linear(6, 3))
            self.predictor = nn.Linear(3, 3)
        self.target = copy.deepcopy(self.online).requires_grad_(False)
        self.optimizer = torch.optim.SGD([*self.online.parameters(), *self.predictor.parameters()], lr=0.1)

    def predict(self, x: Tensor) -> Tensor:
        """The predictor's output."""
        return torch.as_tensor(self.predictor(self.online(x)))

    def targets(self, x: Tensor) -> Tensor:
        """The target encoder's output, without gradient."""
        with torch.no_grad():
            return torch.as_tensor(self.target(x))

    def loss(self, x: Tensor) -> Tensor:
        """The squared error of the prediction."""
        return F.mse_loss(self.predict(x), self.targets(x))

    def average_parameters(self, momentum: float = MOMENTUM) -> None:
        """Move the target's parameters towards the online ones."""
        with torch.no_grad():
            for t, o in zip(self.target.parameters(), self.online.parameters(), strict=True):
                t.lerp_(o, 1 - momentum)

    def copy_buffers(self) -> None:
        """Give the target the online batch-norm statistics."""
        with torch.no_grad():
            for t, o in zip(self.target.buffers(), self.online.buffers(), strict=True):
                t.copy_(o)

    def update(self, _: int = 0) -> None:
        """Average parameters, copy buffers."""
        self.average_parameters()
        self.copy_buffers()

    def accumulate(self, batch: Tensor, count: int) -> None:
        """Add the gradient of one of ``count`` micro-batches."""
        (self.loss(batch) / count).backward()  # type: ignore[no-untyped-call]

    def step(self, batches: Sequence[Tensor]) -> None:
        """One optimizer step over micro-batches, then one update."""
        self.optimizer.zero_grad()
        for batch in batches:
            self.accumulate(batch, len(batches))
        self.optimizer.step()
        self.update()

    def branch(self) -> TargetBranch:
        """All that a certifier asks for."""
        return TargetBranch(
            self.loss, self.online, self.target, update=self.update, momentum=MOMENTUM, step=self.step,
            trained=(self.online, self.predictor), frozen=(self.target,), stateful=(self.optimizer,),
        )  # fmt: skip


def batch() -> Tensor:
    """Eight samples."""
    return torch.randn(8, 4, generator=torch.Generator().manual_seed(1))


def start_from(branch: TargetBranch, witness: Witness) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The witness's states of the online and the target network, loaded into them."""
    assert branch.online is not None and branch.target is not None
    states = witness.inputs["online"], witness.inputs["target"]
    branch.online.load_state_dict(states[0])
    branch.target.load_state_dict(states[1])
    return states


def average_breaks(twin: Twin, witness: Witness) -> bool:
    """Whether one update is not the EMA's closed form, or writes to the online branch."""
    branch = twin()
    online, target = start_from(branch, witness)
    momentum = witness.inputs["momentum"]
    branch.update(witness.inputs["step"])
    averaged = dict(branch.target.named_parameters())
    for key, new in branch.target.state_dict().items():
        mean = momentum * target[key].double() + (1 - momentum) * online[key].double()
        expected = mean if key in averaged else online[key].double()
        if not torch.allclose(new.double(), expected, rtol=1e-5, atol=1e-6):
            return True
    return any(not torch.equal(v, online[k]) for k, v in branch.online.state_dict().items())


branch_bug = partial(
    specimen,
    contract=Contract.C6,
    certify=lambda twin: certify_target_branch(twin(), batch(), steps=STEPS),
    breaks=average_breaks,
    shown="A move of the average against its closed form.",
    not_shown="The method around it.",
)


@branch_bug("buffers forgotten", "confirmed", "lucidrains/byol-pytorch/issues/73")
def buffers_forgotten(bug: bool) -> TargetBranch:
    """Only parameters are averaged; the target's batch norm keeps its statistics for ever."""
    pair = OnlineAndTarget()
    return replace(pair.branch(), update=lambda _: pair.average_parameters()) if bug else pair.branch()


@branch_bug("online updated", "confirmed", "lucidrains/byol-pytorch/issues/73")
def online_updated(bug: bool) -> TargetBranch:
    """A fix of the above that was proposed: the statistics are copied, but into the online branch."""
    pair = OnlineAndTarget()

    def update(_: int) -> None:
        pair.average_parameters()
        with torch.no_grad():
            for t, o in zip(pair.target.buffers(), pair.online.buffers(), strict=True):
                o.copy_(t)

    return replace(pair.branch(), update=update) if bug else pair.branch()


@branch_bug("buffers in the wrong loop", "confirmed", "lucidrains/byol-pytorch/issues/73")
def buffers_in_the_wrong_loop(bug: bool) -> TargetBranch:
    """Another such fix: a buffer is copied if a parameter has its name, which none has."""
    pair = OnlineAndTarget()

    def update(_: int) -> None:
        online, buffers = dict(pair.online.named_parameters()), dict(pair.online.named_buffers())
        with torch.no_grad():
            for key, t in pair.target.named_parameters():
                t.lerp_(online[key], 1 - MOMENTUM)
                if key in buffers:
                    pair.target.get_buffer(key).copy_(buffers[key])

    return replace(pair.branch(), update=update) if bug else pair.branch()


def cosine_momentum(step: int, length: int) -> float:
    """The momentum at a step of a schedule that reaches 1 after ``length`` steps."""
    return 1 - (1 - MOMENTUM) * (math.cos(math.pi * min(step / length, 1.0)) + 1) / 2


@branch_bug("schedule in epochs", "confirmed", "vturrisi/solo-learn/issues/286")
def schedule_in_epochs(bug: bool) -> TargetBranch:
    """Counts steps against the number of epochs: after as many steps the target is frozen.

    Shown: The trace of the momentum.
    """
    pair = OnlineAndTarget()

    def update(step: int) -> None:
        pair.average_parameters(cosine_momentum(step, 2 if bug else STEPS))
        pair.copy_buffers()

    branch = replace(pair.branch(), update=update, step=None, trained=(), frozen=())
    return replace(branch, momentum=lambda step: cosine_momentum(step, STEPS))


def accumulation_breaks(twin: Twin, witness: Witness) -> bool:
    """Whether a step over the witness's micro-batches is other than one update, before or after it."""
    branch = twin()
    online, target = start_from(branch, witness)
    branch.step([witness.inputs["batch"]] * witness.inputs["count"])
    after = dict(branch.online.named_parameters())
    for source in (after, online):
        expected = {k: MOMENTUM * target[k] + (1 - MOMENTUM) * source[k] for k in after}
        if all(torch.allclose(p, expected[k], atol=1e-6) for k, p in branch.target.named_parameters()):
            return False
    return True


@branch_bug("moved each micro-batch", "reported", "lightly-ai/lightly-train/issues/968", breaks=accumulation_breaks)
def moved_each_micro_batch(bug: bool) -> TargetBranch:
    """The average hangs on the forward pass, and so moves once a micro-batch.

    Shown: One step over four micro-batches.
    Not shown: The centre, averaged alike.
    """
    pair = OnlineAndTarget()

    def step(batches: Sequence[Tensor]) -> None:
        pair.optimizer.zero_grad()
        for micro_batch in batches:
            pair.accumulate(micro_batch, len(batches))
            pair.update()
        pair.optimizer.step()

    return replace(pair.branch(), step=step) if bug else pair.branch()


def gradient_breaks(twin: Twin, witness: Witness) -> bool:
    """Whether some parameter that should train gets no gradient."""
    branch = twin()
    parameters = [p for module in branch.trained for p in module.parameters()]
    gradients = torch.autograd.grad(branch.value(batch()), parameters, allow_unused=True)
    return any(g is None or not bool(g.any()) for g in gradients)


@branch_bug("codebook detached", "confirmed", "facebookresearch/fairseq2/pull/731", breaks=gradient_breaks)
def codebook_detached(bug: bool) -> TargetBranch:
    """The codes are detached one time too many: the codebook never learns.

    Shown: The declared gradients.
    Not shown: The quantiser: soft codes stand for it.
    """
    pair = OnlineAndTarget()
    book = nn.Embedding(5, 3)
    with torch.no_grad():
        book.weight.copy_(torch.linspace(-1, 1, 15).reshape(5, 3))

    def loss(x: Tensor) -> Tensor:
        z = pair.predict(x)
        codes = (z @ book.weight.T).softmax(1) @ book.weight
        return pair.loss(x) + F.mse_loss(z, codes.detach() if bug else codes)

    return replace(pair.branch(), loss=loss, step=None, trained=(pair.online, pair.predictor, book))


def targets_break(twin: Twin, witness: Witness) -> bool:
    """Whether the loss has a gradient with respect to its targets."""
    branch = twin()
    targets = branch.targets(witness.inputs["batch"])
    if not targets.requires_grad:
        return False
    loss = branch.loss(witness.inputs["batch"], targets)
    return torch.autograd.grad(loss, targets, allow_unused=True)[0] is not None


@branch_bug("targets from online", "confirmed", "jerber/lang-jepa/pull/5", breaks=targets_break)
def targets_from_online(bug: bool) -> TargetBranch:
    """The targets come from the online encoder; the averaged one is updated and never used.

    Shown: A gradient through the targets.
    """
    pair = OnlineAndTarget()
    return replace(
        pair.branch(),
        loss=lambda x, targets: F.mse_loss(pair.predict(x), targets),
        targets=(lambda x: pair.online(x)) if bug else pair.targets,
        step=None,
    )


def predictor_stays(twin: Twin, witness: Witness) -> bool:
    """Whether some parameter of the predictor stays as it was."""
    branch = twin()
    before = copy.deepcopy(branch.trained[-1])
    for _ in range(STEPS):
        branch.step([witness.inputs["batch"]])
    return any(map(torch.equal, branch.trained[-1].parameters(), before.parameters()))


@branch_bug("predictor without optimizer", "confirmed", "openai/parameter-golf/pull/1581", breaks=predictor_stays)
def predictor_without_optimizer(bug: bool) -> TargetBranch:
    """The predictor is in no parameter group: it gets gradients, and stays as it was drawn.

    Shown: A parameter that no step moves.
    """
    pair = OnlineAndTarget()
    if bug:
        pair.optimizer = torch.optim.SGD(pair.online.parameters(), lr=0.1)
    return pair.branch()


@branch_bug("relations not detached", "confirmed", "lightly-ai/lightly/commit/6bd7553b", breaks=targets_break)
def relations_not_detached(bug: bool) -> TargetBranch:
    """The matrix of similarities is a label and not detached: it learns to be easy to predict.

    Shown: A gradient through the label.
    """
    pair = OnlineAndTarget()

    def similarities(z: Tensor) -> Tensor:
        unit = F.normalize(z, dim=1)
        return unit @ unit.T

    def targets(x: Tensor) -> Tensor:
        relations = similarities(pair.online(x))
        return relations if bug else relations.detach()

    def loss(x: Tensor, relations: Tensor) -> Tensor:
        return F.mse_loss(similarities(pair.predict(x)), relations)

    return TargetBranch(loss, targets=targets, trained=(pair.online, pair.predictor))


@branch_bug("swapped arguments", "synthetic")
def swapped_arguments(bug: bool) -> TargetBranch:
    """The two arguments of the average change places: the target is nearly the online branch."""
    pair = OnlineAndTarget()

    def update(_: int) -> None:
        pair.average_parameters(1 - MOMENTUM)
        pair.copy_buffers()

    return replace(pair.branch(), update=update) if bug else pair.branch()


@branch_bug("detach in the loss", "false alarm", "lightly-ai/lightly/issues/559")
def detach_in_the_loss() -> TargetBranch:
    """The targets come with a graph, and the loss detaches them.

    Shown: No path from the loss to the targets.
    """
    pair = OnlineAndTarget()
    return TargetBranch(
        lambda x, targets: F.mse_loss(pair.predict(x), targets.detach()),
        targets=lambda x: pair.online(x),
        trained=(pair.online, pair.predictor),
    )
