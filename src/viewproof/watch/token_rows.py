"""Tokens: which token each row of a prediction is asked for, and whether that row's prediction depends on it.

Tokens are whole numbers, which take no gradient. A row of scores is asked for one token: the loss's gradient there has
one negative entry, at that token's id. The token is then looked for in the batch, and confirmed by a run with other
tokens. Whether the row's prediction depends on it is tracked through the lookup of its embedding, and shown by a run
in which this token alone is another.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from viewproof.bits import unlike
from viewproof.watch.asked_tokens import WHOLE, Asked, AskingRun, asked_ids, candidates
from viewproof.watch.child import Runner
from viewproof.watch.padding_negatives import padding_of
from viewproof.watch.planes import Plan
from viewproof.watch.token_runs import TokenRuns
from viewproof.watch.told_tokens import told

KEPT = {"mlm": 0.1}
"""What ``watch(..., kept=...)`` may say, and the share of scored tokens that it leaves visible."""
# At most so many positions are marked one after the other, for at most so many seconds.
_COLUMNS, _SECONDS = 64, 60.0


@dataclass
class TokenFacts:
    """What was read off a step on tokens.

    ``scored`` [samples, tokens] are the tokens at ``path`` that some row is asked for, ``shown`` those of them that
    are looked up in the clear; ``shift`` is how many places behind its row a token stands. ``witness`` shows a row that
    reads the token that it is asked for; ``all_seen`` says that every row reads every token and is asked for all of
    them. ``doubt`` says why the rows may be meant to read their own tokens, ``reason`` what is not decided;
    ``beside`` are tokens of the batch of which it is not known whether they hold the same. ``padding_asked`` says that
    labels end in what other tokens of the batch are padded with.
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
    padding_asked: str = ""
    padding_read: Any = None
    padding_reason: str = ""
    padding: bool = False

    def chance(self, share: float) -> float:
        """The probability that so many or more of the scored tokens are shown, if each is with this probability."""
        n, k = int(self.scored.sum()), int(self.shown.sum())
        p = share + (1 - share) / max(2, self.classes)
        return sum(math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(k, n + 1))


def token_facts(
    runner: Runner,
    plan: Plan,
    base: list[Tensor],
    tensors: dict[str, Tensor],
    tested: frozenset[tuple[str, float]] = frozenset(),
) -> TokenFacts | None:
    """What the rows of the predictions are asked for and read, or None if no row is asked for a token of the batch.

    ``tested`` are tensors of the batch, with numbers that the step looks for in them, as for padding.
    """
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
        facts = _facts(TokenRuns(runner, plan, base, sources, asked), tested)
        facts.padding_asked = _padding_asked(asked, sources)
        if not facts.witness and not facts.reason:
            facts.reason = told(TokenRuns(runner, plan, base, tensors, asked))
        for index, (one, other) in enumerate(zip(gradients or (), again, strict=True)):
            if index != asked.prediction and bool(unlike(one, other).any()):
                facts.reason = facts.reason or f"prediction {index} is asked for the tokens too, in a way not followed"
        return facts
    return None


def _facts(runs: TokenRuns, tested: frozenset[tuple[str, float]]) -> TokenFacts:
    """Everything about them."""
    asked, scored = runs.asked, runs.asked.cells
    out = TokenFacts(asked.path, asked.inputs, scored, scored.clone())
    out.shift, out.link = asked.offset + asked.link, asked.link
    out.classes = runs.base[asked.prediction].shape[asked.axis]
    out.seen = torch.zeros(asked.read.shape, dtype=torch.bool)
    whole = {p: torch.ones(runs.sources[p].shape, dtype=torch.bool) for p in {asked.path, asked.inputs}}
    found = runs.depend(whole)
    _padding(runs, out, tested)
    if isinstance(found, str):
        # What is asked for may be followed where all of the text is not.
        asked_for = runs.depend(asked.marks(scored))
        if not isinstance(asked_for, str) and not bool((asked_for[0] & asked.rows_of(scored)).any()):
            out.shown = torch.zeros_like(scored)
            if asked.inputs == asked.path and asked.others:
                out.beside = asked.others[0]
                if not asked_for[1]:
                    out.reason = f"whether {asked.path} stands in {asked.others[0]} too is not known"
            return out
        out.reason = found
        return _shown(runs, out, scored)
    _, lookups, draws = found
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
    hidden_ids = _hidden_ids(asked, out, lookups) if in_place and not out.shift else []
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
        followed = runs.depend(asked.marks(hidden))
        if isinstance(followed, str) or bool((followed[0] & asked.rows_of(hidden)).any()):
            # Of labels, a token is hidden that does not stand at its own place in the input.
            out.witness = runs.leak([tuple(c) for c in hidden.nonzero().tolist()][:2])
            out.reason = followed if isinstance(followed, str) else "rows may depend on tokens that are hidden"
    if not out.witness and bool(out.shown.any()):
        _shown(runs, out, out.shown)
    if out.witness and out.shift and not out.doubt and _by_summaries(runs, scored):
        out.doubt = (
            "it is read through nothing but summaries that trained layers make of the row, as those of an encoder in "
            "an autoencoder"
        )
    return out


