"""Certifies that an encoder's output does not depend on hidden content, operator by operator."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from viewproof.bits import unlike
from viewproof.certify.check import Check, Claims, subject_name
from viewproof.certify.flow.call import SCORE
from viewproof.certify.flow.dependence import Dependence
from viewproof.certify.flow.isolation import isolated
from viewproof.certify.flow.state import puts_back, state_kept
from viewproof.certify.inputs import other_contents, other_hidden_contents, spread_mask
from viewproof.certify.outputs import difference, first_true, output_difference, tensors_by_path
from viewproof.certify.report import Contract, Finding, Report
from viewproof.certify.surroundings import draws_numbers
from viewproof.errors import InvalidArgument
from viewproof.masks import Mask, Sample
from viewproof.torch_internals import tree_leaves
from viewproof.verdict import Verdict

CLAIM = "the output does not depend on hidden content"


@puts_back
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
    reach the output. Otherwise UNKNOWN, naming the operator. An encoder that writes to its input has a C2 finding too.
    Weights, buffers, random state, train flags and the sample are left as they were; every call starts from one seed.

    The encoder runs with gradients on, as in training, and without them where that gives other outputs. What only a
    trainable weight of 0 keeps out is UNKNOWN, and so is what a call keeps of hidden content and shows in the next.

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
    subject = subject_name(encoder, name)
    case = EncoderCase(encoder, visible_outputs, *content_and_mask(sample, hidden))
    claims = Claims[None](scope=f"at {'x'.join(map(str, case.x.shape))}", method="dependence tracking")

    @claims(Contract.C10, CLAIM)
    def independent(_: None, check: Check) -> Finding:
        if not bool(case.where.any()) or bool(case.where.all()):
            everything = "everything" if bool(case.where.any()) else "nothing"
            return check.vacuous(f"the mask hides {everything}", scope=check.scope, method="the mask")
        draws = case.draws()
        finding = independence(case, check, draws)
        if finding.verdict is Verdict.PROVED and (kept := _kept(case)):
            finding = check.undecided(kept)
        note = "random numbers are drawn: every call ran from seed 0" if draws else ""
        return replace(finding, detail="; ".join(part for part in (finding.detail, note) if part))

    @claims(Contract.C2, "nothing is written to the input", scope="the inputs tried", method="compared after a call")
    def untouched(_: None, check: Check) -> Finding | None:
        for x in (case.x, *islice(other_contents(case.x), 1)):
            with state_kept(encoder, tensors=False), isolated(encoder), torch.no_grad():
                # A copy that is made in here is the encoder's to write to: nothing puts it back.
                passed = x.clone()
                try:
                    case.outputs(passed)
                except Exception:
                    return None  # said by the claim above
            written = difference(x, passed)
            if written is not None:
                what = "the encoder writes to its input, which the target or a second view may still need"
                return check.refuted(what, {"x": x}, {"written": written})
        return None

    return Report(subject, claims.run(subject, None))


def content_and_mask(sample: Any, hidden: Mask | Tensor | None) -> tuple[Tensor, Tensor, Mask]:
    """The input with the source's content where it is hidden, the hidden places, the encoder's mask."""
    if not isinstance(sample, Sample | Tensor):
        raise InvalidArgument(f"sample of type {type(sample).__name__} must be a Sample or a tensor; wrap the encoder")
    x = sample.x if isinstance(sample, Sample) else sample
    if hidden is None and isinstance(sample, Sample):
        hidden = sample.view or (sample.mask if sample.mask.fits(x) else None)
    if hidden is None:
        raise InvalidArgument("hidden=None: there is no mask over x; pass hidden=, or a Sample with its view")
    where = spread_mask("hidden", hidden, x)
    if isinstance(sample, Sample):
        whole = sample.y.numel() == x.numel() and sample.y.dtype == x.dtype
        x = torch.where(where, sample.y.reshape(x.shape) if whole else next(other_contents(x)), x)
    if isinstance(hidden, Mask):
        return x.detach(), where, hidden
    return x.detach(), where, Mask(where, per_sample=True) if hidden.shape == x.shape else Mask(hidden)


@dataclass(frozen=True, eq=False)
class EncoderCase:
    """An encoder, run on one input after another, each time from the same state.

    ``x`` has other content than 0 where ``where`` is True, which is what ``view`` hides, batch axis included;
    ``word`` is what a report calls the coordinates there. ``places`` are the first coordinates of the outputs' rows in
    the whole output, if ``visible_outputs`` picks rows.
    """

    encoder: Callable[..., Any]
    visible_outputs: Callable[[Any], Any] | None
    x: Tensor
    where: Tensor
    view: Mask
    word: str = "hidden"
    places: Tensor | None = None
    gradients: bool = True

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """What is run inside leaves nothing behind, and has gradients switched on as a training step has, or off."""
        with state_kept(self.encoder, tensors=False), isolated(self.encoder), torch.set_grad_enabled(self.gradients):
            yield

    def outputs(self, x: Tensor) -> dict[str, Tensor]:
        """The part of the output that counts, of this very tensor."""
        out = self.encoder(x, self.view) if getattr(self.encoder, "takes_view", False) else self.encoder(x)
        return dict(tensors_by_path(self.visible_outputs(out) if self.visible_outputs else out))

    def __call__(self, x: Tensor) -> dict[str, Tensor]:
        """The output for ``x``: its tensors and numbers by their paths."""
        with self._alone():
            return {name: t.detach().clone() for name, t in self.outputs(x.clone()).items()}

    def after(self, first: Tensor) -> dict[str, Tensor]:
        """The same for the example in a call that finds what a call with ``first`` left."""
        with self._alone():
            self.outputs(first.clone())
            return {name: t.detach().clone() for name, t in self.outputs(self.x.clone()).items()}

    def tracked(self, finite: bool) -> tuple[Dependence, bool]:
        """The encoder's dependence, and whether any of the output depends."""
        x, tracked, out = self.x.clone(), Dependence(finite), {}
        try:
            with self._alone(), tracked:
                tracked.tag(x, self.where)
                out = self.outputs(x)
        except Exception as error:
            # It ran without the tracker: what breaks it is not the encoder's own fault.
            tracked.escape(f"the encoder cannot be tracked: {type(error).__name__}: {error}")
        return tracked, bool(tracked.escaped) or any(bool(tracked.of(t).any()) for t in out.values())

    @cached_property
    def base(self) -> dict[str, Tensor]:
        """What comes out of the input as it is."""
        return self(self.x)

    def differs(self, x: Tensor, bits: bool = False) -> bool:
        """Whether the output for ``x`` differs from the base; False if the encoder refuses ``x``."""
        try:
            return output_difference(self.base, self(x), bits) is not None
        except Exception:
            return False

    def draws(self) -> bool:
        """Whether random numbers are drawn."""
        with self._alone():
            return draws_numbers(lambda: self.outputs(self.x.clone()))

    @cached_property
    def gradient(self) -> Tensor:
        """How strongly each hidden coordinate moves a random combination of the outputs, 0 if unknown."""
        zero = torch.zeros(self.x.shape, dtype=torch.float64, device=self.x.device)
        if not self.x.is_floating_point():
            return zero
        x = self.x.clone().requires_grad_()
        try:
            with state_kept(self.encoder, tensors=False), isolated(self.encoder), torch.enable_grad():
                parts = [t for t in self.outputs(x).values() if t.requires_grad]
                generator = torch.Generator().manual_seed(0)
                total = sum((t * torch.randn(t.shape, generator=generator).to(t.device)).sum() for t in parts)
                slope = torch.autograd.grad(total, x)[0] if isinstance(total, Tensor) else zero
        except Exception:
            return zero
        return torch.where(self.where, slope.double().abs().nan_to_num(torch.inf), 0.0)

    def other_inputs(self) -> Iterator[Tensor]:
        """Inputs with other hidden content, finite ones first."""
        for finite in (True, False):
            if finite and bool((self.gradient > 0).any()):
                yield torch.where(self.gradient > 0, self.x + self.x.std().clamp_min(1.0), self.x)
            for other in other_hidden_contents(self.x, self.where):
                if bool(other.isfinite().all()) is finite:
                    yield other

    def pair(self, other: Tensor) -> tuple[Tensor, Tensor]:
        """Two inputs between x and ``other`` that differ in one coordinate and give different outputs."""
        changed = (unlike(self.x, other) & self.where).flatten().nonzero().flatten()
        changed = changed[self.gradient.flatten()[changed].argsort(descending=True)]

        def upto(count: int) -> Tensor:
            part = torch.zeros(self.x.numel(), dtype=torch.bool, device=self.x.device)
            part[changed[:count]] = True
            return torch.where(part.reshape(self.x.shape), other, self.x)

        low, high = 0, 1
        while high < len(changed) and not self.differs(upto(high)):
            low, high = high, min(2 * high, len(changed))
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self.differs(upto(middle)) else (middle, high)
        return upto(low), upto(high)


