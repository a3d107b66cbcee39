"""Tokens: which token each row of a prediction is asked for, and whether that row's prediction depends on it.

Tokens are whole numbers, which take no gradient. A row of scores is asked for one token: the loss's gradient there has
one negative entry, at that token's id. The token is then looked for in the batch, and confirmed by a run with other
tokens. Whether the row's prediction depends on it is tracked through the lookup of its embedding, and shown by a run
in which this token alone is another.
"""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from viewproof.bits import unlike
from viewproof.torch_internals import BelowModes
from viewproof.watch.asked_tokens import WHOLE, Asked, AskingRun, asked_ids, candidates
from viewproof.watch.child import Answer
from viewproof.watch.planes import Plan, TrackedRun, ValueRun
from viewproof.watch.run import tensors_of_call

Runner = Callable[[Callable[[Callable[[], Any]], Any], Callable[[Any], Any]], Answer]
KEPT = {"mlm": 0.1}
"""What ``watch(..., kept=...)`` may say, and the share of scored tokens that it leaves visible."""
# At most so many positions are marked one after the other, for at most so many seconds.
_COLUMNS, _SECONDS = 64, 60.0
_LATENT = ("randn", "randn_like", "normal", "normal_", "rsample")


@dataclass
class TokenFacts:
    """What was read off a step on tokens.

    ``scored`` [samples, tokens] are the tokens at ``path`` that some row is asked for, ``shown`` those of them that
    are looked up in the clear; ``shift`` is how many places behind its row a token stands. ``witness`` shows a row that
    reads the token that it is asked for; ``all_seen`` says that every row reads every token and is asked for all of
    them. ``doubt`` says why the rows may be meant to read their own tokens, ``reason`` what is not decided;
    ``beside`` are tokens of the batch of which it is not known whether they hold the same.
    """

    path: str
    inputs: str = ""
    scored: Tensor = field(default_factory=lambda: torch.zeros(0, 0, dtype=torch.bool))
    shown: Tensor = field(default_factory=lambda: torch.zeros(0, 0, dtype=torch.bool))
    seen: Tensor = field(default_factory=lambda: torch.zeros(0, 0, dtype=torch.bool))
    classes: int = 0
    shift: int = 0
    link: int = 0
    witness: Any = None
    all_seen: bool = False
    doubt: str = ""
    beside: str = ""
    reason: str = ""
    padding_scored: Any = None
    padding_read: Any = None
    padding_reason: str = ""
    padding: bool = False

    def chance(self, share: float) -> float:
        """The probability that so many or more of the scored tokens are shown, if each is with this probability."""
        n, k = int(self.scored.sum()), int(self.shown.sum())
        p = share + (1 - share) / max(2, self.classes)
        return sum(math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(k, n + 1))


class RowsRun(TrackedRun):
    """Which rows of the predictions may depend on marked tokens, and where marked tokens are looked up."""

    def __init__(self, axes: Mapping[int, int], *args: Any) -> None:
        super().__init__(*args)
        self.axes = axes
        self.rows: list[Tensor] = []
        self.lookups: list[tuple[Tensor, Tensor]] = []
        self.draws = False

    def on_function(self, index: int, func: Any, args: Any, kwargs: Any, out: Any) -> Any:
        """A function that makes numbers of marked ids, before the predictions are made, looks them up."""
        with BelowModes():
            name = getattr(func, "__name__", "")
            self.draws |= name in _LATENT
            made = [t for t in tensors_of_call(out) if t.is_floating_point() or name == "one_hot"]
            for ids in tensors_of_call([args, kwargs]) if made and not self.rows else ():
                if ids.dtype in WHOLE and ids.dim() == 2 and not self.tracked.escaped:
                    tags = self.tracked.of(ids)
                    if bool(tags.any()):
                        self.lookups.append((ids.detach().cpu().clone(), tags.cpu().clone()))
        return super().on_function(index, func, args, kwargs, out)

    def prediction(self, out: Any) -> Any:
        """Which of its rows depend."""
        with BelowModes():
            for tensor in tensors_of_call(out):
                axis = self.axes.get(len(self.rows), -1)
                self.rows.append(self.tracked.of(tensor).any(axis).cpu() if tensor.dim() else self.tracked.of(tensor))
        return out


