"""What a loss is made of: terms computed and dropped, negatives that are the anchor or its positive, fresh memory."""

import sys
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from viewproof.bits import unlike
from viewproof.torch_internals import DisableTorchFunction
from viewproof.watch.child import Answer
from viewproof.watch.graph import parameter_of
from viewproof.watch.planes import Plan, ValueRun
from viewproof.watch.run import _OURS, place

Runner = Callable[[Callable[[Callable[[], Any]], Any], Callable[[Any], Any]], Answer]
_PRODUCTS = ("matmul", "__matmul__", "__rmatmul__", "mm", "einsum", "cosine_similarity", "linear", "cdist", "inner")
_CROSS = ("cross_entropy", "nll_loss")
_EMPTY = ("empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided")


@dataclass
class Equal:
    """A cross-entropy in which every row has a wrong class that scores as the right one: ``columns`` [rows]."""

    call: int
    place: str
    columns: list[int]
    labels: list[int]


@dataclass
class Terms:
    """What was found in the plain run, each a sentence; ``equal`` are to be looked at with another batch."""

    dropped: list[str] = field(default_factory=list)
    itself: list[str] = field(default_factory=list)
    equal: list[Equal] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)


@dataclass
class _Scalar:
    """One number with a gradient: where it was made (all lines of the call), and whether anything read it."""

    tensor: weakref.ref[Tensor]
    place: str
    node: Any
    was_read: bool = False


class TermWatcher:
    """Looks at the functions of one run."""

    def __init__(self) -> None:
        self.terms = Terms()
        self._scalars: dict[tuple[tuple[str, int], ...], list[_Scalar]] = {}
        self._by_id: dict[int, _Scalar] = {}
        self._products: list[tuple[str, Tensor, list[Tensor]]] = []
        self._crossed: list[tuple[Any, str]] = []

    def read(self, tensors: list[Tensor]) -> None:
        """A function is given these."""
        for tensor in tensors:
            scalar = self._by_id.get(id(tensor))
            if scalar is not None and scalar.tensor() is tensor:
                scalar.was_read = True

    def made(self, index: int, name: str, read: list[Tensor], out: Any) -> None:
        """A function has returned."""
        if not isinstance(out, Tensor):
            return
        if name in _EMPTY and out.is_floating_point():
            self.terms.empty.append(place())
        if not out.requires_grad or not out.is_floating_point():
            return
        if out.numel() == 1 and out.dim() == 0:
            scalar = _Scalar(weakref.ref(out), place(), out.grad_fn)
            self._scalars.setdefault(_lines(), []).append(scalar)
            self._by_id[id(out)] = scalar
        if name in _PRODUCTS and len(read) == 2 and _with_itself(read[0], read[1], out):
            gradients: list[Tensor] = []
            out.register_hook(  # type: ignore[no-untyped-call]
                lambda g, gradients=gradients: gradients.append(g.detach().diagonal().cpu())
            )
            self._products.append((place(), out, gradients))
        if name in _CROSS and len(read) >= 2:
            scores, labels = read[0].detach(), read[1].detach()
            if scores.dim() == 2 and labels.dim() == 1 and not labels.is_floating_point() and len(labels) > 1:
                self._crossed.append((read[0].grad_fn, place()))
                equal = _equal_columns(scores, labels)
                if equal is not None:
                    self.terms.equal.append(Equal(index, place(), equal, labels.tolist()))

    def at_backward(self, losses: list[Tensor]) -> None:
        """Which numbers were made, never read, and are gone, while others of the same line are read.

        A term that shares an activation with the loss is left out: each may be a step of one refinement, of which
        the last is meant.
        """
        edges = _edges([loss.grad_fn for loss in losses], set())
        nodes = {node for node, _ in edges}
        for scalars in self._scalars.values():
            gone = [s for s in scalars if not s.was_read and s.tensor() is None and not _edges([s.node], nodes) & edges]
            if gone and any(s.was_read for s in scalars):
                self.terms.dropped.append(
                    f"{len(gone)} of the {len(scalars)} terms computed at {gone[0].place} are read by nothing: each is "
                    f"overwritten by the next, and the loss has nothing of what they are made of"
                )
        self._scalars.clear()

    def after_backward(self) -> None:
        """Which similarities of a row with itself are pushed down by a cross-entropy."""
        for at, out, gradients in self._products:
            if not gradients:
                continue
            diagonal = torch.stack(gradients).sum(0)
            if not bool((diagonal > 0).all()):
                continue
            if any(_reaches(node, out.grad_fn) for node, _ in self._crossed):
                self.terms.itself.append(
                    f"the {len(diagonal)} x {len(diagonal)} similarities at {at} are of rows with themselves, and each "
                    f"row's own, on the diagonal, stands among its negatives: its gradient is {float(diagonal[0]):.3g}"
                )
        self._products.clear()
        self._crossed.clear()


