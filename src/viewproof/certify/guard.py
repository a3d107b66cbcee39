"""A running batch against its contracts, bit for bit, for loops that should stop on a breach."""

import math
from collections.abc import Callable
from typing import NoReturn

import torch
from torch import Tensor

from viewproof.bits import same_bits, seeded, unlike
from viewproof.certify.inputs import flat_mask
from viewproof.certify.outputs import first_true, value_and_gradient
from viewproof.certify.report import Contract
from viewproof.errors import ContractViolation, InvalidArgument
from viewproof.masks import Mask, Sample
from viewproof.shapes import check_kind, check_tensor
from viewproof.views import flatten_batch_prefix


def check_batch(
    source: Tensor,
    sample: Sample,
    prediction: Tensor | None = None,
    loss: Callable[[Tensor, Sample], Tensor] | None = None,
    *,
    target: Callable[[Sample], Sample] | None = None,
) -> None:
    """Raise `ContractViolation`, naming contract and coordinates, if the batch breaks one.

    C1 and C2: ``sample.x`` is exactly ``+0.0`` where ``sample.view`` hides, and the source's bits elsewhere. C3:
    ``sample.y`` is the first entries of the flattened source, or what the ``target`` transform makes of them. C4:
    the mask selects what the view hides, or less where its rule says so, and ``loss(prediction, sample)``, if both are
    given, has a gradient all over the mask and none off it. C9: ``NaN`` off the mask changes neither value nor
    gradient. Cost: a few passes over the batch.

    >>> from viewproof.masks import Mask, VectorMask
    >>> x = torch.tensor([[1.0, 2.0, 3.0]])
    >>> good = VectorMask(period=2, offset=1).sample(x)
    >>> check_batch(x, good)
    >>> check_batch(x, Sample(x, good.y, good.mask, good.view))
    Traceback (most recent call last):
    viewproof.errors.ContractViolation: C1, hidden content does not reach the encoder: x at (0, 1) is 2.0, not +0.0; ...
    """
    check_tensor("source", source)
    check_kind("sample", sample, Sample)
    if source.dim() == 0:
        raise InvalidArgument("source of shape () has no batch axis; pass [N, *source]")
    if sample.view is None:
        raise InvalidArgument("sample.view is None: nothing says what x hides; pass a Sample with the mask that made x")
    flat = source.reshape(len(source), -1)
    if sample.x.shape == source.shape:
        shown = source
    elif sample.x.dim() == 2 and sample.x.shape[1] <= flat.shape[1] and len(sample.x) == len(source):
        shown = flat[:, : sample.x.shape[1]]
    else:
        raise InvalidArgument(
            f"source of shape {tuple(source.shape)} is not what x of shape {tuple(sample.x.shape)} is a view of; pass "
            "the batch that the sample was made from"
        )
    with torch.no_grad():
        _check_view(shown, sample, sample.view)
        _check_target(flat, sample, shown, target)
        if sample.mask is not sample.view:
            own = flat_mask(sample.mask).hidden
            of_view = sample.view.prefix(math.prod(sample.mask.data_shape)).hidden
            wrong = own != of_view if getattr(sample.mask.rule, "scores_all_hidden", True) else own & ~of_view
            if (at := first_true(wrong)) is not None:
                verb = "hides" if bool(own.expand(wrong.shape)[at]) else "shows"
                _refuse(Contract.C4, f"the mask {verb} the target at {at}, and the view does not", wrong)
    if prediction is not None and loss is not None:
        _check_loss(sample, prediction, loss)


def _refuse(contract: Contract, what: str, wrong: Tensor | None = None) -> NoReturn:
    count = "" if wrong is None else f"; {int(wrong.sum())} of {wrong.numel()} are off"
    raise ContractViolation(f"{contract.name}, {contract.value}: {what}{count}")


