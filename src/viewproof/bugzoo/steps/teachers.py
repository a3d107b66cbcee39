"""Target encoders that average their students: average, order, modes and optimizer, each with what goes wrong."""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from viewproof.bugzoo.steps.step import Built, drift, training_step


class BYOL:
    """BYOL for vectors: two views, student, predictor and EMA teacher; ``fault`` names the wrong line."""

    def __init__(self, fault: str = "", dropout: float = 0.0, moved: bool = True) -> None:
        self.fault, self.momentum = fault, 0.99
        norm: nn.Module = nn.BatchNorm1d(16)
        self.student = nn.Sequential(nn.Linear(12, 16), norm, nn.ReLU(), nn.Dropout(dropout), nn.Linear(16, 8))
        self.predictor = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8))
        self.teacher = copy.deepcopy(self.student)
        if fault != "teacher in the graph":
            self.teacher.requires_grad_(False)
        if dropout and fault != "teacher drops":
            self.teacher.eval()
        if moved:
            drift(self.teacher)
        trained = [self.student] if fault == "predictor in no optimizer" else [self.student, self.predictor]
        if fault == "optimizer of the teacher":
            trained[0] = self.teacher.requires_grad_(True)
            self.student.requires_grad_(False)
        self.optimizer = torch.optim.SGD([p for m in trained for p in m.parameters()], lr=0.05, momentum=0.9)

    @torch.no_grad()
    def average(self, only_running: bool = False) -> None:
        """Move the teacher towards the student."""
        for t, s in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
            if self.fault == "arguments exchanged":
                s.data = s.data * self.momentum + t.data * (1 - self.momentum)
            else:
                t.data = t.data * self.momentum + s.data * (1 - self.momentum)
        if self.fault != "buffers forgotten":
            for tb, sb in zip(self.teacher.buffers(), self.student.buffers(), strict=True):
                (sb if self.fault == "buffers back" else tb).copy_(tb if self.fault == "buffers back" else sb)

    def loss(self, one: Tensor, two: Tensor) -> Tensor:
        """Twice one minus the cosine of prediction and target, both ways."""
        total = torch.zeros(())
        for a, b in ((one, two), (two, one)):
            prediction = F.normalize(self.predictor(self.student(a)), dim=-1)
            if self.fault == "teacher in the graph":
                target = F.normalize(self.teacher(b), dim=-1)
            elif self.fault == "targets from the student":
                target = F.normalize(self.student(b), dim=-1)
            else:
                with torch.no_grad():
                    target = F.normalize(self.teacher(b), dim=-1)
            if self.fault == "student detached":
                prediction = F.normalize(self.predictor(self.student(a).detach()), dim=-1)
            total = total + 2 - 2 * (prediction * target).sum(dim=-1).mean()
        return total

    def training_step(self, batch: tuple[Tensor, Tensor]) -> dict[str, Any]:
        """One whole step."""
        loss = self.loss(*batch)
        self.optimizer.zero_grad()
        loss.backward()
        if self.fault == "gradient cleared":
            self.optimizer.zero_grad()
        if self.fault == "average first":
            self.average()
        self.optimizer.step()
        if self.fault not in ("average first", "never averaged"):
            self.average()
        return {"loss": loss.item()}


def byol(bug: bool, fault: str, **options: Any) -> Built:
    """The step of a `BYOL` on two augmented views."""
    method = BYOL(fault if bug else "", **options)
    clean = torch.randn(8, 12)
    return method.training_step, (clean + 0.1 * torch.randn(8, 12), clean + 0.1 * torch.randn(8, 12))


@training_step("EMA: arguments exchanged", "synthetic", contracts="C6")
def exchanged(bug: bool) -> Built:
    """The student is averaged with its teacher; the teacher never moves."""
    return byol(bug, "arguments exchanged")


@training_step("EMA: before the optimizer's step", "confirmed", "lightly-ai/lightly/issues/1844", contracts="C6")
def average_first(bug: bool) -> Built:
    """The teacher averages the student of the step before."""
    return byol(bug, "average first")


