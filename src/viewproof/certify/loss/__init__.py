"""Certifies a loss: it sums over exactly the hidden set (C4) and survives bad numbers (C9)."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from viewproof.certify.check import subject_name
from viewproof.certify.flow.state import puts_back
from viewproof.certify.loss import gradient, value
from viewproof.certify.loss.case import INVARIANCES, Invariance, LossCase, Takes, hidden_of
from viewproof.certify.loss.masks import Masks
from viewproof.certify.loss.objective import Distance, Objective
from viewproof.certify.report import Report
from viewproof.errors import InvalidArgument
from viewproof.masks import Rule, Sample
from viewproof.objectives.masked import Reduction
from viewproof.verdict import Verdict


@puts_back
def certify_loss(
    loss: Callable[..., Tensor],
    sample: Sample,
    *,
    takes: Takes = "sample",
    reduction: Reduction = "mean",
    distance: Distance | None = None,
    invariant: Sequence[Invariance] = INVARIANCES,
    prediction_shape: tuple[int, ...] | None = None,
    masks: Masks | None = None,
    dtypes: Sequence[torch.dtype] | None = None,
    ids: tuple[int, int] | None = None,
    ignore_index: int | None = None,
    name: str | None = None,
) -> Report:
    """Whether ``loss`` sums over exactly ``sample.mask`` (C4) and keeps its numbers (C9).

    ``loss(prediction, sample)``, or ``loss(prediction, target, hidden)`` with ``takes="tensors"``, where ``hidden`` is
    Boolean over the target, batch axis first; it returns a scalar (``reduction`` "mean" over the selected coordinates
    of the batch, or "sum") or ``[N]`` ("rows"). ``distance``, if declared, is what the value is compared with: a
    function of the error ``prediction - target`` that takes Fractions and tensors alike, such as ``abs`` or ``lambda e:
    e * e``; a function of prediction and target, one number for each coordinate or for each position of the target's
    first axes; a loss of torch.nn such as ``nn.CrossEntropyLoss(weight=w, label_smoothing=0.1)``; or "mse", "l1",
    "smooth_l1", "cross_entropy", "cosine". ``invariant`` names what must leave the value as it is: the batch
    twice, each axis twice, a visible place more on an axis (a contrastive loss lets the second change it; a rows or sum
    loss is tried with padding alone). ``prediction_shape`` is the target's shape followed by axes of
    their own (class scores), and the target's shape unless given. Attributes, buffers and
    random state that the loss writes are put back after every call.

    The loss is also tried under other masks. By default they are made of the example's own blocks (whole patches where
    its mask is one of patches); ``masks`` declares which there are: a rule, or a function of a number that returns one.
    ``dtypes`` are those that it is ever run in, ``ids`` the first and last target id of whole-number targets, and
    ``ignore_index`` what the target is off the mask, for losses that read the mask off their labels. Of a loss that
    never reads the mask it is given nothing is PROVED; where rows have masks of their own, or ``masks`` are declared,
    it is REFUTED by two masks with one value.

    >>> import torch
    >>> from viewproof.objectives import masked_mse
    >>> from viewproof.views import vector_mae_sample
    >>> sample = vector_mae_sample(torch.rand(2, 6), period=3, offset=1)
    >>> wrong = lambda prediction, s: (prediction - s.y).square()[~s.mask.hidden.expand(s.y.shape)].mean()
    >>> print(certify_loss(wrong, sample).refuted[0].witness.what)
    the prediction at (0, 1) is hidden and has no gradient, nor have 3 others of 4
    """
    shape = tuple(sample.y.shape) if prediction_shape is None else tuple(prediction_shape)
    _check_arguments(sample, takes, reduction, invariant, shape, masks, ids, ignore_index)
    if ignore_index is not None:
        # Under other masks these targets are scored: they get ids that occur.
        ids_scored, ignored = sample.y[hidden_of(sample)], sample.y == ignore_index
        count = int(ignored.sum())
        if count and len(ids_scored):
            y = sample.y.clone()
            y[ignored] = ids_scored[torch.arange(count) % len(ids_scored)]
            sample = replace(sample, y=y)
    objective = None if distance is None else Objective.of(distance)
    case = LossCase(loss, sample, shape, takes, reduction, objective, invariant, masks, dtypes, ids, ignore_index)
    subject = subject_name(loss, name)
    # What differs from call to call makes every comparison of values void.
    findings = gradient.repeatable.run(subject, case)
    findings = findings or (gradient.claims + value.claims).run(subject, case)
    if any(remark.startswith(gradient.NEVER_READ) for f in findings for remark in f.remarks):
        findings = tuple(
            replace(f, verdict=Verdict.UNKNOWN, detail=gradient.NEVER_READ) if f.verdict is Verdict.PROVED else f
            for f in findings
        )
    return Report(subject, findings)


def _check_arguments(
    sample: Sample,
    takes: str,
    reduction: str,
    invariant: Any,
    shape: tuple[int, ...],
    masks: Any,
    ids: Any,
    ignore_index: int | None,
) -> None:
    if isinstance(invariant, str) or not set(invariant) <= set(INVARIANCES):
        raise InvalidArgument(f"invariant={invariant!r} must be among {INVARIANCES}")
    if takes not in ("sample", "tensors"):
        raise InvalidArgument(f"takes={takes!r} must be 'sample' or 'tensors': loss(prediction, target, hidden)")
    if reduction not in ("mean", "sum", "rows"):
        raise InvalidArgument(f"reduction={reduction!r} must be 'mean', 'sum' or 'rows'")
    if masks is not None and not isinstance(masks, Rule) and not callable(masks):
        raise InvalidArgument(f"masks={masks!r} must be a rule or a function of a number that returns a mask")
    whole = not sample.y.is_floating_point()
    if (ids is not None or ignore_index is not None) and not whole:
        raise InvalidArgument(f"ids and ignore_index are of whole-number targets; sample.y is {sample.y.dtype}")
    if ids is not None and not (len(ids) == 2 and ids[0] <= ids[1]):
        raise InvalidArgument(f"ids={ids!r} must be the first and the last id; pass (0, vocabulary - 1)")
    if shape[: sample.y.dim()] != tuple(sample.y.shape):
        raise InvalidArgument(
            f"prediction_shape={shape} must begin with the target's shape {tuple(sample.y.shape)}; axes of its own, "
            "class scores say, come last"
        )
    if sample.y.numel() == 0:
        raise InvalidArgument(f"sample.y of shape {tuple(sample.y.shape)} is empty; pass at least one row")
    if not bool(sample.y[hidden_of(sample)].isfinite().all()):
        raise InvalidArgument("sample.y is NaN or infinite at hidden coordinates; pass a sample with finite targets")
