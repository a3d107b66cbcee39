"""The losses of contrastive and self-distilling methods, term by term."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import Any

import torch
import z3
from torch import Tensor
from torch.nn import functional as F

from viewproof.losses.dino import DINOLoss, mean_of_all, moved_centre
from viewproof.losses.lejepa import LeJEPALoss
from viewproof.losses.simclr import InfoNCELoss
from viewproof.symbolic.capture import TensorInput
from viewproof.symbolic.facts import Facts
from viewproof.symbolic.terms import Term, as_z3, ite, mod, same
from viewproof.theorems.tensors.case import Claims, Inputs, Observed, Subject, TensorCase
from viewproof.theorems.tensors.real_functions import EXP, LOG, REAL_FUNCTIONS, SQRT, log_softmax, softmax, total
from viewproof.theorems.tensors.theorem import CAPTURED, theorem

REAL = "real numbers; exp, log and the square root as functions of which nothing is known but that exp(-inf) is 0"
BY_SUMS = f"{CAPTURED}; sums compared summand by summand"


def number(value: float) -> Any:
    """A Python float as the real number that it is."""
    return z3.Q(*Fraction(value).as_integer_ratio())


def _one_shape(*names: str) -> Any:
    def hypotheses(inputs: Inputs) -> list[Term]:
        first, *others = (inputs[name].shape for name in names)
        equal = [same(a, b) for other in others for a, b in zip(first[-len(other) :], other, strict=True)]
        return [*equal, *(extent > 0 for extent in first)]

    return hypotheses


def _info_nce(program: Any, a: Tensor, b: Tensor) -> Sequence[Tensor]:
    return [program().value(a, b)]


def _info_nce_replay(program: Any, a: Tensor, b: Tensor) -> Sequence[Tensor]:
    """The loss beside the sum over views, each compared with every other."""
    a, b = a.double(), b.double()
    z, n = [*a, *b], len(a)
    s = [[u @ v / (u @ u + 1e-12).sqrt() / (v @ v + 1e-12).sqrt() / 0.5 for v in z] for u in z]
    rows = [
        torch.stack([s[i][k].exp() for k in range(2 * n) if k != i]).sum().log() - s[i][i - n] for i in range(2 * n)
    ]
    return [program().value(a, b), torch.stack(rows).sum()]


PAIRS = Subject(
    "two views of each sample",
    {"a": TensorInput(2), "b": TensorInput(2)},
    _info_nce,
    _one_shape("a", "b"),
    arithmetic="real",
    replay=_info_nce_replay,
    meanings=REAL_FUNCTIONS,
    examples=[tuple(torch.tensor([[1.0, 0.0], [2.0, 3.0], [-1.0, k]], dtype=torch.float64) for k in (1.0, 2.0))],
)


class ItselfIsANegative(InfoNCELoss):
    """A view is compared with itself as well."""

    def value(self, a: Tensor, b: Tensor, step: int = 0) -> Tensor:
        """The cross-entropy."""
        z, n = torch.cat([a, b]), a.shape[0]
        z = z / (z.square().sum(1, keepdim=True) + self.epsilon).sqrt()
        return F.cross_entropy(z @ z.T / self.temperature, torch.arange(2 * n).roll(n))


class NeighbourIsThePositive(InfoNCELoss):
    """The positive of a view is the next view of the batch."""

    def value(self, a: Tensor, b: Tensor, step: int = 0) -> Tensor:
        """The cross-entropy."""
        z, n = torch.cat([a, b]), a.shape[0]
        z = z / (z.square().sum(1, keepdim=True) + self.epsilon).sqrt()
        itself = torch.eye(2 * n, dtype=torch.bool)
        similarity = (z @ z.T / self.temperature).masked_fill(itself, -torch.inf)
        return F.cross_entropy(similarity, torch.arange(2 * n).roll(-1))


class OneBranchAlone(InfoNCELoss):
    """Only the first views look for theirs, among the second ones."""

    def value(self, a: Tensor, b: Tensor, step: int = 0) -> Tensor:
        """The cross-entropy."""
        u, v = (z / (z.square().sum(1, keepdim=True) + self.epsilon).sqrt() for z in (a, b))
        return F.cross_entropy(u @ v.T / self.temperature, torch.arange(a.shape[0]))


@theorem(
    InfoNCELoss,
    layer="methods",
    on=PAIRS,
    mutants=[ItselfIsANegative, NeighbourIsThePositive, OneBranchAlone],
    given=("a sample and a coordinate at least",),
    scope=f"{REAL}; all batch sizes and dimensions; temperature 0.5, epsilon 1e-12; one rank",
    method=BY_SUMS,
)
def info_nce_positive_is_the_other_view_of_the_sample(inputs: Inputs, observed: Observed, facts: Facts) -> Claims:
    """InfoNCELoss times its 2N views is the sum over views i of log(sum over the 2N - 1 other views of exp(similarity))
    less the similarity to the view N places on, cyclically: the other view of the sample. A view is never its own
    negative.
    """
    a, b = inputs["a"], inputs["b"]
    n, dims = a.shape
    if facts.replayed:
        yield "2N * loss == the sum over views", facts.equal(observed[0].at(()) * 2 * n, observed[1].at(()))
        return

    def unit(i: Term, d: Term) -> Any:
        def z(d: Term) -> Any:
            return ite(i < n, a.at((i, d)), b.at((i - n, d)))

        return z(d) / SQRT(total(facts, dims, lambda k: z(k) * z(k)) + number(1e-12))

    def similarity(i: Term, k: Term) -> Any:
        return total(facts, dims, lambda d: unit(i, d) * unit(k, d)) / number(0.5)

    def view(i: Term) -> Any:
        others = total(facts, n + n, lambda k: ite(same(i, k), z3.RealVal(0), EXP(similarity(i, k))))
        return LOG(others) - similarity(i, mod(i - n, n + n, positive=True))

    yield "2N * loss == the sum over views", observed[0].at(()) * 2 * z3.ToReal(n) == total(facts, n + n, view)
    for (i,) in facts.each([n]):
        for view_of_sample, other in ((i, i + n), (i + n, i)):
            place = mod(view_of_sample - n, n + n, positive=True)
            yield "N places on is the other view of the sample", same(place, other)


def _dino_replay(program: Any, student: Tensor, teacher: Tensor, centre: Tensor) -> Sequence[Tensor]:
    """The loss beside the sum over rows."""
    student, teacher, centre = student.double(), teacher.double(), centre.double()
    weights, logits = ((teacher - centre) / 0.04).exp(), student / 0.1
    targets = weights / weights.sum(1, keepdim=True)
    terms = targets * (logits.exp().sum(1, keepdim=True).log() - logits)
    return [program()(student, teacher, centre), terms.sum()]


ROWS = Subject(
    "rows of logits",
    {"student": TensorInput(2), "teacher": TensorInput(2), "centre": TensorInput(1)},
    lambda program, *rows: [program()(*rows)],
    _one_shape("student", "teacher", "centre"),
    arithmetic="real",
    replay=_dino_replay,
    meanings=REAL_FUNCTIONS,
    examples=[
        tuple(
            torch.tensor(rows, dtype=torch.float64)
            for rows in ([[0.1, 0.2, 0.0], [0.3, 0.1, 0.2]], [[0.05, 0.0, 0.02], [0.0, 0.1, 0.0]], [0.0, 0.01, 0.02])
        )
    ],
)


class CentreAdded(DINOLoss):
    """The centre is added to the teacher's logits."""

    def targets(self, teacher: Tensor, centre: Tensor) -> Tensor:
        """A softmax a row."""
        return super().targets(teacher, -centre)


