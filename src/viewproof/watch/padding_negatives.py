"""Rows and negatives of a contrastive loss that are made of padding alone: they hold nothing of any sample.

Padding is what the batch's own mask or lengths say, else a tail of zeros or a sample of zeros. A vector that a
cross-entropy over similarities scores is made of padding if it changes with the padding, and with nothing else of the
batch; a vector that is 0 whatever weights and batch are holds nothing either.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from viewproof.torch_internals import DisableTorchFunction
from viewproof.watch.asked_tokens import WHOLE, asked_ids
from viewproof.watch.child import Runner
from viewproof.watch.loss_terms import CROSS, Operand, Terms, compares, operands
from viewproof.watch.plain_run import Plain
from viewproof.watch.planes import Plan, ValueRun
from viewproof.watch.run import place
from viewproof.watch.sources import carries_content
from viewproof.watch.term_runs import move_weights, other_batch


@dataclass
class Found:
    """What was found, in words.

    ``declared`` says whether the batch itself calls it padding, ``asked`` that it is asked for, and is no negative.
    """

    what: str
    declared: bool
    inputs: dict[str, Any]
    asked: bool = False


def padding_of(tensors: dict[str, Tensor], path: str) -> tuple[Tensor, bool] | None:
    """Where a tensor of the batch is padding, bool of its shape, and whether the batch says so; None without padding.

    >>> x = torch.ones(2, 3)
    >>> x[1, 1:] = 0
    >>> padding_of({"x": x}, "x"), padding_of({"x": x, "lengths": torch.tensor([3, 1])}, "x")[1]
    ((tensor([[False, False, False],
            [False,  True,  True]]), False), True)
    """
    tensor = tensors[path].detach().cpu()
    if tensor.dim() < 2:
        return None
    shape = (*tensor.shape[:2], *[1] * (tensor.dim() - 2))
    for name, mask in tensors.items():
        if name != path and "mask" in name.lower() and mask.shape == tensor.shape[:2] and set_of_bits(mask):
            kept = mask.detach().cpu().bool()
            kept = ~kept if "pad" in name.lower() else kept
            # A mask of padding is 1 up to a place, in each sample, and not in all samples up to the same.
            if bool((kept[:, 1:] <= kept[:, :-1]).all()) and len(set(kept.sum(1).tolist())) > 1:
                return (~kept).view(shape).expand(tensor.shape), True
    if not tensor.is_floating_point():
        return None
    empty = (tensor == 0).flatten(2).all(2) if tensor.dim() > 2 else tensor == 0
    tail = empty.flip(1).cumprod(1).flip(1).bool()
    lengths = (~tail).sum(1)
    if not bool(tail.any()) or len(set(lengths.tolist())) < 2:
        return None
    declared = any(
        t.shape == lengths.shape
        and t.dtype in WHOLE
        and bool(((t[:, None] < t) == (lengths[:, None] < lengths).to(t.device)).all())
        for t in tensors.values()
    )
    return tail.view(shape).expand(tensor.shape), declared


def set_of_bits(tensor: Tensor) -> bool:
    """Whether a tensor holds zeros and ones alone."""
    return tensor.dtype == torch.bool or bool(((tensor == 0) | (tensor == 1)).all())


class ComparedRun(ValueRun):
    """What a cross-entropy over similarities compares: its vectors, the scores of each row, the rows' labels.

    ``wanted`` are, for each call, the scores to look at; ``used`` are then the vectors that they are made of.
    """

    def __init__(self, wanted: list[Tensor] | None, *args: Any) -> None:
        super().__init__(*args)
        self.wanted = wanted
        self.vectors: list[list[Tensor]] = []
        self.scores: list[tuple[Tensor, Tensor]] = []
        self.used: list[list[Tensor]] = []
        self.places: list[str] = []
        self._operands: list[Operand] = []
        self._products: list[tuple[Tensor, str]] = []
        self._soft: dict[Any, Tensor] = {}

    def on_function(self, index: int, func: Any, args: Any, kwargs: Any, out: Any) -> Any:
        """Keep what is compared."""
        name = getattr(func, "__name__", "")
        with DisableTorchFunction():
            new = operands(name, args, kwargs, out)
            self._operands = [*self._operands[-6:], *new]
            if new and out.dim() == 2:
                self._products = [*self._products[-3:], (out, place())]
            elif name == "log_softmax" and isinstance(out, Tensor):
                self._soft[out.grad_fn] = args[0]
            elif name in CROSS and self._operands:
                read = [*args, *kwargs.values()]
                scores = self._soft.get(read[0].grad_fn, read[0])
                self._products = [p for p in self._products if not compares(scores.grad_fn, {p[0].grad_fn})]
                self._look(scores, read[1], place())
        return super().on_function(index, func, args, kwargs, out)

    def on_backward(self, losses: list[Tensor], run: Callable[[], Any]) -> Any:
        """A cross-entropy that is written by hand shows in the gradient: a row has one score that is pushed up."""
        total = sum((t.sum() for t in losses if t.requires_grad), torch.zeros(()))
        if total.requires_grad and self._products:
            self._in_backward = True
            gradients = torch.autograd.grad(total, [p for p, _ in self._products], retain_graph=True, allow_unused=True)
            self._in_backward = False
            for (product, at), gradient in zip(self._products, gradients, strict=True):
                found = asked_ids(gradient) if gradient is not None else None
                if gradient is not None and found is not None:
                    labels = found[0]
                    if 2 * len(torch.unique(labels[labels >= 0])) > int((labels >= 0).sum()):
                        self._look(product.where(gradient != 0, float("-inf")), labels, at)
        self._products = []
        return super().on_backward(losses, run)

    def _look(self, scores: Tensor, labels: Tensor, at: str) -> None:
        if scores.dim() != 2 or labels.dim() != 1 or labels.is_floating_point() or not scores.requires_grad:
            return
        chosen = [(t, a) for t, a, node in self._operands if compares(scores.grad_fn, {node})]
        if not chosen:
            return
        number = len(self.scores)
        self.places.append(at)
        self.vectors.append([t.detach().movedim(a, -1).flatten(0, -2).cpu().clone() for t, a in chosen])
        self.scores.append((scores.detach().cpu().clone(), labels.detach().cpu().clone()))
        if self.wanted is None or number >= len(self.wanted):
            return
        total = scores[self.wanted[number].to(scores.device)].sum()
        self._in_backward = True
        gradients = torch.autograd.grad(total, [t for t, _ in chosen], retain_graph=True, allow_unused=True)
        self._in_backward = False
        self.used.append(
            [
                torch.zeros(v.shape[:1], dtype=torch.bool)
                if g is None
                else (g != 0).movedim(a, -1).flatten(0, -2).any(-1).cpu()
                for g, (_, a), v in zip(gradients, chosen, self.vectors[number], strict=True)
            ]
        )


def read_padding(runner: Runner, plain: Plain, tensors: dict[str, Tensor]) -> str:
    """Which mask or lengths of the batch name padding that the loss changes with all the same, in words, or ""."""

    def said(path: str, name: str) -> Tensor | None:
        found = padding_of({path: tensors[path], name: tensors[name]}, path) if name != path else None
        return found[0] if found is not None and found[1] else None

    record, generator = plain.record, torch.Generator().manual_seed(3)
    for name in tensors:
        for path, tensor in tensors.items():
            padding = said(path, name) if carries_content(path, tensor) else None
            if padding is None:
                continue
            values, known = tensor.detach().cpu(), torch.unique(tensor.detach().cpu()[~padding])
            if {(path, float(v)) for v in torch.unique(values[padding])} & record.tested or len(known) < 2:
                continue  # The step looks for it itself.
            noise = known[torch.randint(len(known), values.shape, generator=generator)]
            new = {path: torch.where(padding, noise, values).to(tensor)}

            def run(stop: Callable[[], Any], path: str = path, new: dict[str, Tensor] = new) -> ValueRun:
                return ValueRun(plain.plan, stop, {path: tensors[path]}, new)

            losses = runner(run, lambda run: [float(t.double().sum()) for t in run.losses]).value
            before = [loss.value for loss in record.losses]
            pairs = [(a, b) for a, b in zip(before, (losses or [])[-len(before) :], strict=False) if a != b]
            if pairs:
                unread = ", and nothing reads it" if name in record.unread else ""
                return (
                    f"{name} says where {path} is padding{unread}: with other values there the loss goes from "
                    f"{pairs[0][0]:.6g} to {pairs[0][1]:.6g}"
                )
    return ""


def padding_negatives(
    runner: Runner, plan: Plan, terms: Terms, tensors: dict[str, Tensor], parameters: list[torch.nn.Parameter]
) -> Found | None:
    """A negative or a row that is made of padding alone, or a negative of zeros whatever is computed."""
    found = {path: p for path in tensors if (p := padding_of(tensors, path)) is not None}
    if not found and not terms.compared:
        return None
    generator = torch.Generator().manual_seed(2)
    noise = other_batch({p: t for p, t in tensors.items() if t.is_floating_point() and t.dim() > 1}, generator)
    noise |= {
        p: t.flatten()[torch.randperm(t.numel(), generator=generator)].view(t.shape)
        for p, t in tensors.items()
        if p in found and p not in noise
    }

    def run(new: dict[str, Tensor], wanted: list[Tensor] | None = None, moved: bool = False) -> Any:
        def make(stop: Callable[[], Any]) -> ComparedRun:
            if moved:
                move_weights(parameters, 0.1)
            return ComparedRun(wanted, plan, stop, tensors, new)

        return runner(make, lambda run: (run.vectors, run.scores, run.used, run.places)).value

    base = run({})
    zeros = base is not None and any(bool(_zero(v).any()) for parts in base[0] for v in parts)
    if not base or not base[0] or not (found or zeros):
        return None
    inside = {p: torch.where(mask.to(noise[p].device), noise[p], tensors[p]) for p, (mask, _) in found.items()}
    outside = {p: torch.where(found[p][0].to(t.device), tensors[p], t) if p in found else t for p, t in noise.items()}
    padded, content = run(inside) if found else base, run(outside)
    moved = run(outside, moved=True) if zeros else None
    if not padded or not content or any(_unlike(base, other) for other in (padded, content)):
        return None
    negatives, positives, marked = [], [], []
    for call, (scores, labels) in enumerate(base[1]):
        rows = (labels >= 0) & (labels < scores.shape[1])
        right = labels.clamp(0, scores.shape[1] - 1)[:, None]
        same = (padded[1][call][0].gather(1, right) - scores.gather(1, right)).abs()[:, 0] <= 1e-6
        chosen = (rows & same)[:, None].expand(scores.shape).clone()
        # What is masked by a large negative number takes no part.
        chosen &= scores >= scores.amax(1, keepdim=True) - 100
        negatives.append(chosen.scatter_(1, right, value=False))
        positives.append(torch.zeros_like(chosen).scatter_(1, right, (rows & ~same)[:, None]))
        kinds = []
        for v, p, c, m in zip(base[0][call], padded[0][call], content[0][call], (moved or base)[0][call], strict=True):
            made = (v != p).any(1) & (v == c).all(1)
            nothing = _zero(v) & _zero(p) & _zero(c) & _zero(m) & bool(moved)
            kinds.append((made, nothing))
        marked.append(kinds)
    paths, declared = " and ".join(found), all(said for _, said in found.values())
    for asked, wanted in ((False, negatives), (True, positives)):
        used = run({}, wanted)
        if not used or len(used[2]) != len(wanted):
            return None
        for at, parts, kinds in zip(base[3], used[2], marked, strict=True):
            for rows, (made, nothing) in zip(parts, kinds, strict=True):
                if count := int((rows & made).sum()):
                    how = "asks for" if asked else "compares rows with"
                    what = (
                        f"the cross-entropy at {at} {how} {count} vectors that are made of the padding of {paths} "
                        "alone: they change with it, and with nothing else of the batch"
                    )
                    return Found(what, declared, {"padding changed": inside}, asked)
                if not asked and (count := int((rows & nothing).sum())):
                    what = (
                        f"the cross-entropy at {at} compares rows with {count} vectors of zeros, with other weights "
                        "and another batch too: rows of padding, or of a queue that is not filled"
                    )
                    return Found(what, False, {})
    return None


def _zero(vectors: Tensor) -> Tensor:
    return (vectors == 0).all(1)


def _unlike(one: Any, other: Any) -> bool:
    """Whether two runs do not compare the same numbers of vectors."""
    return [[v.shape for v in parts] for parts in one[0]] != [[v.shape for v in parts] for parts in other[0]]
