"""Labels: every move is followed as the operator moves, every look at values is noticed."""

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from viewproof.certify.flow.storage import Storages
from viewproof.certify.flow.trace import CONSTANT, MIXED, VISIBLE, LabelTrace

X = torch.arange(1.0, 49.0).reshape(2, 1, 4, 6)
INDEX = torch.tensor([3, 0, 2])
MASK = torch.arange(6) % 2 == 0

MOVES: list[Callable[[Tensor], Tensor]] = [
    lambda x: x.clone().masked_fill_(MASK, 0.0),
    lambda x: x.flatten(1)[:, INDEX],
    lambda x: F.pad(x, (1, 2)),
    lambda x: F.pad(x, (1, 2, 0, 1), mode="reflect"),
    lambda x: F.unfold(x, (2, 3), stride=(2, 3), padding=1),
    lambda x: F.pixel_unshuffle(x, 2),
    lambda x: x.triu(),
    lambda x: x.permute(0, 2, 3, 1).contiguous(),
    lambda x: torch.where(MASK, x, 0.0),
    lambda x: torch.cat([x, torch.zeros(2, 1, 4, 1), x.flip(3)], 3),
    lambda x: torch.stack([x[0], x[1].roll(1, -1)]),
    lambda x: torch.gather(x, 3, INDEX.expand(2, 1, 4, 3)),
    lambda x: torch.zeros(2, 1, 4, 6).scatter(3, INDEX.expand(2, 1, 4, 3), x),
    lambda x: x.repeat(1, 2, 1, 1).repeat_interleave(2, 3),
    lambda x: torch.rot90(x, 1, (2, 3)),
    lambda x: x.unfold(3, 2, 1).contiguous(),
    lambda x: torch.empty(2, 1, 4, 6).copy_(x),
    lambda x: torch.zeros(2, 8).index_put_((torch.tensor([1]), torch.tensor([5])), x[0, 0, 0, 0]),
    lambda x: x.masked_select(MASK),
    lambda x: torch.zeros(2, 1, 4, 6).masked_scatter(MASK, x),
    lambda x: x.index_fill(3, INDEX, 0.0),
    lambda x: torch.zeros_like(x).index_copy(3, INDEX, x[..., :3]),
    lambda x: torch.where(MASK, x, torch.zeros(()), out=torch.ones(2, 1, 4, 6)),
    lambda x: torch.func.vmap(lambda row: row.flip(-1))(x),
    lambda x: torch.einsum("nchw->nhwc", x),
]


@pytest.mark.parametrize("function", MOVES)
def test_labels_of_moves_say_where_each_value_comes_from(function: Callable[[Tensor], Tensor]) -> None:
    x = X.clone()
    with LabelTrace(x) as trace:
        y = function(x)
    labels = trace.labels(y)
    assert trace.lost is None and bool((labels >= CONSTANT).all()) and bool((labels < x.numel()).all())
    # No value of X is 0, and all differ: a wrong label shows.
    assert torch.equal(y, torch.where(labels >= 0, X.reshape(-1)[labels.clamp(min=0)], 0.0))


def running_mean(x: Tensor) -> Tensor:
    layer = torch.nn.BatchNorm2d(1)
    layer(x)
    assert layer.running_mean is not None
    return layer.running_mean


