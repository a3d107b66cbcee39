"""Does an encoder's output depend on hidden content? Tracked through every operator; else two inputs that show it."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from viewproof.certify.flow.call import SCORE
from viewproof.certify.flow.dependence import Dependence
from viewproof.certify.flow.isolation import isolated
from viewproof.certify.report import Contract, Finding, Report, Witness, attempt
from viewproof.certify.search import draws, others, place, poisons, spread_mask, unlike
from viewproof.errors import InvalidArgument
from viewproof.masks import Mask, Sample
from viewproof.verdict import Verdict

CLAIM = "the output does not depend on hidden content"


def certify_encoder(
    encoder: Callable[..., Any],
    sample: Sample | Tensor,
    *,
    hidden: Mask | Tensor | None = None,
    visible_outputs: Callable[[Any], Any] | None = None,
    name: str | None = None,
) -> Report:
    """Whether two inputs that differ only in hidden coordinates can give different outputs (C10).

    The encoder is called as ``encoder(x)``, or ``encoder(x, view)`` if it declares ``takes_view = True``, with the
    source's own content put back where the sample hides it. ``hidden`` is a mask, or True where hidden, over ``x``; a
    sample's own view unless given. Every tensor in the output counts, in tuples, mappings and dataclasses too;
    ``visible_outputs(output)`` picks the part that must not depend, such as the tokens of visible patches.

    PROVED: dependence was tracked through every operator that ran, and none reaches the output; the scope is "all
    values", or values for which everything computed from them is finite where a factor of 0 stands between (a masked
    attention key: ``0 * NaN`` is NaN). REFUTED: ``witness.inputs`` holds ``one`` and ``other``, which differ in one
    hidden coordinate; ``witness.maps["leak"]`` marks, over one sample's shape, the hidden coordinates that were seen to
    reach the output. Otherwise UNKNOWN, naming the operator. Weights, buffers, random state, train flags and the sample
    are left as they were; every call starts from the same seed.

    Raises `InvalidArgument` if there is no mask over ``x``.

    >>> from torch import nn
    >>> from viewproof import image_patch_mae_sample
    >>> sample = image_patch_mae_sample(torch.rand(1, 1, 8, 8), 4, 4, period=4, offset=1)
    >>> def visible(tokens):
    ...     return tokens.flatten(2)[..., [0, 2, 3]]
    >>> certify_encoder(nn.Conv2d(1, 5, 4, stride=4), sample, visible_outputs=visible).verdict().value
    'PROVED'
    >>> certify_encoder(nn.Conv2d(1, 5, 6, stride=4, padding=1), sample, visible_outputs=visible).verdict().value
    'REFUTED'
    """
    subject = name or (encoder.__name__ if hasattr(encoder, "__name__") else type(encoder).__name__)
    x, where, view = _content(sample, hidden)
    run = _Run(encoder, view, visible_outputs, x, where)
    return Report(subject, attempt(subject, Contract.C10, CLAIM, lambda: [_decide(run)]))


def _content(sample: Any, hidden: Mask | Tensor | None) -> tuple[Tensor, Tensor, Mask]:
    """The input with the source's content where it is hidden, where that is, and the mask for the encoder."""
    if not isinstance(sample, Sample | Tensor):
        raise InvalidArgument(f"sample of type {type(sample).__name__} must be a Sample or a tensor; wrap the encoder")
    x = sample.x if isinstance(sample, Sample) else sample
    if hidden is None and isinstance(sample, Sample):
        hidden = sample.view or (sample.mask if sample.mask.fits(x) else None)
    where = spread_mask("hidden", hidden, x)
    if where is None or hidden is None:
        raise InvalidArgument("hidden=None: there is no mask over x; pass hidden=, or a Sample with its view")
    if isinstance(sample, Sample):
        whole = sample.y.numel() == x.numel() and sample.y.dtype == x.dtype
        x = torch.where(where, sample.y.reshape(x.shape) if whole else next(others(x)), x)
    if isinstance(hidden, Mask):
        return x.detach(), where, hidden
    return x.detach(), where, Mask(where, per_sample=True) if hidden.shape == x.shape else Mask(hidden)