def _kept(case: EncoderCase) -> str:
    """Says so if what a call leaves behind was seen to show its hidden content in the next one; else ""."""
    try:
        again = case.after(case.x)
        seen = output_difference(again, case.after(next(other_hidden_contents(case.x, case.where))))
        if seen is None or output_difference(again, case.after(case.x), bits=True) is not None:
            return ""
    except Exception:
        return ""
    return (
        f"within a call no {case.word} content reaches the output, in the next call it does, through what the encoder "
        "keeps; hand over one that keeps nothing (eval(), no cache)"
    )


class UsedParameters(TorchFunctionMode):
    """Collects the parameters that torch's functions are given, wherever the caller has them from."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[Tensor, None] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the function."""
        self.found.update((leaf, None) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, nn.Parameter))
        return func(*args, **(kwargs or {}))


def independence(case: EncoderCase, check: Check, draws: bool) -> Finding:
    """Whether the outputs do not depend on what ``case.where`` marks.

    Asked with gradients switched on, as in training, and where that gives other outputs also without them.
    """
    without = replace(case, gradients=False)
    if not _runs(case):
        # An encoder that is only ever run without gradients.
        return _decided(without, check, draws)
    finding = _decided(case, check, draws)
    if finding.verdict is Verdict.REFUTED or not _runs(without):
        return finding
    if output_difference(case.base, without.base, bits=True) is None:
        return finding
    other = _decided(without, check, draws)
    finite = other.witness is None or bool(other.witness.inputs["other"].isfinite().all())
    if finding.verdict is Verdict.PROVED and not finite:
        # As in what was proved with gradients, where a NaN may pass.
        other = check.undecided(f"no finite {case.word} content changed the output, a NaN does; {other.detail}")
    if other.verdict is Verdict.PROVED:
        return max(finding, other, key=lambda f: (f.verdict is not Verdict.PROVED, len(f.scope)))
    return replace(other, detail=f"without gradients, where the output is another: {other.detail}")


