"""The runs that tell which rows of a prediction depend on which tokens."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from viewproof.bits import unlike
from viewproof.torch_internals import BelowModes
from viewproof.watch.asked_tokens import WHOLE, Asked
from viewproof.watch.child import Runner
from viewproof.watch.planes import Plan, TrackedRun, ValueRun
from viewproof.watch.run import tensors_of_call

_LATENT = ("randn", "randn_like", "normal", "normal_", "rsample")
_LAYERS = ("linear", "conv1d", "conv2d", "matmul", "__matmul__", "gru", "lstm", "rnn_tanh", "rnn_relu", "addmm", "mm")


class RowsRun(TrackedRun):
    """Which rows of the predictions may depend on marked tokens, and where marked tokens are looked up.

    Without ``summaries``, what trained layers make of the tokens and what has lost their axis, such as the last state
    of an encoder, counts as a constant; ``lengths`` are the sizes that the axis may have.
    """

    def __init__(self, axes: Mapping[int, int], summaries: bool, lengths: frozenset[int], *args: Any) -> None:
        super().__init__(*args)
        self.axes, self.summaries, self.lengths = axes, summaries, lengths
        self.rows: list[Tensor] = []
        self.lookups: list[tuple[Tensor, Tensor]] = []
        self.draws = False

    def on_function(self, index: int, func: Any, args: Any, kwargs: Any, out: Any) -> Any:
        """A function that makes numbers of marked ids, before the predictions are made, looks them up."""
        with BelowModes():
            name = getattr(func, "__name__", "")
            self.draws |= name in _LATENT
            made = [t for t in tensors_of_call(out) if t.is_floating_point() or name == "one_hot"]
            read = list(tensors_of_call([args, kwargs]))
            for ids in read if made and not self.rows else ():
                if ids.dtype in WHOLE and ids.dim() == 2 and not self.tracked.escaped:
                    tags = self.tracked.of(ids)
                    if bool(tags.any()):
                        self.lookups.append((ids.detach().cpu().clone(), tags.cpu().clone()))
            if not self.summaries and not self.rows:
                self._cut(read, made, name in _LAYERS)
        return super().on_function(index, func, args, kwargs, out)

    def _cut(self, read: list[Tensor], made: list[Tensor], layer: bool) -> None:
        """Make constants of what is a summary of the tokens that it was made of."""
        tagged = [t for t in read if t.is_floating_point() and bool(self.tracked.of(t).any())]
        if not tagged or not (layer or any(hasattr(t, "_viewproof_layered") for t in tagged)):
            return
        largest = max(tagged, key=Tensor.numel)
        axes = sum(n in self.lengths for n in largest.shape)
        for tensor in made:
            tensor._viewproof_layered = True  # type: ignore[attr-defined]
            lost = sum(n in self.lengths for n in tensor.shape) < axes
            if lost and 2 * tensor.numel() <= largest.numel() and not self.tracked.escaped:
                self.tracked.write(tensor, tagged=False)

    def prediction(self, out: Any) -> Any:
        """Which of its rows depend."""
        with BelowModes():
            for tensor in tensors_of_call(out):
                axis = self.axes.get(len(self.rows), -1)
                self.rows.append(self.tracked.of(tensor).any(axis).cpu() if tensor.dim() else self.tracked.of(tensor))
        return out


@dataclass
class TokenRuns:
    """The runs that tell which rows depend on which tokens."""

    runner: Runner
    plan: Plan
    base: list[Tensor]
    sources: dict[str, Tensor]
    asked: Asked

    def depend(
        self, marks: dict[str, Tensor], summaries: bool = True
    ) -> tuple[Tensor, list[tuple[Tensor, Tensor]], bool] | str:
        """[samples, rows] which rows may depend on what is marked, the lookups of it, whether a latent is drawn."""
        axes = {self.asked.prediction: self.asked.axis}
        args, width = (self.plan, False), self.asked.read.shape[1]
        lengths = frozenset((width - 1, width, width + 1))
        none = {p: torch.zeros(t.shape, dtype=torch.bool) for p, t in self.sources.items()}

        def make(stop: Callable[[], Any]) -> RowsRun:
            return RowsRun(axes, summaries, lengths, *args, stop, self.sources, none | marks, {}, True)

        answer = self.runner(make, lambda run: (run.rows, run.lookups, run.missed() or run.tracked.escaped, run.draws))
        if answer.value is None:
            return answer.failure or "the step could not be followed"
        rows, lookups, stopped, draws = answer.value
        if stopped or self.asked.prediction >= len(rows):
            return stopped or "the step ran another way than before"
        return rows[self.asked.prediction].reshape(self.asked.ids.shape), lookups, draws

    def changed(self, new: dict[str, Tensor]) -> Tensor | None:
        """The prediction with other tokens in the batch."""

        def make(stop: Callable[[], Any]) -> ValueRun:
            return ValueRun(self.plan, stop, self.sources, new)

        values = self.runner(make, lambda run: run.values).value
        if values is None or len(values) != len(self.base):
            return None
        value: Tensor = values[self.asked.prediction]
        return value if value.shape == self.base[self.asked.prediction].shape else None

    def differ(self, new: dict[str, Tensor], rows: Tensor) -> tuple[tuple[int, int], float, float] | None:
        """The first of these rows whose prediction is another with the new tokens, and a score of it in both runs."""
        value, old = self.changed(new), self.base[self.asked.prediction]
        if value is None:
            return None
        shape = (*self.asked.ids.shape, -1)
        one, other = (v.movedim(self.asked.axis, -1).reshape(shape) for v in (old, value))
        for b, t in (unlike(one, other).any(-1) & rows).nonzero().tolist():
            c = int(unlike(one[b, t], other[b, t]).nonzero()[0])
            return (b, t), float(one[b, t, c]), float(other[b, t, c])
        return None

    def leak(self, cells: list[tuple[int, int]]) -> Any:
        """A witness of one of these tokens: the row that is asked for it reads it."""
        asked = self.asked
        for b, u in cells:
            only = torch.zeros(asked.tokens.shape, dtype=torch.bool)
            only[b, u] = True
            new = asked.replaced(only)
            found = self.differ(new, asked.rows_of(only))
            if found:
                (_, t), one, other = found
                old, changed = int(asked.tokens[b, u]), int(new[asked.path][b, u])
                what = (
                    f"row {t} of sample {b} is asked for token {u} of {asked.path} and reads it: with id {changed} for "
                    f"{old} there, a score of that row goes from {one:.6g} to {other:.6g}"
                )
                inputs = {"one": {p: self.sources[p].cpu() for p in new}, "other": new}
                return what, inputs, {"hidden": (b, u), "output": (b, t)}
        return None
