"""Certifies what a function's outputs must change with, and what they must not."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from viewproof.certify.check import Check, Claims, subject_name
from viewproof.certify.encoder import EncoderCase, UsedParameters, independence
from viewproof.certify.flow.isolation import isolated
from viewproof.certify.inputs import other_contents, spread_mask
from viewproof.certify.outputs import first_true, output_difference, tensors_by_path
from viewproof.certify.report import Contract, Finding, Report
from viewproof.certify.surroundings import draws_numbers
from viewproof.certify.target.branch import shake
from viewproof.errors import InvalidArgument
from viewproof.masks import Mask

Inputs = str | Tensor | tuple[str, Tensor] | Callable[..., Any]
Outputs = Tensor | Callable[[Any], Any] | None

# A reordered sum differs by rounding: less than this share of the largest output says nothing.
_ROUNDINGS = 1024
_TRIES = 6


def certify_dependence(
    f: Callable[..., Any],
    x: Tensor | Mapping[str, Tensor],
    *,
    must: Mapping[str, tuple[Inputs, Outputs]] | None = None,
    must_not: Mapping[str, tuple[Inputs, Outputs]] | None = None,
    name: str | None = None,
) -> Report:
    """Whether outputs of ``f`` change with the inputs that they must change with (C2), and not with others (C10).

    ``f(x)`` is called with a tensor, or ``f(**x)`` with a mapping of them. ``must`` and ``must_not`` map the text of a
    claim to a pair. The first says which inputs: the name of one, as a whole; True where it counts, over its first axes
    or those of one sample; both, ``(name, where)``; or a function that makes other arguments of the arguments, such as
    ``lambda x: x.flip(1)`` for order itself (``must`` only). The second says which outputs: True where they count, over
    the first axes of the output; a function that picks part of it, which counts as a whole; None for all of it.

    Each selected entry of the inputs must change each selected entry of the outputs, of the same sample where both have
    a batch axis. PROVED: for each such pair two runs differ. REFUTED: dependence was tracked through every operator and
    does not reach the output, with these weights and with others; the witness holds two inputs with equal outputs.
    Otherwise UNKNOWN: a layer that starts at 0, say. Reordered inputs must change the output by more than rounding.
    ``must_not`` is decided as by `certify_encoder`.

    >>> x = {"nodes": torch.randn(4, 3), "edges": torch.randn(4, 2)}
    >>> def f(nodes, edges):
    ...     return nodes.relu()
    >>> report = certify_dependence(f, x, must={"edges matter": ("edges", None), "nodes matter": ("nodes", None)})
    >>> [finding.verdict.value for finding in report.findings]
    ['REFUTED', 'PROVED']

    Raises `InvalidArgument` if nothing is declared, or a declaration does not fit.
    """
    if not must and not must_not:
        raise InvalidArgument("must=None, must_not=None must declare something; pass must={claim: (inputs, outputs)}")
    arguments = {"x": x} if isinstance(x, Tensor) else dict(x)
    if not all(isinstance(t, Tensor) and t.dim() and t.numel() for t in arguments.values()):
        raise InvalidArgument("x must be a tensor, or a mapping of tensors, none of them empty")
    case = DependenceCase(f, arguments, isinstance(x, Tensor))
    subject = subject_name(f, name)
    claims = Claims[DependenceCase]()
    for declared, contract, decide in ((must, Contract.C2, depends), (must_not, Contract.C10, independent)):
        for claim, pair in (declared or {}).items():
            inputs, outputs = case.inputs(claim, pair[0]), pair[1]
            if callable(inputs) and decide is independent:
                raise InvalidArgument(f"must_not={claim!r} must name inputs; a function is for must= only")

            def check_pair(
                case: DependenceCase, check: Check, inputs: Any = inputs, outputs: Any = outputs, decide: Any = decide
            ) -> Finding:
                finding: Finding = decide(case, check, inputs, outputs)
                return finding

            text = claim.replace("{", "{{").replace("}", "}}")
            claims(contract, text, scope="this input, these weights", method="two runs")(check_pair)
    return Report(subject, claims.run(subject, case))


@dataclass(frozen=True, eq=False)
class DependenceCase:
    """A function and its arguments by name."""

    f: Callable[..., Any]
    arguments: dict[str, Tensor]
    positional: bool

    def inputs(self, claim: str, inputs: Inputs) -> tuple[str, Tensor | None] | Callable[..., Any]:
        """The argument's name and where it counts (None: all of it); or what makes other arguments."""
        if callable(inputs) and not isinstance(inputs, Tensor):
            return inputs
        if isinstance(inputs, Tensor):
            if len(self.arguments) != 1:
                raise InvalidArgument(f"{claim!r} must name one of the inputs {sorted(self.arguments)}; pass a pair")
            inputs = next(iter(self.arguments)), inputs
        key, where = (inputs, None) if isinstance(inputs, str) else inputs
        if key not in self.arguments:
            raise InvalidArgument(f"{claim!r} names {key!r}; the inputs are {sorted(self.arguments)}")
        if where is not None:
            spread_mask(repr(claim), where, self.arguments[key])
            if not bool(where.any()):
                raise InvalidArgument(f"{claim!r} must select some of {key}; its mask is False everywhere")
        return key, where

    def call(self, **changed: Any) -> Any:
        """What the function returns, everything else as it was."""
        arguments = {
            key: (value.clone() if isinstance(value, Tensor) else value)
            for key, value in {**self.arguments, **changed}.items()
        }
        with isolated(self.f), torch.enable_grad():
            return self.run(arguments)

    def run(self, arguments: Mapping[str, Any]) -> Any:
        """What the function returns for the arguments, without any care."""
        return self.f(*arguments.values()) if self.positional else self.f(**arguments)

    @cached_property
    def steady(self) -> bool:
        """Whether two calls with the same arguments return the same."""
        one, other = (dict(tensors_by_path(_copied(self.call()))) for _ in range(2))
        return output_difference(one, other, bits=True) is None

    def other_weights(self) -> "DependenceCase":
        """The same function with the parameters that it uses moved for the time of each call."""
        with UsedParameters() as used:
            self.call()

        def moved(*args: Any, **kwargs: Any) -> Any:
            shake(used.found, 1)
            return self.f(*args, **kwargs)

        return DependenceCase(moved, self.arguments, self.positional)

    def question(self, key: str, where: Tensor, outputs: Outputs, word: str) -> EncoderCase:
        """Whether the selected outputs depend on one argument where ``where``, over all of it, is True."""

        def of_one(tensor: Tensor) -> Any:
            return self.run({**self.arguments, key: tensor})

        places = outputs.nonzero() if isinstance(outputs, Tensor) else None
        x = self.arguments[key].detach()
        return EncoderCase(of_one, lambda out: selected(out, outputs), x, where, Mask(where, True), word, places)