@dataclass(eq=False)
class _Run:
    """The encoder on one input after another, each time from the same state."""

    encoder: Callable[..., Any]
    view: Mask
    visible_outputs: Callable[[Any], Any] | None
    x: Tensor
    where: Tensor

    def _outputs(self, x: Tensor) -> dict[str, Tensor]:
        out = self.encoder(x, self.view) if getattr(self.encoder, "takes_view", False) else self.encoder(x)
        return dict(_named(self.visible_outputs(out) if self.visible_outputs else out))

    def __call__(self, x: Tensor) -> dict[str, Tensor]:
        with isolated(self.encoder), torch.no_grad():
            return {name: t.detach().clone() for name, t in self._outputs(x.clone()).items()}

    def tracked(self, finite: bool) -> tuple[Dependence, bool]:
        """The encoder's dependence, and whether any of the output depends."""
        x, tracked, out = self.x.clone(), Dependence(finite), {}
        try:
            with isolated(self.encoder), torch.no_grad(), tracked:
                tracked.tag(x, self.where)
                out = self._outputs(x)
        except Exception as error:
            # It ran without the tracker: what breaks it is not the encoder's own fault.
            tracked.escape(f"the encoder cannot be tracked: {type(error).__name__}: {error}")
        return tracked, bool(tracked.escaped) or any(bool(tracked.of(t).any()) for t in out.values())

    @cached_property
    def base(self) -> dict[str, Tensor]:
        """What comes out of the input as it is."""
        return self(self.x)

    def differs(self, x: Tensor, bits: bool = False) -> tuple[str, tuple[int, ...] | None] | None:
        """Where the output for ``x`` differs from the base; None if nowhere, or if the encoder refuses ``x``."""
        try:
            return _difference(self.base, self(x), bits)
        except Exception:
            return None

    @cached_property
    def drew(self) -> bool:
        """Whether random numbers are drawn."""
        states = torch.cuda.get_rng_state_all if torch.cuda.is_available() else list
        with isolated(self.encoder), torch.no_grad():
            before = states()
            drew = draws(lambda: self._outputs(self.x.clone()))
            return drew or any(not torch.equal(a, b) for a, b in zip(before, states(), strict=True))

    @cached_property
    def gradient(self) -> Tensor:
        """How strongly each hidden coordinate moves a random combination of the outputs; 0 where nothing is known."""
        zero = torch.zeros(self.x.shape, dtype=torch.float64, device=self.x.device)
        if not self.x.is_floating_point():
            return zero
        x = self.x.clone().requires_grad_()
        try:
            with isolated(self.encoder), torch.enable_grad():
                parts = [t for t in self._outputs(x).values() if t.requires_grad]
                generator = torch.Generator().manual_seed(0)
                total = sum((t * torch.randn(t.shape, generator=generator).to(t.device)).sum() for t in parts)
                slope = torch.autograd.grad(total, x)[0] if isinstance(total, Tensor) else zero
        except Exception:
            return zero
        return torch.where(self.where, slope.double().abs().nan_to_num(torch.inf), 0.0)

    def leaking(self) -> Iterator[Tensor]:
        """Inputs with other hidden content, finite ones first."""
        for finite in (True, False):
            if finite and bool((self.gradient > 0).any()):
                yield torch.where(self.gradient > 0, self.x + self.x.std().clamp_min(1.0), self.x)
            for other in poisons(self.x, self.where):
                if bool(other.isfinite().all()) is finite:
                    yield other

    def pair(self, other: Tensor) -> tuple[Tensor, Tensor]:
        """Two inputs on the way from x to ``other`` that differ in one coordinate, and whose outputs differ."""
        changed = (unlike(self.x, other) & self.where).flatten().nonzero().flatten()
        changed = changed[self.gradient.flatten()[changed].argsort(descending=True)]

        def upto(count: int) -> Tensor:
            part = torch.zeros(self.x.numel(), dtype=torch.bool, device=self.x.device)
            part[changed[:count]] = True
            return torch.where(part.reshape(self.x.shape), other, self.x)

        low, high = 0, 1
        while high < len(changed) and self.differs(upto(high)) is None:
            low, high = high, min(2 * high, len(changed))
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.differs(upto(middle)) is None else (low, middle)
        return upto(low), upto(high)


def _named(output: Any, path: str = "output") -> Iterator[tuple[str, Tensor]]:
    """The tensors and numbers of an output, each with where it is found."""
    if isinstance(output, Tensor):
        yield path, output
    elif isinstance(output, bool | int | float | complex):
        yield path, torch.tensor(output)
    elif isinstance(output, Mapping):
        for key, value in output.items():
            yield from _named(value, f"{path}[{key!r}]")
    elif isinstance(output, list | tuple):
        for index, value in enumerate(output):
            yield from _named(value, f"{path}[{index}]")
    elif is_dataclass(output) and not isinstance(output, type):
        for field in fields(output):
            yield from _named(getattr(output, field.name), f"{path}.{field.name}")
    elif hasattr(output, "__dict__") and not isinstance(output, type | nn.Module) and not callable(output):
        for key, value in vars(output).items():
            yield from _named(value, f"{path}.{key}")


def _difference(a: dict[str, Tensor], b: dict[str, Tensor], bits: bool) -> tuple[str, tuple[int, ...] | None] | None:
    """The first place where two outputs differ, None if in shape: in a bit, or in value (NaN are one, and zeros)."""
    for name in [*a, *(key for key in b if key not in a)]:
        if name not in a or name not in b or a[name].shape != b[name].shape or a[name].dtype != b[name].dtype:
            return name, None
        one, other = a[name], b[name]
        unequal = unlike(one, other) if bits else (one != other) & ~((one != one) & (other != other))
        if bool(unequal.any()):
            return name, place(int(unequal.flatten().int().argmax()), tuple(one.shape))
    return None


