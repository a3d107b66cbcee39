"""The claimed dependence against the truth: every tagged element changed in turn, every output element compared."""

import copy
import random
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from viewproof.bits import unlike
from viewproof.certify.flow import label_rules, rules, table
from viewproof.certify.flow.call import Row
from viewproof.certify.flow.dependence import Dependence
from viewproof.certify.flow.trace import MIXED, VISIBLE, LabelTrace

Program = Callable[[Tensor], Any]
FINITE, ALL = (0.5, -3.0, 0.0, 40.0), (0.5, -3.0, 0.0, float("nan"), float("inf"), -0.0)


def tensors(output: Any) -> list[Tensor]:
    return [output] if isinstance(output, Tensor) else [t for t in output if isinstance(t, Tensor)]


def claimed(program: Program, x: Tensor, where: Tensor, finite: bool = False) -> list[Tensor]:
    torch.default_generator.manual_seed(0)
    x = x.clone()
    with torch.no_grad(), Dependence(finite) as tracked:
        tracked.tag(x, where)
        output = tensors(program(x))
    return [tracked.of(t).clone() for t in output]


# Several tests ask it of the same programs, at some of the same places.
KNOWN: dict[Any, dict[tuple[int, ...], list[Tensor]]] = {}


def changes(program: Program, x: Tensor, where: Tensor, finite: bool = False) -> list[Tensor]:
    """Whether each output element changes with any one tagged element."""

    def run(x: Tensor) -> list[Tensor]:
        # torch.manual_seed notes its callers for a GPU that may come, which takes longer than most programs here.
        torch.default_generator.manual_seed(0)
        with torch.no_grad():
            return [t.clone() for t in tensors(program(x.clone()))]

    base = run(x)
    known = KNOWN.setdefault((program, x.shape, x.numpy().tobytes(), finite), {})
    seen = [torch.zeros(t.shape, dtype=torch.bool) for t in base]
    for place in map(tuple, where.nonzero().tolist()):
        if place not in known:
            known[place] = [torch.zeros(t.shape, dtype=torch.bool) for t in base]
            for value in FINITE if finite else ALL:
                other = x.clone()
                other[place] = value
                for changed, one, new in zip(known[place], base, run(other), strict=True):
                    assert one.shape == new.shape
                    changed |= one != new if finite else unlike(one, new)
        for changed, found in zip(seen, known[place], strict=True):
            changed |= found
    return seen


def missed(program: Program, x: Tensor, where: Tensor, finite: bool = False) -> int:
    pairs = zip(claimed(program, x, where, finite), changes(program, x, where, finite), strict=True)
    return sum(int((changed & ~said).sum()) for said, changed in pairs)


def example(seed: int, shape: tuple[int, ...] = (2, 4, 6)) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator)
    return x, torch.rand(shape, generator=generator) < (0.1, 0.3)[seed % 2]


def layer(make: Callable[[], nn.Module], train: bool = False) -> Program:
    torch.manual_seed(1)
    return make().train(train)


KEEP = torch.rand(2, 4, 6, generator=torch.Generator().manual_seed(7)) < 0.5
INDEX = torch.tensor([3, 0, 0, 2])
LSTM = nn.LSTM(6, 3, batch_first=True)
TABLE = torch.randn(10, 3, generator=torch.Generator().manual_seed(9))
MHA = nn.MultiheadAttention(6, 2, batch_first=True).eval()
LAYER = nn.TransformerEncoderLayer(6, 2, 12, batch_first=True).eval()
SHARED = np.zeros((2, 4, 6), dtype=np.float32)
WEIGHT = torch.randn(6, 5, generator=torch.Generator().manual_seed(8))