def token_facts(runner: Runner, plan: Plan, base: list[Tensor], tensors: dict[str, Tensor]) -> TokenFacts | None:
    """What the rows of the predictions are asked for and read, or None if no row is asked for a token of the batch."""
    sources = {p: t for p, t in tensors.items() if t.dtype in WHOLE and t.dim() == 2}

    def ask(new: dict[str, Tensor]) -> list[Tensor] | None:
        def make(stop: Callable[[], Any]) -> AskingRun:
            return AskingRun(plan, stop, base, sources, new)

        found: list[Tensor] | None = runner(make, lambda run: [g.cpu() for g in run.gradients]).value
        return found

    gradients = ask({}) if sources and base else None
    for asked in candidates(gradients, tensors) if gradients else ():
        cells = asked.cells
        if len(torch.unique(asked.tokens[cells])) < 2:
            continue
        new = asked.replaced(cells)
        again = ask(new)
        if again is None or len(again) != len(gradients or ()):
            continue
        ids = asked_ids(again[asked.prediction])
        expected = asked.ids.clone()
        for b, t in (asked.ids >= 0).nonzero().tolist():
            expected[b, t] = new[asked.path][b, t + asked.offset]
        if ids is None or ids[1] != asked.axis or not torch.equal(ids[0].reshape(expected.shape), expected):
            continue
        facts = _Rows(runner, plan, base, sources, asked).facts()
        for index, (one, other) in enumerate(zip(gradients or (), again, strict=True)):
            if index != asked.prediction and bool(unlike(one, other).any()):
                facts.reason = facts.reason or f"prediction {index} is asked for the tokens too, in a way not followed"
        return facts
    return None


