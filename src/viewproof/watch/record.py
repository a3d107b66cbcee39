"""The plain run: what is read off a step while it runs as it always does."""

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from viewproof.bits import GeneratorStates
from viewproof.torch_internals import DisableTorchFunction, has_no_values
from viewproof.watch.alive import Alive
from viewproof.watch.asked_tokens import WHOLE
from viewproof.watch.gradients import GradientWatcher
from viewproof.watch.graph import predictions
from viewproof.watch.loss_terms import TermWatcher
from viewproof.watch.names import name_by_kind
from viewproof.watch.on_disk import Copied, in_memory
from viewproof.watch.one_rank import asked, not_averaged, ranks, reduced
from viewproof.watch.run import Run, place, tensors_of_call
from viewproof.watch.sources import with_noise
from viewproof.watch.step_record import Call, Loss, Parameter, Record


class Recorder(Run):
    """Makes a `Record`. ``names`` gives modules' paths by id, ``sources`` and ``others`` a batch's tensors by path."""

    def __init__(
        self,
        alive: Alive,
        names: dict[int, str],
        sources: dict[str, Tensor],
        parameters: dict[int, Tensor],
        before: Any,
        others: dict[str, Tensor] | None = None,
        copied: Copied = in_memory,
    ) -> None:
        super().__init__()
        self.before, modules, self._copied = before, before.modules.values(), copied
        self.record, self.names, self.sources, self.parameters = Record(), names, sources, parameters
        in_optimizers = {id(p): p for o in alive.optimizers for g in o.param_groups for p in g["params"]}
        self.optimized = set(in_optimizers)
        self._versions = {path: t._version for path, t in sources.items()}
        self._nodes: dict[Any, tuple[str, int]] = {}
        self._outputs: dict[Any, int] = {}
        self._hold: set[int] = set()
        self._stack: list[Call] = []
        self._optimizers: dict[int, int] = {}
        self.after: dict[int, Callable[[], Tensor]] = {}
        self.versions: dict[int, int] = {}
        self._known = {id(m) for m in modules}
        self._watcher = TermWatcher()
        self.gradients = GradientWatcher(p for p in (parameters | in_optimizers).values() if not has_no_values(p))
        known = {id(t) for m in modules for t in (*m.parameters(), *m.buffers())} | {id(t) for t in sources.values()}
        known |= {id(p.grad) for p in parameters.values()}
        # Numbers that were there before the step and that nothing names: they may come from the batch's data.
        self._outside = {id(t): t for t in alive.tensors if id(t) not in known and t.is_floating_point()}
        # What different whole numbers do, by their path: pick from what depends on the batch, or something else.
        self._picks, self._not_only_picks = set[str](), set[str]()
        self._reduced = 0
        # Tensors that no operator has read but to move them, with what was moved, which keeps its id while it lives.
        self._unread = {id(t): (path, t) for path, t in (others or {}).items()}
        self._tested, self._gone = set[tuple[str, float]](), set[str]()
        self._numbers: list[tuple[int, Tensor]] = []
        self._backwarded: list[Tensor] = []
        self._left: dict[int, tuple[Tensor, int]] = {}
        self.note_gradients()
        self._start = time.perf_counter()
        self._generators = GeneratorStates.now()
        for path, tensor in sources.items():
            tensor._viewproof_from = (path,)  # type: ignore[attr-defined]
            if tensor.dtype in WHOLE and bool((tensor.detach().sort(-1).values.diff(dim=-1) > 0).all()):
                tensor._viewproof_index = (path,)  # type: ignore[attr-defined]

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Note what is read, be it only looked at."""
        name = getattr(func, "__name__", "")
        if not self._in_backward:
            with DisableTorchFunction():
                self.gradients.touched(func, args)
                if name not in ("__get__", "__set__"):
                    read = list(tensors_of_call([args, kwargs or {}]))
                    self._watcher.read(read)
                    used = {self._unread[id(t)][0] for t in read if id(t) in self._unread}
                    if used and name not in _MOVING:
                        self._unread = {key: kept for key, kept in self._unread.items() if kept[0] not in used}
        out = super().__torch_function__(func, types, args, kwargs)
        if not self._in_backward:
            read = [t for t in (args or ()) if isinstance(t, Tensor)]
            if isinstance(out, Tensor) and name in (*_MOVING, "__get__") and read and id(read[0]) in self._unread:
                self._unread[id(out)] = self._unread[id(read[0])][0], out
            origins = tuple(dict.fromkeys(o for t in read for o in getattr(t, "_viewproof_from", ())))
            if name in ("numpy", "__array__", "tolist"):
                self._gone |= {*origins}
            # What is written into a tensor, and other looks at one: `x.T`, `x.data`.
            to = args[0] if name == "__setitem__" else out if name == "__get__" else None
            if origins and isinstance(to, Tensor) and not isinstance(to, nn.Parameter):
                to._viewproof_from = origins  # type: ignore[attr-defined]
        return out

    def on_function(self, index: int, func: Any, args: Any, kwargs: Any, out: Any) -> Any:
        """Note where results come from, in the graph of gradients and among sources and modules."""
        read = list(tensors_of_call([args, kwargs]))
        origins = dict.fromkeys(o for t in read for o in getattr(t, "_viewproof_from", ()))
        name = getattr(func, "__name__", str(func))
        if torch.is_grad_enabled() and any(map(self.trains, read)):
            self._hold.add(index)
        results = list(tensors_of_call(out))
        if name in _TESTS and len(args) > 1 and isinstance(args[1], int | float):
            self._tested |= {(path, float(args[1])) for path in origins if path in self.sources}
        if indices := {o for t in read for o in getattr(t, "_viewproof_index", ())}:
            self._index(name, args, kwargs, indices, results)
        if not self.steps and any(id(t) in self._outside and not bool(((t == 0) | (t == 1)).all()) for t in read):
            self.record.outside.append(f"what {name} reads at {place()}")
        with DisableTorchFunction():
            self._watcher.made(index, name, read, out, args)
        if not self.record.first_nan and not name.startswith(("empty", "new_empty")):
            made = any(t.is_floating_point() and bool(t.detach().isnan().any()) for t in results)
            if made and not any(t.is_floating_point() and bool(t.detach().isnan().any()) for t in read):
                self.record.first_nan = f"{name} at {place()}" if "nan" not in (repr(kwargs) + repr(args)[:0]) else ""
        for tensor in results:
            if origins and not isinstance(tensor, nn.Parameter):
                tensor._viewproof_from = tuple(origins)  # type: ignore[attr-defined]
            if tensor.grad_fn is not None and tensor.grad_fn not in self._nodes:
                self._nodes[tensor.grad_fn] = ("function", index)
        if name.startswith("conv") and len(read) > 1 and read[0].dim() == read[1].dim():
            sources = getattr(read[0], "_viewproof_from", ())
            for path in sources:
                if path in self.sources and path not in self.record.strides:
                    self.record.strides[path] = self._strides(path, read[0], read[1], args, kwargs)
        return out

    def _index(self, name: str, args: Any, kwargs: Any, indices: set[str], results: list[Tensor]) -> None:
        """Note what a function does with whole numbers of the batch."""
        first = args[0] if args and isinstance(args[0], Tensor) else None
        if name in _SHAPING and (first is None or hasattr(first, "_viewproof_index")):
            for tensor in results:
                tensor._viewproof_index = tuple(indices)  # type: ignore[attr-defined]
        elif name == "embedding" or isinstance(first, nn.Parameter):
            pass  # What is known of a place, or of a token.
        elif name in _PICKING and not hasattr(first, "_viewproof_index"):
            axis = kwargs.get("dim", args[1] if len(args) > 1 else None)
            one = name == "gather" and results[0].shape[axis] == 1  # The class of a label.
            self._not_only_picks |= indices if one else set()
            self._picks |= {path for path in indices if hasattr(first, "_viewproof_from") and not one}
        else:
            self._not_only_picks |= indices

    def on_number(self, index: int, tensor: Tensor, read: Callable[[], Any]) -> Any:
        """Note what may be a loss."""
        if tensor.numel() == 1:
            self._numbers.append((index, tensor))
        return read()

    def trains(self, tensor: Any) -> bool:
        """Whether it is a parameter that an optimizer has; without an optimizer, one that takes gradients."""
        if not isinstance(tensor, nn.Parameter) or not tensor.requires_grad:
            return False
        return id(tensor) in self.optimized or not self.optimized

    def _strides(self, path: str, x: Tensor, weight: Tensor, args: Any, kwargs: Any) -> tuple[int, ...]:
        stride = kwargs.get("stride", args[3] if len(args) > 3 else 1)
        dims = weight.dim() - 2
        strides = (stride,) * dims if isinstance(stride, int) else tuple(stride)
        kernel = tuple(weight.shape[2:])
        same = tuple(x.shape[2:]) == tuple(self.sources[path].shape[-dims:])
        return strides if same and strides == kernel and max(strides) > 1 else ()

    def before_module(self, index: int, module: nn.Module) -> None:
        """Note the call, where it lies and what drew numbers until now."""
        parent = self._stack[-1].index if self._stack else None
        if id(module) in self._known and id(module) not in self.names:
            name_by_kind(module, self.names)
        call = Call(index, id(module), parent, len(self._stack), torch.is_grad_enabled(), module.training)
        call.seconds, call.after_backwards, call.kind = -time.perf_counter(), self.backwards, type(module).__name__
        if id(module) not in self._known and parent is None and any(p.requires_grad for p in module.parameters()):
            self.record.made_in_step.append(f"{type(module).__name__} at {place()}")
        if module.training and (not call.differentiable or not any(map(self.trains, module.parameters()))):
            call.drops = tuple(n or type(m).__name__ for n, m in module.named_modules() if _drops(m))
        self.record.calls.append(call)
        self._stack.append(call)

    def on_module(self, index: int, module: nn.Module, inputs: Any, out: Any) -> Any:
        """Note what the call read and returned."""
        while self._stack and self._stack[-1].index != index:
            self._stack.pop()
        call = self._stack.pop()
        call.seconds += time.perf_counter()
        read, results = list(tensors_of_call(inputs)), list(tensors_of_call(out))
        call.reads = tuple(dict.fromkeys(o for t in read for o in getattr(t, "_viewproof_from", ())))
        call.of_predictions = call.differentiable and any(t.requires_grad for t in read)
        # Rows of a table are looked at where they come from the batch.
        table = call.reads and all(o in self.sources for o in call.reads)
        trained = any(map(self.trains, module.parameters()))
        if trained and read:
            self.record.noisy |= {path for path, source in self.sources.items() if with_noise(read[0], source)}
        if (
            trained
            and read
            and read[0].is_floating_point()
            and read[0].dim() > (1 if table else 2)
            and not read[0].requires_grad
        ):
            call.rows = call.made = _hashes(read[0])
            # A module that draws its views itself makes two things of one sample, in two calls; so does dropout.
            if len(set(call.rows)) == len(call.rows) and results and results[0].shape[:1] == read[0].shape[:1]:
                call.made = tuple(map(hash, zip(call.rows, _hashes(results[0]), strict=True)))
        call.made_of = tuple(dict.fromkeys(o for t in results for o in getattr(t, "_viewproof_from", ())))
        call.shapes = tuple(tuple(t.shape) for t in (*read[:1], *results[:1]))
        text = read and not call.depth and read[0].dtype in WHOLE and read[0].dim() == 2
        if trained and text and results and len(results[0].shape) > 1 and not isinstance(module, nn.Embedding):
            call.text, call.rows = True, _hashes(results[0])
        path = self.names.get(id(module))
        for tensor in results:
            if isinstance(tensor, nn.Parameter):
                continue
            if path and call.reads and not any(tensor is t for t in read):
                tensor._viewproof_from = (path,)  # type: ignore[attr-defined]
            if tensor.grad_fn is not None:
                self._nodes.setdefault(tensor.grad_fn, ("module", index))
                if trained and tensor.numel() > 1:
                    self._outputs[tensor.grad_fn] = min(call.depth, self._outputs.get(tensor.grad_fn, call.depth))
        return out

    def on_backward(self, losses: list[Tensor], run: Callable[[], Any]) -> Any:
        """Note the loss and its predictions, then the gradient's support over them."""
        at = place(users=True)
        if not self.record.losses:
            self.record.moved_at_backward = self._moved()
        self.record.collectives = asked()
        nodes = [loss.grad_fn for loss in losses if loss.grad_fn is not None]
        found = predictions(nodes, self._outputs, self._nodes, self.trains) if nodes else []
        handles, supports = [], dict[str, Tensor]()
        self._backwarded += losses
        self._watcher.read(losses)
        self._watcher.at_backward(losses)
        for loss in losses:
            reads = getattr(loss, "_viewproof_from", ())
            value = loss.detach()
            numbers = value.double().cpu().reshape(-1)
            self.record.losses.append(
                Loss(
                    float(numbers.sum()),
                    numbers.numpy().tobytes(),
                    at,
                    tuple(reads),
                    str(value.dtype).removeprefix("torch."),
                    finite=bool(value.isfinite().all()),
                )
            )
        for node in found:
            kind, index = self._nodes[node]
            key = (kind, index, _kind_of(node))
            if key not in self.record.predictions:
                self.record.predictions.append(key)
            name = f"{kind} {index}"

            def keep(inputs: Any, outputs: Any = None, name: str = name) -> None:
                gradient = next((g for g in inputs if g is not None), None)
                if gradient is not None:
                    supports[name] = (gradient != 0).detach().cpu()

            handles.append(node.register_prehook(lambda grads, keep=keep: keep(grads)))
        self.gradients.before_backward()
        try:
            return run()
        finally:
            self.gradients.after_backward(at)
            self._reduced = reduced()
            for handle in handles:
                handle.remove()
            self.record.support.update(supports)
            self._watcher.after_backward()
            self.record.terms = self._watcher.terms

    def on_grad(self, losses: list[Tensor], run: Callable[[], Any]) -> Any:
        """Gradients that the program asks for itself count as a loss if they are those of parameters."""
        if any(t.numel() == 1 and t.grad_fn is not None for t in losses):
            self.backwards += 1
            return self.on_backward(losses, run)
        return run()

    def before_penalty(self, of: list[Tensor]) -> None:
        """What has its gradients in a loss is no term that is left out of it."""
        self._watcher.used(of)

    def before_step(self, optimizer: Any) -> None:
        """Note what the optimizer holds, and the gradients that it finds."""
        self._look_at(optimizer)
        self.gradients.before_step(optimizer)
        if ranks() > 1 and self.backwards and self._reduced == reduced():
            alone, remedy, some = not_averaged(optimizer)
            self.record.alone += alone
            self.record.remedy, self.record.averaged_some = remedy or self.record.remedy, some

    def _look_at(self, optimizer: Any) -> None:
        if not self._optimizers:
            self.record.moved_at_step = self._moved()
        number = self._optimizers.setdefault(id(optimizer), len(self._optimizers))
        self.record.optimizers[number] = type(optimizer).__name__
        for group_index, group in enumerate(optimizer.param_groups):
            for p in group["params"]:
                known = self.record.parameters.setdefault(id(p), Parameter("", p.numel(), dim=p.dim()))
                known.groups += ((number, group_index),) if (number, group_index) not in known.groups else ()
                known.decay = float(group.get("weight_decay") or 0.0)
                known.requires_grad = p.requires_grad
                if p.grad is not None:
                    known.gradient = True
                    gradient = p.grad.coalesce().values() if p.grad.is_sparse else p.grad
                    known.nonzero |= bool((gradient != 0).any())
                    known.finite &= bool(gradient.isfinite().all())

        for key, p in self.parameters.items():
            if p.grad is None or key in self.record.parameters:
                continue
            gradient, version = self._left.get(key, (None, 0))
            if p.grad is not gradient or gradient._version != version:
                self.record.parameters[key] = Parameter("", p.numel(), gradient=True, dim=p.dim())
                self.record.parameters[key].nonzero = bool((p.grad != 0).any())

    def _moved(self) -> frozenset[int]:
        """What has moved by now, of parameters that no optimizer is about to move."""
        return frozenset(k for k, p in self.parameters.items() if k not in self.optimized and self.before.moved(p))

    def after_step(self, optimizer: Any) -> None:
        """Note where the optimizer has left its parameters; a closure has made its gradients meanwhile."""
        self._look_at(optimizer)
        self.gradients.after_step(optimizer)
        for group in optimizer.param_groups:
            for p in group["params"]:
                self.after[id(p)], self.versions[id(p)] = self._copied(p), p._version

    def note_gradients(self) -> None:
        """Note the gradients that earlier steps have left, of other models too: they say nothing of this step."""
        self._left = {k: (p.grad, p.grad._version) for k, p in self.parameters.items() if p.grad is not None}

    def restart(self) -> None:
        """The step so far was another one: calls are numbered from 0 again, as in the runs that follow the plan."""
        self.record, self._watcher = Record(), TermWatcher()
        self.functions = self.modules = self.backwards = self.steps = self.numbers = 0
        noted = self._picks, self._not_only_picks, self._nodes, self._outputs, self._hold, self._optimizers
        for known in (*noted, self._numbers, self._backwarded):
            known.clear()
        self.note_gradients()
        self.gradients.restart()

    def finish(self) -> Record:
        """The record, at the end of the step."""
        after, record = GeneratorStates.now(), self.record
        self._watcher.at_end()
        record.gradients = self.gradients.end()
        record.seconds = time.perf_counter() - self._start
        for name, kind in (("torch", "torch's"), ("numpy", "NumPy's"), ("python", "Python's")):
            if getattr(after, name) != getattr(self._generators, name):
                record.generators.append(f"{kind} global generator")
        record.hold = frozenset(self._hold)
        record.left = frozenset(self._gone)
        record.unread, record.tested = (
            tuple(dict.fromkeys(path for path, _ in self._unread.values())),
            frozenset(self._tested),
        )
        record.indices = frozenset(self._picks - self._not_only_picks)
        record.losses_read = frozenset(
            index for index, t in self._numbers if any(_is_loss(t, loss) for loss in self._backwarded)
        )
        record.steps, record.backwards = self.steps, self.backwards
        record.gathered_after = [what for what in asked() if "gather" in what and what not in record.collectives]
        record.in_place = [path for path, t in self.sources.items() if t._version != self._versions[path]]
        return record


