"""The tokens that a loss asks for: of each row of a prediction the id, and where in the batch that token stands."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from viewproof.torch_internals import DisableTorchFunction
from viewproof.watch.planes import Plan, PlannedRun
from viewproof.watch.run import tensors_of_call
from viewproof.watch.sources import with_tensors

WHOLE = (torch.int64, torch.int32, torch.int16)
"""The dtypes of ids."""


class AskingRun(PlannedRun):
    """The gradient of the losses over the predictions, which hold given values whatever the batch holds."""

    def __init__(
        self,
        plan: Plan,
        stop: Callable[[], Any],
        base: list[Tensor],
        sources: dict[str, Tensor],
        new: dict[str, Tensor],
    ) -> None:
        super().__init__(plan, False, stop)
        self.base, self.sources, self.new = base, sources, new
        self.leaves: list[Tensor] = []
        self.gradients: list[Tensor] = []

    def batch(self, batch: Any) -> Any:
        """The batch with the given contents."""
        return with_tensors(batch, {id(self.sources[path]): t.clone() for path, t in self.new.items()})

    def prediction(self, out: Any) -> Any:
        """A leaf with the value of the first run."""
        with DisableTorchFunction(), torch.enable_grad():
            new = {}
            for tensor in tensors_of_call(out):
                index = len(self.leaves)
                value = self.base[index] if index < len(self.base) else tensor.detach()
                leaf = value.to(tensor.device, copy=True).requires_grad_(tensor.is_floating_point())
                self.leaves.append(leaf)
                self.gradients.append(torch.zeros_like(leaf))
                new[id(tensor)] = leaf.view_as(leaf)
            return with_tensors(out, new)

    def on_backward(self, losses: list[Tensor], run: Callable[[], Any]) -> Any:
        """The gradients, and no others."""
        if not self.leaves:
            return run()
        with DisableTorchFunction():
            total = sum(t.sum() for t in losses if t.requires_grad)
            asked = [leaf for leaf in self.leaves if leaf.requires_grad]
            if isinstance(total, Tensor) and asked:
                self._in_backward = True
                gradients = torch.autograd.grad(total, asked, retain_graph=True, allow_unused=True)
                self._in_backward = False
                found = dict(zip(map(id, asked), gradients, strict=True))
                for leaf, kept in zip(self.leaves, self.gradients, strict=True):
                    gradient = found.get(id(leaf))
                    if gradient is not None:
                        kept += gradient.detach()
        if self.backwards >= self.plan.backwards:
            self.stop()
        return None


def asked_ids(gradient: Tensor) -> tuple[Tensor, int] | None:
    """The id that each row of scores is asked for, -1 for none, and the axis of the scores; None if it is no such loss.

    >>> scores = torch.randn(2, 3, 5, requires_grad=True)
    >>> loss = torch.nn.functional.cross_entropy(scores.flatten(0, 1), torch.tensor([4, -100, 0, 1, 1, -100]))
    >>> asked_ids(torch.autograd.grad(loss, scores)[0])
    (tensor([[ 4, -1,  0],
            [ 1,  1, -1]]), -1)
    """
    if not gradient.is_floating_point() or gradient.dim() < 2 or not bool((gradient != 0).any()):
        return None
    for axis in (-1, 1)[: 1 if gradient.dim() == 2 else 2]:
        g = gradient.double().movedim(axis, -1)
        total, lowest = g.abs().sum(-1), g.min(-1)
        scored = total > 0
        # The scores of a softmax: one is pushed up by as much as all others are pushed down.
        one = (-lowest.values >= 0.4 * total) & (g.sum(-1).abs() <= 1e-2 * total)
        if bool(one[scored].all()):
            return torch.where(scored, lowest.indices, -1), axis
    return None


@dataclass
class Asked:
    """Rows of one prediction and the tokens of the batch that they are asked for.

    ``ids`` [samples, rows] are the ids, -1 where a row is asked for nothing; row ``t`` is asked for the token ``t +
    offset`` of ``tokens`` [samples, tokens]. The same token stands ``link`` places later in ``inputs``, where equal.
    """

    prediction: int
    axis: int
    ids: Tensor
    path: str
    tokens: Tensor
    offset: int
    inputs: str
    read: Tensor
    link: int = 0
    others: tuple[str, ...] = ()

    @property
    def cells(self) -> Tensor:
        """[samples, tokens]: which are asked for."""
        return self.cells_of(self.ids >= 0)

    def cells_of(self, rows: Tensor) -> Tensor:
        """The tokens that these rows [samples, rows] are asked for."""
        out = torch.zeros(self.tokens.shape, dtype=torch.bool)
        for b, t in (rows & (self.ids >= 0)).nonzero().tolist():
            out[b, t + self.offset] = True
        return out

    def rows_of(self, cells: Tensor) -> Tensor:
        """The rows that are asked for one of these tokens."""
        out = torch.zeros(self.ids.shape, dtype=torch.bool)
        for b, t in (self.ids >= 0).nonzero().tolist():
            out[b, t] = cells[b, t + self.offset]
        return out

    def linked(self, cells: Tensor) -> Tensor:
        """[samples, inputs]: where these tokens stand in what the model reads."""
        out = torch.zeros(self.read.shape, dtype=torch.bool)
        for b, u in cells.nonzero().tolist():
            v = u + self.link
            if 0 <= v < out.shape[1]:
                out[b, v] = bool(self.read[b, v] == self.tokens[b, u])
        return out

    def marks(self, cells: Tensor) -> dict[str, Tensor]:
        """The coordinates of the batch that hold these tokens."""
        return {self.inputs: self.linked(cells)} | ({self.path: cells} if self.path != self.inputs else {})

    def replaced(self, cells: Tensor) -> dict[str, Tensor]:
        """The batch's tensors with another token, of those that are asked for, in the place of each of these."""
        known = torch.unique(self.tokens[self.cells])
        index = (torch.searchsorted(known, self.tokens.clamp(min=int(known[0]), max=int(known[-1]))) + 1) % len(known)
        other = known[index]
        new = {self.path: torch.where(cells, other, self.tokens)}
        if self.inputs != self.path:
            read = self.read.clone()
            for b, u in cells.nonzero().tolist():
                v = u + self.link
                if 0 <= v < read.shape[1] and self.read[b, v] == self.tokens[b, u]:
                    read[b, v] = other[b, u]
            new[self.inputs] = read
        return new