def selected(returned: Any, outputs: Outputs) -> Any:
    """The part of the output that counts."""
    if isinstance(outputs, Tensor):
        parts = list(tensors_by_path(returned))
        fits = len(parts) == 1 and parts[0][1].shape[: outputs.dim()] == outputs.shape
        if not fits or outputs.dtype != torch.bool:
            shapes = {path: tuple(t.shape) for path, t in parts}
            raise InvalidArgument(
                f"outputs of shape {tuple(outputs.shape)} must be True where they count, over the first axes of one "
                f"tensor; the output is {shapes}; pick it with a function"
            )
        return parts[0][1][outputs]
    return outputs(returned) if outputs else returned


def _copied(returned: Any) -> dict[str, Tensor]:
    return {path: t.detach().clone() for path, t in tensors_by_path(returned)}


def independent(case: DependenceCase, check: Check, inputs: tuple[str, Tensor | None], outputs: Outputs) -> Finding:
    """The outputs do not depend on the inputs: tracked."""
    key, where = inputs
    x = case.arguments[key]
    everywhere = torch.ones(x.shape, dtype=torch.bool) if where is None else spread_mask("inputs", where, x)
    with isolated(case.f), torch.no_grad():
        draws = draws_numbers(lambda: case.run(case.arguments))
    size = "x".join(map(str, x.shape))
    tracking = Check(check.contract, check.claim, f"at {size}", "dependence tracking", f"at {size}", "run")
    return independence(case.question(key, everywhere, outputs, "forbidden"), tracking, draws)


def depends(case: DependenceCase, check: Check, inputs: Any, outputs: Outputs) -> Finding:
    """Each selected input changes each selected output of its sample."""
    if not case.steady:
        return check.undecided("two calls with the same input differ, so that no difference can be blamed on the input")
    if callable(inputs):
        return _tells_apart(case, check, inputs, outputs)
    key, where = inputs
    x = case.arguments[key]
    base = _rows(case.call(), outputs)
    entries = [()] if where is None else [tuple(i) for i in where.nonzero().tolist()]
    # A mask over one sample's axes marks the same entries of every sample.
    batched = where is None or spread_mask("inputs", where, x).shape[: where.dim()] == where.shape
    same_sample = where is not None and batched and isinstance(outputs, Tensor) and outputs.shape[0] == len(x)
    count = 0
    for entry in entries:
        chosen = torch.zeros(x.shape, dtype=torch.bool, device=x.device)
        chosen[entry if batched else (slice(None), *entry)] = True
        changed, missing = x, set(base)
        if same_sample:
            missing = {place for place in base if place[0] == entry[0]}
        asked = len(missing)
        for other in islice(_contents(x), _TRIES):
            if not missing:
                break
            changed = torch.where(chosen, other, x)
            rows = _rows(case.call(**{key: changed}), outputs)
            missing = {p for p in missing if output_difference(base[p], rows.get(p, {})) is None}
        count += asked - len(missing)
        if not missing:
            continue
        place, where_text = min(missing), f"{key}{list(entry)}" if entry else key
        if bool((changed == x).all()):
            return check.undecided(f"no other content for {where_text} was found")
        blind = _blind(case, key, chosen, outputs, place)
        if blind:
            return check.undecided(f"{where_text} changed no output at {list(place) or 'any place'}; {blind}")
        what = (
            f"output{list(place) if place else ''} is the same for all content of {where_text}: {len(missing)} of "
            f"{asked} selected outputs do not depend on it"
        )
        at = {"input": entry, "output": place}
        witness = {"one": x, "other": changed}
        return check.refuted(what, witness, at, method="dependence tracked through every operator, then two runs")
    what = "pair of an input and an output" if count == 1 else "pairs of an input and an output"
    return check.proved(f"{count} {what}, each with two runs that differ")