# Programs on [2, 4, 6] whose claim must be exactly what changes.
EXACT: dict[str, Program] = {
    "add": lambda x: x + x.flip(2),
    "gelu": F.gelu,
    "mul": lambda x: x * 3,
    "where": lambda x: torch.where(KEEP, x, x.roll(1, 2)),
    "masked_fill": lambda x: x.masked_fill(KEEP, 1.0),
    "views": lambda x: x.transpose(1, 2).reshape(4, 12)[1:, ::2].unsqueeze(0).expand(2, -1, -1) + 1,
    "select index": lambda x: x[:, INDEX, 1:4] - 1,
    "bool index": lambda x: x[KEEP],
    "gather": lambda x: x.gather(1, INDEX[None, :, None].expand(2, 4, 6)),
    "index_select": lambda x: x.index_select(1, INDEX),
    "scatter": lambda x: torch.zeros(2, 5, 6).scatter(1, INDEX.flip(0)[None, :1, None].expand(2, 1, 6), x[:, :1]),
    "scatter_add": lambda x: torch.zeros(2, 5, 6).scatter_add(1, INDEX[None, :, None].expand(2, 4, 6), x),
    "index_add": lambda x: torch.zeros(2, 5, 6).index_add(1, INDEX, x),
    "index_copy": lambda x: x.index_copy(1, torch.tensor([0, 2]), torch.zeros(2, 2, 6)),
    "index_put": lambda x: x.index_put((torch.tensor([0]), torch.tensor([1])), torch.tensor(2.0)),
    "masked_select": lambda x: x.masked_select(KEEP),
    "masked_scatter": lambda x: torch.zeros(2, 4, 6).masked_scatter(KEEP, x.flatten()),
    "cat": lambda x: torch.cat([x[:, :2], torch.ones(2, 1, 6), x], 1),
    "stack": lambda x: torch.stack([x, -x], 2),
    "pad": lambda x: F.pad(x, (1, 2, 0, 1), value=3.0),
    "reflect": lambda x: F.pad(x, (2, 1), mode="reflect"),
    "replicate": lambda x: F.pad(x, (2, 1), mode="replicate"),
    "roll": lambda x: x.roll((1, 2), (1, 2)),
    "view_copy": lambda x: torch.view_copy(x, (4, 12)),
    "unfold": lambda x: x.unfold(2, 3, 2) * 1,
    "im2col": lambda x: F.unfold(x[:, :, None], (1, 2)),
    "tril": lambda x: x.tril(),
    "repeat": lambda x: x.repeat(1, 2, 1).repeat_interleave(2, 2),
    "pixel_shuffle": lambda x: F.pixel_shuffle(x[..., None], 2),
    "chunks": lambda x: torch.cat(x.chunk(3, 2)[::-1], 1),
    "sum": lambda x: x.sum(1),
    "mean": lambda x: x.mean((0, 2), keepdim=True),
    "std": lambda x: x.std(2),
    "norm": lambda x: x.norm(dim=1),
    "logsumexp": lambda x: x.logsumexp(2),
    "renorm rows": lambda x: x.renorm(2, 1, 1.0),
    "renorm the last axis": lambda x: x[0].renorm(2, -1, 1.0),
    "cumsum": lambda x: x.cumsum(2),
    "linear": lambda x: x @ WEIGHT,
    "times a vector": lambda x: x @ WEIGHT[:, 0],
    "vector": lambda x: WEIGHT.T @ x[0, 0],
    "vectors": lambda x: torch.stack([x[0, 0] @ WEIGHT[:, 0], WEIGHT[:, 0] @ x[0, 0]]),
    "bmm": lambda x: x @ x.transpose(1, 2),
    "einsum": lambda x: torch.einsum("nij,nkj->ki", x, x),
    "softmax": lambda x: x.softmax(2),
    "conv1d": layer(lambda: nn.Conv1d(4, 3, 3, 2, padding=1)),
    "grouped": layer(lambda: nn.Conv1d(4, 6, 2, groups=2, dilation=2)),
    "transposed": layer(lambda: nn.ConvTranspose1d(4, 6, 3, 2, groups=2)),
    "avg_pool": lambda x: F.avg_pool1d(x, 3, 2, 1),
    "layer_norm": lambda x: F.layer_norm(x, (6,)),
    "group_norm": layer(lambda: nn.GroupNorm(2, 4)),
    "batch_norm": layer(lambda: nn.BatchNorm1d(4)),
    "batch_norm train": layer(lambda: nn.BatchNorm1d(4), train=True),
    "instance_norm": lambda x: F.instance_norm(x),
    "attention": lambda x: F.scaled_dot_product_attention(x[:, :1], x[:, 1:3], x[:, 3:].expand(2, 2, 6)),
    "lstm": layer(lambda: nn.LSTM(6, 3, batch_first=True)),
    "reverse lstm": lambda x: LSTM(x.flip(1))[0].flip(1),
    "packed": lambda x: nn.utils.rnn.pack_padded_sequence(x, torch.tensor([4, 2]), batch_first=True).data,
    "packed lstm": lambda x: LSTM(nn.utils.rnn.pack_padded_sequence(x, [4, 2], batch_first=True))[0].data,
    "glu": lambda x: F.glu(x, 1),
    "index by data": lambda x: TABLE[(x.abs() * 3).nan_to_num(0, 0, 0).long().clamp(0, 9)],
    "embedding": lambda x: F.embedding((x.abs() * 3).nan_to_num(0, 0, 0).long().clamp(0, 9), TABLE),
    "vmap": torch.vmap(lambda row: row.sum(0) * 2),
}