class TemperaturesSwapped(DINOLoss):
    """The teacher's temperature is the student's."""

    def __init__(self) -> None:
        super().__init__(student_temperature=0.04, teacher_temperature=0.1)


class StudentIsTheTarget(DINOLoss):
    """The cross-entropy is the teacher's, to the student's distribution."""

    def __call__(self, student: Tensor, teacher: Tensor, centre: Tensor) -> Tensor:
        """The loss."""
        return super().__call__(teacher, student, centre)


@theorem(
    DINOLoss,
    layer="methods",
    on=ROWS,
    mutants=[CentreAdded, TemperaturesSwapped, StudentIsTheTarget],
    given=("a row and a prototype at least",),
    scope=f"{REAL}; all numbers of rows and prototypes; temperatures 0.1 and 0.04, no Sinkhorn rounds; one rank",
    method=BY_SUMS,
)
def dino_loss_is_cross_entropy_to_the_centred_teacher(inputs: Inputs, observed: Observed, facts: Facts) -> Claims:
    """DINOLoss times its rows is the sum over rows of the cross-entropy of the student's softmax at its temperature to
    the softmax of the teacher's logits less the centre at the teacher's; iBOT's masked term is the same of patches.
    """
    student, teacher, centre = (inputs[name] for name in ("student", "teacher", "centre"))
    rows, prototypes = student.shape
    if facts.replayed:
        yield "rows * loss == the sum over rows", facts.equal(observed[0].at(()) * rows, observed[1].at(()))
        return

    def term(n: Term, k: Term) -> Any:
        target = softmax(facts, prototypes, lambda j: (teacher.at((n, j)) - centre.at((j,))) / number(0.04), k)
        return target * -log_softmax(facts, prototypes, lambda j: student.at((n, j)) / number(0.1), k)

    terms = total(facts, rows, lambda n: total(facts, prototypes, lambda k: term(n, k)))
    yield "rows * loss == the sum over rows", observed[0].at(()) * z3.ToReal(rows) == terms


