"""Certifies that an optimizer has every parameter once, and decays what is declared."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from viewproof.certify.check import Check, Claims, subject_name
from viewproof.certify.flow.isolation import kept
from viewproof.certify.report import Contract, Finding, Report
from viewproof.errors import InvalidArgument

Pattern = str | type[nn.Module]
_VALUES = (1.0, -3.0)
"""What all parameters are set to, in turn: decay may be towards one of them, such as the 1 of a norm's weight."""


def certify_optimizer(
    model: nn.Module | Mapping[str, nn.Module],
    optimizer: Optimizer | Sequence[Optimizer],
    *,
    no_decay: Sequence[Pattern] = (),
    decay: Sequence[Pattern] = (),
    name: str | None = None,
) -> Report:
    """Whether every trainable parameter is in one group, and weight decay is where it is declared (C6).

    Trainable is what has ``requires_grad``; several modules are given by name, a shared parameter counts once. With
    several optimizers a parameter must be in one group of one of them. ``no_decay`` and ``decay`` are patterns of names
    (``"*.bias"``, ``"cls_token"``) or classes of modules, whose own parameters are meant (``nn.LayerNorm``). Decay is
    read from the groups, and seen: a step in which all gradients are 0 and all parameters 1, or -3, from fresh state,
    must leave the declared parameters as they are (``decay``: must move them). All is put back afterwards.

    >>> model = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3))
    >>> optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.1)
    >>> print(certify_optimizer(model, optimizer, no_decay=["*.bias", nn.LayerNorm]).refuted[0].witness.what)
    0.bias has weight decay 0.1; 3 of 3 declared parameters have

    Raises `InvalidArgument` for a pattern that matches no trainable parameter, and if there is none.
    """
    modules = {"": model} if isinstance(model, nn.Module) else dict(model)
    named, owners = dict[str, Tensor](), dict[str, nn.Module]()
    for prefix, module in modules.items():
        # Not deduplicated within one module either: a tied parameter has several names, and all count for patterns.
        for path, owner in module.named_modules():
            for key, parameter in owner.named_parameters(recurse=False):
                full = ".".join(filter(None, (prefix, path, key)))
                if parameter.requires_grad:
                    named[full], owners[full] = parameter, owner
    if not named:
        raise InvalidArgument("model must have a parameter with requires_grad; none has")
    optimizers = [optimizer] if isinstance(optimizer, Optimizer) else list(optimizer)

    def matching(argument: str, patterns: Sequence[Pattern]) -> list[str]:
        names = dict[str, None]()
        for pattern in [patterns] if isinstance(patterns, str) else patterns:
            own = [
                key
                for key in named
                if (fnmatchcase(key, pattern) if isinstance(pattern, str) else isinstance(owners[key], pattern))
            ]
            if not own:
                raise InvalidArgument(
                    f"{argument}={pattern!r} must match a trainable parameter; those are {list(named)}"
                )
            names |= dict.fromkeys(own)
        return list(names)

    case = OptimizerCase(
        modules,
        named,
        optimizers,
        matching("no_decay", no_decay),
        matching("decay", decay),
        bool(no_decay),
        bool(decay),
    )
    subject = subject_name(optimizers[0], name)
    return Report(subject, claims.run(subject, case))


@dataclass(frozen=True, eq=False)
class OptimizerCase:
    """Trainable parameters by name, the optimizers, and which names are declared to be decayed or not."""

    modules: Mapping[str, nn.Module]
    named: Mapping[str, Tensor]
    optimizers: Sequence[Optimizer]
    no_decay: Sequence[str]
    decay: Sequence[str]
    asks_no_decay: bool
    asks_decay: bool

    @cached_property
    def places(self) -> dict[int, list[tuple[int, int]]]:
        """For each parameter the optimizers and groups that hold it, as often as they do."""
        places: dict[int, list[tuple[int, int]]] = {}
        for i, optimizer in enumerate(self.optimizers):
            for j, group in enumerate(optimizer.param_groups):
                for parameter in group["params"]:
                    places.setdefault(id(parameter), []).append((i, j))
        return places

    def rates(self, name: str) -> list[object]:
        """The ``weight_decay`` of the groups that hold the parameter; None where a group has none."""
        return [
            self.optimizers[i].param_groups[j].get("weight_decay") for i, j in self.places.get(id(self.named[name]), [])
        ]

    @cached_property
    def moved(self) -> set[int]:
        """The parameters that a step moves in which all gradients are 0, all parameters one number, the state fresh."""
        moved = set[int]()
        for value in _VALUES:
            with kept(*self.modules.values()), _fresh(self.optimizers), torch.no_grad():
                for parameter in self.named.values():
                    parameter.fill_(value)
                    parameter.grad = None
                # By a backward pass: a hook on a gradient may add decay to it.
                with torch.enable_grad():
                    torch.autograd.backward([(0 * parameter).sum() for parameter in self.named.values()])
                for optimizer in self.optimizers:
                    optimizer.step()
                moved |= {id(p) for p in self.named.values() if not bool((p == value).all())}
        return moved


