"""A view as the claims see it: read in any form it returns, each coordinate labelled."""

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from viewproof.bits import seeded, unlike
from viewproof.certify.flow.isolation import uncompiled
from viewproof.certify.flow.storage import address
from viewproof.certify.flow.trace import CONSTANT, MIXED, LabelTrace
from viewproof.certify.inputs import other_contents, spread_mask
from viewproof.certify.outputs import coordinate, difference
from viewproof.certify.surroundings import draws_numbers
from viewproof.errors import InvalidArgument
from viewproof.masks import Mask, Rule
from viewproof.torch_internals import BelowModes

DRAWS, DECLARED_DRAWS = 3, 8
"""How many draws of a random view are looked at, and of one that is declared to be random."""

PARTS = ("x", "y", "mask", "view", "kept")


@dataclass(frozen=True, eq=False)
class ViewOutput:
    """The parts of what a view returned; ``mask`` is Boolean over y's coordinates with batch axis.

    ``view`` is Boolean over x's coordinates, or over the source's, if the view returned one; ``kept`` marks target
    coordinates that the loss asks for although x is declared to show them. ``returned`` is the object itself, and
    ``shared`` says whether x and y lay in the same memory.
    """

    x: Tensor
    y: Tensor
    mask: Tensor
    view: Tensor | None
    kept: Tensor | None
    returned: Any
    shared: bool = False


def read_output(returned: Any, source: Tensor | None = None) -> ViewOutput:
    """A `Sample`, an object or mapping with x, y and mask, or a tuple in that order.

    ``view`` may lie over ``source`` where it does not fit x, an x of gathered tokens say.
    """
    if isinstance(returned, Mapping):
        parts = {name: returned.get(name) for name in PARTS}
    elif isinstance(returned, tuple | list) and not hasattr(returned, "mask"):
        parts = dict.fromkeys(PARTS) | dict(zip(PARTS, returned, strict=False))
    else:
        parts = {name: getattr(returned, name, None) for name in PARTS}
    x, y, mask, view, kept = parts.values()
    if not isinstance(x, Tensor) or not isinstance(y, Tensor) or mask is None:
        types = ", ".join(f"{name}: {type(parts[name]).__name__}" for name in PARTS[:3])
        raise InvalidArgument(f"the view returned {types}; return a Sample or (x, y, mask), tensors and their mask")
    if view is not None:
        try:
            view = spread_mask("view", view, x)
        except InvalidArgument:
            if source is None or source.shape == x.shape:
                raise
            view = spread_mask("view", view, source)
    kept = None if kept is None else spread_mask("kept", kept, y)
    return ViewOutput(x, y, spread_mask("mask", mask, y), view, kept, returned)


@dataclass(frozen=True, eq=False)
class DeclaredView:
    """A user's view, an example of its input, and what is declared of them; see `certify_view`."""

    view: Callable[[Tensor], Any]
    example: Tensor
    rule: Rule | Mask | None = None
    target: Callable[[Tensor], Tensor] | None = None
    source: Callable[[Tensor], Tensor] | None = None
    scored: Mask | Tensor | None = None
    generator: str | None = None

    def run(self, x: Tensor, seed: int = 0) -> ViewOutput:
        """What the view returns for this very tensor, at one restored draw of the global generators."""
        with seeded(seed), torch.enable_grad(), uncompiled():
            output = read_output(self.view(x), x)
        # A view may write its next output where this one lies.
        parts = {name: part for name in PARTS if (part := getattr(output, name)) is not None}
        own: dict[str, Any] = {name: part.detach().clone() for name, part in parts.items()}
        with BelowModes():
            shared = 0 != address(output.x) == address(output.y)
        return replace(output, **own, shared=shared)

    @cached_property
    def random(self) -> bool:
        """Whether a call uses the global random generators."""
        with seeded(0):
            return draws_numbers(lambda: self.view(self.example.clone()))

    @cached_property
    def cases(self) -> "list[ViewCase]":
        """The view traced on the example, once for each draw that is looked at."""
        draws = DRAWS if self.generator is None else DECLARED_DRAWS
        return [ViewCase(self, seed) for seed in range(draws if self.random else 1)]

    @property
    def scope(self) -> str:
        """What a proof by labels covers."""
        draws = f", the draws of seeds 0 to {DECLARED_DRAWS - 1}" if self.generator and self.random else ""
        return f"all values at {'x'.join(map(str, self.example.shape))}{draws}"

    def target_of(self, x: Tensor, y: Tensor) -> Tensor | None:
        """The declared target; without one x itself or its row-major prefix, whichever has y's shape."""
        if self.target is not None:
            return self.target(x)
        if x.shape == y.shape:
            return x
        flat = x.reshape(x.shape[0], -1)
        fits = y.dim() == 2 and y.shape[0] == x.shape[0] and y.shape[1] <= flat.shape[1]
        return flat[:, : y.shape[1]] if fits else None

    @cached_property
    def hidden_by_rule(self) -> Tensor | None:
        """The rule's mask over the batch."""
        if self.rule is None:
            return None
        mask = self.rule if isinstance(self.rule, Mask) else self.rule.mask(tuple(self.example.shape[1:]))
        return spread_mask("rule", mask, self.example).to(self.example.device)

    @property
    def rule_scores_fewer(self) -> bool:
        """Whether the rule says that the loss asks for less than it hides."""
        rule = self.rule.rule if isinstance(self.rule, Mask) else self.rule
        return isinstance(rule, Rule) and not rule.scores_all_hidden