def _runs(case: EncoderCase) -> bool:
    """Whether the encoder takes its input."""
    try:
        return case.base is not None
    except Exception:
        return False


def _decided(case: EncoderCase, check: Check, draws: bool) -> Finding:
    """Tracked for all values, then for finite ones; where neither proves it, other content is tried."""
    if not case.base:
        return check.unknown("the output holds no tensor", scope=check.scope, method="one call")
    steady = output_difference(case.base, case(case.x), bits=True) is None
    for finite in (False, True):
        tracked, depends = case.tracked(finite)
        if not depends:
            # Two or three other hidden contents, in case that tracking missed an operator.
            others = list(islice(other_hidden_contents(case.x, case.where), 2)) if steady else []
            if steady and not finite and case.x.is_floating_point():
                others.append(torch.where(case.where, torch.nan, case.x))
            for other in others:
                if case.differs(other, bits=not finite):
                    return _refuted(case, check, other, method="search, after tracking missed it")
            values, detail = "all values", ""
            if finite and (reason := _with_other_weights(case)):
                return check.undecided(
                    f"with these weights no {case.word} content reaches the output, with others it may ({reason}): "
                    "hand over the encoder as it is after some steps of training, if a layer starts at 0"
                )
            if finite:
                values = f"all {case.word} values that keep all that is computed finite"
                values += f" and attention scores within +-{SCORE:g}" if tracked.scores else ""
                at = f" ({tracked.spread})" if tracked.spread else ""
                detail = f"a NaN or an infinity may pass: 0 * NaN is NaN{at}"
            scope = f"{values} {check.scope}, these weights"
            scope += ", this visible content" * tracked.reads_visible + ", this random draw" * draws
            return check.proved(detail, scope=scope, method="dependence tracked through every operator")
        if tracked.escaped:
            break
    reason = tracked.escaped or "; ".join([*list(tracked.unknown)[:3], *filter(None, [tracked.spread])])
    if not steady:
        reason += "; two calls on one input differ from a fixed seed, so that no difference can be blamed on x"
        return check.undecided(reason)
    for other in case.other_inputs():
        if case.differs(other):
            return _refuted(case, check, other, method="search, run again", detail=f"comes in at {reason}")
    reason = f"dependence cannot be excluded ({reason}), and no other {case.word} content changed the output"
    return check.unknown(reason, scope=check.scope, method="dependence tracking, then search")


