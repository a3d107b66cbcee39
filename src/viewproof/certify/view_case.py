"""One draw of a view on the example: what it returned, where each coordinate comes from, and what is hidden."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from viewproof.certify.flow.trace import CONSTANT, MIXED, LabelTrace
from viewproof.certify.report import Contract, Finding
from viewproof.certify.search import Output, View, difference, others, place, spread_mask, unlike
from viewproof.masks import Mask, Rule
from viewproof.verdict import Verdict

LABELS = "labels moved with the data"


@dataclass(frozen=True, eq=False)
class Declared:
    """What the user handed over: the view, an example, and what is declared of them."""

    view: Callable[[Tensor], Any]
    example: Tensor
    rule: Rule | Mask | None = None
    target: Callable[[Tensor], Tensor] | None = None
    source: Callable[[Tensor], Tensor] | None = None

    def target_of(self, x: Tensor, y: Tensor) -> Tensor | None:
        """The declared target; without one x itself or its row-major prefix, whichever has y's shape."""
        if self.target is not None:
            return self.target(x)
        if x.shape == y.shape:
            return x
        flat = x.reshape(x.shape[0], -1)
        fits = y.dim() == 2 and y.shape[0] == x.shape[0] and y.shape[1] <= flat.shape[1]
        return flat[:, : y.shape[1]] if fits else None

    def ruled(self) -> Tensor | None:
        """The rule's mask over the batch."""
        if self.rule is None:
            return None
        mask = self.rule if isinstance(self.rule, Mask) else self.rule.mask(tuple(self.example.shape[1:]))
        hidden = spread_mask("rule", mask, self.example)
        return None if hidden is None else hidden.to(self.example.device)


class Case:
    """One draw of a view on the example, with the labels of what it returned.

    ``seen`` labels x, ``origin`` the coordinates of the declared target (of y itself if none is declared); ``lost``
    says why labels prove nothing, ``doubt`` why they prove nothing beyond this draw or these values.
    """

    def __init__(self, declared: Declared, seed: int, random: bool) -> None:
        self.declared, self.random, self.view = declared, random, View(declared.view, seed)
        self.example, self.count = declared.example, declared.example.numel()
        self.scope = f"all values at {'x'.join(map(str, self.example.shape))}"
        self.output, self.after, trace = self._traced()
        self.seen, self.made, self.wrote = trace.labels(self.output.x), trace.labels(self.output.y), trace.wrote
        changing = trace.touches(self.output.mask, *(m for m in (self.output.view,) if m is not None))
        self.lost = trace.lost or ("which coordinates are hidden depends on the values" if changing else None)
        self.wanted = self._wanted()
        self.origin = self.base(self.made if self.wanted is None else self.wanted)
        self.ruled = declared.ruled()
        self.lost = self.lost or self._mispredicted()
        self.doubt = self.lost or ("the view is random: other draws may differ" if random else None)
        if self.hidden is not None and bool((self.seen == MIXED).any()):
            # Now that it is known what is hidden, what was computed from visible coordinates only can be told apart.
            again, _, trace = self._traced(self.hidden)
            self.seen = trace.labels(again.x)

    def _traced(self, hidden: Tensor | None = None) -> tuple[Output, Tensor, LabelTrace]:
        x = self.example.clone()
        with LabelTrace(x, hidden) as trace:
            output = self.view.on(x)
        return output, x, trace

    def _wanted(self) -> Tensor | None:
        x = self.example.clone()
        with LabelTrace(x) as trace:
            target = self.declared.target_of(x, self.output.y)
        self.lost = self.lost or trace.lost
        return None if target is None else trace.labels(target)

    def base(self, labels: Tensor) -> Tensor:
        """Labels without the mark of having been computed."""
        return torch.where(labels >= self.count, labels - self.count, labels)

    @cached_property
    def hidden(self) -> Tensor | None:
        """The hidden source coordinates of the example; None if the masked target does not tell."""
        return self.hidden_in(self.output)

    def hidden_in(self, output: Output) -> Tensor | None:
        """The hidden source coordinates of a run."""
        if self.ruled is not None:
            return self.ruled
        if output.view is not None and output.x.shape == self.example.shape:
            return output.view
        if output.mask.shape != self.origin.shape:
            return None
        chosen = self.origin[output.mask if output.kept is None else output.mask & ~output.kept]
        if bool((chosen < CONSTANT).any()):
            return None
        hidden = torch.zeros(self.count, dtype=torch.bool, device=self.example.device)
        hidden[chosen[chosen >= 0]] = True
        return hidden.reshape(self.example.shape)

    @cached_property
    def shown(self) -> Tensor:
        """The flat source coordinates that x was made of."""
        shown = torch.zeros(self.count, dtype=torch.bool, device=self.example.device)
        labels = self.base(self.seen)
        shown[labels[labels >= 0]] = True
        return shown

    @cached_property
    def absent(self) -> Tensor:
        """The flat source coordinates whose values on the example are none of x's."""
        if self.output.x.dtype != self.example.dtype or self.example.is_complex():
            return torch.zeros(self.count, dtype=torch.bool, device=self.example.device)
        return ~torch.isin(self.example.reshape(-1), self.output.x)

    def inputs(self, **more: Any) -> dict[str, Any]:
        """The inputs of a witness."""
        return {"x": self.example, **more, **({"seed": self.view.seed} if self.random else {})}

    def runs(self) -> Iterator[tuple[Tensor, Output]]:
        """The example and inputs like it, with what the view returns for each."""
        yield self.example, self.output
        for x in others(self.example):
            output = self.view.tried(x)
            if output is not None:
                yield x, output

    def changed(self, index: int) -> Iterator[tuple[Tensor, Output]]:
        """The example with another value at one source coordinate, and what the view returns for it."""
        for other in others(self.example):
            x = self.example.clone()
            x.view(-1)[index] = other.reshape(-1)[index]
            output = self.view.tried(x) if difference(x, self.example) is not None else None
            if output is not None:
                yield x, output

    def place(self, index: Any) -> tuple[int, ...]:
        """The coordinate of a flat source index."""
        return place(int(index), self.example.shape)

    def proved(self, contract: Contract, claim: str, detail: str = "") -> Finding:
        """Holds by the labels; UNKNOWN if something else than labels decides."""
        if self.doubt is not None:
            return Finding(contract, claim, Verdict.UNKNOWN, "the runs tried", LABELS, self.doubt)
        return Finding(contract, claim, Verdict.PROVED, self.scope, LABELS, detail)

    def _mispredicted(self) -> str | None:
        """Why the labels cannot be right, if what they say of another input does not come true."""
        *_, x = itertools.islice(others(self.example), 2)
        output = self.view.tried(x)
        if output is None:
            return "whether the view has an answer depends on the values"
        told = ((self.output.x, output.x, self.seen), (self.output.y, output.y, self.made))
        if any(old.shape != new.shape or old.dtype != new.dtype for old, new, _ in told):
            return "the shape of x or y depends on the values"
        if difference(self.output.mask, output.mask) is not None:
            return "which coordinates are hidden depends on the values"
        for old, new, labels in told:
            moved = (labels >= 0) & (labels < self.count)
            same_dtype = new.dtype == x.dtype
            expected = torch.where(moved, x.reshape(-1)[labels.clamp(0, self.count - 1)], old) if same_dtype else old
            if bool((unlike(expected, new) & ((labels == CONSTANT) | (moved & same_dtype))).any()):
                return "another input shows that the output depends on values in a way that no operator shows"
        return None
