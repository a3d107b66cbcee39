"""Certifies that a sequence model predicts from the past alone, and what its loss asks for."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from viewproof.certify.check import Check, Claims, subject_name
from viewproof.certify.encoder import EncoderCase, independence
from viewproof.certify.flow.isolation import isolated
from viewproof.certify.inputs import other_contents
from viewproof.certify.outputs import tensors_by_path, unequal, value_and_gradient
from viewproof.certify.report import Contract, Finding, Report
from viewproof.certify.surroundings import draws_numbers
from viewproof.errors import InvalidArgument
from viewproof.masks import Mask
from viewproof.verdict import Verdict


def certify_causal(
    model: Callable[[Tensor], Any],
    x: Tensor,
    *,
    outputs: Callable[[Any], Tensor] | None = None,
    loss: Callable[[Any, Tensor], Tensor] | None = None,
    offset: int = 1,
    segments: Tensor | None = None,
    padding: Tensor | None = None,
    name: str | None = None,
) -> Report:
    """Whether ``model(x)`` predicts each position without seeing it (C10), and which position the loss scores (C4).

    ``x`` is ``[N, T]`` ids or ``[N, T, ...]`` features; ``outputs(model(x))`` is one tensor ``[N, T, ...]``, the whole
    output unless given. Output ``t`` predicts input ``t + offset`` and must not depend on inputs after ``t``; with
    ``offset=0`` (a model that shifts its input itself) not on input ``t`` either. ``segments: [N, T]`` numbers the
    documents packed into a row, ``padding: [N, T]`` is True where there is no content; documents must not see each
    other, and content must not see padding. What the model needs of them it takes from its closure. ``loss(output, x)``
    gets that output and the input: its gradient at output ``t`` must follow input ``t + offset`` and no other;
    positions whose target is padding or lies in another document are not scored.

    PROVED about dependence covers all values, as in `certify_encoder`; about the loss, the changes that were run.
    A model that no input changes is VACUOUS.

    >>> x = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0))
    >>> certify_causal(lambda x: x.cumsum(1), x).verdict()
    <Verdict.PROVED: 'PROVED'>
    >>> print(certify_causal(lambda x: x - x.mean(1, keepdim=True), x).refuted[0].witness.what[-41:])
    output, the farthest 1 from a visible one

    Raises `InvalidArgument` for ``x`` without a time axis, and for segments or padding that do not lie over it.
    """
    if not isinstance(x, Tensor) or x.dim() < 2 or x.numel() == 0 or x.shape[1] < 2:
        shape = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise InvalidArgument(f"x of shape {shape} must be [N, T, ...] with at least two positions")
    if offset < 0:
        raise InvalidArgument(f"offset={offset} must be at least 0; 1 is the next position")
    for key, tensor in (("segments", segments), ("padding", padding)):
        if tensor is not None and tensor.shape != x.shape[:2]:
            raise InvalidArgument(f"{key} of shape {tuple(tensor.shape)} must be [N, T] = {tuple(x.shape[:2])}")
    padded = torch.zeros(x.shape[:2], dtype=torch.bool) if padding is None else padding.bool().cpu()
    subject = subject_name(model, name)
    case = CausalCase(model, x.detach(), outputs, loss, offset, segments, padded)
    return Report(subject, claims.run(subject, case), case.maps)


@dataclass(frozen=True, eq=False)
class CausalCase:
    """A model, its input ``[N, T, ...]`` and what is declared of the positions."""

    model: Callable[[Tensor], Any]
    x: Tensor
    outputs: Callable[[Any], Tensor] | None
    loss: Callable[[Any, Tensor], Tensor] | None
    offset: int
    segments: Tensor | None
    padding: Tensor

    @property
    def size(self) -> str:
        """The input's shape."""
        return "x".join(map(str, self.x.shape))

    @property
    def unseen(self) -> str:
        """From where on an output must not see the input."""
        return "inputs after t" if self.offset else "input t and later ones"

    @property
    def maps(self) -> dict[str, Tensor]:
        """The declared positions, to be drawn."""
        maps = {"padding": self.padding} if bool(self.padding.any()) else {}
        return maps if self.segments is None else {**maps, "segments": self.segments.double()}

    def read(self, returned: Any) -> Tensor:
        """The output ``[N, T, ...]`` of what the model returned."""
        picked = self.outputs(returned) if self.outputs else returned
        if not isinstance(picked, Tensor) or picked.shape[:2] != self.x.shape[:2]:
            found = {path: tuple(t.shape) for path, t in tensors_by_path(picked)}
            n, t = self.x.shape[:2]
            raise InvalidArgument(f"output with {found} must be one tensor [{n}, {t}, ...]; pick it with outputs=")
        return picked

    def question(self, inputs: Tensor, outputs: Tensor, word: str) -> EncoderCase:
        """Whether outputs at the positions ``outputs: [N, T]`` depend on the input at ``inputs``."""
        where = inputs.reshape(inputs.shape + (1,) * (self.x.dim() - 2)).expand(self.x.shape).to(self.x.device)
        picked = (outputs & ~self.padding).to(self.x.device)
        return EncoderCase(
            self.model,
            lambda returned: self.read(returned)[picked],
            self.x,
            where,
            Mask(where, True),
            word,
            picked.nonzero(),
        )

    def call(self, x: Tensor) -> Tensor:
        """The output for an input, everything else as it was."""
        with isolated(self.model), torch.enable_grad():
            return self.read(self.model(x.clone())).detach().clone()

    @cached_property
    def draws(self) -> bool:
        """Whether random numbers are drawn."""
        with isolated(self.model), torch.enable_grad():
            return draws_numbers(lambda: self.read(self.model(self.x.clone())))

    @cached_property
    def responds(self) -> bool:
        """Whether some other input was seen to change some output at a position with content."""
        base = self.call(self.x)[~self.padding]
        return any(bool(unequal(base, self.call(x)[~self.padding]).any()) for x in islice(other_contents(self.x), 3))