def _with_other_weights(case: EncoderCase) -> str:
    """Where dependence comes in once trainable zeros are small numbers, "" if nowhere: a 0 may be learnt away."""
    with UsedParameters() as used:
        case(case.x)
    starts = [p for p in used.found if p.requires_grad and bool((p == 0).any())]
    if not starts:
        return ""
    generator = torch.Generator().manual_seed(1)
    small = [0.02 * torch.randn(p.shape, generator=generator).to(p) for p in starts]

    def moved(*args: Any) -> Any:
        with torch.no_grad():
            for parameter, learnt in zip(starts, small, strict=True):
                parameter.copy_(torch.where(parameter == 0, learnt, parameter))
        return case.encoder(*args)

    moved.takes_view = getattr(case.encoder, "takes_view", False)  # type: ignore[attr-defined]
    tracked, depends = replace(case, encoder=moved).tracked(finite=True)
    return (tracked.escaped or tracked.spread or next(iter(tracked.unknown), "somewhere")) if depends else ""


def _refuted(case: EncoderCase, check: Check, content: Tensor, method: str, detail: str = "") -> Finding:
    one, other = case.pair(content)
    before, after = case(one), case(other)
    changed = output_difference(before, after, bits=False) or output_difference(before, after, bits=True)
    source = first_true(unlike(one, other))
    if changed is None or source is None:
        raise AssertionError("the difference is gone when run again")
    name, at_row = changed
    output = at_row
    if output and case.places is not None:
        output = (*case.places[output[0]].tolist(), *output[1:])
    leak = case.gradient > 0
    leak[source] = True
    leak, hidden = leak.any(0), case.where.any(0)
    values = " in shape or type"
    if output is not None and at_row is not None:
        values = f"{list(output)} from {before[name][at_row].item():.6g} to {after[name][at_row].item():.6g}"
    what = (
        f"x{list(source)} from {one[source].item():.6g} to {other[source].item():.6g} changes {name}{values}; "
        f"{int(leak.sum())} of {int(hidden.sum())} {case.word} coordinates of a sample are seen to reach the output, "
        f"the farthest {_depth(leak, ~case.where.all(0))} from a visible one"
    )
    at, maps = {"hidden": source, "output": output or ()}, {"hidden": hidden, "leak": leak}
    return check.refuted(what, {"one": one, "other": other}, at, maps, method=method, detail=detail)


def _depth(leak: Tensor, visible: Tensor) -> int:
    """The largest distance, in steps along the axes, of a leaking coordinate to a visible one."""
    near, steps = visible.clone(), 0
    while bool((leak & ~near).any()) and steps < max(leak.shape, default=0):
        for axis in range(near.dim()):
            wider = near.clone()
            wider.narrow(axis, 1, near.shape[axis] - 1).logical_or_(near.narrow(axis, 0, near.shape[axis] - 1))
            wider.narrow(axis, 0, near.shape[axis] - 1).logical_or_(near.narrow(axis, 1, near.shape[axis] - 1))
            near = wider
        steps += 1
    return steps