def _entry(rows: Any, k: Term, n: Term) -> Any:
    return rows.at((n, k))


def _centre(batches: int, momentum: float) -> TensorCase:
    """The centre after a step of this many micro-batches, whose means are taken one by one."""

    def observe(program: Any, centre: Tensor, *logits: Tensor) -> Sequence[Tensor]:
        return [program(centre, torch.stack([mean_of_all(rows) for rows in logits]), momentum)]

    def claims(inputs: Inputs, observed: Observed, facts: Facts) -> Claims:
        centre, *logits = inputs.values()
        count = z3.ToReal(as_z3(logits[0].shape[0]))
        share, rest = number(1 - momentum), 1 - number(1 - momentum)
        for (k,) in facts.each(centre.shape):
            sums = [total(facts, rows.shape[0], partial(_entry, rows, k)) for rows in logits]
            expected = rest * centre.at((k,)) + share * (sum(s / count for s in sums) / batches)
            yield "momentum * centre + (1 - momentum) * mean", facts.equal(observed[0].at((k,)), expected)

    def same_rows(inputs: Inputs) -> list[Term]:
        centre, first, *others = (x.shape for x in inputs.values())
        return [
            first[0] > 0,
            same(first[1], centre[0]),
            *(same(a, b) for o in others for a, b in zip(first, o, strict=True)),
        ]

    logits = {f"logits_{k}": TensorInput(2) for k in range(batches)}
    name = f"{batches} micro-batches, momentum {momentum}"
    return TensorCase(Subject(name, {"centre": TensorInput(1), **logits}, observe, same_rows, "real"), claims)


def momentum_of_the_mean(centre: Tensor, means: Tensor, momentum: float) -> Tensor:
    """The momentum weighs the new mean."""
    return moved_centre(centre, means, 1 - momentum)


def last_batch_alone(centre: Tensor, means: Tensor, momentum: float) -> Tensor:
    """Only the last micro-batch counts."""
    return moved_centre(centre, means[-1:], momentum)