class ViewCase:
    """One draw of a view on the example, with the labels of what it returned.

    ``x_labels`` and ``y_labels`` tell the source coordinate of each coordinate of x and y, `target_labels` those of the
    declared target, ``source_labels`` those of a declared source, and ``origin`` the target's (y's, if none is
    declared) without the mark of having been computed. ``unreliable`` is the reason why labels prove nothing, ``limit``
    why nothing beyond this draw or these values.
    """

    def __init__(self, declared: DeclaredView, seed: int) -> None:
        self.declared, self.seed = declared, seed
        self.example, self.count, self.scope = declared.example, declared.example.numel(), declared.scope
        self.output, self.input_after, trace = self._trace()
        self.x_labels, self.y_labels = trace.labels(self.output.x), trace.labels(self.output.y)
        self.writes = trace.wrote
        value_dependent = trace.touches(
            *(m for m in (self.output.mask, self.output.view, self.output.kept) if m is not None)
        )
        of_values = "which coordinates are hidden depends on the values" if value_dependent else None
        with LabelTrace(x := self.example.clone()) as of_target:
            target = declared.target_of(x, self.output.y)
        self.target_labels = None if target is None else of_target.labels(target)
        self.source_labels = None
        if declared.source is not None:
            with LabelTrace(x := self.example.clone()) as of_source:
                labels = of_source.labels(declared.source(x))
            # A source that looks at values is compared, as one that computes is.
            self.source_labels = torch.full_like(labels, MIXED) if of_source.lost else labels
        self.origin = self.base(self.y_labels if self.target_labels is None else self.target_labels)
        self.unreliable = trace.lost or of_values or of_target.lost or self._misprediction()
        undeclared = declared.random and declared.generator is None
        self.limit = self.unreliable or ("the view is random: other draws may differ" if undeclared else None)
        if self.hidden is not None and bool((self.x_labels == MIXED).any()):
            # Now that it is known what is hidden, what was computed from visible coordinates only can be told apart.
            output, _, trace = self._trace(self.hidden)
            self.x_labels = trace.labels(output.x)

    def _trace(self, hidden: Tensor | None = None) -> tuple[ViewOutput, Tensor, LabelTrace]:
        x = self.example.clone()
        with LabelTrace(x, hidden) as trace:
            output = self.declared.run(x, self.seed)
        return output, x, trace

    def attempt(self, x: Tensor) -> ViewOutput | None:
        """What the view returns for a copy of ``x``, or None if it refuses such values."""
        try:
            return self.declared.run(x.clone(), self.seed)
        except Exception:
            return None

    def _misprediction(self) -> str | None:
        """Why the labels cannot be right, if what they predict for another input does not come true."""
        *_, x = itertools.islice(other_contents(self.example), 2)
        output = self.attempt(x)
        if output is None:
            return "whether the view has an answer depends on the values"
        parts = ((self.output.x, output.x, self.x_labels), (self.output.y, output.y, self.y_labels))
        if any(old.shape != new.shape or old.dtype != new.dtype for old, new, _ in parts):
            return "the shape of x or y depends on the values"
        if difference(self.output.mask, output.mask) is not None:
            return "which coordinates are hidden depends on the values"
        for old, new, labels in parts:
            moved = (labels >= 0) & (labels < self.count)
            same_dtype = new.dtype == x.dtype
            expected = torch.where(moved, x.reshape(-1)[labels.clamp(0, self.count - 1)], old) if same_dtype else old
            if bool((unlike(expected, new) & ((labels == CONSTANT) | (moved & same_dtype))).any()):
                return "another input shows that the output depends on values in a way that no operator shows"
        return None

    def base(self, labels: Tensor) -> Tensor:
        """Labels without the mark of having been computed."""
        return torch.where(labels >= self.count, labels - self.count, labels)

    @cached_property
    def hidden(self) -> Tensor | None:
        """The hidden source coordinates of the example; None if the masked target does not tell."""
        return self.hidden_in(self.output)

    def hidden_in(self, output: ViewOutput) -> Tensor | None:
        """The hidden source coordinates of a run."""
        if self.declared.hidden_by_rule is not None:
            return self.declared.hidden_by_rule
        view, labels = output.view, self.source_labels
        if view is not None and labels is not None and labels.shape == view.shape and not (labels < CONSTANT).any():
            # A view over an x whose content was moved: where it hides, what stood there is hidden.
            return self.marked(self.base(labels[view])).reshape(self.example.shape)
        if view is not None and view.shape == self.example.shape:
            return view
        if output.mask.shape != self.origin.shape:
            return None
        sources = self.origin[output.mask if output.kept is None else output.mask & ~output.kept]
        return None if bool((sources < CONSTANT).any()) else self.marked(sources).reshape(self.example.shape)

    def declared_scored(self) -> Tensor | None:
        """The target coordinates that are declared to be scored, if they are."""
        scored = self.declared.scored
        return None if scored is None else spread_mask("scored", scored, self.output.y).to(self.output.mask.device)

    @property
    def may_score_fewer(self) -> bool:
        """Whether it may be declared that the loss asks for less than is hidden: by ``scored``, by rule, or by view."""
        declared = self.declared
        by_view = declared.rule is None and self.output.view is not None
        return declared.scored is not None or declared.rule_scores_fewer or by_view

    def hidden_and_unscored(self, expected: Tensor) -> Tensor | None:
        """Target coordinates that a view, or a rule, declares hidden and the mask leaves out; None if all are scored.

        A view declares nothing of a row in which it hides something and scores nothing.
        """
        output = self.output
        hidden = self.hidden if self.declared.rule is not None else output.view
        if not self.may_score_fewer or hidden is None or hidden.shape != self.example.shape:
            return None
        unscored = (self.origin >= 0) & hidden.reshape(-1)[self.origin.clamp(min=0)] & expected & ~output.mask
        some = output.mask.reshape(len(output.mask), -1).any(1)
        unscored &= some.reshape(-1, *[1] * (unscored.dim() - 1))
        return unscored if bool(unscored.any()) else None

    def marked(self, labels: Tensor) -> Tensor:
        """The flat source coordinates that are among the labels, as a bool tensor."""
        marked = torch.zeros(self.count, dtype=torch.bool, device=self.example.device)
        marked[labels[labels >= 0]] = True
        return marked

    @cached_property
    def shown(self) -> Tensor:
        """The flat source coordinates that x was made of."""
        return self.marked(self.base(self.x_labels))

    @cached_property
    def absent(self) -> Tensor:
        """The flat source coordinates whose values on the example are none of x's."""
        if self.output.x.dtype != self.example.dtype or self.example.is_complex():
            return torch.zeros(self.count, dtype=torch.bool, device=self.example.device)
        return ~torch.isin(self.example.reshape(-1), self.output.x)

    def inputs(self, **more: Any) -> dict[str, Any]:
        """The inputs of a witness."""
        return {"x": self.example, **more, **({"seed": self.seed} if self.declared.random else {})}

    def runs(self) -> Iterator[tuple[Tensor, ViewOutput]]:
        """The example and inputs like it, with what the view returns for each."""
        yield self.example, self.output
        for x in other_contents(self.example):
            output = self.attempt(x)
            if output is not None:
                yield x, output

    def runs_with_change(self, index: int) -> Iterator[tuple[Tensor, ViewOutput]]:
        """The example with another value at one source coordinate, and what the view returns for it."""
        for other in other_contents(self.example):
            x = self.example.clone()
            x.view(-1)[index] = other.reshape(-1)[index]
            output = self.attempt(x) if difference(x, self.example) is not None else None
            if output is not None:
                yield x, output

    def place(self, index: int | Tensor) -> tuple[int, ...]:
        """The coordinate of a flat source index."""
        return coordinate(index, tuple(self.example.shape))
