"""Watching: a step that is handed over, or the code inside a ``with`` block."""

import dataclasses
import inspect
import os
import pickle
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.data import DataLoader

from viewproof.certify.check import subject_name
from viewproof.errors import InvalidArgument
from viewproof.torch_internals import replaced
from viewproof.watch.alive import Alive, Constants
from viewproof.watch.allowed import check_allow
from viewproof.watch.child import Answer, Sender, cannot_fork, copy_of_process, describe, fork, run_in_child
from viewproof.watch.conclusions import report_of
from viewproof.watch.examine import Examined, examine
from viewproof.watch.gradients import Noted, note_step
from viewproof.watch.in_place import InPlace
from viewproof.watch.names import variables_of, variables_of_callers
from viewproof.watch.on_disk import on_disk, room_for
from viewproof.watch.one_rank import close_sockets, in_group
from viewproof.watch.report import WatchReport
from viewproof.watch.sources import tensors_of
from viewproof.watch.token_rows import KEPT


def watch(
    step: Callable[[Any], Any],
    batch: Any,
    *,
    allow: Mapping[str, str] | None = None,
    kept: str = "",
    local_negatives: bool = False,
    name: str | None = None,
) -> WatchReport:
    """What one training step of yours does: ``step(batch)`` is run several times, and nothing of it stays behind.

    ``kept="mlm"`` declares that a tenth of the tokens that the loss asks for is left in the clear on purpose, as BERT
    does. On several ranks, ``local_negatives=True`` declares that negatives are taken of the own rank. ``allow`` gives
    the reasons for which a claim, or a contract such as "C4", is waived. Raises `InvalidArgument` for what is neither.
    """
    _check_kept(kept)
    check_allow(allow or {})
    variables = {**variables_of_callers(), **variables_of(step)}
    subject = name or subject_name(step, None)
    if cannot_fork() and not in_group():
        here = InPlace(step, batch)
        return _report(here, here.batch, variables, subject, allow, kept, local_negatives)

    def runner(make: Callable[[Callable[[], Any]], Any], finish: Callable[[Any], Any]) -> Answer:
        side = fork()
        if isinstance(side, Answer):
            return side
        run_in_child(side, make, finish, batch, step)
        raise AssertionError("a child sends and ends")

    return _report(runner, batch, variables, subject, allow, kept, local_negatives)


def _check_kept(kept: str) -> None:
    if kept not in ("", *KEPT):
        raise InvalidArgument(f"kept={kept!r} must be among {tuple(KEPT)}; leave it out if nothing is kept on purpose")


def _report(
    runner: Any,
    batch: Any,
    variables: Any,
    name: str,
    allow: Mapping[str, str] | None,
    kept: str,
    local: bool,
    first: str = "",
    constants: Constants | None = None,
    noted: Noted | None = None,
) -> WatchReport:
    """The report; what goes wrong in here is said in it, and never reaches the user's code."""
    in_place = isinstance(runner, InPlace)
    reason = runner.reason if in_place else cannot_fork()
    try:
        examined = Examined(failure=f"the step cannot be run again: {reason}")
        if not reason:
            alive = Alive.now()
            # Of a process group, the threads of other libraries may be at work on what is to be moved.
            moved = [] if in_place or in_group() else alive.tensors
            with on_disk(moved, room_for(alive)) as disk:
                examined = examine(runner, batch, variables, alive, kept, local, constants, noted, disk.copied)
            examined.first = first
            examined.copied = runner.place if in_place else examined.copied + disk.told
        report = report_of(examined, name)
    except Exception as error:
        report = report_of(Examined(failure=f"viewproof failed: {describe(error)}"), name)
    return _waived(report, allow or {})


def _waived(report: WatchReport, allow: Mapping[str, str]) -> WatchReport:
    """The report with what ``allow`` names waived; a claim that does not concern this step is passed over."""
    names = {name for f in report.findings for name in (f.claim, f.contract.name, f.contract.value)}
    own = {name: reason for name, reason in allow.items() if name in names}
    return dataclasses.replace(report, findings=report.waive(own).findings)


class _Resume(BaseException):
    """In a child: back to the user's loop with this batch."""

    def __init__(self, batch: Any) -> None:
        super().__init__()
        self.batch = batch