def write_into(x: Tensor) -> Tensor:
    out = torch.zeros(2, 4, 6)
    out[:, 1:3] = x[:, :2]
    out.transpose(1, 2)[:, 0].mul_(2)
    out[0] = 5.0
    return out


def in_place(x: Tensor) -> Tensor:
    base = x.clone()
    view = base.view(2, 24)[:, 3:]
    view.add_(view.flip(1))
    base[:, 0] = 0
    return view


def reinterpreted(x: Tensor) -> Tensor:
    pairs = torch.view_as_complex(x.reshape(2, 4, 3, 2).clone())
    return torch.view_as_real(pairs * 2)[:, :, 1:]


EXACT |= {
    "write into": write_into,
    "in place": in_place,
    "complex": reinterpreted,
    "deepcopy": lambda x: copy.deepcopy(x),
}

# Programs whose claim may be more than what changes.
SOUND: dict[str, Program] = {
    "relu": F.relu,
    "amax": lambda x: x.amax(2),
    "max": lambda x: x.max(1),
    "argmax": lambda x: x.argmax(2),
    "sort": lambda x: x.sort(2),
    "topk": lambda x: x.topk(2, 1),
    "argsort gather": lambda x: x.gather(1, x.argsort(1)),
    "max_pool": lambda x: F.max_pool1d(x, 3, 2, 1, return_indices=True),
    "adaptive": lambda x: F.adaptive_avg_pool1d(x, 4),
    "adaptive max": lambda x: F.adaptive_max_pool1d(x, 4),
    "nearest": lambda x: F.interpolate(x, scale_factor=2),
    "linear up": lambda x: F.interpolate(x, 9, mode="linear", align_corners=True),
    "bicubic": lambda x: F.interpolate(x[None], (7, 5), mode="bicubic"),
    "fold": lambda x: F.fold(x, (1, 7), (1, 2)),
    "grid_sample": lambda x: F.grid_sample(x[None], torch.linspace(-1, 1, 24).reshape(1, 3, 4, 2), align_corners=True),
    "fft": lambda x: torch.fft.rfft(x).abs(),
    "cummax": lambda x: x.cummax(2),
    "cumprod": lambda x: x.cumprod(1),
    "cdist": lambda x: torch.cdist(x, x),
    "cross": lambda x: torch.linalg.cross(x[:, :3], x[:, 1:], dim=1),
    "cond": lambda x: torch.where(x > 0, x.roll(1, 2), 0.0),
    "searchsorted": lambda x: torch.searchsorted(torch.tensor([-1.0, 0.0, 1.0]), x),
    "searched in itself": lambda x: torch.searchsorted(x, x),
    "renorm": lambda x: x.renorm(2, 1, 0.5),
    "row index by data": lambda x: TABLE[(x.abs() * 3).nan_to_num(0, 0, 0).long().clamp(0, 9), 1],
    "put by data": lambda x: torch.zeros(9).index_put((x[0, 0].nan_to_num(0, 0, 0).long().clamp(0, 8),), torch.ones(6)),
    "inv": lambda x: torch.linalg.inv_ex(x[0, :, :4])[0],
    "dropout": lambda x: F.dropout(x, 0.4),
    "rms_norm": lambda x: F.rms_norm(x, (6,)),
    "gru": layer(lambda: nn.GRU(6, 3, batch_first=True)),
    "item": lambda x: torch.ones(3) * x.sum().item(),
    "branch": lambda x: torch.ones(2) if x[0, 0, 0] > 0 else torch.zeros(2),
    "float": lambda x: torch.zeros(2) + float(x[0, 0, 0]),
    "numpy": lambda x: torch.from_numpy(np.sin(x.numpy())),
    "array": lambda x: torch.as_tensor(np.asarray(x) * 2),
    "list": lambda x: torch.tensor(x[0].tolist()),
    "scalars": lambda x: torch.tensor([x.mean(), x[0, 0, 0]]),
    "Tensor": lambda x: torch.Tensor([x.mean(), x[0, 0, 0]]),
    "memory": lambda x: torch.from_numpy(SHARED.copy()) if torch.from_numpy(SHARED).copy_(x) is not None else x,
    "count": lambda x: torch.ones(2) * len((x > 0).nonzero()),
    "size": lambda x: torch.ones(2) * x[x > 0].shape[0],
    "bernoulli": lambda x: torch.bernoulli(x.sigmoid().nan_to_num(0.5)),
    "drawn over its chances": lambda x: (lambda p: p.bernoulli_(p))(x.sigmoid().nan_to_num(0.5)),
    "drawn into its chances": lambda x: (lambda p: torch.bernoulli(p, out=p))(x.sigmoid().nan_to_num(0.5)),
    "poisson": lambda x: (torch.poisson(x.abs().nan_to_num(1, 1, 1)), torch.rand(3)),
    "script": torch.jit.script(nn.Sequential(nn.Linear(6, 6), nn.ReLU())),
    "mha": lambda x: MHA(x, x, x)[0],
    "encoder layer": lambda x: LAYER(x),
    "inference": lambda x: torch.inference_mode()(lambda y: F.linear(y, WEIGHT.T).flatten(1))(x),
    "data": lambda x: x.data[:, 1:] * 2,
    "out": lambda x: torch.add(x, 1, out=torch.empty(2, 4, 6)),
    "resized": lambda x: x.clone().resize_(2, 4, 6),
    "backward": lambda x: slope(x),
    "kernel of data": lambda x: F.conv1d(torch.ones(2, 4, 6), x[..., :3]),
    "bias of data": lambda x: F.conv1d(torch.ones(2, 4, 6), torch.ones(6, 4, 3), x[0, 0]),
    "scalars in a tuple": lambda x: torch.tensor((x.mean(), x[0, 0, 0])),
    "full of data": lambda x: torch.full((2,), x[0, 0, 0]),
    "classes of data": lambda x: F.nll_loss(TABLE[:6], torch.where(x[0, 0] > 0, 1, -100), reduction="none"),
    "classes of data, backward": lambda x: slope_of_scores(torch.where(x[0, 0] > 0, 1, -100)),
    "sorter": lambda x: torch.searchsorted(torch.ones(6), torch.ones(2), sorter=(x[0, 0] > 0).long()),
    "sparse product": lambda x: (torch.eye(6)[:4].to_sparse() * x[0]).to_dense(),
    "sparse": lambda x: (torch.eye(4).to_sparse() @ x[0]).clone(),
    "to sparse": lambda x: x[0].to_sparse().to_dense(),
}


