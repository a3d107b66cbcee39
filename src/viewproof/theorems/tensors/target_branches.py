"""The gradient that autograd returns for what a teacher computes, in the training losses of methods that have one."""

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import torch
import z3
from torch import Tensor

from viewproof.losses.dino import DINOLoss
from viewproof.losses.jepa import JEPALoss
from viewproof.methods.data2vec import Data2Vec, Data2VecNetwork
from viewproof.methods.dino import DINO, DINONetwork
from viewproof.methods.ijepa import IJEPA, JEPANetwork
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

    The method's own ``objective`` and its network's own ``forward`` run; encoders and predictor are stand-ins that
    return an argument.
    """

    jepa_forward: Callable[..., Any] = staticmethod(JEPANetwork.forward)
    dino_forward: Callable[..., Any] = staticmethod(DINONetwork.forward)
    data2vec_forward: Callable[..., Any] = staticmethod(Data2VecNetwork.forward)
    jepa_loss: Callable[..., Tensor] = JEPALoss()
    dino_loss: Callable[..., Tensor] = DINOLoss()

    @classmethod
    def ijepa(cls, teacher: Tensor, student: Tensor, words: Tensor) -> Tensor:
        """I-JEPA's, of one block; its context and its places are the same."""
        places = words % teacher.shape[1]
        network = SimpleNamespace(
            encoder=lambda x, index: student, predictor=lambda *given: student, target=lambda x: teacher
        )
        module = SimpleNamespace(
            places=lambda *drawn: (places, places[:, None]),
            model=lambda *given: cls.jepa_forward(network, *given),
            loss=cls.jepa_loss,
            regularizer=None,
        )
        return IJEPA.objective(module, *_batch(teacher))  # type: ignore[arg-type]

    @classmethod
    def data2vec(cls, teacher: Tensor, student: Tensor, words: Tensor) -> Tensor:
        """data2vec's, of a teacher with two layers that return the same."""
        places = words % teacher.shape[1]
        network = SimpleNamespace(
            student=lambda *given: (student, []),
            head=lambda tokens: tokens,
            teacher=lambda x: (teacher, [teacher, teacher]),
            mask_token=teacher.new_zeros(teacher.shape[2]),
            layers=2,
        )
        module = SimpleNamespace(
            places=lambda *drawn: places, model=lambda *given: cls.data2vec_forward(network, *given), loss=cls.jepa_loss
        )
        return Data2Vec.objective(module, *_batch(teacher))  # type: ignore[arg-type]

    @classmethod
    def dino(cls, teacher: Tensor, student: Tensor, words: Tensor) -> Tensor:
        """DINO's with iBOT's term, of two global views and a local one of which each returns the same."""
        image, places = student[:, 0], words % teacher.shape[1]

        def branch(tokens: Tensor, views: int) -> Callable[..., Any]:
            whole = torch.cat([tokens] * views)
            return lambda *given: (whole[:, 0], whole[:, 0], whole)

        def student_of(x: Tensor, *where: Any) -> Any:
            return branch(student, 2)() if where else (image, image, student)

        network = SimpleNamespace(student=student_of, teacher=branch(teacher, 2), mask_token=teacher.new_zeros(1))
        x, ids, step, epoch = _batch(teacher)
        module = SimpleNamespace(
            views=lambda *drawn: ([x, x], [x]),
            places=lambda *drawn: [places, places],
            model=lambda *given: cls.dino_forward(network, *given),
            rows=lambda out: DINO.rows(None, out),  # type: ignore[arg-type]
            loss=cls.dino_loss,
            class_centre=teacher.new_zeros(teacher.shape[2]),
            patch_centre=teacher.new_zeros(teacher.shape[2]),
            koleo_weight=0.0,
            training=True,
            _means=[],
        )
        return DINO.objective(module, x, ids, step, epoch)  # type: ignore[arg-type]


def _batch(like: Tensor) -> tuple[Tensor, Tensor, int, int]:
    """Images of which nothing is read, ids, step and epoch."""
    return like.new_zeros(like.shape[0], 1, 1, 1), torch.arange(like.shape[0]), 0, 0


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
    """I-JEPA's target encoder runs with gradient, and the loss does not stop it."""

    jepa_loss = JEPALoss(stop_gradient=False)

    @staticmethod
    def jepa_forward(network: Any, x: Tensor, context: Tensor, blocks: Tensor) -> Any:
        """Prediction and targets, both with gradient."""
        prediction = predict_blocks(network.predictor, network.encoder(x, context), context, blocks)
        tokens = network.target(x)
        return prediction, block_targets(tokens, blocks), tokens.mean(1)


class UnstoppedData2vec(TrainedLosses):
    """data2vec's teacher runs with gradient, and the loss does not stop it."""

    jepa_loss = JEPALoss(stop_gradient=False)

    @staticmethod
    def data2vec_forward(network: Any, x: Tensor, places: Tensor) -> Any:
        """Prediction and targets, both with gradient."""
        prediction = network.head(tokens_at(network.student(x, places, network.mask_token)[0], places))
        tokens, outputs = network.teacher(x)
        return prediction, mean_of_last_layers(outputs, network.layers, places), tokens.mean(1)


class TargetsWithGradient(DINOLoss):
    """The targets are differentiated."""

    def targets(self, teacher: Tensor, centre: Tensor) -> Tensor:
        """A softmax a row."""
        return torch.softmax((teacher - centre) / self.teacher_temperature, 1)


class UnstoppedDino(TrainedLosses):
    """DINO's teacher runs with gradient, and the loss does not stop it."""

    dino_loss = TargetsWithGradient()

    @staticmethod
    def dino_forward(network: Any, large: Sequence[Tensor], small: Sequence[Tensor], places: Sequence[Tensor]) -> Any:
        """The outputs, with the teacher's as it returns them."""
        out = DINONetwork.forward(network, large, small, places)
        features, teacher, patches = network.teacher(torch.cat(list(large)), torch.cat(list(places)))
        split = (part.unflatten(0, (len(large), -1)) for part in (teacher, patches, features))
        return out._replace(**dict(zip(("teacher", "teacher_patches", "teacher_features"), split, strict=True)))


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
    DINO (with iBOT's term) train: no path leads from the loss to the teacher's output, hence none to its parameters.
    """
    return [_case(method) for method in ("ijepa", "data2vec", "dino")]
