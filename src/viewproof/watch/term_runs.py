"""Further runs that settle what the terms of a loss are: other batches, other weights, fresh memory filled."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from viewproof.bits import unlike
from viewproof.torch_internals import DisableTorchFunction
from viewproof.watch.child import Runner
from viewproof.watch.loss_terms import CROSS, EMPTY, Equal, Operand, Terms, compares, equal_columns, operands
from viewproof.watch.planes import Plan, ValueRun


class EqualRun(ValueRun):
    """Whether scores that were equal once are equal with another batch, and moved."""

    def __init__(self, equal: Equal, *args: Any) -> None:
        super().__init__(*args)
        self.equal, self.scores = equal, None  # type: Equal, Tensor | None

    def on_function(self, index: int, func: Any, args: Any, kwargs: Any, out: Any) -> Any:
        """Look at the call."""
        if index == self.equal.call and getattr(func, "__name__", "") in CROSS:
            with DisableTorchFunction():
                scores = args[0] if args else kwargs["input"]
                self.scores = scores.detach().cpu().clone()
        return super().on_function(index, func, args, kwargs, out)

    def again(self) -> tuple[float, float, float] | None:
        """The right class's score of row 0, the other's, and the largest of the row, if equal in every row again."""
        if self.scores is None or len(self.scores) != len(self.equal.labels):
            return None
        found = equal_columns(self.scores, torch.tensor(self.equal.labels))
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
        if getattr(func, "__name__", "") in EMPTY and isinstance(out, Tensor) and out.is_floating_point():
            with DisableTorchFunction(), torch.no_grad():
                out.fill_(self.filling)
        return super().on_function(index, func, args, kwargs, out)


def move_weights(parameters: list[torch.nn.Parameter], size: float, seed: int = 0) -> None:
    """Add noise to all that takes gradients."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in parameters:
            if p.requires_grad and p.is_floating_point():
                p.add_((size * torch.randn(p.shape, generator=generator)).to(p))


class OtherWeightsRun(ValueRun):
    """The predictions with another batch and with other weights in every trained parameter."""

    def __init__(self, parameters: list[torch.nn.Parameter], *args: Any) -> None:
        super().__init__(*args)
        self.parameters = parameters

    def begin(self) -> None:
        """Move the parameters, then turn on."""
        move_weights(self.parameters, 0.1)
        super().begin()


class PositivesRun(OtherWeightsRun):
    """Which vectors a cross-entropy over similarities scores as the right ones; ``constant`` says that they are one."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.constant = 0
        self._operands: list[Operand] = []

    def on_function(self, index: int, func: Any, args: Any, kwargs: Any, out: Any) -> Any:
        """Keep what is compared; of the scores of right classes, look where their gradient goes."""
        name = getattr(func, "__name__", "")
        with DisableTorchFunction():
            self._operands = [*self._operands[-6:], *operands(name, args, kwargs, out)]
            if name in CROSS and self._operands:
                read = [*args, *kwargs.values()]
                self._look(read[0], read[1])
        return super().on_function(index, func, args, kwargs, out)

    def _look(self, scores: Tensor, labels: Tensor) -> None:
        if scores.dim() != 2 or labels.dim() != 1 or labels.is_floating_point() or not scores.requires_grad:
            return
        rows = ((labels >= 0) & (labels < scores.shape[1])).nonzero()[:, 0]
        right = scores[rows, labels[rows]]
        chosen = [o for o in self._operands if compares(scores.grad_fn, {o[2]})]
        if not chosen:
            return
        operands = [t for t, _, _ in chosen]
        self._in_backward = True
        gradients = torch.autograd.grad(right.sum(), operands, retain_graph=True, allow_unused=True)
        self._in_backward = False
        for (tensor, axis, _), gradient in zip(chosen, gradients, strict=True):
            if gradient is None:
                continue
            used = (gradient != 0).movedim(axis, -1).any(-1)
            vectors = tensor.detach().movedim(axis, -1)[used]
            # The same input may be rounded in two ways by one product, at two of its rows.
            apart = (vectors - vectors[:1]).abs()
            if len(vectors) == len(rows) > 2 and bool((apart <= 1e-5 * vectors.abs().max()).all()):
                self.constant = len(rows)


@dataclass
class TermFacts:
    """What further runs have shown, each a sentence with inputs: see the claims of `conclusions`."""

    equal: tuple[str, Any] | None = None
    fresh: tuple[str, Any] | None = None
    alike: tuple[str, Any] | None = None
    constant: tuple[str, Any] | None = None


def other_batch(contents: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
    """The contents that are numbers, with noise of half their deviation."""
    return {
        path: t.detach() + (0.5 * t.detach().std().nan_to_num(1.0) * torch.randn(t.shape, generator=generator)).to(t)
        for path, t in contents.items()
        if t.is_floating_point() and t.numel() > 1
    }


def term_facts(
    runner: Runner,
    plan: Plan,
    terms: Terms,
    support: list[Tensor],
    swapped: dict[str, Tensor],
    contents: dict[str, Tensor],
    base: list[Tensor],
    parameters: list[torch.nn.Parameter],
) -> TermFacts:
    """Negatives that are the positive, predictions of fresh memory, and predictions that are the same everywhere.

    ``support`` are the elements of the predictions that the loss reads, of steps that ask for content of a source, and
    ``swapped`` the sources with two groups that are seen and not asked for exchanged.
    """
    out, generator = TermFacts(), torch.Generator().manual_seed(0)
    new = other_batch(contents, generator)
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
    if terms.compared and new:
        positives = runner(lambda stop: PositivesRun(parameters, plan, stop, contents, new), lambda run: run.constant)
        if positives.value:
            what = (
                f"the positives of all {positives.value} scored rows of the cross-entropy at {terms.compared[0]} are "
                "one and the same vector, with other weights and another batch too: they hold nothing of their places"
            )
            out.constant = what, inputs
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
            return OtherWeightsRun(parameters, plan, stop, contents, new)

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