def _contents(x: Tensor) -> Any:
    """Other contents, all finite: first those that differ everywhere."""
    if x.is_floating_point():
        yield x + x.std(correction=0).clamp_min(1.0)
    elif x.dtype != torch.bool and not x.is_complex():
        low, high = int(x.min()), int(x.max())
        yield torch.where(x < high, x + 1, low)
    yield from (other for other in other_contents(x) if bool(other.isfinite().all()))


def _rows(returned: Any, outputs: Outputs) -> dict[tuple[int, ...], dict[str, Tensor]]:
    """The selected outputs by their place: one for each True of the mask, or all as one at ``()``."""
    parts = _copied(selected(returned, outputs))
    if not isinstance(outputs, Tensor):
        return {(): parts}
    rows = next(iter(parts.values()))
    return {tuple(place): {"output": row} for place, row in zip(outputs.nonzero().tolist(), rows, strict=True)}


def _blind(case: DependenceCase, key: str, chosen: Tensor, outputs: Outputs, place: tuple[int, ...]) -> str:
    """Why the output at the place may still depend on what was chosen; empty if it cannot."""
    for variant, weights in ((case, "these weights"), (case.other_weights(), "other weights")):
        output = outputs
        if isinstance(outputs, Tensor):
            output = torch.zeros_like(outputs)
            output[place] = True
        question = variant.question(key, chosen, output, "chosen")
        tracked, may_depend = question.tracked(finite=True)
        if may_depend:
            reason = tracked.escaped or "; ".join([*list(tracked.unknown)[:2], *filter(None, [tracked.spread])])
            return f"with {weights} it may depend on it" + (f": {reason}" if reason else "")
    return ""


def _tells_apart(case: DependenceCase, check: Check, transform: Callable[..., Any], outputs: Outputs) -> Finding:
    """Whether outputs differ beyond rounding for transformed arguments.

    If they do with other weights or other content alone, the answer is UNKNOWN.
    """
    other_content = {key: next(iter(_contents(x))) for key, x in case.arguments.items()}
    tried = [(case, "")]
    tried += [(case.other_weights(), " with other weights")]
    tried += [(DependenceCase(case.f, other_content, case.positional), " with other content")]
    same: dict[str, Any] = {}
    for variant, where in tried:
        arguments = {key: t.clone() for key, t in variant.arguments.items()}
        made = transform(*arguments.values()) if case.positional else transform(**arguments)
        others = {next(iter(arguments)): made} if case.positional else dict(made)
        if output_difference(variant.arguments, others) is None:
            return check.undecided("the function returns the arguments as they are")
        one, other = (_copied(selected(variant.call(**changed), outputs)) for changed in ({}, others))
        if _differ(one, other):
            if not where:
                return check.proved("the two outputs differ by more than rounding")
            return check.undecided(f"the outputs agree, and differ{where}")
        same = same or {"one": variant.arguments, "other": others, "output": one}
    what = (
        "the output is the same for the input and for the other one, up to rounding, with other weights and content too"
    )
    return check.refuted(what, same, method="two runs, three times")


def _differ(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Whether two outputs differ in shape, in a whole number, or by more than rounding."""
    for path in {**one, **other}:
        if path not in one or path not in other or one[path].shape != other[path].shape:
            return True
        a, b = one[path], other[path]
        if not a.is_floating_point():
            if not torch.equal(a, b):
                return True
            continue
        scale = (
            torch.stack([t.double().abs().nan_to_num(0.0, 0.0, 0.0).amax() for t in (a, b)]).max() if a.numel() else 0
        )
        if first_true((a.double() - b.double()).abs() > _ROUNDINGS * torch.finfo(a.dtype).eps * scale) is not None:
            return True
    return False