def summed_batches(centre: Tensor, means: Tensor, momentum: float) -> Tensor:
    """The means are summed."""
    return moved_centre(centre, means.shape[0] * means, momentum)


@theorem(
    moved_centre,
    layer="methods",
    mutants=[momentum_of_the_mean, last_batch_alone, summed_batches],
    given=("every micro-batch has the same number of rows, one at least",),
    scope="real numbers; all numbers of rows and prototypes; 1 to 3 micro-batches; momentum 0.9 and 0.5; one rank",
    method=BY_SUMS,
)
def dino_centre_moves_to_mean_of_teacher_logits() -> list[TensorCase]:
    """After a step a centre is momentum * centre + (1 - momentum) * the mean of the teacher's logits over the rows of
    the step's micro-batches, which are computed without gradient.
    """
    return [_centre(1, 0.9), _centre(2, 0.9), _centre(3, 0.5)]


def _views(large: int) -> TensorCase:
    """LeJEPA's prediction term of any number of views, the first ``large`` of which are global."""

    def observe(program: Any, views: Tensor) -> Sequence[Tensor]:
        return [program(global_views=large).prediction_term(views)]

    def claims(inputs: Inputs, observed: Observed, facts: Facts) -> Claims:
        z = inputs["views"]
        count, samples, dims = z.shape

        def square(v: Term, n: Term, d: Term) -> Any:
            gap = z.at((v, n, d)) - sum(z.at((g, n, d)) for g in range(large)) / large
            return gap * gap

        squares = total(
            facts, count, lambda v: total(facts, samples, lambda n: total(facts, dims, lambda d: square(v, n, d)))
        )
        entries = z3.ToReal(as_z3(count * samples * dims))
        yield "V * N * D * term == the sum of squares", facts.equal(observed[0].at(()) * entries, squares)

    def some(inputs: Inputs) -> list[Term]:
        count, *extents = inputs["views"].shape
        return [count >= large, *(extent > 0 for extent in extents)]

    example = torch.tensor([[[1.0], [5.0]], [[2.0], [7.0]], [[4.0], [0.0]], [[8.0], [3.0]]], dtype=torch.float64)
    name = f"views of which {large} are global"
    return TensorCase(Subject(name, {"views": TensorInput(3)}, observe, some, "real", examples=[(example,)]), claims)


@dataclass(frozen=True)
class CentreOfAllViews(LeJEPALoss):
    """The centre is the mean of all views."""

    def prediction_term(self, views: Tensor) -> Tensor:
        """A mean of squares."""
        return (views - views.mean(0)).square().mean()


@dataclass(frozen=True)
class CentreOfTheBatch(LeJEPALoss):
    """The centre is the mean over samples."""

    def prediction_term(self, views: Tensor) -> Tensor:
        """A mean of squares."""
        return (views - views[: self.global_views].mean((0, 1))).square().mean()


@dataclass(frozen=True)
class LocalViewsAlone(LeJEPALoss):
    """Global views are not compared."""

    def prediction_term(self, views: Tensor) -> Tensor:
        """A mean of squares."""
        local = views - views[: self.global_views].mean(0)
        return local[self.global_views :].square().sum() / views.numel()


@theorem(
    LeJEPALoss,
    layer="methods",
    mutants=[CentreOfAllViews, CentreOfTheBatch, LocalViewsAlone],
    given=("the global views, a sample and a coordinate are there",),
    scope="real numbers; all numbers of views, samples and coordinates; 1, 2 and 3 global views",
    method=BY_SUMS,
)
def lejepa_views_predict_the_mean_of_the_global_views() -> list[TensorCase]:
    """LeJEPA's prediction term, times views, samples and coordinates, is the sum of squared differences of every view
    to the mean of the global views of the same sample.
    """
    return [_views(large) for large in (2, 1, 3)]