def _by_summaries(runs: TokenRuns, scored: Tensor) -> bool:
    """Whether no row reads its token any more, once all summaries of the tokens are constants."""
    columns = sorted({u for _, u in scored.nonzero().tolist()})
    for u in {columns[0], columns[len(columns) // 2], columns[-1]}:
        column = _column(scored, u)
        found = runs.depend(runs.asked.marks(column), summaries=False)
        if isinstance(found, str) or bool((found[0] & runs.asked.rows_of(column)).any()):
            return False
    return True


def _hidden_ids(asked: Asked, out: TokenFacts, lookups: list[tuple[Tensor, Tensor]]) -> list[int]:
    """The ids that the model reads in the place of tokens that are asked for and not shown."""
    ids = []
    for b, u in (out.scored & ~out.shown).nonzero().tolist():
        v = u + asked.link
        ids += [int(read[b, v]) for read, _ in lookups[:1] if 0 <= v < read.shape[1]]
    return ids


def _shown(runs: TokenRuns, out: TokenFacts, shown: Tensor) -> TokenFacts:
    """Of tokens in the clear: does the row that is asked for one read it?"""
    asked, places = runs.asked, [tuple(c) for c in shown.nonzero().tolist()]
    out.witness = runs.leak(list({places[len(places) // 2], places[-1], places[0]}))
    if out.witness:
        unasked = out.seen & ~asked.linked(out.scored)
        if not bool(unasked.any()) and bool((out.shown == out.scored).all()) and not out.shift:
            columns = [u for _, u in places]
            ends = [runs.depend(asked.marks(_column(shown, u))) for u in (min(columns), max(columns))]
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
        found = runs.depend(asked.marks(column))
        if isinstance(found, str):
            out.reason = found
            return out
        open_rows = found[0] & asked.rows_of(column)
        if bool(open_rows.any()):
            out.witness = runs.leak([tuple(c) for c in asked.cells_of(open_rows).nonzero().tolist()][:2])
            out.reason = "" if out.witness else f"row {open_rows.nonzero()[0].tolist()} may depend on its token"
            return out
    out.shown = torch.zeros_like(out.scored)
    return out


def _padding(runs: TokenRuns, out: TokenFacts, tested: frozenset[tuple[str, float]]) -> None:
    """Does the loss ask at what the batch's attention mask calls padding, or a scored row read it?"""
    asked, width = runs.asked, runs.asked.ids.shape[1]
    masks = [t for p, t in runs.sources.items() if "attention_mask" in p.lower() and t.shape == asked.read.shape]
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
    found = runs.depend({asked.inputs: padding})
    if not isinstance(found, str) and not bool((found[0] & rows).any()):
        return
    pad = int(asked.read[padding][0])
    known = torch.unique(asked.read[~padding])
    new = torch.where(padding, known[known != pad][-1], asked.read)
    differ = runs.differ({asked.inputs: new}, rows)
    if differ:
        (b, t), one, other = differ
        what = (
            f"row {t} of sample {b} reads padding: with another id for all padding of {asked.inputs}, a score of "
            f"it goes from {one:.6g} to {other:.6g}"
        )
        if (asked.inputs, float(pad)) in tested:
            out.padding_reason = f'{what}; the step looks for id {pad} itself; allow={{"C10": "..."}} if meant'
            return
        out.padding_read = what, {"one": asked.read, "other": new}, {"output": (b, t)}
    else:
        out.padding_reason = found if isinstance(found, str) else "scored rows may depend on padding"


def _padding_asked(asked: Asked, sources: dict[str, Tensor]) -> str:
    """Whether labels of another length end in the id that the batch's own mask calls padding elsewhere, or ""."""
    for path, tensor in sources.items():
        padding = padding_of(sources, path) if path != asked.path and tensor.shape != asked.tokens.shape else None
        ids = torch.unique(tensor.detach().cpu()[padding[0]]).tolist() if padding is not None and padding[1] else []
        if len(ids) != 1:
            continue
        tail = (asked.tokens == ids[0]).flip(1).cumprod(1).flip(1).bool() & asked.cells
        # Where the end of a text has the id of padding, each has one.
        if len(set(tail.sum(1).tolist())) > 1:
            return (
                f"{asked.path} asks for id {ids[0]} at the end of its samples, {int(tail.sum())} times of "
                f"{int(asked.cells.sum())}, and {path} is padded with it: -100 is passed over"
            )
    return ""


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
