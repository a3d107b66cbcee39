"""Other tensors of the batch that tell the tokens that are asked for."""

import math

import torch
from torch import Tensor

from viewproof.watch.asked_tokens import WHOLE, Asked
from viewproof.watch.token_runs import TokenRuns


def told(runs: TokenRuns) -> str:
    """Which tensor of the batch tells what is asked for, as its parity would, and is read by the rows that are asked.

    Equal tokens have equal values there, far more often than tokens at large. What a tensor says of tokens that are
    never asked for, as of padding and of special tokens, tells nothing. Nor do a few words of a text: spans do.
    """
    asked, full = runs.asked, runs.asked.read.clone()
    at = [(b, u, u + asked.link) for b, u in asked.cells.nonzero().tolist()]
    at = [(b, u, v) for b, u, v in at if 0 <= v < full.shape[1]]
    places = torch.zeros(full.shape, dtype=torch.bool)
    for b, u, v in at:
        full[b, v], places[b, v] = asked.tokens[b, u], True
    counted = torch.isin(full, full[places])
    for path, tensor in runs.sources.items():
        spans = _spans(asked, tensor) if path not in (asked.path, asked.inputs) else 0
        if spans and runs.differ({path: tensor.roll(1, 0)}, asked.ids >= 0):
            return (
                f"{spans} runs of three tokens that {asked.path} asks for stand in {path} of the same sample, and the "
                "rows that are asked for them read it: a text that is written again, or a span that was to be hidden; "
                'allow={"C1": "..."} if meant'
            )
        if path in (asked.path, asked.inputs) or tensor.shape != full.shape or len(torch.unique(tensor)) < 2:
            continue
        values = tensor.detach().cpu()
        pairs = torch.stack([full[counted].double(), values[counted].double()])
        same, agree = _pairs(pairs[:1]), _pairs(pairs)
        chance = _pairs(pairs[1:]) / max(1, _pairs(pairs[:0]))
        copied = bool((values[places] == full[places]).all())
        if not copied and (chance > 0.95 or agree < 0.98 * same or chance**same > 1e-6):
            continue
        known = torch.unique(values[counted])
        new = values.clone()
        new[places] = known[(torch.searchsorted(known, values[places]) + 1) % len(known)]
        if runs.differ({path: new}, asked.ids >= 0):
            return (
                f"{path} tells what {asked.path} asks for: {agree} of {same} pairs of equal tokens have equal values "
                f'there, and rows that are asked for them read it; allow={{"C1": "..."}} if meant'
            )
    return ""


def _pairs(columns: Tensor) -> int:
    """How many pairs of columns are equal."""
    if not len(columns):
        return math.comb(columns.shape[1], 2)
    counts = torch.unique(columns, dim=1, return_counts=True)[1]
    return int((counts * (counts - 1) // 2).sum())


def _spans(asked: Asked, tensor: Tensor) -> int:
    """How many runs of three asked tokens stand in the same sample of a tensor; 0 if few, or as many in another one."""
    if tensor.dtype not in WHOLE or tensor.dim() != 2 or len(tensor) != len(asked.tokens) or tensor.shape[1] < 3:
        return 0
    starts = asked.cells.unfold(1, 3, 1).all(2)
    wanted, there = asked.tokens.unfold(1, 3, 1), tensor.detach().cpu().unfold(1, 3, 1)

    def found(rows: Tensor) -> int:
        pairs = zip(wanted, starts, rows, strict=True)
        return sum(int((w[s][:, None] == t[None]).all(2).any(1).sum()) for w, s, t in pairs)

    own = found(there)
    return own if own >= max(3, int(starts.sum()) // 10) and own > 4 * found(there.roll(1, 0)) else 0