ALL_PROGRAMS = {**EXACT, **SOUND}


def slope(x: Tensor) -> Tensor:
    with torch.enable_grad():
        z = x.detach().requires_grad_()
        return torch.autograd.grad((z.sum(2) ** 2 * z[..., 0]).sum(), z)[0]


def slope_of_scores(classes: Tensor) -> Tensor:
    with torch.enable_grad():
        scores = TABLE[:6].clone().requires_grad_()
        return torch.autograd.grad(F.nll_loss(scores, classes, reduction="sum"), scores)[0]


@pytest.mark.parametrize("name", [*EXACT, *SOUND])
def test_no_change_is_missed(name: str) -> None:
    program = (EXACT | SOUND)[name]
    for seed in range(2):
        x, where = example(seed)
        where[0, 0, 0] = True
        if name in ("count", "size", "to sparse"):
            # The shape changes with the data: whatever comes out must be said to depend.
            assert all(bool(said.all()) for said in claimed(program, x, where))
        else:
            assert missed(program, x, where) == 0


@pytest.mark.parametrize("name", EXACT)
def test_nothing_is_claimed_that_does_not_change(name: str) -> None:
    for seed in range(2):
        x, where = example(seed)
        pairs = zip(claimed(EXACT[name], x, where), changes(EXACT[name], x, where), strict=True)
        for said, changed in pairs:
            assert torch.equal(said, changed)


