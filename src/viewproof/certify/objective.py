"""Does a loss in tensors have the value of an objective in exact numbers?"""

import math
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from viewproof.certify.check import Check, Claims, subject_name
from viewproof.certify.flow.state import puts_back
from viewproof.certify.report import Contract, Finding, Report
from viewproof.errors import InvalidArgument

_TOLERANCE = 1e-9
_ROUNDINGS = 128


@puts_back
def certify_objective(
    loss: Callable[..., Tensor],
    objective: Callable[..., Any],
    *examples: Tensor,
    contract: Contract = Contract.C7,
    name: str | None = None,
) -> Report:
    """Whether ``loss(*tensors)`` equals ``objective(*rows)`` on tensors of the examples' shapes.

    ``objective`` gets each tensor as nested lists of Fractions and may be put together from
    `viewproof.objectives` (``variance_term``, ``vicreg_objective``, ``BarlowGuard`` ...); where it takes a root it may
    return a float. Small whole numbers are tried, the examples, constants and single large entries: enough to refute,
    never a proof, so an objective that agrees comes out UNKNOWN. Where both are NaN they agree; where the objective
    divides by 0 it has no value, and nothing is compared.

    >>> exact = lambda x: sum(entry * entry for row in x for entry in row)
    >>> certify_objective(lambda x: x.square().mean(), exact, torch.rand(2, 3)).verdict()
    <Verdict.REFUTED: 'REFUTED'>
    >>> print(certify_objective(lambda x: x.square().sum(), exact, torch.rand(2, 3)).findings[0].detail)
    agrees on 7 inputs; agreement on inputs is no proof
    """
    if not examples or not all(isinstance(e, Tensor) and e.is_floating_point() for e in examples):
        raise InvalidArgument("examples must be floating-point tensors, one for each argument of the loss")
    subject = subject_name(loss, name)
    claims = Claims[None](scope=", ".join(str(tuple(e.shape)) for e in examples), method="exact fractions")

    @claims(contract, "the value is that of the exact objective")
    def same_value(_: None, check: Check) -> Finding:
        compared, nans, divided = 0, 0, 0
        for tried in _inputs(examples):
            with torch.no_grad():
                returned = loss(*(t.clone() for t in tried))
            # A loss that goes on in float32 is as exact as float32 is.
            value, tolerance = float(returned), max(_TOLERANCE, _ROUNDINGS * torch.finfo(returned.dtype).eps)
            try:
                exact = float(objective(*(_fractions(t) for t in tried)))
            except ZeroDivisionError:
                divided += 1
                continue
            if math.isnan(value) and math.isnan(exact):
                nans += 1
            elif value == exact or abs(value - exact) <= tolerance * max(1.0, abs(exact)):
                compared += 1
            else:
                return check.refuted(f"the loss is {value:.12g}, the exact objective {exact:.12g}", {"tensors": tried})
        apart = [f"on {nans} both are NaN"] * bool(nans) + [f"on {divided} the objective divides by 0"] * bool(divided)
        return check.undecided("; ".join([f"agrees on {compared} inputs", *apart, "agreement on inputs is no proof"]))

    return Report(subject, claims.run(subject, None))


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