@contextmanager
def _fresh(optimizers: Sequence[Optimizer]) -> Iterator[None]:
    """Without state, and with a learning rate that is not 0: a warm-up starts there. Put back afterwards."""
    saved = [
        (o, dict(o.state), [{k: deepcopy(v) for k, v in g.items() if k != "params"} for g in o.param_groups])
        for o in optimizers
    ]
    try:
        for optimizer in optimizers:
            optimizer.state.clear()
            for group in optimizer.param_groups:
                if "lr" in group:
                    group["lr"] = 0.1
        yield
    finally:
        for optimizer, state, groups in saved:
            optimizer.state.clear()
            optimizer.state.update(state)
            for group, before in zip(optimizer.param_groups, groups, strict=True):
                group.update(before)


claims = Claims[OptimizerCase](scope="these groups", method="groups read")


@claims(Contract.C6, "every trainable parameter is in exactly one group")
def in_one_group(case: OptimizerCase, check: Check) -> Finding:
    """None is left out, none is held twice."""
    missing = [k for k, p in case.named.items() if id(p) not in case.places]
    twice = [k for k, p in case.named.items() if len(case.places.get(id(p), [])) > 1]
    own = {id(p) for p in case.named.values()} | {id(p) for m in case.modules.values() for p in m.parameters()}
    strangers = sum(key not in own for key in case.places)
    detail = f"{strangers} parameters of the optimizer are not the model's" if strangers else ""
    if missing:
        what = f"{missing[0]} is in no group; {len(missing)} of {len(case.named)} are in none"
        return check.refuted(what, {"missing": missing}, detail=detail)
    if twice:
        what = f"{twice[0]} is in {len(case.places[id(case.named[twice[0]])])} groups; {len(twice)} are in several"
        return check.refuted(what, {"twice": twice}, detail=detail)
    return check.proved(
        detail or f"{len(case.named)} parameters in {sum(len(o.param_groups) for o in case.optimizers)} groups"
    )


@claims(Contract.C6, "declared parameters are not decayed", method="groups read, then a step with gradients of 0")
def not_decayed(case: OptimizerCase, check: Check) -> Finding | None:
    """Biases, norms, class and register tokens, say."""
    if not case.asks_no_decay:
        return None
    decayed = {
        k: rate for k in case.no_decay for rate in case.rates(k) if isinstance(rate, int | float | Tensor) and rate != 0
    }
    if decayed:
        key, rate = next(iter(decayed.items()))
        count = f"{len(decayed)} of {len(case.no_decay)} declared parameters have"
        return check.refuted(f"{key} has weight decay {float(rate):.6g}; {count}", {"decayed": list(decayed)})
    moved = [k for k in case.no_decay if id(case.named[k]) in case.moved]
    if moved:
        what = f"{moved[0]} moves in a step in which all gradients are 0; {len(moved)} of {len(case.no_decay)} do"
        return check.refuted(what, {"moved": moved})
    absent = [k for k in case.no_decay if not case.rates(k)]
    if absent:
        return check.undecided(f"{absent[0]} is in no group, where nothing moves it")
    return check.proved(f"{len(case.no_decay)} parameters")


@claims(Contract.C6, "the other declared parameters are decayed", method="a step with gradients of 0")
def decayed(case: OptimizerCase, check: Check) -> Finding | None:
    """Patterns that are too wide take the decay off matrices too."""
    if not case.asks_decay:
        return None
    still = [k for k in case.decay if id(case.named[k]) not in case.moved]
    if still:
        count = f"{len(still)} of {len(case.decay)} are not decayed"
        what = f"{still[0]} stays as it was in a step with gradients of 0: {count}"
        return check.refuted(what, {"still": still})
    return check.proved(f"{len(case.decay)} parameters")
