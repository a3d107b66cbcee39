"""Self-distillation: the cross-entropy of DINO and iBOT, its two ways of centring, and KoLeo."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from viewproof.errors import InvalidArgument
from viewproof.losses.numbers import Rows, apply_function, constant, exact_rows
from viewproof.losses.pair import check_constants
from viewproof.losses.ranks import all_rows, share_of_mean, total_count
from viewproof.masks.finite import check_count
from viewproof.objectives.contracts import PredictiveViewContract
from viewproof.shapes import Float


@dataclass(frozen=True)
class DINOLoss:
    """The mean cross-entropy of students' logits ``[N, K]`` to teachers' ``[N, K]``, row by row.

    The target is ``softmax((teacher - centre) / teacher_temperature)`` (Caron et al. 2021, arXiv 2104.14294); iBOT's of
    masked patches is the same (Zhou et al. 2022, 2111.07832). With ``sinkhorn`` above 0 it is instead that many rounds
    of Sinkhorn and Knopp's balancing over all rows of all ranks, three in SwAV and DINOv2, and the centre is not read.
    No gradient reaches the teacher. With unequal batches on W ranks the average over ranks is the mean over all rows.
    Shapes that differ and no rows raise `InvalidArgument`. Theorems: ``predictive_view_objective_zero_geometry``,
    ``dino_loss_is_cross_entropy_to_the_centred_teacher``.

    >>> sure, open_ = torch.tensor([[9.0, 0.0]]), torch.zeros(1, 2)
    >>> DINOLoss()(sure, sure, torch.zeros(2)), DINOLoss()(open_, sure, torch.zeros(2))
    (tensor(0.), tensor(0.6931))
    """

    student_temperature: float = 0.1
    teacher_temperature: float = 0.04
    sinkhorn: int = 0

    def __post_init__(self) -> None:
        check_constants(self, student_temperature=1e-6, teacher_temperature=1e-6)
        check_count("sinkhorn", self.sinkhorn, "subtract the centre")

    def __call__(
        self, student: Float[Tensor, "..."], teacher: Float[Tensor, "..."], centre: Float[Tensor, "..."]
    ) -> Float[Tensor, ""]:
        """The loss of one-to-one rows, accumulated in float32 at least."""
        if student.shape != teacher.shape or student.dim() != 2 or student.numel() == 0:
            raise InvalidArgument(
                f"student of shape {tuple(student.shape)} and teacher of shape {tuple(teacher.shape)} must both be "
                "[N, K] of one shape that holds something; row n of both belongs together"
            )
        return self.distance(student, self.targets(teacher, centre))

    def distance(self, student: Float[Tensor, "rows dims"], targets: Float[Tensor, "rows dims"]) -> Float[Tensor, ""]:
        """The mean cross-entropy of logits to `targets`."""
        with torch.autocast(student.device.type, enabled=False):
            wide = student.to(torch.promote_types(student.dtype, torch.float32))
            terms = targets * -F.log_softmax(wide / self.student_temperature, 1)
            return share_of_mean(terms.sum(), student.shape[0])

    @torch.no_grad()
    def targets(self, teacher: Float[Tensor, "rows dims"], centre: Float[Tensor, "dims"]) -> Float[Tensor, "rows dims"]:
        """What the students are compared with, a distribution a row, without gradient."""
        wide = teacher.to(torch.promote_types(teacher.dtype, torch.float32))
        if self.sinkhorn == 0:
            return torch.softmax((wide - centre) / self.teacher_temperature, 1)
        logits = wide / self.teacher_temperature
        for _ in range(self.sinkhorn):
            logits = logits - all_rows(logits.logsumexp(0, keepdim=True)).logsumexp(0)
            logits = logits.log_softmax(1)
        return logits.exp()

    def contract(self, student: Rows, teacher: Rows, centre: Any) -> PredictiveViewContract:
        """The same objective over plain numbers, on one rank: the distance is the cross-entropy.

        The target encoder sharpens the teacher's row; the prediction is the student's row.

        >>> from viewproof.objectives import predictive_view_objective
        >>> round(predictive_view_objective(DINOLoss().contract([[0, 0]], [[9, 0]], [0, 0])), 4)
        0.6931
        """
        students, teachers, (middle,) = exact_rows(student), exact_rows(teacher), exact_rows([list(centre)])
        like, count = students[0][0], len(students)
        sharp, soft = constant(self.teacher_temperature, like), constant(self.student_temperature, like)
        shifted = [[v if self.sinkhorn else v - m for v, m in zip(row, middle, strict=True)] for row in teachers]
        weights = [[apply_function("exp", v / sharp) for v in row] for row in shifted]
        for _ in range(self.sinkhorn):
            columns = [sum(column) for column in zip(*weights, strict=True)]
            weights = [[w / total for w, total in zip(row, columns, strict=True)] for row in weights]
            weights = [[w / sum(row) for w in row] for row in weights]

        def cross_entropy(target: list[Any], prediction: list[Any]) -> Any:
            total = apply_function("log", sum(apply_function("exp", p / soft) for p in prediction))
            return sum(t * (total - p / soft) for t, p in zip(target, prediction, strict=True)) / count

        return PredictiveViewContract(
            range(count),
            students,
            weights.__getitem__,
            lambda _, row: [w / sum(row) for w in row],
            lambda context, i: context[i],
            cross_entropy,
        )


def compared_rows(
    student: Float[Tensor, "views batch prototypes"],
    teacher: Float[Tensor, "globals batch prototypes"],
    student_patches: Float[Tensor, "globals batch places prototypes"],
    teacher_patches: Float[Tensor, "globals batch places prototypes"],
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Student and teacher logits row by row, of all pairs of different views and of all hidden patches.

    The first student's views are the teacher's. Theorem: ``dino_never_compares_a_crop_with_itself``.

    >>> student, teacher = torch.tensor([[[0.0]], [[1.0]], [[2.0]]]), torch.tensor([[[0.0]], [[1.0]]])
    >>> (a, b), _ = compared_rows(student, teacher, teacher[:, :, None], teacher[:, :, None])
    >>> a.flatten(), b.flatten()
    (tensor([1., 2., 0., 2.]), tensor([0., 0., 1., 1.]))
    """
    pairs = [(s, t) for t in range(len(teacher)) for s in range(len(student)) if s != t]
    students, teachers = (list(side) for side in zip(*pairs, strict=True))
    images = student[students].flatten(0, 1), teacher[teachers].flatten(0, 1)
    return images, (student_patches.flatten(0, 2), teacher_patches.flatten(0, 2))


