"""A running batch against its contracts, bit for bit: for training loops that want to stop when something is off."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from viewproof.certify.report import Contract
from viewproof.certify.search import drawn
from viewproof.errors import ContractViolation, InvalidArgument
from viewproof.masks import Mask, Sample
from viewproof.views import flatten_batch_prefix

_WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def check_batch(
    source: Tensor,
    sample: Sample,
    prediction: Tensor | None = None,
    loss: Callable[[Tensor, Sample], Tensor] | None = None,
    *,
    target: Callable[[Sample], Sample] | None = None,
) -> None:
    """Raise `ContractViolation` if the batch breaks a contract; the message names it and the coordinates.

    C1 and C2: ``sample.x`` is exactly ``+0.0`` where ``sample.view`` hides, and the source's bits elsewhere. C3:
    ``sample.y`` is the first entries of the flattened source, or what the ``target`` transform makes of them. C4: the
    mask hides what the view hides, and ``loss(prediction, sample)``, if both are given, has a gradient on the mask
    and none off it. C9: ``NaN`` off the mask changes neither value nor gradient. Cost: a few passes over the batch.

    >>> from viewproof.masks import Mask, VectorMask
    >>> x = torch.tensor([[1.0, 2.0, 3.0]])
    >>> good = VectorMask(period=2, offset=1).sample(x)
    >>> check_batch(x, good)
    >>> check_batch(x, Sample(x, good.y, good.mask, good.view))
    Traceback (most recent call last):
    viewproof.errors.ContractViolation: C1, hidden content does not reach the encoder: x at (0, 1) is 2.0, not +0.0; ...
    """
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
        _check_mask(sample, sample.view)
    if prediction is not None and loss is not None:
        _check_loss(sample, prediction, loss)


def _fail(contract: Contract, what: str, wrong: Tensor) -> None:
    raise ContractViolation(f"{contract.name}, {contract.value}: {what}; {int(wrong.sum())} of {wrong.numel()} are off")


def _first(wrong: Tensor) -> tuple[int, ...]:
    return tuple(wrong.nonzero()[0].tolist())


def _bits(x: Tensor) -> Tensor:
    return x.detach().contiguous().view(_WORDS[x.element_size()])


def _check_view(shown: Tensor, sample: Sample, view: Mask) -> None:
    if sample.x.dtype != shown.dtype:
        wrong = torch.ones(1, dtype=torch.bool)
        _fail(Contract.C2, f"x is {sample.x.dtype} and the source {shown.dtype}", wrong)
    bits, hidden = _bits(sample.x), view.hidden.expand(sample.x.shape)
    expected = torch.where(hidden, bits.new_zeros(()), _bits(shown))
    if torch.equal(bits, expected):
        return
    wrong = bits != expected
    if bool((leaks := wrong & hidden).any()):
        at = _first(leaks)
        _fail(Contract.C1, f"x at {at} is {sample.x[at].item()!r}, not +0.0", leaks)
    at = _first(wrong)
    _fail(Contract.C2, f"x at {at} is {sample.x[at].item()!r}, the source holds {shown[at].item()!r}", wrong)


def _check_target(flat: Tensor, sample: Sample, shown: Tensor, target: Callable[[Sample], Sample] | None) -> None:
    expected = flat
    if target is not None:
        length = math.prod(sample.mask.data_shape)
        whole = Sample(sample.x, flatten_batch_prefix(shown, length), _flat(sample.mask), sample.view)
        expected = target(whole).y.reshape(len(flat), -1)
    y = sample.y.reshape(len(flat), -1)
    if y.shape[1] > expected.shape[1] or y.dtype != expected.dtype:
        what = f"y is {y.dtype} {tuple(sample.y.shape)}, the source {expected.dtype} {tuple(expected.shape)} flattened"
        _fail(Contract.C3, what, torch.ones(1, dtype=torch.bool))
    expected = expected[:, : y.shape[1]]
    bits, wanted = _bits(y), _bits(expected)
    if not torch.equal(bits, wanted):
        wrong = bits != wanted
        at = _first(wrong)
        _fail(Contract.C3, f"y at {at} is {y[at].item()!r}, the target is {expected[at].item()!r}", wrong)


def _flat(mask: Mask) -> Mask:
    return Mask(mask.hidden.flatten(int(mask.per_sample)), mask.per_sample, mask.rule)


def _check_mask(sample: Sample, view: Mask) -> None:
    if sample.mask is view:
        return
    length = math.prod(sample.mask.data_shape)
    own, wanted = _flat(sample.mask).hidden, view.prefix(length).hidden
    wrong = own != wanted
    if bool(wrong.any()):
        at = _first(wrong)
        said = "hides" if bool(wrong.logical_and(own)[at]) else "shows"
        _fail(Contract.C4, f"the mask {said} the target at {at}, and the view does not", wrong)


def _check_loss(sample: Sample, prediction: Tensor, loss: Callable[[Tensor, Sample], Tensor]) -> None:
    hidden = sample.mask.hidden.expand(sample.y.shape)
    hidden = hidden.reshape(hidden.shape + (1,) * (prediction.dim() - hidden.dim())).expand(prediction.shape)
    value, gradient = _gradient(prediction, sample, loss)
    sloped = gradient != 0
    wrong = sloped & ~hidden
    if bool(wrong.any()):
        at = _first(wrong)
        _fail(Contract.C4, f"the visible prediction at {at} has gradient {gradient[at].item():.6g}", wrong)
    missed = hidden & ~sloped
    if prediction.shape == sample.y.shape:
        missed &= prediction.detach() != sample.y
    if bool(hidden.any()) and bool((missed == hidden).all()):
        _fail(Contract.C4, "no hidden prediction has a gradient", missed)
    poisoned = torch.where(hidden, prediction.detach(), math.nan)
    again, slope = _gradient(poisoned, sample, loss)
    same = torch.equal(_bits(value), _bits(again)), torch.equal(_bits(gradient), _bits(slope))
    if not all(same):
        part = "value" if not same[0] else "gradient"
        _fail(Contract.C9, f"NaN in the prediction off the mask changes the {part} of the loss", ~hidden)


def _gradient(prediction: Tensor, sample: Sample, loss: Callable[[Tensor, Sample], Tensor]) -> tuple[Tensor, Tensor]:
    leaf = prediction.detach().clone().requires_grad_()
    # Both calls draw the same, and training goes on as if nothing had been drawn.
    with drawn(0), torch.enable_grad():
        value = loss(leaf, sample)
        if not value.requires_grad:
            return value.detach(), torch.zeros_like(leaf)
        gradient = torch.autograd.grad(value.sum(), leaf, allow_unused=True)[0]
    return value.detach(), torch.zeros_like(leaf) if gradient is None else gradient