class Recording:
    """Watches the code inside its ``with`` block: the second optimizer step, or the first if there is no second.

    Where a `DataLoader` gives the batch of that step, copies of the process run on from there, silently, to the end of
    the step; the process itself goes on as if nothing were there. In a program without a loader, a step begins where
    its first module is called, and the batch is what that module takes. ``steps`` counts the optimizers' steps, and
    ``on_step(steps)`` is called after each. ``report`` is None until there is one.

    >>> import torch, viewproof as vp
    >>> model = torch.nn.Linear(2, 1)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> with vp.watch.recording() as seen:
    ...     for batch in torch.utils.data.DataLoader(torch.randn(6, 2), batch_size=2):
    ...         optimizer.zero_grad()
    ...         model(batch).square().mean().backward()
    ...         optimizer.step()
    >>> seen.steps, [m.role.value for m in seen.report.modules]
    (3, ['trained'])
    """

    def __init__(
        self,
        *,
        on_step: Callable[[int], Any] | None = None,
        allow: Mapping[str, str] | None = None,
        kept: str = "",
        local_negatives: bool = False,
        name: str = "recorded step",
    ) -> None:
        _check_kept(kept)
        check_allow(allow or {})
        self.on_step, self.name, self.allow, self.kept, self.local = on_step, name, allow, kept, local_negatives
        self.steps, self.report = 0, None  # type: int, WatchReport | None
        self.loader: Any = None
        self._pid, self._contexts = os.getpid(), ExitStack()
        self._child: tuple[Sender, Any, Any] | None = None
        self._waiting: tuple[int, int, int] | None = None
        self._tries = 3
        # Without a loader: whether the next call of a module begins a step, or ends the one that runs in this copy.
        self._calls, self._armed, self._anchor, self._first = ExitStack(), True, 0, ""
        self._constants, self._noted = Constants(), Noted()

    def __enter__(self) -> "Recording":
        handle = register_optimizer_step_post_hook(self._stepped)
        self._contexts.callback(handle.remove)
        original, recording = DataLoader.__iter__, self

        def iterate(loader: Any) -> Any:
            return _Batches(recording, loader, original(loader))

        self._contexts.enter_context(replaced(DataLoader, "__iter__", iterate))
        call = nn.Module.__call__

        def called(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            if recording._armed:
                args, kwargs = recording._begun(module, args, kwargs)
            return call(module, *args, **kwargs)

        self._contexts.enter_context(self._calls)
        self._calls.enter_context(replaced(nn.Module, "__call__", called))
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        self._contexts.close()
        if self._child is not None:
            side, run, finish = self._child
            error = error or sys.exc_info()[1]
            if error is not None and not isinstance(error, SystemExit):
                side.send(None, describe(error))
            self._finish_child(side, run, finish)
        if os.getpid() != self._pid:
            return
        if self.report is None and self.steps:
            cannot = cannot_fork()
            reason = (
                f"the step cannot be run again: {cannot}"
                if cannot
                else "no DataLoader gave a batch and no module was called before an optimizer's step; "
                "vp.watch(step, batch) follows a step that is handed over"
            )
            self._keep(self._from_waiting() or report_of(Examined(failure=reason), self.name))
        self._dismiss()
        # What the program has set over the hooks may call them still.
        self._pid, self._armed = 0, False

    def _keep(self, report: WatchReport) -> None:
        """The report, with the loader for its draws."""
        object.__setattr__(report, "_loader", self.loader)
        self.report = report

    def _begun(self, module: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
        """The first call of a module in a step, and no loader gave a batch: what the module is to take."""
        self._armed = False
        if self._child is not None and self._child[1].done():
            self._finish_child(*self._child)
        try:
            bound = inspect.signature(module.forward).bind(*args, **kwargs)
        except (TypeError, ValueError):
            return args, kwargs
        if self._child is None:
            self._first = type(module).__name__
            before = dict(tensors_of(bound.arguments))
            bound.arguments.update(self.delivered(bound.arguments))
            if self._child is not None:
                # The program holds the same tensors under names of its own.
                after = dict(tensors_of(bound.arguments))
                self._child[1].instead = {id(t): (t, after[path]) for path, t in before.items()}
        return bound.args, bound.kwargs

    def _stepped(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        self.steps += 1
        if self.report is None:
            note_step(self._noted, optimizer)
        self._anchor = self._anchor or id(optimizer)
        if self.steps == 1 and self.loader is None:
            # A gradient scaler makes its scale in the first step.
            self._constants.note(largest=1)
        self._armed = id(optimizer) == self._anchor and self.loader is None and self.report is None
        if self.on_step is not None and os.getpid() == self._pid and self._child is None:
            self.on_step(self.steps)

    def _runner(self, batch: Any) -> Any:
        def runner(make: Any, finish: Any) -> Answer:
            side = fork()
            if isinstance(side, Answer):
                return side
            run = None
            try:
                run = make(lambda: side.send(finish(run)))
                with torch.enable_grad():
                    changed = run.batch(batch)
                self._child = side, run, finish
                run.begin()
            except BaseException as error:
                side.send(None, describe(error))
            raise _Resume(changed)

        return runner

    def delivered(self, batch: Any) -> Any:
        """A loader gives this batch: return the one that the program is to get."""
        if self._child is not None:
            return batch
        # A loader's batch without gradients is for validation; else a teacher may be a step's first module.
        validates = self.loader is not None and not torch.is_grad_enabled()
        if self.report is not None or os.getpid() != self._pid or validates or cannot_fork():
            return batch
        try:
            if self.steps and self._tries:
                self._tries -= 1
                report = self._examined(batch)
                # A batch that is only looked at, or for validation, makes no step.
                if report.losses or not self._tries:
                    self._dismiss()
                    self._keep(report)
            elif not self.steps:
                if self.loader is None:
                    self._constants.note()
                self._wait(batch)
        except _Resume as resume:
            return resume.batch
        return batch

    def _examined(self, batch: Any) -> WatchReport:
        first = self._first if self.loader is None else ""
        declared = self.allow, self.kept, self.local, first, self._constants if first else None
        return _report(self._runner(batch), batch, variables_of_callers(), self.name, *declared, self._noted)

    def _finish_child(self, side: Sender, run: Any, finish: Any) -> None:
        try:
            run.end()
            value = finish(run)
        except BaseException as error:
            side.send(None, describe(error))
        side.send(value)

    def _wait(self, batch: Any) -> None:
        """Leave a copy of the process here, which examines this step if there comes no second."""
        self._dismiss()
        ask_read, ask_write = os.pipe()
        tell_read, tell_write = os.pipe()
        pid = copy_of_process()
        if pid:
            os.close(ask_read)
            os.close(tell_write)
            self._waiting = pid, ask_write, tell_read
            return
        os.close(ask_write)
        os.close(tell_read)
        if in_group():
            close_sockets()
        if os.read(ask_read, 1) != b"g":
            os._exit(0)
        self._pid = os.getpid()
        try:
            report = self._examined(batch)
            data = pickle.dumps(report)
        except _Resume:
            raise
        except BaseException:
            os._exit(1)
        with os.fdopen(tell_write, "wb") as file:
            file.write(data)
        os._exit(0)

    def _from_waiting(self) -> WatchReport | None:
        if self._waiting is None:
            return None
        pid, ask, tell = self._waiting
        self._waiting = None
        os.write(ask, b"g")
        with os.fdopen(tell, "rb") as file:
            data = file.read()
        os.close(ask)
        os.waitpid(pid, 0)
        return pickle.loads(data) if data else None

    def _dismiss(self) -> None:
        if self._waiting is not None:
            pid, ask, tell = self._waiting
            self._waiting = None
            os.close(ask)
            os.close(tell)
            os.waitpid(pid, 0)


class _Batches:
    """A loader's iterator that shows each batch to the recording first."""

    def __init__(self, recording: Recording, loader: Any, iterator: Iterator[Any]) -> None:
        self._recording, self._loader, self._iterator = recording, loader, iterator

    def __iter__(self) -> "_Batches":
        return self

    def __len__(self) -> int:
        return len(self._iterator)  # type: ignore[arg-type]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._iterator, name)

    def __next__(self) -> Any:
        child = self._recording._child
        if child is not None:
            if child[1].done():
                self._recording._finish_child(*child)
            if self._loader.num_workers:
                reason = "the step reads several batches of a loader with workers, which a copy cannot share"
                child[0].send(None, reason)
        batch = next(self._iterator)
        if self._recording.report is None:
            self._recording.loader = self._loader
            self._recording._armed = False
            self._recording._calls.close()
        return self._recording.delivered(batch)


__all__ = ["Recording", "cannot_fork", "watch"]