def _lines() -> tuple[tuple[str, int], ...]:
    out, frame = [], sys._getframe(2)
    while frame is not None:
        if not frame.f_code.co_filename.startswith(_OURS):
            out.append((frame.f_code.co_filename, frame.f_lineno))
        frame = frame.f_back  # type: ignore[assignment]
    return tuple(out)


def _with_itself(a: Tensor, b: Tensor, out: Tensor) -> bool:
    """Whether ``out`` [n, n] compares each of the n rows of one matrix with each of the same."""
    n = out.shape[0]
    if out.dim() != 2 or out.shape[1] != n or n < 2 or a.numel() != b.numel() or a.numel() % n:
        return False
    rows = a.detach().reshape(n, -1)
    columns = [b.detach().reshape(n, -1)] + ([b.detach().T.reshape(n, -1)] if b.dim() == 2 else [])
    return any(torch.equal(rows, c) for c in columns) and len(torch.unique(rows, dim=0)) == n


def _equal_columns(scores: Tensor, labels: Tensor) -> list[int] | None:
    """For each row a column other than its label's with the same score up to rounding, if every row has one."""
    if scores.dtype not in (torch.float32, torch.float64) or scores.shape[1] < 3:
        return None
    if bool((labels < 0).any()) or bool((labels >= scores.shape[1]).any()):
        return None
    finite = scores.where(scores.isfinite(), 0)
    right = finite.gather(1, labels[:, None])
    apart = (scores - right).abs().where(scores.isfinite(), float("inf")).scatter(1, labels[:, None], float("inf"))
    nearest, size = apart.min(1), finite.abs().amax(1)
    spread = finite.std(1)
    same = (nearest.values <= 1e-5 * size) & (spread > 1e-3 * size)
    return nearest.indices.tolist() if bool(same.all()) else None


def _edges(nodes: list[Any], known: set[Any]) -> set[tuple[Any, int]]:
    """The outputs of operators that a graph of gradients reads, down to those of known ones; no parameters."""
    out: set[tuple[Any, int]] = set()
    queue, seen = list(nodes), set(nodes)
    while queue:
        node = queue.pop()
        for child, number in node.next_functions if node is not None else ():
            if child is None or hasattr(child, "variable") or parameter_of(child) is not None:
                continue
            out.add((child, number))
            if child not in seen and child not in known:
                seen.add(child)
                queue.append(child)
    return out


def _reaches(node: Any, wanted: Any) -> bool:
    """Whether the graph of gradients leads from one node to another in a few steps."""
    queue, seen = [(node, 0)], set()
    while queue:
        one, depth = queue.pop()
        if one is wanted:
            return True
        if one is None or one in seen or depth > 12:
            continue
        seen.add(one)
        queue += [(n, depth + 1) for n, _ in one.next_functions]
    return False


class EqualRun(ValueRun):
    """Whether scores that were equal once are equal with another batch, and moved."""

    def __init__(self, equal: Equal, *args: Any) -> None:
        super().__init__(*args)
        self.equal, self.scores = equal, None  # type: Equal, Tensor | None

    def on_function(self, index: int, func: Any, args: Any, kwargs: Any, out: Any) -> Any:
        """Look at the call."""
        if index == self.equal.call and getattr(func, "__name__", "") in _CROSS:
            with DisableTorchFunction():
                scores = args[0] if args else kwargs["input"]
                self.scores = scores.detach().cpu().clone()
        return super().on_function(index, func, args, kwargs, out)

    def again(self) -> tuple[float, float, float] | None:
        """The right class's score of row 0, the other's, and the largest of the row, if equal in every row again."""
        if self.scores is None or len(self.scores) != len(self.equal.labels):
            return None
        found = _equal_columns(self.scores, torch.tensor(self.equal.labels))
        if found != self.equal.columns:
            return None
        row = self.scores[0]
        return float(row[self.equal.labels[0]]), float(row[found[0]]), float(row[row.isfinite()].max())


class FilledRun(ValueRun):
    """The predictions with all fresh memory holding one number."""

    def __init__(
        self, filling: float, plan: Plan, stop: Callable[[], Any], sources: dict[str, Tensor], new: dict[str, Tensor]
    ) -> None:
        super().__init__(plan, stop, sources, new)
        self.filling = filling

    def on_function(self, index: int, func: Any, args: Any, kwargs: Any, out: Any) -> Any:
        """Fill it."""
        if getattr(func, "__name__", "") in _EMPTY and isinstance(out, Tensor) and out.is_floating_point():
            with DisableTorchFunction(), torch.no_grad():
                out.fill_(self.filling)
        return super().on_function(index, func, args, kwargs, out)