@dataclass
class _Rows:
    """The runs that tell which rows depend on which tokens."""

    runner: Runner
    plan: Plan
    base: list[Tensor]
    sources: dict[str, Tensor]
    asked: Asked

    def depend(self, marks: dict[str, Tensor]) -> tuple[Tensor, list[tuple[Tensor, Tensor]], str, bool] | str:
        """[samples, rows] which rows may depend on what is marked, the lookups of it, and what stopped the tracker."""
        axes = {self.asked.prediction: self.asked.axis}
        args = self.plan, False
        none = {p: torch.zeros(t.shape, dtype=torch.bool) for p, t in self.sources.items()}

        def make(stop: Callable[[], Any]) -> RowsRun:
            return RowsRun(axes, *args, stop, self.sources, none | marks, {}, True)

        answer = self.runner(make, lambda run: (run.rows, run.lookups, run.missed() or run.tracked.escaped, run.draws))
        if answer.value is None:
            return answer.failure or "the step could not be followed"
        rows, lookups, stopped, draws = answer.value
        if stopped or self.asked.prediction >= len(rows):
            return stopped or "the step ran another way than before"
        return rows[self.asked.prediction].reshape(self.asked.ids.shape), lookups, stopped, draws

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

    def facts(self) -> TokenFacts:
        """Everything about them."""
        asked, scored = self.asked, self.asked.cells
        out = TokenFacts(asked.path, asked.inputs, scored, scored.clone())
        out.shift, out.link = asked.offset + asked.link, asked.link
        out.classes = self.base[asked.prediction].shape[asked.axis]
        out.seen = torch.zeros(asked.read.shape, dtype=torch.bool)
        whole = {p: torch.ones(self.sources[p].shape, dtype=torch.bool) for p in {asked.path, asked.inputs}}
        found = self.depend(whole)
        self._padding(out)
        if isinstance(found, str):
            # What is asked for may be followed where all of the text is not.
            asked_for = self.depend(asked.marks(scored))
            if not isinstance(asked_for, str) and not bool((asked_for[0] & asked.rows_of(scored)).any()):
                out.shown = torch.zeros_like(scored)
                return out
            out.reason = found
            return self._shown(out, scored)
        _, lookups, _, draws = found
        in_place = bool(lookups)
        for ids, tags in lookups:
            width = ids.shape[1]
            fits = len(ids) == len(asked.read) and width <= asked.read.shape[1]
            if not fits or not bool((ids == asked.read[:, :width])[tags].all()):
                in_place = False
            else:
                out.seen[:, :width] |= tags
        if not in_place:
            out.seen[:] = True
        else:
            out.shown = torch.zeros_like(scored)
            for b, u in scored.nonzero().tolist():
                v = u + asked.link
                here = 0 <= v < out.seen.shape[1] and bool(asked.read[b, v] == asked.tokens[b, u])
                out.shown[b, u] = here and bool(out.seen[b, v])
        if asked.inputs == asked.path and asked.others:
            out.beside = asked.others[0]
            if not lookups:
                out.reason = f"whether {asked.path} stands in {asked.others[0]} too is not known"
        hidden_ids = self._hidden_ids(out, lookups) if in_place and not out.shift else []
        # A mask token stands for what is hidden; where others do, the labels may be another kind of answer.
        if hidden_ids and 2 * max(map(hidden_ids.count, set(hidden_ids))) < len(hidden_ids):
            text = f"what differs from {asked.path} in the input is no mask token, as in a correction or a diffusion"
            if bool(out.shown.any()):
                out.doubt = text
            elif asked.inputs != asked.path:
                out.reason = text
        if asked.inputs != asked.path and int(scored.sum()) < 3:
            out.reason = f"{asked.path} asks for too few tokens to say where they stand in {asked.inputs}"
        if len(lookups) > 1 and out.shift:
            out.doubt = "the tokens are looked up more than once, as by an encoder and a decoder"
        elif draws and out.shift:
            out.doubt = "a latent is drawn in the step, as in a variational autoencoder"
        hidden = scored & ~out.shown
        if bool(hidden.any()):
            followed = self.depend(asked.marks(hidden))
            if isinstance(followed, str) or bool((followed[0] & asked.rows_of(hidden)).any()):
                # Of labels, a token is hidden that does not stand at its own place in the input.
                out.witness = self.leak([tuple(c) for c in hidden.nonzero().tolist()][:2])
                out.reason = followed if isinstance(followed, str) else "rows may depend on tokens that are hidden"
        return out if out.witness or not bool(out.shown.any()) else self._shown(out, out.shown)

    def _hidden_ids(self, out: TokenFacts, lookups: list[tuple[Tensor, Tensor]]) -> list[int]:
        """The ids that the model reads in the place of tokens that are asked for and not shown."""
        ids = []
        for b, u in (out.scored & ~out.shown).nonzero().tolist():
            v = u + self.asked.link
            ids += [int(read[b, v]) for read, _ in lookups[:1] if 0 <= v < read.shape[1]]
        return ids

    def _shown(self, out: TokenFacts, shown: Tensor) -> TokenFacts:
        """Of tokens in the clear: does the row that is asked for one read it?"""
        asked, places = self.asked, [tuple(c) for c in shown.nonzero().tolist()]
        out.witness = self.leak(list({places[len(places) // 2], places[-1], places[0]}))
        if out.witness:
            unasked = out.seen & ~asked.linked(out.scored)
            if not bool(unasked.any()) and bool((out.shown == out.scored).all()) and not out.shift:
                columns = [u for _, u in places]
                ends = [self.depend(asked.marks(_column(shown, u))) for u in (min(columns), max(columns))]
                out.all_seen = all(not isinstance(f, str) and bool(f[0].all()) for f in ends)
            return out
        if out.reason:
            return out
        start, columns = time.monotonic(), sorted({u for _, u in places})
        for done, u in enumerate(columns):
            if done == _COLUMNS or time.monotonic() - start > _SECONDS:
                out.reason = f"{done} of {len(columns)} places of tokens were followed, and the rest takes too long"
                return out
            column = _column(shown, u)
            found = self.depend(asked.marks(column))
            if isinstance(found, str):
                out.reason = found
                return out
            open_rows = found[0] & asked.rows_of(column)
            if bool(open_rows.any()):
                out.witness = self.leak([tuple(c) for c in asked.cells_of(open_rows).nonzero().tolist()][:2])
                out.reason = "" if out.witness else f"row {open_rows.nonzero()[0].tolist()} may depend on its token"
                return out
        out.shown = torch.zeros_like(out.scored)
        return out

    def _padding(self, out: TokenFacts) -> None:
        """Does the loss ask at what the batch's attention mask calls padding, or a scored row read it?"""
        asked, width = self.asked, self.asked.ids.shape[1]
        masks = [t for p, t in self.sources.items() if "attention_mask" in p.lower() and t.shape == asked.read.shape]
        if not masks or not bool(((masks[0] == 0) | (masks[0] == 1)).all()) or bool((masks[0] == 1).all()):
            return
        mask = masks[0].detach().cpu()
        padding = mask == 0
        if bool((mask[:, 1:] > mask[:, :-1]).any()) or len(torch.unique(asked.read[padding])) != 1:
            return
        out.padding, scored = True, asked.ids >= 0
        rows = padding[:, :width] & asked.rows_of(_moved_back(padding, asked))
        if bool(rows.any()):
            b, t = rows.nonzero()[0].tolist()
            what = (
                f"row {t} of sample {b} stands at padding and is asked for token {int(asked.ids[b, t])}; "
                f"{int(rows.sum())} of {int(scored.sum())} scored rows are padding by the batch's own attention mask"
            )
            out.padding_scored = what, {"batch": asked.path}, {"output": (b, t)}
        rows = scored & ~padding[:, :width]
        found = self.depend({asked.inputs: padding})
        if not isinstance(found, str) and not bool((found[0] & rows).any()):
            return
        pad = int(asked.read[padding][0])
        known = torch.unique(asked.read[~padding])
        new = torch.where(padding, known[known != pad][-1], asked.read)
        differ = self.differ({asked.inputs: new}, rows)
        if differ:
            (b, t), one, other = differ
            what = (
                f"row {t} of sample {b} reads padding: with another id for all padding of {asked.inputs}, a score of "
                f"it goes from {one:.6g} to {other:.6g}"
            )
            out.padding_read = what, {"one": asked.read, "other": new}, {"output": (b, t)}
        else:
            out.padding_reason = found if isinstance(found, str) else "scored rows may depend on padding"


def _moved_back(padding: Tensor, asked: Asked) -> Tensor:
    """[samples, tokens]: the tokens that stand at padding in what the model reads."""
    out = torch.zeros(asked.tokens.shape, dtype=torch.bool)
    for u in range(out.shape[1]):
        if 0 <= u + asked.link < padding.shape[1]:
            out[:, u] = padding[:, u + asked.link]
    return out


def _column(cells: Tensor, u: int) -> Tensor:
    out = torch.zeros_like(cells)
    out[:, u] = cells[:, u]
    return out