@torch.no_grad()
def mean_of_all(rows: Float[Tensor, "rows dims"]) -> Float[Tensor, "dims"]:
    """The mean row over all ranks, in float32 at least, by which a centre moves.

    >>> mean_of_all(torch.tensor([[1.0, 0.0], [3.0, 0.0]]))
    tensor([2., 0.])
    """
    wide = rows.to(torch.promote_types(rows.dtype, torch.float32))
    return all_rows(wide.sum(0, keepdim=True)).sum(0) / total_count(rows.shape[0], rows.device)


def moved_centre(
    centre: Float[Tensor, "dims"], means: Float[Tensor, "batches dims"], momentum: float
) -> Float[Tensor, "dims"]:
    """``momentum * centre + (1 - momentum) * m``, where m is the mean over the `mean_of_all` of the micro-batches.

    Theorem: ``dino_centre_moves_to_mean_of_teacher_logits``.

    >>> moved_centre(torch.zeros(1), torch.tensor([[1.0], [3.0]]), momentum=0.5)
    tensor([1.])
    """
    return centre.lerp(means.mean(0).to(centre.dtype), 1 - momentum)


def koleo(z: Float[Tensor, "rows dims"], epsilon: float = 1e-8) -> Float[Tensor, ""]:
    """KoLeo, ``-mean(log(distance to the nearest other row))`` of rows of length 1 of all ranks.

    Sablayrolles et al. 2019 (arXiv 1806.03198), as in DINOv2: rows are first brought to length 1. ``epsilon`` is added
    to the squared length and to the squared distance, so that equal rows have a finite loss and gradient; DINOv2's code
    adds it to the coordinates' differences and to the distance, and seeks neighbours within one GPU. Fewer than two
    rows raise `InvalidArgument`.

    >>> koleo(torch.tensor([[2.0, 0.0], [-1.0, 0.0], [0.0, -3.0]])) < koleo(torch.ones(3, 2))
    tensor(True)
    """
    with torch.autocast(z.device.type, enabled=False):
        rows = all_rows(z.to(torch.promote_types(z.dtype, torch.float32)))
        if len(rows) < 2:
            raise InvalidArgument(f"a batch of {len(rows)} has no nearest other row; pass at least 2")
        unit = rows / (rows.square().sum(1, keepdim=True) + epsilon).sqrt()
        with torch.no_grad():
            nearest = (unit @ unit.T).fill_diagonal_(-torch.inf).argmax(1)
        squares: Tensor = (unit - unit[nearest]).square().sum(1) + epsilon
        return -squares.log().mean() / 2