FINITE_EXACT: dict[str, Program] = {
    "multiplied": lambda x: x * KEEP,
    "sparse weights": lambda x: x @ (WEIGHT * (WEIGHT > 0)),
    "masked kernel": lambda x: F.conv1d(x, torch.tensor([1.0, 2.0, 0.0]).expand(3, 4, 3), padding=1),
}
BLOCKED = torch.tensor([True, True, False, False])


def masked_attention(mask: Tensor) -> Program:
    def attend(x: Tensor) -> Tensor:
        scores = x @ x.transpose(1, 2) / 10
        return ((scores + mask).softmax(-1) @ x)[:, :2]

    return attend


ATTENTION: dict[str, Program] = {
    "bool mask": lambda x: F.scaled_dot_product_attention(x, x, x, BLOCKED.expand(4, 4))[:, :2],
    "causal": lambda x: F.scaled_dot_product_attention(x, x, x, is_causal=True)[:, :2],
    "-inf": masked_attention(torch.zeros(4).masked_fill(~BLOCKED, -torch.inf)),
    "-1e9": masked_attention(torch.zeros(4).masked_fill(~BLOCKED, -1e9)),
    "-1e4": masked_attention(torch.zeros(4).masked_fill(~BLOCKED, -1e4)),
    "finfo.min": masked_attention(torch.zeros(4).masked_fill(~BLOCKED, torch.finfo(torch.float32).min)),
    "padding": lambda x: MHA(x, x, x, key_padding_mask=~BLOCKED.expand(2, 4))[0][:, :2],
    "baddbmm": lambda x: torch.baddbmm(
        torch.zeros(2, 4, 4).masked_fill(~BLOCKED, -1e9), x, x.mT).softmax(-1)[:, :2] @ x,
}  # fmt: skip


@pytest.mark.parametrize("name", FINITE_EXACT)
def test_with_finite_values_a_factor_of_zero_removes_dependence(name: str) -> None:
    x, where = example(0)
    (said,), (changed,) = (f(FINITE_EXACT[name], x, where, finite=True) for f in (claimed, changes))
    assert torch.equal(said, changed)
    assert not torch.equal(said, claimed(FINITE_EXACT[name], x, where)[0])


@pytest.mark.parametrize("name", ATTENTION)
def test_a_masked_key_is_not_seen(name: str) -> None:
    x = example(0)[0]
    where = torch.zeros(2, 4, 6, dtype=torch.bool)
    where[:, 2:] = True
    assert not claimed(ATTENTION[name], x, where, finite=True)[0].any()
    assert not changes(ATTENTION[name], x, where, finite=True)[0].any()
    assert claimed(ATTENTION[name], x, where)[0].all()