@pytest.mark.parametrize(
    ("function", "label"),
    [
        (lambda x: 2 * x, 48),
        (lambda x: x.double(), 48),
        (lambda x: x * MASK, 48),
        (lambda x: x.half().float(), 48),
        (lambda x: x + x.flip(3), MIXED),
        (lambda x: torch.cat([torch.zeros_like(x), x]) + torch.cat([x, torch.zeros_like(x)]), 48),
        (lambda x: x.sum(3), MIXED),
        (lambda x: x.cumsum(3), MIXED),
        (lambda x: x.gather(3, x.argsort(3)), MIXED),
        (lambda x: torch.empty(3), MIXED),
        (lambda x: torch.zeros(3), CONSTANT),
        (lambda x: torch.zeros_like(x), CONSTANT),
        (lambda x: torch.repeat_interleave(torch.cat([x.reshape(-1), torch.ones(3)])[48:].int()), CONSTANT),
        (lambda x: x.clone().zero_(), CONSTANT),
        (lambda x: torch.empty_like(x).uniform_(), CONSTANT),
        (lambda x: x.int() & 0, CONSTANT),
        (lambda x: x.view(torch.int32) & -1, 0),
        (lambda x: x.view(torch.int32) * 1, 0),
        (lambda x: x.view(torch.int32) * 0, CONSTANT),
        (lambda x: torch.add(torch.zeros(6, dtype=torch.int32), x.view(torch.int32), alpha=2), 48),
        (lambda x: torch.full((2, 1, 4, 6), 2).mul_(x.long() - 1), 48),
        (lambda x: x.int() & torch.tensor(255, dtype=torch.uint8).expand(1), 48),
        (lambda x: torch.cat([x, x.double()]), 48),
        (lambda x: torch.cat([x.view(torch.int32).flatten(), torch.ones(1, dtype=torch.int64)]), 48),
        (lambda x: running_mean(x), MIXED),
        (lambda x: torch.zeros(2).resize_(100)[50:], MIXED),
        (lambda x: x.resize_(100)[50:], MIXED),
    ],
)
def test_the_first_label_of_what_is_computed(function: Callable[[Tensor], Tensor], label: int) -> None:
    x = X.clone()
    with LabelTrace(x) as trace:
        y = function(x)
    assert trace.lost is None
    assert int(trace.labels(y).reshape(-1)[0]) == label


def test_what_is_computed_from_visible_coordinates_only_is_told_apart() -> None:
    x = X.clone()
    hidden = torch.zeros_like(X, dtype=torch.bool)
    hidden[..., 0] = True
    with LabelTrace(x, hidden) as trace:
        seen, all_of_it = x[..., 1:].mean(3), x.mean(2)
    assert bool((trace.labels(seen) == VISIBLE).all())
    assert trace.labels(all_of_it)[0, 0].tolist() == [MIXED, *[VISIBLE] * 5]


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda x: x if x.sum() > 0 else -x, "looks at values"),
        (lambda x: x[x > 3], "looks at values"),
        (lambda x: x.nonzero(), "looks at values"),
        (lambda x: torch.tensor(x.tolist()), "looks at values: tolist"),
        (lambda x: torch.from_numpy(x.numpy() + 0), "looks at values: numpy"),
        (lambda x: x if "inf" in str(x) else -x, "looks at values: __repr__"),
        (lambda x: x.clone().apply_(abs), "looks at values: apply_"),
        (lambda x: copy.deepcopy(x), "another item size"),
        (lambda x: torch.utils.dlpack.from_dlpack(x), "looks at values: __dlpack__"),
        (lambda x: x if torch.allclose(x, 2 * x) else -x, "looks at values"),
        (lambda x: x if torch.equal(x, 2 * x) else -x, "looks at values"),
        (lambda x: x if 3.0 in x else -x, "looks at values"),
        (lambda x: torch.from_numpy(np.asarray(x)), "looks at values: __array__"),
        (lambda x: x.view(torch.uint8) + 0, "another item size"),
        (lambda x: torch.from_numpy(np.zeros(X.shape, np.float32)).copy_(x), "shared with code outside torch"),
        (lambda x: (torch.eye(6)[:4].to_sparse() * x[0, 0]).to_dense(), "no strided storage"),
        (lambda x: (torch.poisson(x), torch.rand(3))[1], "more or fewer random numbers"),
        (lambda x: torch.complex(x, x).conj(), "without writing them"),
    ],
)
def test_a_look_at_values_is_noticed(function: Callable[[Tensor], Tensor], reason: str) -> None:
    x = X.clone()
    with LabelTrace(x) as trace:
        y = function(x)
    trace.labels(y)
    assert trace.lost is not None and reason in trace.lost


def test_writes_to_the_source_are_noticed() -> None:
    for function, wrote in ((lambda x: x.add_(0), True), (lambda x: x[0].zero_(), True), (lambda x: x.add(1), False)):
        x = X.clone()
        with LabelTrace(x) as trace:
            function(x)  # type: ignore[no-untyped-call]
        assert bool(trace.wrote) is wrote


def test_planes_of_storages_that_are_gone_are_forgotten() -> None:
    storages = Storages(tagged=True)
    alive = [torch.zeros(1) for _ in range(1100)]
    for x in alive:
        storages.write(x, tagged=True)
    for _ in range(3000):
        storages.write(torch.zeros(1), tagged=True)
    assert len(storages) < 2500 and all(storages.read(x, "tagged").all() for x in alive)
