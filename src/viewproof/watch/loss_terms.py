"""What the plain run shows of a loss's terms: computed and left out, rows compared with themselves, fresh memory."""

import sys
import weakref
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from viewproof.watch.asked_tokens import asked_ids
from viewproof.watch.graph import parameter_of
from viewproof.watch.run import _OURS, place

PRODUCTS = ("matmul", "__matmul__", "__rmatmul__", "mm", "einsum", "cosine_similarity", "linear", "cdist", "inner")
CROSS = ("cross_entropy", "nll_loss")
UNREDUCED = frozenset({"mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "kl_div", "cosine_similarity", *CROSS})
UNREDUCED |= {"binary_cross_entropy", "binary_cross_entropy_with_logits", "pairwise_distance", "gaussian_nll_loss"}
PICKS = ("__getitem__", "index_select", "gather", "take", "take_along_dim", "masked_select", "diagonal", "diag")
_DIFFERENCES = ("sub", "subtract", "__sub__", "__rsub__", "rsub")
_TIMES = ("mul", "multiply", "__mul__", "__rmul__", "__imul__", "mul_")
EMPTY = ("empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided")


@dataclass
class Equal:
    """A cross-entropy in which every row has a wrong class that scores as the right one: ``columns`` [rows]."""

    call: int
    place: str
    columns: list[int]
    labels: list[int]


@dataclass
class Terms:
    """What was found, each a sentence; ``equal`` are to be looked at with another batch.

    ``left_out`` are terms that no loss reads, ``twice`` those that one reads a second time, ``zeroed`` those that it
    reads times 0, ``compared`` the places of cross-entropies over similarities.
    """

    dropped: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    twice: list[str] = field(default_factory=list)
    zeroed: list[str] = field(default_factory=list)
    compared: list[str] = field(default_factory=list)
    itself: list[str] = field(default_factory=list)
    equal: list[Equal] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)


@dataclass
class _Term:
    """A number or a vector of sums, with a gradient: where it was made (all lines), and whether anything read it."""

    tensor: weakref.ref[Tensor]
    place: str
    node: Any
    value: bytes
    vector: bool = False
    was_read: bool = False


class TermWatcher:
    """Looks at the functions of one run."""

    def __init__(self) -> None:
        self.terms = Terms()
        self._by_lines: dict[tuple[tuple[str, int], ...], list[_Term]] = {}
        self._all: list[_Term] = []
        self._in_losses: set[Any] = set()
        self._by_id: dict[int, _Term] = {}
        self._products: list[tuple[str, Tensor, list[Tensor]]] = []
        self._crossed: list[tuple[Any, str]] = []
        self._similar: set[Any] = set()
        self._zeroed: list[tuple[Any, str]] = []

    def read(self, tensors: list[Tensor]) -> None:
        """A function is given these."""
        for tensor in tensors:
            term = self._by_id.get(id(tensor))
            if term is not None and term.tensor() is tensor:
                term.was_read = True

    def used(self, tensors: list[Tensor]) -> None:
        """A loss has these, or their gradients."""
        self.read(tensors)
        self._in_losses |= {tensor.grad_fn for tensor in tensors}

    def made(self, index: int, name: str, read: list[Tensor], out: Any, args: Any = ()) -> None:
        """A function has returned what it made of the tensors that it read; ``args`` are its arguments."""
        if not isinstance(out, Tensor):
            return
        if name in EMPTY and out.is_floating_point():
            self.terms.empty.append(place())
        if not out.requires_grad or not out.is_floating_point():
            return
        compared = (name in _DIFFERENCES and _with_a_target(read)) or any(
            hasattr(t, "_viewproof_compared") for t in read
        )
        # What a layer makes of it is an activation again.
        if compared and not any(isinstance(t, torch.nn.Parameter) for t in read):
            out._viewproof_compared = True  # type: ignore[attr-defined]
            if out.dim() > 1 and out.numel() > 1 and name not in UNREDUCED and not out._is_view():
                self._note(out, out.detach().double().sum().cpu().numpy().tobytes(), False)
        if out.numel() == 1 or name in UNREDUCED or (out.dim() == 1 and self._reduces(name, read, out)):
            value, vector = out.detach().double().cpu().numpy().tobytes(), out.numel() > 1 and name not in UNREDUCED
            self._by_lines.setdefault(_lines(), []).append(self._note(out, value, vector))
        if name in _TIMES and any(id(t) in self._by_id and _made_of_data(t) for t in read):
            factors = [a for a in args if not isinstance(a, Tensor)] + [t for t in read if not t.requires_grad]
            if any(f.numel() == 1 and not f if isinstance(f, Tensor) else f == 0 for f in factors):
                self._zeroed.append((out.grad_fn, place()))
        if name in PRODUCTS and name != "linear" and len(read) == 2:
            self._similar.add(out.grad_fn)
        if name in PRODUCTS and len(read) == 2 and _with_itself(read[0], read[1], out):
            gradients: list[Tensor] = []
            out.register_hook(  # type: ignore[no-untyped-call]
                lambda g, gradients=gradients: gradients.append(g.detach().cpu())
            )
            self._products.append((place(), out, gradients))
        if name in CROSS and len(read) >= 2:
            scores, labels = read[0].detach(), read[1].detach()
            if scores.dim() == 2 and labels.dim() == 1 and not labels.is_floating_point() and len(labels) > 1:
                self._crossed.append((read[0].grad_fn, place()))
                equal = equal_columns(scores, labels)
                if equal is not None:
                    self.terms.equal.append(Equal(index, place(), equal, labels.tolist()))

    def _note(self, out: Tensor, value: bytes, vector: bool) -> _Term:
        term = _Term(weakref.ref(out), place(), out.grad_fn, value, vector)
        self._all.append(term)
        self._by_id[id(out)] = term
        return term

    def _reduces(self, name: str, read: list[Tensor], out: Tensor) -> bool:
        """Whether a vector is one of sums, of samples or of features, or made of such: no part of an activation."""
        if name in PICKS or out._is_view():
            return False
        terms = [term for t in read if (term := self._by_id.get(id(t))) is not None and term.tensor() is t]
        return bool(terms) or any(t.requires_grad and t.numel() > out.numel() for t in read)

    def at_backward(self, losses: list[Tensor]) -> None:
        """Which numbers were made, never read, and are gone, while others of the same line are read.

        A term that shares an activation with the loss is left out: each may be a step of one refinement, of which
        the last is meant.
        """
        roots = [loss.grad_fn for loss in losses]
        edges = _edges(roots, set())
        nodes = {node for node, _ in edges}
        self._in_losses |= nodes | set(roots)
        self.terms.zeroed += [at for node, at in self._zeroed if node in self._in_losses]
        self._zeroed.clear()
        for terms in self._by_lines.values():
            gone = [s for s in terms if not s.was_read and s.tensor() is None and not _edges([s.node], nodes) & edges]
            if gone and any(s.was_read for s in terms):
                self.terms.dropped.append(
                    f"{len(gone)} of the {len(terms)} terms computed at {gone[0].place} are read by nothing: each is "
                    f"overwritten by the next, and the loss has nothing of what they are made of"
                )
        self._by_lines.clear()

    def after_backward(self) -> None:
        """Which similarities of a row with itself are pushed down by a cross-entropy, and which are compared."""
        self.terms.compared += [at for node, at in self._crossed if compares(node, self._similar)]
        for at, out, gradients in self._products:
            if not gradients:
                continue
            gradient = torch.stack(gradients).sum(0)
            diagonal = gradient.diagonal(dim1=-2, dim2=-1)
            if not bool((diagonal > 0).all()):
                continue
            n, first = out.shape[-1], float(diagonal.flatten()[0])
            # A cross-entropy by its name, or by its gradient, which of few rows may look so by chance.
            by_name = any(_reaches(node, out.grad_fn) for node, _ in self._crossed)
            if by_name or (n > 3 and asked_ids(gradient) is not None):
                self.terms.itself.append(
                    f"the {n} x {n} similarities at {at} are of rows with themselves, and each row's own, on the "
                    f"diagonal, stands among its negatives: its gradient is {first:.3g}"
                )
        self._products.clear()
        self._crossed.clear()
        self._similar.clear()

    def at_end(self) -> None:
        """Which terms are made of what a loss reads, and are part of no loss: terms that are forgotten, or logged.

        A number made of the loss or of its terms, such as a perplexity, is no term of its own; nor is a second copy,
        nor a vector of sums of what the loss reads itself, such as norms of embeddings.
        """
        known = {s.node: s for s in self._all if s.node in self._in_losses}
        numbers = [s for s in known.values() if len(s.value) == 8 and any(s.value)]
        for i, term in enumerate(numbers):
            if any(term.value == other.value and _alike(term.node, other.node) for other in numbers[:i]):
                self.terms.twice.append(term.place)
        values = {s.value for s in known.values()}
        made_of: dict[int, set[Any]] = {}
        for term in self._all:
            if term.node in self._in_losses or term.value in values:
                continue
            if term.vector and {node for node, _ in term.node.next_functions if node is not None} <= self._in_losses:
                continue
            below = {node for node, _ in _edges([term.node], self._in_losses)}
            if below & self._in_losses - known.keys():
                made_of[id(term)] = below
        inner = set().union(*made_of.values()) if made_of else set()
        places = [s.place for s in self._all if id(s) in made_of and s.node not in inner]
        self.terms.left_out += dict.fromkeys(places)


def _with_a_target(read: list[Tensor]) -> bool:
    """Whether something predicted is compared, number by number, with what came in the batch."""
    if len(read) != 2 or read[0].shape != read[1].shape or read[0].requires_grad == read[1].requires_grad:
        return False
    target = read[0] if read[1].requires_grad else read[1]
    origins = getattr(target, "_viewproof_from", ())
    return bool(origins) and all(origin.startswith("batch") for origin in origins)


def _made_of_data(tensor: Tensor) -> bool:
    """Not of parameters alone, as what is added times 0 so that every parameter takes part."""
    return bool(getattr(tensor, "_viewproof_from", ()))


def compares(node: Any, products: set[Any]) -> bool:
    """Whether scores are made of one of these products of two activations, with no layer between."""
    queue, seen = [(node, 0)], set()
    while queue:
        one, depth = queue.pop()
        if one is None or one in seen or depth > 8:
            continue
        seen.add(one)
        children = [child for child, _ in one.next_functions if child is not None]
        if any(parameter_of(child) is not None for child in children):
            continue
        if one in products:
            return True
        queue += [(child, depth + 1) for child in children]
    return False


Operand = tuple[Tensor, int, Any]
"""What a product compares: a tensor, the axis along which its vectors lie, and the product's node in the graph."""


def operands(name: str, args: Any, kwargs: Any, out: Any) -> list[Operand]:
    """The activations that a product compares; [] if the function is none, or takes weights and data alone.

    >>> x, y = torch.ones(2, 3, requires_grad=True) * 1, torch.ones(4, 3, requires_grad=True) * 1
    >>> [axis for _, axis, _ in operands("einsum", ("nc,kc->nk", x, y), {}, x @ y.T)]
    [-1, -1]
    >>> [axis for _, axis, _ in operands("einsum", ("nc,ck->nk", [x, y.T]), {}, x @ y.T)]
    [-1, -2]
    """
    parts = [part if isinstance(part, list | tuple) else (part,) for part in args]
    found = [a for part in parts for a in part if isinstance(a, Tensor)][:2]
    weights = any(isinstance(one, torch.nn.Parameter) for a in found for one in (a, a._base))
    if name not in PRODUCTS or name == "linear" or len(found) < 2 or weights:
        return []
    axes: tuple[int, ...] = (-1, -1 if name in ("cdist", "inner") or found[1].dim() < 2 else -2)
    if name == "cosine_similarity":
        axes = (kwargs.get("dim", args[2] if len(args) > 2 else 1),) * 2
    elif name == "einsum":
        if not isinstance(args[0], str):
            return []
        read, _, left = args[0].replace(" ", "").partition("->")
        first, second = read.split(",")[:2]
        shared = [c for c in first if c in second and c not in left]
        if len(shared) != 1 or "." in read:
            return []
        axes = first.index(shared[0]) - len(first), second.index(shared[0]) - len(second)
    pairs = zip(found, axes, strict=True)
    return [(t, axis, out.grad_fn) for t, axis in pairs if t.requires_grad and not t.is_leaf]


def _lines() -> tuple[tuple[str, int], ...]:
    out, frame = [], sys._getframe(2)
    while frame is not None:
        if not frame.f_code.co_filename.startswith(_OURS):
            out.append((frame.f_code.co_filename, frame.f_lineno))
        frame = frame.f_back  # type: ignore[assignment]
    return tuple(out)


def _with_itself(a: Tensor, b: Tensor, out: Tensor) -> bool:
    """Whether ``out`` [n, n] compares each of the n rows of one matrix with each of the same; or all of a stack do."""
    n = out.shape[0]
    if out.dim() == a.dim() == b.dim() == 3:
        return bool(len(out)) and all(_with_itself(*one) for one in zip(a, b, out, strict=True))
    if out.dim() != 2 or out.shape[1] != n or n < 2 or a.numel() != b.numel() or a.numel() % n:
        return False
    rows = a.detach().reshape(n, -1)
    columns = [b.detach().reshape(n, -1)] + ([b.detach().T.reshape(n, -1)] if b.dim() == 2 else [])
    return any(torch.equal(rows, c) for c in columns) and len(torch.unique(rows, dim=0)) == n


def equal_columns(scores: Tensor, labels: Tensor) -> list[int] | None:
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


def _alike(one: Any, other: Any, depth: int = 12) -> bool:
    """Whether two nodes of the graph of gradients do the same to the same."""
    if one is other or one is None or other is None or not depth:
        return one is other
    pairs = zip(one.next_functions, other.next_functions, strict=False)
    return (
        one.name() == other.name()
        and 0 < len(one.next_functions) == len(other.next_functions)
        and all(n == m and _alike(a, b, depth - 1) for (a, n), (b, m) in pairs)
    )


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
