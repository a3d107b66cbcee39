"""What becomes of gradients between the backwards of a step and its optimizers' steps: erased, changed, left over."""

import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from viewproof.watch.run import Run, place, tensors_of_call

Noted = dict[int, tuple["weakref.ref[Tensor]", int]]
"""By the parameter's id, the gradient that its optimizer last stepped with, and that tensor's version."""


def note_step(noted: Noted, optimizer: Any) -> None:
    """Note the gradients that an optimizer has just stepped with; nothing of them is kept alive."""
    for p in (p for group in optimizer.param_groups for p in group["params"]):
        if p.grad is not None:
            noted[id(p)] = weakref.ref(p.grad), p.grad._version


@dataclass
class GradientFacts:
    """What was found of parameters that an optimizer has, by their ids.

    ``erased`` and ``changed`` come with the line that did it, where one was seen. ``left_over`` had a gradient before
    the step that nothing cleared, with the line of the backward; ``of_earlier`` are those that their optimizer had
    already stepped with. ``lost`` are the lines of backwards of which every gradient was erased before a step, and
    ``staying`` are those that have a gradient at the end and had none before.
    """

    erased: dict[int, str] = field(default_factory=dict)
    changed: dict[int, str] = field(default_factory=dict)
    left_over: dict[int, str] = field(default_factory=dict)
    of_earlier: set[int] = field(default_factory=set)
    lost: list[str] = field(default_factory=list)
    staying: frozenset[int] = frozenset()

    def broken(self, names: Mapping[int, str]) -> str:
        """What no step means to do, or "": gradients that were stepped with are stepped with again."""
        if not self.of_earlier:
            return ""
        at = next(at for key, at in self.left_over.items() if key in self.of_earlier)
        return (
            f"nothing clears the gradients that the optimizer has stepped with: at {at} the backward adds to them "
            f"({_list(self.of_earlier, names)})"
        )

    def doubt(self, names: Mapping[int, str]) -> str:
        """What may be meant, with the line that says so, or ""."""
        says, found, what = 'allow={"C6": "..."} if meant', self.erased or self.changed, ""
        at = next(filter(None, (found or self.left_over).values()), "")
        if found:
            what = "erased" if self.erased else "changed other than by a scale"
            what = f"gradients are {what}{f' at {at}' if at else ''} between backward and the optimizer's step; {says}"
        elif self.lost:
            what = f"gradients of the backward at {self.lost[0]} are erased before an optimizer steps with them; {says}"
        elif found := self.left_over or dict.fromkeys(self.staying, ""):
            what = f"the step does not clear gradients of before{f': at {at} backward adds to them' if at else ''}; "
            what += 'allow={"C6": "cleared by the loop"} if what calls it does'
        return f"{what} ({_list(found, names)})" if found else what