class OtherWeightsRun(ValueRun):
    """The predictions with another batch and with other weights in every trained parameter."""

    def begin(self) -> None:
        """Move the parameters, then turn on."""
        import gc

        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for p in [o for o in gc.get_objects() if issubclass(type(o), torch.nn.Parameter)]:
                if p.requires_grad and p.is_floating_point():
                    p.add_((0.1 * torch.randn(p.shape, generator=generator)).to(p))
        super().begin()


@dataclass
class TermFacts:
    """What further runs have shown, each a sentence with inputs: see the claims of `conclusions`."""

    equal: tuple[str, Any] | None = None
    fresh: tuple[str, Any] | None = None
    alike: tuple[str, Any] | None = None


def term_facts(
    runner: Runner,
    plan: Plan,
    terms: Terms,
    support: list[Tensor],
    swapped: dict[str, Tensor],
    contents: dict[str, Tensor],
    base: list[Tensor],
) -> TermFacts:
    """Negatives that are the positive, predictions of fresh memory, and predictions that are the same everywhere.

    ``support`` are the elements of the predictions that the loss reads, of steps that ask for content of a source, and
    ``swapped`` the sources with two groups that are seen and not asked for exchanged.
    """
    out, generator = TermFacts(), torch.Generator().manual_seed(0)
    new = {
        path: t.detach() + (0.5 * t.detach().std().nan_to_num(1.0) * torch.randn(t.shape, generator=generator)).to(t)
        for path, t in contents.items()
        if t.is_floating_point() and t.numel() > 1
    }
    inputs = {"other": {p: t.cpu() for p, t in new.items()}}
    for equal in terms.equal if new else ():

        def equal_run(stop: Callable[[], Any], equal: Equal = equal) -> EqualRun:
            return EqualRun(equal, plan, stop, contents, new)

        again = runner(equal_run, lambda run: run.again()).value
        if again is not None:
            what = (
                f"in the cross-entropy at {equal.place} every row has a negative that scores as its positive: row 0 "
                f"asks for class {equal.labels[0]}, and class {equal.columns[0]} is the same, as with another batch "
                f"({again[0]:.6g} and {again[1]:.6g})"
            )
            out.equal = what, inputs
            break
    if terms.empty:
        fillings, values = (0.25, 0.5), []
        for filling in fillings:

            def filled_run(stop: Callable[[], Any], filling: float = filling) -> FilledRun:
                return FilledRun(filling, plan, stop, contents, {})

            values.append(runner(filled_run, lambda run: run.values).value or [])
        for index, (one, other) in enumerate(zip(*values, strict=False)):
            if one.shape == other.shape and bool(unlike(one, other).any()):
                at = tuple(unlike(one, other).nonzero()[0].tolist())
                what = (
                    f"prediction {index} depends on uninitialised memory, torch.empty at {terms.empty[0]}: filled "
                    f"with 0.25 or 0.5, its value at {list(at)} is {float(one[at]):.6g} or {float(other[at]):.6g}"
                )
                out.fresh = what, {"filling": fillings}
                break
    if support and new:

        def other_run(stop: Callable[[], Any]) -> OtherWeightsRun:
            return OtherWeightsRun(plan, stop, contents, new)

        masks = {tuple(m.shape): m.any(-1) for m in support if m.dim() == 3}
        for index, value in enumerate(base):
            rows = masks.get(tuple(value.shape))
            if rows is None or not _one_vector(value, rows):
                continue
            values = runner(other_run, lambda run: run.values).value
            if not values or len(values) != len(base) or not _one_vector(values[index], rows):
                continue
            # A model of sets knows no places at all, on purpose; one that tells places of what it sees apart is wrong.
            moved = runner(lambda stop: ValueRun(plan, stop, contents, swapped), lambda run: run.values).value
            apart = (moved[index] - value)[rows].abs().max() if moved and moved[index].shape == value.shape else 0
            if swapped and float(apart) > 1e-5 * float(value[rows].abs().max()):
                what = (
                    f"prediction {index} is one and the same, bit for bit, at all {int(rows.sum(1).min())} or more "
                    f"scored places of each sample, with other weights and another batch too, while it tells places "
                    f"apart in what it sees: it does not know which place it is asked for"
                )
                out.alike = what, inputs
                break
    return out


def _one_vector(value: Tensor, rows: Tensor) -> bool:
    """Whether the rows [samples, rows] of a prediction are alike in each sample, and not in all samples."""
    if value.shape[:2] != rows.shape or value.shape[-1] < 2 or len(value) < 2 or not bool((rows.sum(1) > 1).all()):
        return False
    parts = [v[r] for v, r in zip(value, rows, strict=True)]
    alike = all(torch.equal(p, p[:1].expand_as(p)) for p in parts)
    return alike and len(torch.unique(torch.stack([p[0] for p in parts]), dim=0)) > 1
