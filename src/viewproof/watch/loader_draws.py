"""``report.draws(K)``: what the masks of a loader cover over many draws; only loader and collator run."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from viewproof.bits import seeded
from viewproof.certify.check import Check
from viewproof.certify.coverage import certify_coverage
from viewproof.certify.report import Contract, Finding, Report
from viewproof.errors import InvalidArgument
from viewproof.watch.asked_tokens import WHOLE
from viewproof.watch.child import Answer, cannot_fork, fork
from viewproof.watch.sources import tensors_of

MLM = (0.8, 0.1, 0.1)
"""BERT's shares of scored tokens that are masked, replaced and kept."""


def loader_draws(
    loader: Any, count: int, *, subject: str, kept: str = "", seed: int = 0, declared: Mapping[str, Any]
) -> Report:
    """The masks of ``count`` batches, one sample of each, as `certify_coverage` judges them.

    A mask is a bool tensor of the batch with an axis of samples (True = hidden), or labels beside tokens of the same
    shape (hidden is what the labels ask for; with ``kept="mlm"`` the outcomes have BERT's shares). The loader runs in a
    forked copy of the process where that is safe; else here, and only generators are put back.
    """
    if not hasattr(loader, "__iter__"):
        raise InvalidArgument(f"loader={loader!r} must give batches; pass the loader of the training run")
    if not cannot_fork():
        side = fork()
        if isinstance(side, Answer):
            if side.value is None:
                return Report(subject, (_open(side.failure),))
            report: Report = side.value
            return report
        try:
            report = _report(loader, count, subject, kept, seed, declared)
        except BaseException as error:
            side.send(None, f"{type(error).__name__}: {error}")
        side.send(report)
    return _report(loader, count, subject, kept, seed, declared)


def _open(reason: str) -> Finding:
    return Check(Contract.C8, "no coordinate is always or never hidden").unknown(reason)


def _report(loader: Any, count: int, subject: str, kept: str, seed: int, declared: Mapping[str, Any]) -> Report:
    rows: dict[str, list[Tensor]] = {}
    with seeded(seed):
        drawn = 0
        while drawn < count:
            start = drawn
            for batch in loader:
                for path, row in _masks(batch):
                    rows.setdefault(path, []).append(row)
                drawn += 1
                if drawn == count:
                    break
            if drawn == start:
                raise InvalidArgument(f"loader={loader!r} must give batches; it is empty")
    findings: list[Finding] = []
    maps: dict[str, Tensor] = {}
    for path, masks in rows.items():
        if len(masks) < count or len({m.dim() for m in masks}) > 1:
            findings.append(_open(f"{path} is a mask in {len(masks)} of {count} batches only"))
            continue
        # Texts are as long as the longest of their batch: what all have is compared.
        shape = tuple(min(sizes) for sizes in zip(*(m.shape for m in masks), strict=True))
        cut = [m[tuple(map(slice, shape))] for m in masks]
        options = dict(declared)
        if cut[0].dtype != torch.bool:
            # A first token that never counts, such as [CLS], is no matter of chance.
            never = torch.stack([m == 0 for m in cut]).all(0)
            never[1:] = False
            options.setdefault("never", never)
            if kept == "mlm":
                options.setdefault("outcomes", MLM)
            cut = cut if options.get("outcomes") else [m != 0 for m in cut]
        draws = iter(cut)
        report = certify_coverage(lambda draws=draws: next(draws), draws=count, **options)
        findings += [replace(f, claim=f"{path}: {f.claim}") for f in report.findings]
        maps |= {f"{name}: {path}": m for name, m in report.maps.items()}
    if not findings:
        findings.append(_open("loader and collator draw no mask; the step draws it, or it is a list of indices"))
    return Report(subject, tuple(findings), maps)


def _masks(batch: Any) -> list[tuple[str, Tensor]]:
    """The masks of the first sample of a batch: bool, or for labels 1 masked, 2 replaced, 3 kept."""
    tensors = {path: t.detach().cpu() for path, t in tensors_of(batch)}
    out = [(p, t[0]) for p, t in tensors.items() if t.dtype == torch.bool and t.dim() > 1 and "attention" not in p]
    whole = {p: t for p, t in tensors.items() if t.dtype in WHOLE and t.dim() == 2}
    for path, labels in whole.items():
        others = [t for p, t in whole.items() if p != path and t.shape == labels.shape and "mask" not in p]
        if "label" not in path.lower() or not bool((labels == -100).any()) or not others:
            continue
        tokens, asked = others[0], labels != -100
        changed = tokens[asked & (tokens != labels)]
        usual = changed.mode().values if len(changed) else torch.tensor(-1)
        codes = torch.where(tokens == labels, 3, torch.where(tokens == usual, 1, 2))
        out.append((path, torch.where(asked, codes, 0)[0]))
    return out
