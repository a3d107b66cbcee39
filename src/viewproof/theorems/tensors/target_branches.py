"""The gradient that autograd returns for what a teacher computes, in the training losses of methods that have one."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import z3
from torch import Tensor

from viewproof.losses.dino import DINOLoss, compared_rows
from viewproof.losses.jepa import JEPALoss
from viewproof.models.patches import block_targets, mean_of_last_layers, predict_blocks, tokens_at
from viewproof.symbolic.capture import Signature, TensorInput
from viewproof.symbolic.facts import Facts
from viewproof.symbolic.tensor import SymTensor
from viewproof.symbolic.terms import Term, same
from viewproof.theorems.tensors import spec
from viewproof.theorems.tensors.case import Claims, Inputs, Observed, Subject, TensorCase
from viewproof.theorems.tensors.real_functions import REAL_FUNCTIONS
from viewproof.theorems.tensors.theorem import CAPTURED, theorem

PLACES = TensorInput(2, torch.int64)


class TrainedLosses:
    """What each method's training step differentiates, of what its student and teacher return, whatever they are.

    The networks run their teachers without gradient besides; here the losses alone must stop it.
    """

    jepa_loss: Callable[..., Tensor] = JEPALoss()
    data2vec_loss: Callable[..., Tensor] = JEPALoss(beta=2.0)
    dino_loss: Callable[..., Tensor] = DINOLoss()

    @classmethod
    def ijepa(cls, teacher: Tensor, student: Tensor, words: Tensor) -> Tensor:
        """I-JEPA's, of one block; its context and its places are the same."""
        places = words % teacher.shape[1]
        prediction = predict_blocks(lambda *given: student, student, places, places[:, None])
        return cls.jepa_loss(prediction, block_targets(teacher, places[:, None]))

    @classmethod
    def data2vec(cls, teacher: Tensor, student: Tensor, words: Tensor) -> Tensor:
        """data2vec's, of a teacher with two layers that return the same."""
        places = words % teacher.shape[1]
        return cls.data2vec_loss(tokens_at(student, places), mean_of_last_layers([teacher, teacher], 2, places))

    @classmethod
    def dino(cls, teacher: Tensor, student: Tensor, words: Tensor) -> Tensor:
        """DINO's with iBOT's term, of two global views and a local one that return the same."""
        images, patches = compared_rows(
            torch.stack([student[:, 0]] * 3),
            torch.stack([teacher[:, 0]] * 2),
            torch.stack([student] * 2),
            torch.stack([teacher] * 2),
        )
        centre = teacher.new_zeros(teacher.shape[2])
        return cls.dino_loss(*images, centre) + cls.dino_loss(*patches, centre)


def _any_value(facts: Facts, *given: Any, **options: Any) -> SymTensor:
    """A number of which nothing is assumed."""
    value = facts.fresh("value", z3.RealSort())
    return SymTensor((), torch.float32, lambda _: value)


def _item(facts: Facts, parts: Sequence[Any], place: int) -> Any:
    return parts[place]


def _case(method: str) -> TensorCase:
    """The gradients that autograd returns for the teacher's output and for the student's."""

    def observe(program: Any, teacher: Tensor, student: Tensor, words: Tensor) -> Sequence[Tensor]:
        leaves = [part.detach().requires_grad_() for part in (teacher, student)]
        value = getattr(program, method)(*leaves, words)
        return list(torch.autograd.grad(value, leaves[:1], materialize_grads=True))

    def claims(inputs: Inputs, observed: Observed, facts: Facts) -> Claims:
        gradient, shape = observed[0], inputs["teacher"].shape
        yield "a gradient for each output", spec.same_shape(gradient.shape, shape)
        for place in facts.each(shape):
            yield "which is zero", facts.equal(gradient.at(place), z3.RealVal(0))

    def fits(inputs: Inputs) -> list[Term]:
        (rows, patches, dims), student, words = (inputs[name].shape for name in ("teacher", "student", "words"))
        pairs = [(student[0], rows), (student[2], dims), (words[0], rows), (words[1], patches), (student[1], patches)]
        return [rows > 0, patches > 0, dims > 0, *(same(a, b) for a, b in pairs)]

    signature: Signature = {"teacher": TensorInput(3), "student": TensorInput(3), "words": PLACES}
    numbers = torch.arange(12.0, dtype=torch.float64).reshape(2, 2, 3)
    example = numbers.sin(), numbers.cos(), torch.tensor([[0, 1], [1, 0]])
    meanings = {**REAL_FUNCTIONS, "aten.smooth_l1_loss.default": _any_value, "operator.getitem": _item}
    return TensorCase(Subject(method, signature, observe, fits, "real", meanings=meanings, examples=[example]), claims)


class UnstoppedIjepa(TrainedLosses):
    """I-JEPA's loss does not stop the gradient to its targets."""

    jepa_loss = JEPALoss(stop_gradient=False)


class UnstoppedData2vec(TrainedLosses):
    """data2vec's loss does not stop the gradient to its targets."""

    data2vec_loss = JEPALoss(beta=2.0, stop_gradient=False)


class TargetsWithGradient(DINOLoss):
    """The targets are differentiated."""

    def targets(self, teacher: Tensor, centre: Tensor) -> Tensor:
        """A softmax a row."""
        return torch.softmax((teacher - centre) / self.teacher_temperature, 1)


class UnstoppedDino(TrainedLosses):
    """DINO's loss does not stop the gradient to its targets."""

    dino_loss = TargetsWithGradient()


@theorem(
    TrainedLosses,
    layer="methods",
    mutants=[UnstoppedIjepa, UnstoppedData2vec, UnstoppedDino],
    given=("a sample, a patch and a coordinate at least",),
    scope="whatever student and teacher return, as arguments: no network is captured; all batch sizes, patches, places "
    "and dimensions; I-JEPA with one block, data2vec with two layers, DINO with two global views and a local one, "
    "centred, without KoLeo; one rank, without autocast",
    method=f"{CAPTURED}; autograd's answer is part of the graph, and of the loss's value nothing is assumed",
)
def teacher_output_gets_no_gradient() -> list[TensorCase]:
    """The gradient that autograd returns for what the teacher computes is zero in the losses that I-JEPA, data2vec and
    DINO (with iBOT's term) train: no path leads from the loss to the teacher's output, hence none through it to its
    parameters.
    """
    return [_case(method) for method in ("ijepa", "data2vec", "dino")]