def test_a_mask_that_is_too_small_or_covers_a_whole_row_hides_nothing() -> None:
    x = example(0)[0]
    where = torch.zeros(2, 4, 6, dtype=torch.bool)
    where[:, 2:] = True
    assert claimed(masked_attention(torch.zeros(4).masked_fill(~BLOCKED, -100.0)), x, where, finite=True)[0].all()
    mask = torch.zeros(4).masked_fill(~BLOCKED, -1e4)
    assert claimed(lambda x: ((x @ x.mT) * 1e4 + mask).softmax(-1)[:, :2, :2], x, where, finite=True)[0].any()
    everything = masked_attention(torch.full((4,), -1e9))
    assert missed(everything, x, where, finite=True) == 0
    assert claimed(everything, x, where, finite=True)[0].all()


STEPS: list[Program] = [
    lambda x: x.cumsum(1),
    lambda x: x.roll(1, 0) * 2,
    lambda x: x.softmax(1),
    lambda x: x.clone().fill_diagonal_(0.5),
    lambda x: x + x.mean(0, keepdim=True),
    lambda x: torch.where(torch.arange(6) % 2 == 0, x, 0.0),
    lambda x: x[torch.tensor([2, 0, 0, 1])],
    lambda x: F.layer_norm(x, (6,)),
    lambda x: x.view(2, 2, 6).transpose(0, 1).reshape(4, 6),
    lambda x: F.conv1d(x[None], torch.ones(4, 1, 3), padding=1, groups=4)[0],
    lambda x: x.sort(0).values,
    lambda x: torch.cat([x[1:], x[:1]]),
    lambda x: x @ torch.eye(6),
    lambda x: x.index_add(0, torch.tensor([1, 1]), x[2:]),
    lambda x: x.masked_fill(torch.eye(4, 6).bool(), 0.0),
    lambda x: x.scatter(1, torch.tensor([[5], [4], [0], [1]]), x[:, :1]),
    lambda x: F.scaled_dot_product_attention(x[None], x[None], x[None], torch.ones(4, 4).tril().bool())[0],
]


def programs() -> Iterator[Program]:
    generator = random.Random(0)
    for _ in range(60):
        steps = generator.choices(STEPS, k=4)
        yield partial(_chain, steps)


def _chain(steps: list[Program], x: Tensor) -> Tensor:
    for step in steps:
        x = step(x)
    return x


@pytest.mark.parametrize("finite", [False, True])
def test_random_programs_miss_nothing(finite: bool) -> None:
    for seed, program in enumerate(programs()):
        x, where = example(seed, (4, 6))
        assert missed(program, x, where, finite) == 0


