"""Certifies that an evaluation step changes nothing: no parameter, buffer, gradient, queue, flag or generator."""

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any

from torch import Tensor

from viewproof.certify.check import Check, Claims, failure, subject_name
from viewproof.certify.flow.isolation import Undo
from viewproof.certify.flow.storage import address
from viewproof.certify.report import Contract, Finding, Report, Severity
from viewproof.certify.state import PYTHON, ReachedState
from viewproof.certify.surroundings import draws_numbers


def certify_evaluation(
    step: Callable[..., Any], batch: Any, *, may_change: Sequence[str] = (), name: str | None = None
) -> Report:
    """Whether ``step(batch)`` leaves everything as it was, so that training goes on as if it had not run (C8).

    The state is what the step reaches through closures, used globals, bound objects, attributes and containers, and
    every tensor that was there before and is written to; and settings of the process, such as whether gradients are
    switched on. ``may_change`` are patterns of paths that may change, such as
    ``"metric.*"``. The step runs twice and is put back after each, generators too. Drawing from a global
    generator is a finding about robustness: the objective is right, and the run depends on when it was evaluated.

    PROVED is about this batch, these modules and their modes. Not seen: files, iterators, other processes.

    >>> from torch import nn
    >>> import torch
    >>> model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    >>> print(certify_evaluation(lambda x: model(x).sum(), torch.randn(5, 3)).refuted[0].witness.what)
    model.1.running_mean is changed; 3 buffers are
    >>> evaluated = certify_evaluation(lambda x: model.eval()(x).sum(), torch.randn(5, 3))
    >>> print(evaluated.refuted[0].witness.what)
    model.training is changed; 3 flags are
    """
    subject = subject_name(step, name)
    case = EvaluationCase(step, batch, tuple(may_change))
    return Report(subject, claims.run(subject, case))


@dataclass(frozen=True, eq=False)
class EvaluationCase:
    """A step, its batch and the paths that may change."""

    step: Callable[..., Any]
    batch: Any
    may_change: tuple[str, ...]

    @cached_property
    def changes(self) -> dict[str, list[str]]:
        """The changed paths by their kind, of two runs; "error" if the step raises, "reach" if it holds too much."""
        found: dict[str, dict[str, None]] = {}
        for again in (False, True):
            state, undo = ReachedState(self.step, self.batch), Undo()
            # What backward itself allocates and adds to was not there before.
            before = {address(t): t for t in gc.get_objects() if issubclass(type(t), Tensor)}
            try:
                with undo:
                    self.step(self.batch)
            except Exception as error:
                return {"error": [failure("the step", error)]}
            finally:
                changes, written = list(state.changes()), undo.changed()
                undo.restore()
                state.restore()
            hidden = (written & before.keys()) - {address(t) for t in state.tensors.values()}
            changes += [("a tensor that the step does not hold by name", "state")] * bool(hidden)
            for path, kind in changes:
                # What is imported during the first run may set up the process, once.
                if kind == "setting" and not again:
                    continue
                if not any(fnmatchcase(path, pattern) for pattern in self.may_change):
                    found.setdefault(kind, {})[path] = None
            if state.iterators:
                names = ", ".join(state.iterators)
                found.setdefault("reach", {})[
                    f"the step reaches an iterator that was begun, and may move it on: {names}"
                ] = None
            if not state.whole:
                found.setdefault("reach", {})["the step reaches too many objects to look at them all"] = None
        if list(found.get("generator", ())) == [PYTHON] and not self._draws():
            del found["generator"]
        return {kind: list(paths) for kind, paths in found.items()}

    def _draws(self) -> bool:
        """Whether the step itself draws; a type checker draws from Python's generator too."""
        state = ReachedState(self.step, self.batch)
        try:
            return draws_numbers(lambda: self.step(self.batch))
        finally:
            state.restore()


claims = Claims[EvaluationCase](
    scope="this batch, these modes, what the step reaches", method="compared after two runs"
)


def _none_changed(case: EvaluationCase, check: Check, *kinds: str) -> Finding:
    if "error" in case.changes:
        return check.unknown(case.changes["error"][0])
    for kind in kinds:
        if paths := case.changes.get(kind):
            plural = kind + "s" * (kind != "state")
            what = f"{paths[0]} is changed" + (f"; {len(paths)} {plural} are" if len(paths) > 1 else "")
            return check.refuted(what, {"batch": case.batch, "changed": paths})
    return check.undecided(case.changes["reach"][0]) if "reach" in case.changes else check.proved()


@claims(Contract.C8, "an evaluation changes no parameter and no gradient")
def parameters_stay(case: EvaluationCase, check: Check) -> Finding:
    """Neither an optimizer's step nor an average, and no ``backward`` whose gradients the next step would take."""
    return _none_changed(case, check, "parameter", "gradient")


@claims(Contract.C8, "an evaluation changes no buffer")
def buffers_stay(case: EvaluationCase, check: Check) -> Finding:
    """Running statistics, centres, queues that are buffers."""
    return _none_changed(case, check, "buffer")


@claims(Contract.C8, "an evaluation leaves train and eval modes as they were")
def flags_stay(case: EvaluationCase, check: Check) -> Finding:
    """``model.eval()`` without the way back, ``requires_grad_`` too."""
    return _none_changed(case, check, "flag")


@claims(Contract.C8, "an evaluation changes no queue, counter or other state")
def state_stays(case: EvaluationCase, check: Check) -> Finding:
    """Queues outside modules, counters of schedules, the optimizer's state."""
    return _none_changed(case, check, "state")


@claims(Contract.C8, "an evaluation leaves the settings of the process as they were")
def settings_stay(case: EvaluationCase, check: Check) -> Finding:
    """Gradients switched off and never on again, autocast, the default dtype, threads."""
    return _none_changed(case, check, "setting")


@claims(Contract.C8, "an evaluation moves no random generator", severity=Severity.ROBUSTNESS)
def generators_stay(case: EvaluationCase, check: Check) -> Finding:
    """Global ones of torch, NumPy and Python, and those that the step holds."""
    return _none_changed(case, check, "generator")