claims = Claims[CausalCase](scope="at {case.size}", method="dependence tracking")


def _joined(case: CausalCase, check: Check, questions: Iterable[EncoderCase]) -> Finding:
    """One finding for several: the first REFUTED, else UNKNOWN, else the narrowest PROVED."""
    if not case.responds:
        return check.vacuous("no other input changed any output", scope=check.scope, method="other inputs run")
    findings = list[Finding]()
    for question in questions:
        if not bool(question.where.any()) or not question.base or not all(t.numel() for t in question.base.values()):
            continue
        finding = independence(question, check, case.draws)
        if finding.verdict is Verdict.REFUTED:
            return finding
        findings.append(finding)
    if not findings:
        return check.vacuous("there are no two such positions", scope=check.scope, method="the declared positions")
    unknown = next((f for f in findings if f.verdict is Verdict.UNKNOWN), None)
    # A scope is a list of reservations: the longest has those of all.
    finding = unknown or max(findings, key=lambda f: len(f.scope))
    note = "random numbers are drawn: every call ran from seed 0" if case.draws else ""
    return replace(finding, detail="; ".join(filter(None, (finding.detail, note))))


@claims(Contract.C10, "output t does not depend on {case.unseen}")
def causal(case: CausalCase, check: Check) -> Finding:
    """From each position on everything is changed, and the outputs before it are compared."""
    positions, first = torch.arange(case.x.shape[1]), min(case.offset, 1)

    def questions() -> Iterator[EncoderCase]:
        # The shortest prefixes last: a model that sees one position too far is found at once.
        for t in reversed(range(case.x.shape[1] - first)):
            later, upto = (mask.expand(case.x.shape[:2]) for mask in (positions >= t + first, positions <= t))
            yield case.question(later, upto, "later")

    return _joined(case, check, questions())


