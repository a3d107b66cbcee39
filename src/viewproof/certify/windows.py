"""Certifies what context and target windows cover, and that they share no step."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from viewproof.certify.check import Check, Claims, subject_name
from viewproof.certify.pairs import Reads, reads_of
from viewproof.certify.report import Contract, Finding, Report
from viewproof.errors import InvalidArgument


def certify_windows(
    split: Callable[..., Any],
    x: Tensor | Mapping[str, Tensor],
    *,
    context: str = "output[0]",
    target: str = "output[1]",
    shared: Sequence[int] = (),
    steps: Mapping[str, Sequence[int]] | None = None,
    name: str | None = None,
) -> Report:
    """Whether context and target windows share no step but the declared ones (C1), and cover the declared ones (C3).

    ``split(x)`` of ``x: [N, T, ...]``, or ``split(**x)`` of several streams with as many steps, returns context and
    target, such as a pair; ``context`` and ``target`` are the paths of the tensors in its output, and of all below:
    ``output[0]`` or ``output['past']``. ``shared`` are steps that both may read. ``steps`` says which steps a tensor of
    the output reads, by its path: ``{"output[0]": range(8), "output[1]['actions']": range(8, 12)}``.

    A step is read by what depends on it: a normalisation over the whole series reads all steps. PROVED: dependence was
    tracked through every operator.

    >>> x = torch.randn(2, 12, 3)
    >>> certify_windows(lambda x: (x[:, :8], x[:, 8:]), x).verdict()
    <Verdict.PROVED: 'PROVED'>
    >>> print(certify_windows(lambda x: (x[:, :8], x[:, 7:]), x).refuted[0].witness.what)
    step 7 is in the target, and the context output[0] changes with it
    """
    streams = {"x": x} if isinstance(x, Tensor) else dict(x)
    sizes = {key: tuple(t.shape[:2]) for key, t in streams.items()}
    if len(set(sizes.values())) != 1 or any(len(size) < 2 or 0 in size for size in sizes.values()):
        raise InvalidArgument(f"x with first axes {sizes} must be streams [N, T, ...] of equally many steps")
    subject = subject_name(split, name)
    case = WindowCase(split, streams, isinstance(x, Tensor), context, target, frozenset(shared), steps or {})
    return Report(subject, claims.run(subject, case))


@dataclass(frozen=True, eq=False)
class WindowCase:
    """A split of one stream or several into context and target, and which steps they may read."""

    split: Callable[..., Any]
    streams: Mapping[str, Tensor]
    positional: bool
    context: str
    target: str
    shared: frozenset[int]
    steps: Mapping[str, Sequence[int]]

    def call(self, inputs: Mapping[str, Tensor]) -> Any:
        """What the split returns."""
        return self.split(*inputs.values()) if self.positional else self.split(**inputs)

    @cached_property
    def reads(self) -> dict[tuple[str, int], Reads]:
        """What depends on each step of each stream."""
        found = {}
        for key, x in self.streams.items():
            for step in range(x.shape[1]):
                where = torch.zeros(x.shape, dtype=torch.bool)
                where[:, step] = True
                found[key, step] = reads_of(self.call, self.streams, key, where)
        return found

    def below(self, path: str) -> list[str]:
        """The tensors of the output at a path and below it."""
        paths = list(next(iter(self.reads.values())).does)
        found = [p for p in paths if p == path or p.startswith((f"{path}[", f"{path}."))]
        if not found:
            raise InvalidArgument(f"path {path!r} must be one of the output's: {paths}")
        return found


claims = Claims[WindowCase](scope="this shape, all finite values", method="dependence tracked, and runs that differ")


@claims(Contract.C1, "the context reads no step of the target")
def apart(case: WindowCase, check: Check) -> Finding:
    """Step by step: what is in the target, the context does not change with, unless it may be shared."""
    contexts, targets = case.below(case.context), case.below(case.target)
    unknown, asked = "", 0
    for (key, step), reads in case.reads.items():
        if step in case.shared or not any(bool(reads.does[p].any()) for p in targets):
            continue
        asked += 1
        for path in contexts:
            if bool(reads.does[path].any()):
                stream = f"step {step}" if case.positional else f"step {step} of {key}"
                what = f"{stream} is in the target, and the context {path} changes with it"
                inputs = {"one": case.streams[key], "other": reads.changed}
                return check.refuted(what, inputs, {"step": (step,)}, {"leak": reads.does[path]})
            if bool(reads.may[path].any()):
                unknown = unknown or f"{path} may read step {step} of {key}; {reads.unknown}"
    if unknown:
        return check.undecided(unknown)
    if not asked:
        return check.vacuous("the target was not seen to read any step that is not shared")
    return check.proved(f"{asked} steps of the target")


@claims(Contract.C3, "each window reads the declared steps")
def declared_steps(case: WindowCase, check: Check) -> Finding | None:
    """Of every stream that a tensor reads at all: exactly the declared steps."""
    if not case.steps:
        return None
    unknown = ""
    for path, declared in case.steps.items():
        expected = set(declared)
        for part in case.below(path):
            for key in case.streams:
                steps = {s for (k, s), reads in case.reads.items() if k == key and bool(reads.does[part].any())}
                may = {s for (k, s), reads in case.reads.items() if k == key and bool(reads.may[part].any())}
                if steps and steps != expected:
                    extra, missing = sorted(steps - expected), sorted(expected - steps)
                    texts = [f"reads step {s}" for s in extra[:1]]
                    texts += [f"does not change with step {s}" for s in missing[:1]]
                    at = (extra or missing)[0]
                    what = f"{part} {' and '.join(texts)} of {key}; declared are {sorted(expected)}"
                    if not extra and missing[0] in may:
                        unknown = unknown or what
                        continue
                    inputs = {"one": case.streams[key], "other": case.reads[key, at].changed}
                    return check.refuted(what, inputs, {"step": (at,)})
                if may - expected and not unknown:
                    unknown = f"{part} may read step {min(may - expected)} of {key}"
            if not any(bool(reads.does[part].any()) for reads in case.reads.values()):
                return check.undecided(f"{part} was not seen to read any step")
    return check.undecided(unknown) if unknown else check.proved()
