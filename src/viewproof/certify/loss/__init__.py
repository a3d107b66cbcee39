"""Certifies a loss: it sums over exactly the hidden set (C4) and survives bad numbers (C9)."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from viewproof.certify.check import subject_name
from viewproof.certify.loss import gradient, value
from viewproof.certify.loss.case import INVARIANCES, Distance, Invariance, LossCase, Takes, hidden_of
from viewproof.certify.report import Report
from viewproof.errors import InvalidArgument
from viewproof.masks import Sample
from viewproof.objectives.masked import Reduction


def certify_loss(
    loss: Callable[..., Tensor],
    sample: Sample,
    *,
    takes: Takes = "sample",
    reduction: Reduction = "mean",
    distance: Distance | None = None,
    invariant: Sequence[Invariance] = INVARIANCES,
    prediction_shape: tuple[int, ...] | None = None,
    name: str | None = None,
) -> Report:
    """Whether ``loss`` sums over exactly ``sample.mask`` (C4) and keeps its numbers (C9).

    ``loss(prediction, sample)``, or ``loss(prediction, target, hidden)`` with ``takes="tensors"``, where ``hidden`` is
    Boolean over the target, batch axis first; it returns a scalar (``reduction`` "mean" over the selected coordinates
    of the batch, or "sum") or ``[N]`` ("rows"). ``distance``, if declared, is the distance as a function of the error
    ``prediction - target`` that takes Fractions and tensors alike, such as ``abs`` or ``lambda e: e * e``: only then
    is the value compared with the exact objective. ``invariant`` names what must leave the value as it is: the batch
    twice, each axis twice, a visible place more on an axis (a contrastive loss lets the second change it; a rows or sum
    loss is tried with padding alone). ``prediction_shape`` is the target's shape followed by axes of
    their own (class scores), and the target's shape unless given. Attributes, buffers and
    random state that the loss writes are put back after every call.

    >>> import torch
    >>> from viewproof.objectives import masked_mse
    >>> from viewproof.views import vector_mae_sample
    >>> sample = vector_mae_sample(torch.rand(2, 6), period=3, offset=1)
    >>> wrong = lambda prediction, s: (prediction - s.y).square()[~s.mask.hidden.expand(s.y.shape)].mean()
    >>> print(certify_loss(wrong, sample).refuted[0].witness.what)
    the prediction at (0, 1) is hidden and has no gradient, nor have 3 others of 4
    """
    shape = tuple(sample.y.shape) if prediction_shape is None else tuple(prediction_shape)
    _check_arguments(sample, takes, reduction, invariant, shape)
    case = LossCase(loss, sample, shape, takes, reduction, distance, invariant)
    subject = subject_name(loss, name)
    # What differs from call to call makes every comparison of values void.
    findings = gradient.repeatable.run(subject, case)
    return Report(subject, findings or (gradient.claims + value.claims).run(subject, case))


def _check_arguments(sample: Sample, takes: str, reduction: str, invariant: Any, shape: tuple[int, ...]) -> None:
    if isinstance(invariant, str) or not set(invariant) <= set(INVARIANCES):
        raise InvalidArgument(f"invariant={invariant!r} must be among {INVARIANCES}")
    if takes not in ("sample", "tensors"):
        raise InvalidArgument(f"takes={takes!r} must be 'sample' or 'tensors': loss(prediction, target, hidden)")
    if reduction not in ("mean", "sum", "rows"):
        raise InvalidArgument(f"reduction={reduction!r} must be 'mean', 'sum' or 'rows'")
    if shape[: sample.y.dim()] != tuple(sample.y.shape):
        raise InvalidArgument(
            f"prediction_shape={shape} must begin with the target's shape {tuple(sample.y.shape)}; axes of its own, "
            "class scores say, come last"
        )
    if sample.y.numel() == 0:
        raise InvalidArgument(f"sample.y of shape {tuple(sample.y.shape)} is empty; pass at least one row")
    if not bool(sample.y[hidden_of(sample)].isfinite().all()):
        raise InvalidArgument("sample.y is NaN or infinite at hidden coordinates; pass a sample with finite targets")