def _check_view(shown: Tensor, sample: Sample, view: Mask) -> None:
    x = sample.x
    if x.dtype != shown.dtype:
        _refuse(Contract.C2, f"x is {x.dtype} and the source {shown.dtype}")
    hidden = view.hidden.expand(x.shape)
    wrong = unlike(x, torch.where(hidden, shown.new_zeros(()), shown))
    if (at := first_true(wrong & hidden)) is not None:
        _refuse(Contract.C1, f"x at {at} is {x[at].item()!r}, not +0.0", wrong & hidden)
    if (at := first_true(wrong)) is not None:
        _refuse(Contract.C2, f"x at {at} is {x[at].item()!r}, the source holds {shown[at].item()!r}", wrong)


def _check_target(flat: Tensor, sample: Sample, shown: Tensor, target: Callable[[Sample], Sample] | None) -> None:
    expected = flat
    if target is not None:
        length = math.prod(sample.mask.data_shape)
        whole = Sample(sample.x, flatten_batch_prefix(shown, length), flat_mask(sample.mask), sample.view)
        expected = target(whole).y.reshape(len(flat), -1)
    y = sample.y.reshape(len(flat), -1)
    if y.shape[1] > expected.shape[1] or y.dtype != expected.dtype:
        what = f"y is {y.dtype} {tuple(sample.y.shape)}, the source {expected.dtype} {tuple(expected.shape)} flattened"
        _refuse(Contract.C3, what)
    expected = expected[:, : y.shape[1]]
    wrong = unlike(y, expected)
    if (at := first_true(wrong)) is not None:
        _refuse(Contract.C3, f"y at {at} is {y[at].item()!r}, the target is {expected[at].item()!r}", wrong)


def _check_loss(sample: Sample, prediction: Tensor, loss: Callable[[Tensor, Sample], Tensor]) -> None:
    hidden = sample.mask.hidden.expand(sample.y.shape)
    hidden = hidden.reshape(hidden.shape + (1,) * (prediction.dim() - hidden.dim())).expand(prediction.shape)
    # Both calls draw the same, and training goes on as if nothing had been drawn.
    with seeded(0):
        value, gradient = value_and_gradient(lambda leaf: loss(leaf, sample), prediction)
    wrong = (gradient != 0) & ~hidden
    if (at := first_true(wrong)) is not None:
        _refuse(Contract.C4, f"the visible prediction at {at} has gradient {gradient[at].item():.6g}", wrong)
    missed = hidden & (gradient == 0)
    if prediction.shape == sample.y.shape:
        missed &= prediction.detach() != sample.y
    if bool(hidden.any()) and torch.equal(missed, hidden):
        _refuse(Contract.C4, "no hidden prediction has a gradient", missed)
    if bool((missed := _never_scored(sample, prediction.detach(), loss, missed)).any()):
        _refuse(Contract.C4, f"the hidden prediction at {first_true(missed)} has no gradient", missed)
    poisoned = torch.where(hidden, prediction.detach(), math.nan)
    with seeded(0):
        new_value, new_gradient = value_and_gradient(lambda leaf: loss(leaf, sample), poisoned)
    for part, old, new in (("value", value, new_value), ("gradient", gradient, new_gradient)):
        if not same_bits(old, new):
            _refuse(Contract.C9, f"NaN in the prediction off the mask changes the {part} of the loss", ~hidden)


def _never_scored(
    sample: Sample, prediction: Tensor, loss: Callable[[Tensor, Sample], Tensor], missed: Tensor
) -> Tensor:
    """Which of the predictions without gradient have none near their target either, on both sides of it."""
    same = prediction.shape == sample.y.shape and sample.y.is_floating_point()
    near = sample.y.float() if same else torch.zeros_like(prediction, dtype=torch.float32)
    missed = missed & near.isfinite()
    for error in (0.5, -0.5):
        if not bool(missed.any()):
            break
        # In float32: a gradient may vanish in half precision.
        moved = torch.where(missed, near + error, prediction.float())
        with seeded(0):
            _, gradient = value_and_gradient(lambda leaf: loss(leaf, sample), moved)
        missed &= gradient == 0
    return missed