_MOVING = ("to", "cpu", "cuda", "pin_memory", "size", "__len__", "dim", "numel")
_TESTS = ("eq", "ne", "__eq__", "__ne__", "gt", "__gt__")
"""Functions that read nothing, and those that a step looks for padding with."""
_PICKING = ("gather", "index_select", "take_along_dim", "__getitem__")
_SHAPING = (
    *(
        "__getitem__",
        "view",
        "reshape",
        "flatten",
        "unsqueeze",
        "squeeze",
        "expand",
        "expand_as",
        "contiguous",
        "clone",
    ),
    *("repeat", "repeat_interleave", "cat", "concat", "stack", "chunk", "split", "unbind", "permute", "transpose"),
    *("detach", "to", "long", "int", "type", "sort", "add", "__add__", "__radd__", "sub", "__sub__"),
)
"""Functions that pick by an index, and those after which an index is one still."""


def _is_loss(tensor: Tensor, loss: Tensor) -> bool:
    """Whether it is the loss, without its gradient perhaps, or before a scaler or an accumulation scales it."""
    if tensor is loss or (loss.numel() == 1 and loss.data_ptr() == tensor.data_ptr() != 0):
        return True
    node = loss.grad_fn
    for _ in range(3):
        if node is None or tensor.grad_fn is node:
            break
        inner = [n for n, _ in node.next_functions if n is not None]
        node = inner[0] if len(inner) == 1 and _kind_of(node) in ("MulBackward0", "DivBackward0") else None
    return node is not None and tensor.grad_fn is node


def _hashes(tensor: Tensor) -> tuple[int, ...]:
    return tuple(hash(row.detach().cpu().contiguous().numpy().tobytes()) for row in tensor.detach().float())


def _drops(module: nn.Module) -> bool:
    rate = getattr(module, "p", getattr(module, "drop_prob", 0))
    return "drop" in type(module).__name__.lower() and module.training and isinstance(rate, float) and rate > 0


def _kind_of(node: Any) -> str:
    return str(node.name())