@training_step("EMA: never called", "confirmed", "PatrickHua/SimSiam/issues/26", contracts="C6")
def never_averaged(bug: bool) -> Built:
    """The update is written, and nothing calls it: the teacher stays the student's first copy."""
    return byol(bug, "never averaged", moved=False)


@training_step("EMA: buffers forgotten", "confirmed", "lucidrains/byol-pytorch/issues/73", contracts="C6")
def buffers_forgotten(bug: bool) -> Built:
    """A teacher in evaluation mode normalises by running statistics that nothing moves."""
    return byol(bug, "buffers forgotten", dropout=0.1)


@training_step(
    "EMA: the student's buffers overwritten", "confirmed", "lucidrains/byol-pytorch/issues/73", contracts="C6"
)
def buffers_back(bug: bool) -> Built:
    """The statistics are copied from the teacher to the student."""
    return byol(bug, "buffers back", dropout=0.1)


@training_step("EMA: student and teacher change places", "confirmed", "mishra-18/ML-Models/issues/1", contracts="C6")
def places_changed(bug: bool) -> Built:
    """The optimizer has the teacher's weights, which get no gradient; the student moves by no rule."""
    return byol(bug, "optimizer of the teacher")


@training_step("teacher drops units", "synthetic", contracts="C6")
def teacher_drops(bug: bool) -> Built:
    """The teacher is in training mode: its dropout makes targets noise."""
    return byol(bug, "teacher drops", dropout=0.1)


@training_step("gradient into the teacher", "synthetic", contracts="C6")
def teacher_in_graph(bug: bool) -> Built:
    """The target is not detached: the teacher's weights collect gradients, and nothing reads them."""
    return byol(bug, "teacher in the graph")


@training_step(
    "targets from the student", "confirmed", "jerber/lang-jepa/pull/5", contracts="C6", needs="a declaration"
)
def targets_from_student(bug: bool) -> Built:
    """The target comes from the student, with gradient. The average could be kept for evaluation alone."""
    return byol(bug, "targets from the student")


@training_step("student detached", "synthetic", contracts="C6")
def student_detached(bug: bool) -> Built:
    """The prediction is made of detached features: only the predictor learns."""
    return byol(bug, "student detached")


@training_step("predictor in no optimizer", "confirmed", "openai/parameter-golf/pull/1581", contracts="C6")
def predictor_left_out(bug: bool) -> Built:
    """The optimizer gets the encoder's parameters alone; the predictor has a gradient and does not move."""
    return byol(bug, "predictor in no optimizer")


@training_step("zero_grad between backward and step", "confirmed", "lucidrains/byol-pytorch/issues/93", contracts="C6")
def gradient_cleared(bug: bool) -> Built:
    """The gradients are gone when the optimizer reads them: nothing is trained."""
    return byol(bug, "gradient cleared")


@training_step("EMA moves once a micro-batch", "reported", "lightly-ai/lightly-train/issues/968", contracts="C6")
def each_micro_batch(bug: bool) -> Built:
    """Four micro-batches make a step, and the teacher moves after each of them."""
    method = BYOL()

    def accumulate(batch: tuple[Tensor, Tensor]) -> None:
        method.optimizer.zero_grad()
        for one, two in zip(batch[0].chunk(4), batch[1].chunk(4), strict=True):
            (method.loss(one, two) / 4).backward()
            if bug:
                method.average()
        method.optimizer.step()
        if not bug:
            method.average()

    return accumulate, byol(False, "")[1]


@training_step(
    "momentum schedule in epochs", "confirmed", "vturrisi/solo-learn/issues/286", contracts="C6", needs="several steps"
)
def schedule_in_epochs(bug: bool) -> Built:
    """The schedule counts steps and is given the number of epochs: momentum is 1 soon, and the teacher frozen."""
    method, epochs, per_epoch, done = BYOL(), 10, 100, [3]

    def step(batch: tuple[Tensor, Tensor]) -> None:
        progress = done[0] / (epochs if bug else epochs * per_epoch)
        method.momentum = 1 - (1 - 0.99) * (1 + torch.cos(torch.pi * torch.tensor(progress)).item()) / 2
        method.training_step(batch)
        done[0] += 1

    return step, byol(False, "")[1]
