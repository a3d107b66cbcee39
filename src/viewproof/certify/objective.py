"""Does a loss in tensors have the value of an objective in exact numbers?"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from viewproof.certify.report import Contract, Finding, Report, Witness, attempt
from viewproof.errors import InvalidArgument
from viewproof.verdict import Verdict

_TOLERANCE = 1e-9
_ROUNDINGS = 128


def certify_objective(
    loss: Callable[..., Tensor],
    objective: Callable[..., Any],
    *examples: Tensor,
    contract: Contract = Contract.C7,
    name: str | None = None,
) -> Report:
    """Whether ``loss(*tensors)`` is ``objective(*rows)`` on tensors of the examples' shapes, run in float64.

    ``objective`` gets each tensor as nested lists of Fractions and may be put together from
    `viewproof.objectives` (``variance_term``, ``vicreg_objective``, ``BarlowGuard`` ...); where it takes a root it may
    return a float. Small whole numbers are tried, the examples, constants and single large entries: enough to refute,
    never a proof, so an objective that agrees comes out UNKNOWN.

    >>> exact = lambda x: sum(entry * entry for row in x for entry in row)
    >>> certify_objective(lambda x: x.square().mean(), exact, torch.rand(2, 3)).verdict()
    <Verdict.REFUTED: 'REFUTED'>
    >>> print(certify_objective(lambda x: x.square().sum(), exact, torch.rand(2, 3)).findings[0].detail)
    agrees on 7 inputs; agreement on inputs is no proof
    """
    if not examples or not all(isinstance(e, Tensor) and e.is_floating_point() for e in examples):
        raise InvalidArgument("examples must be floating-point tensors, one for each argument of the loss")
    subject = name or str(getattr(loss, "__name__", type(loss).__name__))
    claim = "the value is that of the exact objective"
    return Report(subject, attempt(subject, contract, claim, lambda: _compare(loss, objective, examples, contract)))


def _compare(
    loss: Callable[..., Tensor], objective: Callable[..., Any], examples: Sequence[Tensor], contract: Contract
) -> Iterable[Finding]:
    claim = "the value is that of the exact objective"
    shapes = ", ".join(str(tuple(e.shape)) for e in examples)
    tried = 0
    for given in _inputs(examples):
        tried += 1
        with torch.no_grad():
            returned = loss(*(t.clone() for t in given))
        # A loss that goes on in float32 is as exact as float32 is.
        value, tolerance = float(returned), max(_TOLERANCE, _ROUNDINGS * torch.finfo(returned.dtype).eps)
        exact = float(objective(*(_fractions(t) for t in given)))
        if math.isfinite(value) and abs(value - exact) <= tolerance * max(1.0, abs(exact)):
            continue
        witness = Witness(f"the loss is {value:.12g}, the exact objective {exact:.12g}", {"tensors": given})
        yield Finding(contract, claim, Verdict.REFUTED, shapes, "exact fractions", "", witness)
        return
    detail = f"agrees on {tried} inputs; agreement on inputs is no proof"
    yield Finding(contract, claim, Verdict.UNKNOWN, shapes, "exact fractions", detail)


def _inputs(examples: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    generator = torch.Generator().manual_seed(0)
    yield [e.detach().double().cpu() for e in examples]
    for scale in (1, 4, 16):
        yield [torch.randint(-8, 9, e.shape, generator=generator).double() * scale / 8 for e in examples]
    yield [torch.ones(e.shape, dtype=torch.float64) for e in examples]
    yield [torch.randn(e.shape, generator=generator, dtype=torch.float64) for e in examples]
    spiked = [torch.randint(-1, 2, e.shape, generator=generator).double() for e in examples]
    for tensor in spiked:
        tensor.view(-1)[0] = 64.0
    yield spiked


def _fractions(tensor: Tensor) -> Any:
    if tensor.dim() == 0:
        return Fraction(tensor.item())
    return [_fractions(part) for part in tensor]