PLANTED = {
    "sum": rules.fresh,
    "cumsum": rules.pointwise,
    "_softmax": rules.pointwise,
    "convolution": lambda call: call.dep("input").any(1, keepdim=True)[..., 1:-1],
    "sort": rules.pointwise,
    "native_layer_norm": lambda call: (call.dep("input"), True, True),
    "gather": lambda call: call.dep("self"),
    "where": lambda call: call.dep("self"),
    "renorm": rules.slices,
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_wrong_rule_is_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(table._ROWS, name, Row(PLANTED[name]))
    table.row_of.cache_clear()
    try:
        program = {
            "sum": EXACT["sum"],
            "cumsum": EXACT["cumsum"],
            "_softmax": EXACT["softmax"],
            "convolution": lambda x: F.conv1d(x, torch.ones(3, 4, 3)),
            "sort": SOUND["sort"],
            "native_layer_norm": EXACT["layer_norm"],
            "gather": SOUND["argsort gather"],
            "where": EXACT["where"],
            "renorm": EXACT["renorm rows"],
        }[name]
        assert any(missed(program, *example(seed)) > 0 for seed in range(2))
    finally:
        table.row_of.cache_clear()


def test_what_left_torch_or_had_no_rule_is_named() -> None:
    def run(program: Program) -> Dependence:
        x, where = example(1)
        with torch.no_grad(), Dependence() as tracked:
            tracked.tag(x, where)
            program(x)
        return tracked

    assert run(lambda x: x.numpy()).escaped.startswith("numpy takes dependent data out of torch at test_dependence.py:")
    assert run(lambda x: (x > 0).nonzero()).escaped.startswith("the shape of what nonzero returns follows from")
    assert run(lambda x: torch.equal(x, x)).escaped.startswith("equal turns dependent data into a number of Python's")
    aligned = torch._nested_tensor_from_mask_left_aligned
    assert run(lambda x: aligned(torch.zeros(2, 4, 6), x[..., 0] > 0)).escaped
    assert not run(lambda x: aligned(x, KEEP[..., 0])).escaped
    assert next(iter(run(lambda x: torch.linalg.inv_ex(x[0, :, :4])).unknown)).startswith("linalg_inv_ex at test_dep")
    assert run(lambda x: x.sum(1)).spread.startswith("sum at test_dependence.py:")


def test_values_of_the_visible_part_that_decide_are_noted() -> None:
    x = torch.arange(6.0).reshape(2, 3)
    where = torch.tensor([True, False, False]).expand(2, 3)

    def run(program: Program) -> bool:
        given = x.clone()
        with torch.no_grad(), Dependence() as tracked:
            tracked.tag(given, where)
            out = program(given)
        assert not tracked.of(out).any()
        return tracked.reads_visible

    assert run(lambda x: torch.where(x[:, 1:] > 1e9, x[:, :1], 0.0))
    assert run(lambda x: x[:, 1:] * (2 if x[0, 1] > 0 else 1))
    assert run(lambda x: torch.from_numpy(x[:, 1:].numpy().copy()))
    assert run(lambda x: x[:, 1:][x[:, 1:] > 3])
    assert not run(lambda x: torch.where(torch.tensor([True, False, False]), 0.0, x).exp())


@pytest.mark.parametrize(
    "program",
    [
        lambda x, zeros: x[:, :1] * zeros,
        lambda x, zeros: zeros * x[:, :1],
        lambda x, zeros: zeros / x[:, :1],
        lambda x, zeros: zeros[:, :1] @ x[:1, :1],
        lambda x, zeros: x[:, :1] @ zeros[:1],
        lambda x, zeros: F.conv1d(x[:, None], zeros[:1, None]),
        lambda x, zeros: torch.where(x[:, :1] > 0, zeros, torch.zeros(2)),
        lambda x, zeros: torch.where(x[:, :1] > 0, torch.zeros(2), zeros),
        lambda x, zeros: (x + torch.cat([zeros[:, :1] - 1e9, zeros], 1)).softmax(1),
        lambda x, zeros: torch.cat([x[:, :1], zeros[:, :1] - 1e9], 1).softmax(1)[:, 1:],
        lambda x, zeros: F.nll_loss(x, zeros[:, 0].long() + 1),
    ],
)
def test_values_of_the_visible_part_that_remove_dependence_are_noted(program: Callable[..., Tensor]) -> None:
    x = torch.arange(6.0).reshape(2, 3)
    with torch.no_grad(), Dependence(finite=True) as tracked:
        tracked.tag(x, torch.tensor([True, False, False]).expand(2, 3))
        zeros = x[:, 1:] * 0
        assert not tracked.reads_visible
        assert not tracked.of(program(x, zeros)).any() and tracked.reads_visible


def test_memory_of_storages_that_are_gone_is_given_back() -> None:
    x = torch.randn(8)
    with torch.no_grad(), Dependence() as tracked:
        tracked.tag(x, torch.ones(8, dtype=torch.bool))
        for _ in range(3000):
            x = x + 1
    assert tracked.of(x).all()
    assert len(tracked.storages) < 2000


LIBRARY = torch.library.Library("viewproof_test", "DEF")
LIBRARY.define("chosen(Tensor x, Tensor score) -> Tensor")
LIBRARY.impl("chosen", lambda x, score: x[score > 0], "CPU")
LIBRARY.define("doubled(Tensor x) -> Tensor")
LIBRARY.impl("doubled", lambda x: x * 2, "CPU")
LIBRARY.impl("doubled", torch.empty_like, "Meta")


def test_an_operator_whose_shape_may_follow_from_values_decides_though_nothing_says_so() -> None:
    x, where = torch.ones(4), torch.tensor([True, False, False, False])
    with torch.no_grad(), Dependence() as tracked:
        tracked.tag(x, where)
        sized = torch.full((1,), float(len(torch.ops.viewproof_test.chosen(torch.arange(4.0), x))))
    assert "viewproof_test::chosen" in tracked.escaped and tracked.of(sized).all()
    with torch.no_grad(), Dependence() as tracked:
        tracked.tag(x, where)
        torch.ops.viewproof_test.doubled(x)
    assert not tracked.escaped and tracked.unknown


def test_what_holds_no_number_or_was_never_written_is_not_said_to_be_independent() -> None:
    x = torch.ones(2, 3)
    with torch.no_grad(), Dependence() as tracked:
        tracked.tag(x, torch.tensor([True, False, False]).expand(2, 3))
        nowhere, somewhere = x[:, 1:] * torch.inf, x[:, 1:] * torch.tensor([torch.nan, 1.0])
        grown = torch.zeros(2).resize_(100)
    assert tracked.of(nowhere).all() and not tracked.of(somewhere).any()
    assert not tracked.of(grown[:2]).any() and tracked.of(grown[2:]).all()


def test_a_write_to_the_input_is_named() -> None:
    for function, operator in ((lambda x: x[0].zero_(), "zero"), (lambda x: x.add(1), "")):
        x = torch.ones(2, 3)
        with torch.no_grad(), Dependence() as tracked:
            tracked.tag(x, x > 0)
            function(x)  # type: ignore[no-untyped-call]
        assert tracked.wrote.startswith(f"{operator} at test_dependence.py:") if operator else tracked.wrote == ""


UNARY = [
    overload
    for name in dir(torch.ops.aten)
    if hasattr(packet := getattr(torch.ops.aten, name), "overloads")
    for overload in (getattr(packet, o) for o in packet.overloads())
    if torch.Tag.pointwise in overload.tags
    and overload._schema.arguments[0].name == "self"
    and all(a.has_default_value() for a in overload._schema.arguments[1:])
    and not any(a.is_out for a in overload._schema.arguments)
]


def test_operators_that_torch_calls_pointwise_are() -> None:
    x, where = example(0, (7,))
    x = x.abs()
    where[2] = True
    seen = 0
    for operator in UNARY:
        try:
            operator(x.clone())
        except RuntimeError:
            continue
        seen += 1
        (said,) = claimed(operator, x, where)[:1]
        assert not (said & ~where).any()
        assert missed(operator, x, where) == 0, operator
    assert seen > 90


def denied(program: Program) -> int:
    """Changes of outputs that the labels deny, over each coordinate of the first sample."""
    x, where = example(1)
    where[0, 0, 0] = True
    torch.manual_seed(0)
    with torch.no_grad(), LabelTrace(traced := x.clone(), where) as trace:
        labels = [trace.labels(t) for t in tensors(program(traced))]
    count = 0
    for place in range(24) if trace.lost is None else ():
        one = torch.zeros(x.shape, dtype=torch.bool)
        one.view(-1)[place] = True
        for label, changed in zip(labels, changes(program, x, one), strict=True):
            source = torch.where(label >= x.numel(), label - x.numel(), label)
            allowed = (source == place) | (label == MIXED) | ((label == VISIBLE) & ~where.flatten()[place])
            count += int((changed & ~allowed).sum())
    return count


@pytest.mark.parametrize("name", [*EXACT, *SOUND])
def test_labels_deny_no_change_either(name: str) -> None:
    assert denied((EXACT | SOUND)[name]) == 0


def test_a_wrong_row_of_labels_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, row in (
        ("cumsum", Row(rules.running, label_rules.joined)),
        ("_softmax", Row(rules.pointwise)),
        ("sort", Row(rules.slices, label_rules.moved)),
    ):
        monkeypatch.setitem(table._ROWS, name, row)
        table.row_of.cache_clear()
        try:
            assert denied({"cumsum": EXACT["cumsum"], "_softmax": EXACT["softmax"], "sort": SOUND["sort"]}[name]) > 0
        finally:
            table.row_of.cache_clear()