def candidates(gradients: list[Tensor], tensors: Mapping[str, Tensor]) -> Iterator[Asked]:
    """The tokens that the predictions' rows may be asked for: labels by their name first."""
    ints = {p: t.detach().cpu() for p, t in tensors.items() if t.dtype in WHOLE and t.dim() == 2 and t.numel()}
    ints = {p: t for p, t in ints.items() if int(t.max()) > 1 and "mask" not in p.lower() and "position" not in p}
    named = [p for p in ints if "label" in p.lower() or "target" in p.lower()]
    for index, gradient in enumerate(gradients):
        asked = asked_ids(gradient)
        if asked is None:
            continue
        flat, axis = asked
        for path in [*named, *(p for p in ints if p not in named)]:
            tokens = ints[path]
            if flat.numel() % len(tokens) or (flat.dim() > 1 and len(flat) != len(tokens)):
                continue
            ids = flat.reshape(len(tokens), -1)
            if not 0 <= tokens.shape[1] - ids.shape[1] <= 4:
                continue
            scored = (ids >= 0).nonzero()
            for offset in (0, 1, 2, -1):
                at = scored[:, 1] + offset
                inside = bool((at >= 0).all() and (at < tokens.shape[1]).all())
                if inside and bool((tokens[scored[:, 0], at] == ids[scored[:, 0], scored[:, 1]]).all()):
                    others = {p: t for p, t in ints.items() if p != path and p not in named}
                    one = Asked(index, axis, ids, path, tokens, offset, path, tokens, others=tuple(others))
                    # Scores are of words only if there is one for every id; else labels are no tokens.
                    words = gradient.shape[axis]
                    _link(one, {p: t for p, t in others.items() if int(t.max()) < words}, path in named)
                    yield one


def _link(asked: Asked, others: Mapping[str, Tensor], named: bool) -> None:
    """Find where else the tokens stand: a tensor that holds them all a place later, or the labels' tokens."""
    cells = asked.cells
    for path, read in others.items():
        if len(read) != len(asked.tokens):
            continue
        for link in (1, -1):
            width = min(read.shape[1], asked.tokens.shape[1])
            a, b = (slice(None, -1), slice(1, None))[::link]
            same = (asked.tokens[:, :width][:, a] == read[:, :width][:, b])[cells[:, :width][:, a]]
            if len(same) >= 4 and bool(same.all()):
                asked.inputs, asked.read, asked.link = path, read, link
                return
    for path, read in others.items():
        if named and read.shape == asked.tokens.shape:
            asked.inputs, asked.read, asked.link = path, read, 0
            return