@claims(Contract.C10, "documents packed into one row do not see each other")
def documents_apart(case: CausalCase, check: Check) -> Finding | None:
    """Document by document: the others are changed."""
    if case.segments is None:
        return None
    own = [case.segments.cpu() == document for document in sorted(set(case.segments.flatten().tolist()))]
    return _joined(case, check, (case.question(~d & ~case.padding, d, "other documents'") for d in own))


@claims(Contract.C10, "no position with content sees padding")
def padding_unseen(case: CausalCase, check: Check) -> Finding | None:
    """The padding is changed."""
    if not bool(case.padding.any()):
        return None
    return _joined(case, check, [case.question(case.padding, ~case.padding, "padded")])


@claims(
    Contract.C4,
    "the loss scores output t against input t + {case.offset}",
    scope="this output, three other inputs at each position",
    method="gradients compared",
)
def scored_offset(case: CausalCase, check: Check) -> Finding | None:
    """Which outputs' gradients follow when one input position is changed and the output held."""
    loss = case.loss
    if loss is None:
        return None
    output, (rows, length) = case.call(case.x), case.x.shape[:2]
    if not output.is_floating_point():
        return check.unknown("the output has no gradient")

    def run(x: Tensor) -> tuple[Tensor, Tensor]:
        with isolated(loss):
            return value_and_gradient(lambda leaf: loss(leaf, x), output)

    (value, base), scored = run(case.x), torch.zeros(rows, length, dtype=torch.bool)
    if not bool(base.isfinite().all()):
        return check.unknown("the gradient is not finite")
    segments = torch.zeros(rows, length) if case.segments is None else case.segments.cpu()
    for row in range(rows):
        for s in range(length):
            follow, seen_in, counts = torch.zeros(rows, length, dtype=torch.bool), case.x, False
            for other in islice(other_contents(case.x), 3):
                changed = case.x.clone()
                changed[row, s] = _unlike_all(case.x, other, row, s)
                new_value, gradient = run(changed)
                moved = unequal(gradient, base).flatten(2).any(2).cpu()
                counts |= bool(unequal(new_value, value).any())
                if bool((moved & ~follow).any()):
                    follow, seen_in = follow | moved, changed
            t = s - case.offset
            expected = torch.zeros_like(follow)
            # A target of content in its own document; what is scored beyond that is against the declaration.
            may = t >= 0 and not bool(case.padding[row, s]) and bool(segments[row, t] == segments[row, s])
            if may:
                expected[row, t] = not bool(case.padding[row, t])
            wrong = follow & ~expected
            at = {"input": (row, s)}
            if bool(wrong.any()):
                places = [tuple(i) for i in wrong.nonzero().tolist()]
                where = f"positions {places[0]} to {places[-1]}" if len(places) > 1 else f"position {places[0]}"
                asked = f"that of {(row, t)} alone may" if bool(expected.any()) else "none may"
                what = f"input {(row, s)} moves the gradient at output {where}; {asked}"
                inputs = {"x": case.x, "changed": seen_in, "output": output}
                return check.refuted(what, inputs, {**at, "output": places[0]}, {"support": wrong})
            if bool(expected.any()) and not bool(follow.any()):
                if counts:
                    return check.undecided(f"input {(row, s)} moves the loss, and no gradient was seen to follow it")
                what = f"the gradient at output {(row, t)} does not follow input {(row, s)}: it is not scored"
                return check.refuted(what, {"x": case.x, "changed": seen_in, "output": output}, at)
            scored |= follow
    count = int(scored.sum())
    return check.proved(f"{count} of {rows * length} positions are scored")


def _unlike_all(x: Tensor, other: Tensor, row: int, s: int) -> Tensor:
    """Other content for one position: that of ``other``, or where it is the same, of another position."""
    if bool((other[row, s] != x[row, s]).any()):
        return other[row, s]
    differs = (x != x[row, s]).reshape(*x.shape[:2], -1).any(-1).nonzero()
    return x[tuple(differs[0])] if len(differs) else other[row, s]
