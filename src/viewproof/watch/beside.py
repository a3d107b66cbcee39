"""What stands beside a source in the batch, and shows what the loss asks for to the predictions that are asked."""

import torch
from torch import Tensor

from viewproof.watch.asked_tokens import WHOLE
from viewproof.watch.child import Answer, Runner
from viewproof.watch.facts import Source
from viewproof.watch.leak import Asking, differs
from viewproof.watch.plain_run import Plain
from viewproof.watch.planes import ValueRun
from viewproof.watch.related import Relation, related
from viewproof.watch.seen_scored import Planes
from viewproof.watch.sources import copied


def shown_beside(
    runner: Runner, plain: Plain, contents: dict[str, Tensor], planes: Planes, tensors: dict[str, Tensor]
) -> str:
    """Which tensor of the batch shows what is asked for of another, in words, or "".

    A tensor that holds it counts where a prediction that is asked for a group reads that tensor at the group's place,
    or anywhere, if the place is not known: two batches that differ there show it. In joint embeddings whose views
    are each seen and scored, every view is the target of the other on purpose.
    """
    by_path = {source.path: source for source in planes.sources}
    base: list[Tensor] | None = None
    for source in planes.sources:
        asked = source.scored[:, source.group] & (source.group >= 0)
        if not bool(asked.any()):
            continue
        for path, tensor in tensors.items():
            other = by_path.get(path)
            if path == source.path or not _may_hold(tensor, source) or _unseen(other):
                continue
            by_positions = bool(planes.positions)
            if by_positions and other is not None and bool(other.scored.any()) and bool(source.seen.any()):
                continue
            relation = _relation(source, tensor, asked)
            if relation is None:
                continue
            both = _read(source, other, tensor, relation)
            chosen = both.nonzero().tolist()
            chosen = [chosen[i] for i in sorted({0, len(chosen) // 2, len(chosen) - 1})] if chosen else []
            for sample, group in chosen:
                if base is None:
                    base = _values(runner, plain, tensors, {}).value or []
                elements = None
                if not by_positions:
                    elements = Asking(runner, plain, contents, source, base).elements(sample, group)
                new = {path: _changed(tensor, source, relation, sample, group)}
                answer = _values(runner, plain, tensors, new)
                if answer.value is None or differs(base, answer.value, elements) is not None:
                    return (
                        f"{path} shows {source.path} ({relation.how}), and a prediction that is asked for group "
                        f"{group} of sample {sample} reads it there; if that is meant, as in a denoising autoencoder "
                        'or a prediction across views, allow={"C1": "..."} says so'
                    )
    return ""


def _may_hold(tensor: Tensor, source: Source) -> bool:
    number = tensor.is_floating_point() or tensor.dtype in (torch.uint8, *WHOLE)
    return number and tensor.layout == torch.strided and tensor.dim() > 1 and len(tensor) == len(source.values)


def _unseen(other: Source | None) -> bool:
    return other is not None and other.followed and not bool(other.seen.any())


def _relation(source: Source, tensor: Tensor, asked: Tensor) -> Relation | None:
    values = source.values.detach().cpu()
    count, index = copied(values, tensor.detach().cpu(), asked)
    if count:
        return Relation(f"{count} of the {int(asked.sum())} values asked for", index)
    return related(values, tensor, asked) or _of_groups(source, tensor)


def _of_groups(source: Source, tensor: Tensor) -> Relation | None:
    """Whether the other tensor holds what is asked for in short: the mean or the deviation of each group."""
    count, group = source.scored.shape[1], source.group.flatten()
    if tensor.dim() not in (2, 3) or tensor.shape[1] != count or count < 2 or bool((group < 0).any()):
        return None
    values = source.values.detach().cpu().double().flatten(1).nan_to_num(0.0, 0.0, 0.0)
    index = group.expand(len(values), -1)
    mean = values.new_zeros(source.scored.shape).scatter_reduce(1, index, values, "mean", include_self=False)
    square = values.new_zeros(source.scored.shape).scatter_reduce(1, index, values**2, "mean", include_self=False)
    columns = tensor.detach().cpu().reshape(*tensor.shape[:2], -1)
    width = columns.shape[2]
    for name, summary in (("mean", mean), ("deviation", (square - mean**2).clamp_min(0).sqrt())):
        for k in range(min(width, 8)):
            found = related(summary, columns[..., k], source.scored)
            if found is not None and found.index is not None:
                return Relation(f"the {name} of its groups: {found.how}", found.index.gather(1, index) * width + k)
    return None


def _read(source: Source, other: Source | None, tensor: Tensor, relation: Relation) -> Tensor:
    """[samples, groups]: which groups are asked for and may be read in the other tensor."""
    if relation.index is None:
        return source.scored
    seen = torch.ones(tensor.shape, dtype=torch.bool).flatten(1)
    if other is not None and other.followed:
        seen = (other.seen[:, other.group] & (other.group >= 0)).flatten(1)
    there = (relation.index >= 0) & seen.gather(1, relation.index.clamp_min(0))
    out, group = torch.zeros_like(source.scored), source.group.flatten()
    for sample, row in enumerate(there):
        found = group[row]
        out[sample, found[found >= 0]] = True
    return out & source.scored


def _values(runner: Runner, plain: Plain, tensors: dict[str, Tensor], new: dict[str, Tensor]) -> Answer:
    return runner(lambda stop: ValueRun(plain.plan, stop, tensors, new), lambda run: run.values)


def _changed(tensor: Tensor, source: Source, relation: Relation, sample: int, group: int) -> Tensor:
    """The other tensor with other content where it holds this group."""
    changed = tensor.detach().clone()
    row = changed[sample].reshape(-1)
    if relation.index is None:
        where = torch.arange(len(row))
    else:
        where = relation.index[sample][source.group.flatten() == group]
        where = where[where >= 0]
    where = where.to(row.device)
    if row.is_floating_point():
        generator = torch.Generator().manual_seed(group)
        scale = row.float().nan_to_num().std().nan_to_num().clamp_min(0.5)
        row[where] += scale.to(row) * (1 + torch.rand(len(where), generator=generator)).to(row)
    else:
        # An id that is known: what looks it up must find it.
        other = row.max() + row.min() - row[where]
        row[where] = torch.where(other == row[where], row.max(), other)
    changed[sample] = row.view(changed[sample].shape)
    return changed