class GradientWatcher:
    """Follows the gradients of one run; of each it keeps the signs alone, a byte an element.

    What keeps every sign is a clipped, averaged or unscaled gradient; a sign that turns, or comes from 0, is a change.
    """

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        self.facts, self.noted = GradientFacts(), Noted()
        self.parameters = {id(p): p for p in parameters}
        self._signs: dict[int, Tensor] = {}
        self._before: dict[int, tuple[Tensor, int, bool]] = {}
        self._places: list[str] = []
        self._from: dict[int, set[int]] = {}
        self._given: dict[int, set[int]] = {}
        self._used: set[int] = set()
        self._stepped: set[int] = set()
        self._touched: dict[int, str] = {}
        self._unchanged: list[int] = []
        self._added: set[int] = set()
        self._at_step = 0

    def touched(self, func: Any, args: Any) -> None:
        """A function of torch is about to run: note the line of one that writes to a gradient, or exchanges it."""
        name = getattr(func, "__name__", "")
        if not self._signs or not args:
            return
        if name == "__set__" and func == Tensor.grad.__set__:  # type: ignore[union-attr]
            self._touched[id(args[0])] = place()
        elif name == "__setitem__" or (name.endswith("_") and not name.endswith("__")):
            written = {t.data_ptr() for t in tensors_of_call(args[0]) if t.layout == torch.strided}
            for key in self._signs:
                gradient = self.parameters[key].grad
                if gradient is not None and gradient.layout == torch.strided and gradient.data_ptr() in written:
                    self._touched[key] = place()

    def before_backward(self) -> None:
        """What is there before, of earlier backwards and earlier steps."""
        for key in list(self._signs):
            what = self._compare(key)
            if what == "erased":
                self._forget(key)
                self.facts.left_over.pop(key, None)
            elif what:
                self.facts.changed.setdefault(key, self._touched.get(key, ""))
        self._before = {
            k: (p.grad, p.grad._version, bool((_values(p.grad) != 0).any()))
            for k, p in self.parameters.items()
            if p.grad is not None
        }

    def after_backward(self, at: str) -> None:
        """What the backward at this line has added, and to what."""
        index = len(self._places)
        self._places.append(at)
        for key, p in self.parameters.items():
            gradient, version, nonzero = self._before.get(key, (None, 0, False))
            if p.grad is None or (p.grad is gradient and p.grad._version == version):
                continue
            if nonzero and key not in self._signs:
                # It matters once an optimizer steps with it: a generator's loss adds to what its critic has used.
                self._added |= {key} - self.facts.left_over.keys()
                self._leave(key, at)
            self._signs[key] = _signs(p.grad)
            self._from.setdefault(key, set()).add(index)
            self._given.setdefault(index, set()).add(key)

    def before_step(self, optimizer: Any) -> None:
        """What an optimizer finds; one that is given a closure has its backwards inside its step."""
        self._at_step = len(self._places)
        self._look(optimizer)

    def after_step(self, optimizer: Any) -> None:
        """What a closure has made; a line search erases what it has tried."""
        inside = set(range(self._at_step, len(self._places)))
        self._used |= inside
        if inside:
            self._look(optimizer)
        for key in self._unchanged:
            self._leave(key, self._places[-1])
        note_step(self.noted, optimizer)

    def _look(self, optimizer: Any) -> None:
        self._unchanged = []
        for key in [id(p) for group in optimizer.param_groups for p in group["params"]]:
            self._stepped.add(key)
            self._added.discard(key)
            what = self._compare(key) if key in self._signs else ""
            if what == "erased":
                self.facts.erased[key] = self._touched.get(key, "")
                self.facts.left_over.pop(key, None)
            else:
                self._used |= self._from.get(key, set())
            if what == "changed":
                self.facts.changed.setdefault(key, self._touched.get(key, ""))
            # No backward of this step has touched it, and the optimizer steps with it once more.
            gradient, version, nonzero = self._before.get(key, (None, 0, False))
            now = self.parameters[key].grad if key in self.parameters else None
            if nonzero and key not in self._signs and now is gradient and now is not None and now._version == version:
                self._unchanged.append(key)
            self._forget(key)

    def _leave(self, key: int, at: str) -> None:
        gradient, version, _ = self._before[key]
        self.facts.left_over.setdefault(key, at)
        noted, number = self.noted.get(key, (None, 0))
        if noted is not None and noted() is gradient and number == version:
            self.facts.of_earlier.add(key)

    def _compare(self, key: int) -> str:
        """What has become of a gradient since its last backward: "", "erased" or "changed"."""
        gradient, signs = self.parameters[key].grad, self._signs[key]
        now = None if gradient is None else _signs(gradient)
        if now is None or not bool(now.any()):
            return "erased" if bool(signs.any()) else ""
        if now.shape != signs.shape or bool((now * signs < 0).any()) or bool(((now != 0) & (signs == 0)).any()):
            return "changed"
        # A clipped or unscaled gradient may round to 0 in places.
        return "changed" if int(((now == 0) & (signs != 0)).sum()) > 0.01 * signs.numel() else ""

    def _forget(self, key: int) -> None:
        for known in (self._signs, self._from, self._touched):
            known.pop(key, None)

    def restart(self) -> None:
        """What was found so far is of another step."""
        self.facts, self._given, self._added = GradientFacts(), {}, set()

    def end(self) -> GradientFacts:
        """All that was found; what is no optimizer's is left out."""
        facts, stepped = self.facts, self._stepped
        for found in (facts.erased, facts.changed, facts.left_over):
            for key in found.keys() - (stepped - self._added if found is facts.left_over else stepped):
                del found[key]
        facts.of_earlier &= facts.left_over.keys()
        pending = set().union(*self._from.values())
        lost = [i for i, keys in self._given.items() if keys & stepped and i not in self._used | pending]
        facts.lost = list(dict.fromkeys(self._places[i] for i in lost))
        new = stepped - facts.left_over.keys() - facts.erased.keys()
        own = ((k, self.parameters[k].grad) for k in new if k in self.parameters)
        facts.staying = frozenset(k for k, g in own if g is not None and bool((_values(g) != 0).any()))
        return facts


class SeededRun(Run):
    """Whether the step clears gradients: those of the given parameters are set to 1 before, as a step might leave them.

    ``kept`` are those that an optimizer stepped with, by the parameters' ids.
    """

    def __init__(self, parameters: Iterable[Tensor], seeded: Iterable[int]) -> None:
        super().__init__()
        self.watcher = GradientWatcher(parameters)
        self._seeded = frozenset(seeded)

    @property
    def kept(self) -> frozenset[int]:
        """What was not cleared."""
        return self._seeded & self.watcher.end().left_over.keys()

    def batch(self, batch: Any) -> Any:
        """As it is; the gradients are set here."""
        for p in self.watcher.parameters.values():
            if id(p) in self._seeded:
                p.grad = torch.ones_like(p)
        return batch

    def on_backward(self, losses: list[Tensor], run: Callable[[], Any]) -> Any:
        """Watched."""
        self.watcher.before_backward()
        out = run()
        self.watcher.after_backward("")
        return out

    on_grad = on_backward

    def before_step(self, optimizer: Any) -> None:
        """Watched."""
        self.watcher.before_step(optimizer)

    def after_step(self, optimizer: Any) -> None:
        """Watched."""
        self.watcher.after_step(optimizer)


def _list(keys: Iterable[int], names: Mapping[int, str]) -> str:
    known = [names.get(key) or "a parameter" for key in keys]
    return f"{', '.join(known[:3])}{f' and {len(known) - 3} more' if len(known) > 3 else ''}"


def _values(gradient: Tensor) -> Tensor:
    """The numbers of a gradient, of a sparse one too."""
    return gradient.detach().to_dense() if gradient.layout != torch.strided else gradient.detach()


def _signs(gradient: Tensor) -> Tensor:
    # NaN has no sign, and is reported elsewhere.
    return _values(gradient).sign().nan_to_num(0.0).to(torch.int8)
