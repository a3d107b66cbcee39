"""Of which samples the rows of a contrastive loss are made, and of which their positives: it should be the same."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from viewproof.torch_internals import DisableTorchFunction
from viewproof.watch.child import Runner
from viewproof.watch.gradient_run import GradientRun
from viewproof.watch.loss_terms import CROSS, Operand, Terms, compares, operands
from viewproof.watch.planes import Plan
from viewproof.watch.run import place

_ROWS = 6


class SamplesRun(GradientRun):
    """For rows of the cross-entropies at ``places``: the samples that the row and its positive have gradients to.

    ``pairs`` are, by place, pairs of samples: the row's own, and the positive's. What follows too many samples, as
    behind a centre, and what follows none, as a vector of a queue, is left out. Tokens have the gradients of their
    ``embedded`` vectors.
    """

    def __init__(self, places: list[str], *args: Any) -> None:
        super().__init__(*args)
        self.places, self.pairs = places, dict[str, list[tuple[int, int]]]()
        self._operands: list[Operand] = []
        self.embedded: list[Tensor] = []
        self.samples = {len(t) for t in self.sources.values()}

    def on_function(self, index: int, func: Any, args: Any, kwargs: Any, out: Any) -> Any:
        """Keep what is compared, and look at a cross-entropy of it."""
        name = getattr(func, "__name__", "")
        with DisableTorchFunction():
            if name == "embedding" and out.dim() == 3 and len(out) in self.samples and not out.requires_grad:
                self.embedded.append(out.detach().requires_grad_())
                out = self.embedded[-1].clone()
            self._operands = [*self._operands[-6:], *operands(name, args, kwargs, out)]
            if name in CROSS and place() in self.places:
                read = [*args, *kwargs.values()]
                self._look(read[0], read[1], place())
        return super().on_function(index, func, args, kwargs, out)

    def _look(self, scores: Tensor, labels: Tensor, at: str) -> None:
        if scores.dim() != 2 or labels.dim() != 1 or labels.is_floating_point() or not scores.requires_grad:
            return
        # What is compared twice, with keys and with a queue, is one of the two.
        chosen = list({id(t): (t, a) for t, a, n in self._operands if compares(scores.grad_fn, {n})}.values())
        for row in range(min(_ROWS, len(scores))):
            if chosen and 0 <= labels[row] < scores.shape[1]:
                right = scores[row, labels[row]]
                found = [self._vectors(right, t, a) for t, a in chosen]
                # Rows that are compared with themselves are the two vectors of one tensor.
                vectors = next((f for f in found if len(f) == 2), [v for f in found for v in f])
                samples = [s for v, g in vectors if (s := self._sample(v, g)) is not None]
                if len(vectors) == len(samples) == 2:
                    self.pairs.setdefault(at, []).append((samples[0], samples[1]))

    def _gradients(self, out: Tensor, of: list[Tensor], direction: Tensor | None = None) -> tuple[Tensor | None, ...]:
        self._in_backward = True
        found = torch.autograd.grad(out, of, direction, retain_graph=True, allow_unused=True)
        self._in_backward = False
        return found

    def _vectors(self, right: Tensor, compared: Tensor, axis: int) -> list[tuple[Tensor, Tensor]]:
        """The one or two vectors that a score reads of what is compared, each as a mask, with its tensor."""
        (gradient,) = self._gradients(right, [compared])
        if gradient is None:
            return []
        used = (gradient != 0).any(axis, keepdim=True).nonzero()
        masks = []
        for where in used[:3]:
            mask = torch.zeros_like(gradient)
            mask[tuple(slice(None) if i == axis % gradient.dim() else int(n) for i, n in enumerate(where))] = 1
            masks.append((compared, mask))
        return masks

    def _sample(self, compared: Tensor, mask: Tensor) -> int | None:
        """The sample of the batch that a vector follows far more than the others."""
        leaves = [*self.leaves.values(), *self.embedded]
        direction = torch.randn(mask.shape, generator=torch.Generator().manual_seed(0)).to(mask)
        gradients = self._gradients(compared, leaves, direction * mask)
        sizes = [g.flatten(1).norm(dim=1).cpu() for g in gradients if g is not None]
        size = sum(sizes[1:], sizes[0]) if sizes and len({len(s) for s in sizes}) == 1 else torch.zeros(1)
        if len(size) < 3:
            return None
        most, others = size.topk(2).values.tolist()
        return int(size.argmax()) if most > 3 * others else None


def of_other_samples(
    runner: Runner, plan: Plan, terms: Terms, contents: dict[str, Tensor], parameters: list[torch.nn.Parameter]
) -> str:
    """Rows whose positive is made of another sample of the batch than they are, in words, or ""."""
    if not terms.compared or not contents:
        return ""

    def run(stop: Callable[[], Any]) -> SamplesRun:
        return SamplesRun(terms.compared, plan, False, stop, contents, parameters)

    for at, pairs in (runner(run, lambda run: run.pairs).value or {}).items():
        apart = [(a, b) for a, b in pairs if a != b]
        # Views that stand one behind the other in the batch, or in turns, are pairs as far apart as each other.
        partners = {(x, y) for a, b in apart for x, y in ((a, b), (b, a))}
        stacked = len({x for x, _ in partners}) == len(partners) and len({abs(a - b) for a, b in apart}) == 1
        if len(apart) < 3 or 2 * len(apart) < len(pairs) or stacked:
            continue
        one, other = apart[0]
        return (
            f"in the cross-entropy at {at} a row is made of sample {one} of the batch and its positive of sample "
            f"{other}; so are {len(apart)} of {len(pairs)} rows, each of another sample"
        )
    return ""