def _decide(run: _Run) -> Finding:
    start = time.perf_counter()

    def found(verdict: Verdict, scope: str, method: str, detail: str = "", witness: Witness | None = None) -> Finding:
        drew = verdict is not Verdict.VACUOUS and run.drew
        note = "random numbers are drawn: every call ran from seed 0" if drew else ""
        detail = "; ".join(part for part in (detail, note) if part)
        return Finding(Contract.C10, CLAIM, verdict, scope, method, detail, witness, time.perf_counter() - start)

    shape = "x".join(map(str, run.x.shape))
    if not bool(run.where.any()) or bool(run.where.all()):
        what = "everything" if bool(run.where.any()) else "nothing"
        return found(Verdict.VACUOUS, f"at {shape}", "the mask", f"the mask hides {what}")
    if not run.base:
        return found(Verdict.UNKNOWN, f"at {shape}", "one call", "the output holds no tensor")
    steady = _difference(run.base, run(run.x), bits=True) is None
    for finite in (False, True):
        tracked, depends = run.tracked(finite)
        if not depends:
            other = _contradiction(run, finite) if steady else None
            if other is not None:
                return found(
                    Verdict.REFUTED, f"at {shape}", "search, after tracking missed it", "", _witness(run, other)
                )
            at = f" ({tracked.spread})" if tracked.spread else ""
            detail = f"a NaN or an infinity may pass: 0 * NaN is NaN{at}" if finite else ""
            return found(
                Verdict.PROVED, _scope(run, tracked, shape), "dependence tracked through every operator", detail
            )
        if tracked.escaped:
            break
    reason = tracked.escaped or "; ".join([*list(tracked.unknown)[:3], *filter(None, [tracked.spread])])
    if not steady:
        reason += "; two calls on one input differ from a fixed seed, so that no difference can be blamed on x"
        return found(Verdict.UNKNOWN, f"at {shape}", "dependence tracking", reason)
    other = next((other for other in run.leaking() if run.differs(other) is not None), None)
    if other is None:
        detail = f"dependence cannot be excluded ({reason}), and no other hidden content changed the output"
        return found(Verdict.UNKNOWN, f"at {shape}", "dependence tracking, then search", detail)
    return found(Verdict.REFUTED, f"at {shape}", "search, run again", f"comes in at {reason}", _witness(run, other))


def _scope(run: _Run, tracked: Dependence, shape: str) -> str:
    values = "all values"
    if tracked.finite:
        values = "all hidden values that keep all that is computed finite"
        values += f" and attention scores within +-{SCORE:g}" if tracked.scores else ""
    narrower = [", this visible content"] * tracked.reads_visible + [", this random draw"] * run.drew
    return f"{values} at {shape}, these weights{''.join(narrower)}"


def _contradiction(run: _Run, finite: bool) -> Tensor | None:
    """Other hidden content that changes what was tracked as independent: it should not exist."""
    tries = list(zip(range(2), poisons(run.x, run.where), strict=False))
    contents = [other for _, other in tries]
    if not finite and run.x.is_floating_point():
        contents.append(torch.where(run.where, torch.nan, run.x))
    return next((other for other in contents if run.differs(other, bits=not finite) is not None), None)


def _witness(run: _Run, content: Tensor) -> Witness:
    one, other = run.pair(content)
    before, after = run(one), run(other)
    seen = _difference(before, after, bits=False) or _difference(before, after, bits=True)
    if seen is None:
        raise AssertionError("the difference is gone when run again")
    name, output = seen
    source = place(int(unlike(one, other).flatten().int().argmax()), tuple(one.shape))
    leak = run.gradient > 0
    leak[source] = True
    leak, hidden = leak.any(0), run.where.any(0)
    values = " in shape or type"
    if output is not None:
        values = f"{list(output)} from {before[name][output].item():.6g} to {after[name][output].item():.6g}"
    what = (
        f"x{list(source)} from {one[source].item():.6g} to {other[source].item():.6g} changes {name}{values}; "
        f"{int(leak.sum())} of {int(hidden.sum())} hidden coordinates of a sample are seen to reach the output, "
        f"the farthest {_depth(leak, ~run.where.all(0))} from a visible one"
    )
    inputs = {"one": one, "other": other}
    return Witness(what, inputs, {"hidden": source, "output": output or ()}, {"hidden": hidden, "leak": leak})


def _depth(leak: Tensor, visible: Tensor) -> int:
    """The largest distance of a leaking coordinate to the nearest visible one, in steps along and across the axes."""
    near, steps = visible.clone(), 0
    while bool((leak & ~near).any()) and steps < max(leak.shape, default=0):
        for axis in range(near.dim()):
            wider = near.clone()
            wider.narrow(axis, 1, near.shape[axis] - 1).logical_or_(near.narrow(axis, 0, near.shape[axis] - 1))
            wider.narrow(axis, 0, near.shape[axis] - 1).logical_or_(near.narrow(axis, 1, near.shape[axis] - 1))
            near = wider
        steps += 1
    return steps
