"""Every operator's meaning, evaluated at every coordinate, against the operator itself, bit for bit."""

import itertools
import math
import operator
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import pytest
import torch
import z3

from viewproof.symbolic.facts import Facts
from viewproof.symbolic.meaning import concrete
from viewproof.symbolic.operators import TABLE
from viewproof.symbolic.tensor import SymTensor
from viewproof.symbolic.terms import fold
from viewproof.symbolic.values import FLOATS, NoMeaning

NAN, INF = math.nan, math.inf
SPECIAL = [NAN, -NAN, 0.0, -0.0, 1.0, -1.5, INF, -INF, 1e-45, 3.0e38, 0.1, -2.0]


def floats(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Random numbers among which every special value occurs, a NaN with a payload included."""
    size = math.prod(shape)
    values = torch.randn(size) * 3
    for place, value in zip(torch.randperm(size).tolist(), SPECIAL, strict=False):
        values[place] = value
    if size and dtype == torch.float32:
        values.view(torch.int32)[torch.randint(size, ())] = 0x7FC12345
    return values.to(dtype).reshape(shape)


def ints(*shape: int, low: int = -7, high: int = 8) -> torch.Tensor:
    return torch.randint(low, high, shape)


def bools(*shape: int) -> torch.Tensor:
    return torch.rand(shape) < 0.5


def nonzero(*shape: int) -> torch.Tensor:
    return torch.where(bools(*shape), ints(*shape, low=1), ints(*shape, low=-7, high=0))


Call = tuple[Any, ...]


def creation() -> Iterator[Call]:
    yield "aten.zeros.default", [2, 3]
    yield "aten.ones.default", [2], {"dtype": torch.int64}
    yield "aten.full.default", [2, 2], 1.5
    yield "aten.full.default", [2], 7
    yield "aten.full.default", [2], True
    yield "aten.scalar_tensor.default", 2.5
    yield "aten.scalar_tensor.default", 2, {"dtype": torch.int64}
    yield "aten.arange.default", 5
    yield "aten.arange.start", 2, 7
    yield "aten.arange.start_step", 1, 10, 3
    yield "aten.eye.default", 3
    yield "aten.eye.m", 2, 3
    for x in (floats(2, 3), ints(2, 3), bools(2, 3), floats(0, 2)):
        yield "aten.zeros_like.default", x
        yield "aten.ones_like.default", x
        yield "aten.full_like.default", x, 1
        yield "aten.new_zeros.default", x, [2, 2]
        yield "aten.new_ones.default", x, [3]
        yield "aten.new_full.default", x, [3], 1
        yield "aten.lift_fresh_copy.default", x


def shape() -> Iterator[Call]:
    x = floats(2, 3, 4)
    for name in ("alias", "clone", "contiguous", "detach", "lift"):
        yield f"aten.{name}.default", x
    for name in ("reshape", "view", "_unsafe_view"):
        for new in ([6, 4], [2, 12], [24], [2, 1, 3, 2, 2], [4, 6]):
            yield f"aten.{name}.default", x, new
    yield "aten.reshape.default", x, [2, -1]
    yield "aten.reshape.default", floats(0, 3), [3, 0]
    yield "aten.sym_size.int", x, 1
    yield "aten.sym_numel.default", x
    yield "aten.detach_.default", torch.tensor([1.5, NAN])
    for axes in ((0, -1), (1, 2), (0, 1)):
        yield "aten.flatten.using_ints", x, *axes
    yield "aten.flatten.using_ints", floats(), 0, -1
    yield "aten.unflatten.int", x, 2, [2, -1]
    for name in ("expand", "broadcast_to"):
        yield f"aten.{name}.default", floats(1, 3), [2, 4, 3]
    yield "aten.expand.default", floats(2, 1), [-1, 3]
    yield "aten.expand_as.default", floats(3), floats(2, 3)
    yield "aten.broadcast_tensors.default", [floats(2, 1), floats(3)]
    yield "aten.permute.default", x, [2, 0, 1]
    yield "aten.transpose.int", x, 0, -1
    yield "aten.t.default", floats(2, 3)
    yield "aten.numpy_T.default", floats(2, 3)
    yield "aten.movedim.int", x, 0, 2
    yield "aten.unsqueeze.default", x, -1
    yield "aten.squeeze.dim", floats(2, 1, 3), 1
    yield "aten.squeeze.dims", floats(1, 2, 1), [0, 2]
    yield "aten.squeeze.default", floats(1, 2, 1)
    yield "aten.flip.default", x, [0, 2]
    yield "aten.roll.default", x, [1, -2], [0, 2]
    yield "aten.roll.default", x, [5]
    yield "aten.repeat.default", floats(2, 3), [2, 1, 2]
    yield "aten.repeat_interleave.self_int", x, 2, 1
    yield "aten.repeat_interleave.self_int", x, 3
    yield "aten.unbind.int", x, 1
    yield "aten.select.int", x, 1, -1


def indexing() -> Iterator[Call]:
    x = floats(3, 4, 5)
    for bounds in ((1, 1, 3), (2, -3, -1), (0, 0, 9), (1, 3, 1), (2, None, None, 2), (2, 1, 5, 3)):
        yield "aten.slice.Tensor", x, *bounds
    yield "aten.narrow.default", x, 1, -3, 2
    yield "aten.slice_scatter.default", x, floats(3, 2, 5), 1, 1, 3
    yield "aten.slice_scatter.default", x, floats(3, 4, 2), 2, 0, 4, 2
    yield "aten.select_scatter.default", x, floats(3, 5), 1, -2
    yield "aten.copy.default", x, floats(4, 1)
    yield "aten.index_select.default", x, 1, ints(3, low=0, high=4)
    yield "aten.gather.default", x, 2, ints(3, 4, 2, low=0, high=5)
    yield "aten.index.Tensor", x, [ints(2, low=-3, high=3)]
    yield "aten.index.Tensor", x, [None, ints(2, 1, low=0, high=4), ints(3, low=-5, high=5)]
    yield "aten.index.Tensor", x, [ints(2, low=0, high=3), None, ints(2, low=0, high=5)]
    yield "aten.index_put.default", x, [None, bools(4)], torch.tensor(7.0)
    yield "aten.scatter.value", x, 1, ints(3, 2, 5, low=0, high=4), 7.0
    yield "aten.scatter.value", bools(3, 4), -1, ints(3, 2, low=0, high=4), True
    yield "aten.cat.default", [floats(2, 3), floats(2, 1), floats(2, 2)], 1
    yield "aten.cat.default", [ints(2), floats(3)]
    yield "aten.stack.default", [floats(2, 3), floats(2, 3)], 1
    yield "aten.constant_pad_nd.default", x, [1, 2, 0, 1], -0.0
    yield "aten.constant_pad_nd.default", x, [-1, 1]
    yield "aten.pad.default", floats(2, 3), [1, 1], "constant", 2.0
    yield "aten.where.self", bools(4, 1), x, floats()
    yield "aten.where.ScalarSelf", bools(3), 1.5, floats(3)
    yield "aten.where.ScalarOther", bools(3), floats(3), 0
    yield "aten.where.Scalar", bools(3), 1.0, -0.0
    yield "aten.masked_fill.Scalar", x, bools(4, 5), 0
    yield "aten.masked_fill.Tensor", x, bools(5), torch.tensor(NAN)


def arithmetic() -> Iterator[Call]:
    pairs = [(floats(4, 4), floats(4, 4)), (floats(3, 1), floats(4)), (ints(3, 4), ints(4)), (floats(4), ints(4))]
    pairs += [(floats(16, dtype=d), floats(16, dtype=d)) for d in (torch.float16, torch.bfloat16, torch.float64)]
    pairs += [(ints(9).to(torch.int8) * 17, ints(9).to(torch.int8) * 15), (ints(9).to(torch.uint8), bools(9))]
    for name in ("add", "sub", "mul", "rsub"):
        for a, b in pairs:
            if name not in ("sub", "rsub") or b.dtype != torch.bool:
                yield f"aten.{name}.Tensor", a, b
    for name in ("add", "sub", "mul", "div", "rsub"):
        yield f"aten.{name}.Scalar", floats(16), 0.1
        yield f"aten.{name}.Scalar", floats(16, dtype=torch.bfloat16), 0.25
    yield "aten.add.Tensor", ints(9), ints(9), {"alpha": 2}
    yield "aten.sub.Tensor", ints(9), ints(9), {"alpha": 3}
    yield "aten.div.Tensor", *pairs[0]
    yield "aten.div.Tensor", ints(5), nonzero(5)
    for exponent in (0, 1, 2, 2.0):
        yield "aten.pow.Tensor_Scalar", floats(16), exponent
    for name in ("square", "neg", "abs", "isnan"):
        yield f"aten.{name}.default", floats(16)
        yield f"aten.{name}.default", ints(5)
    for name in ("sgn", "sign"):
        yield f"aten.{name}.default", torch.tensor([1.5, -0.25, INF, -INF, 0.0, -0.0, NAN])
        yield f"aten.{name}.default", ints(5)
    for name in ("floor_divide", "remainder"):
        yield f"aten.{name}.default" if name == "floor_divide" else f"aten.{name}.Tensor", ints(40), nonzero(40)
        for divisor in (3, -3, 1):
            yield f"aten.{name}.Scalar", ints(20), divisor
    yield "aten.remainder.Scalar_Tensor", 7, nonzero(9)
    yield "aten.div.Tensor_mode", ints(20), nonzero(20), {"rounding_mode": "floor"}
    yield "aten.div.Scalar_mode", ints(20), -4, {"rounding_mode": "floor"}
    yield "aten.maximum.default", ints(9), ints(9)
    yield "aten.minimum.default", ints(9), ints(9)
    yield "aten.clamp.default", ints(9), -2, 3
    yield "aten.clamp_min.default", ints(9), 0
    yield "aten.clamp_max.default", ints(9), 0
    for name in ("eq", "ne", "lt", "le", "gt", "ge"):
        same = floats(16)
        yield f"aten.{name}.Tensor", same, torch.where(bools(16), same, floats(16))
        yield f"aten.{name}.Tensor", bools(9), bools(9)
        yield f"aten.{name}.Scalar", ints(9), 1
    for kind in ("logical", "bitwise"):
        for name in ("and", "or", "xor"):
            yield f"aten.{kind}_{name}.{'default' if kind == 'logical' else 'Tensor'}", bools(9), bools(9)
        yield f"aten.{kind}_not.default", bools(9)
    for name in ("and", "or", "xor"):
        yield f"aten.bitwise_{name}.Scalar", bools(9), True
        yield f"aten.__{name}__.Tensor", bools(9), bools(9)
        yield f"aten.__{name}__.Scalar", bools(9), True
    yield "aten.logical_not.default", floats(16)


def casts() -> Iterator[Call]:
    for source in (
        floats(16),
        floats(16, dtype=torch.float64),
        floats(16, dtype=torch.bfloat16),
        ints(9) * 100,
        bools(9),
    ):
        for target in (*FLOATS, torch.bool, torch.int8, torch.uint8, torch.int64):
            if source.is_floating_point() and target in (torch.int8, torch.uint8, torch.int64):
                continue
            yield "aten.to.dtype", source, target
    yield "aten.to.dtype_layout", floats(5), {"dtype": torch.float64}
    yield "aten.to.device", ints(5), torch.device("cpu"), torch.float32
    yield "aten.to.other", ints(5), floats(1)
    yield "aten._to_copy.default", floats(5), {"dtype": torch.float16}
    yield "aten.type_as.default", ints(5), floats(1)


def reductions() -> Iterator[Call]:
    for x in (ints(3, 4), bools(3, 4), ints(0, 2)):
        yield "aten.sum.default", x
        yield "aten.sum.dim_IntList", x, [0]
        yield "aten.sum.dim_IntList", x, [-1, 0], True
        yield "aten.any.default", x
        yield "aten.all.default", x
        yield "aten.any.dim", x, 1, True
        yield "aten.all.dim", x, 0
        yield "aten.any.dims", x, [0, 1]
        yield "aten.all.dims", x, [0, 1]
        yield "aten.count_nonzero.default", x
        yield "aten.count_nonzero.dim_IntList", x, [1]


def distances() -> Iterator[Call]:
    a, b = floats(16), floats(16)
    for name in ("mse_loss", "l1_loss", "smooth_l1_loss"):
        yield f"aten.{name}.default", a, b, 0
    yield "aten.smooth_l1_loss.default", a, b, 0, 0.5
    yield "aten.mse_loss_backward.default", a, b, floats(16), 0


torch.manual_seed(0)
CALLS = [*creation(), *shape(), *indexing(), *arithmetic(), *casts(), *reductions(), *distances()]


def real_calls() -> Iterator[Call]:
    """Arithmetic on real numbers: compared up to rounding, on finite values."""
    x, y = torch.randn(3, 4, dtype=torch.float64), torch.randn(3, 4, dtype=torch.float64)
    for name in ("mse_loss", "l1_loss", "smooth_l1_loss"):
        yield f"aten.{name}.default", x, y, 0
    yield "aten.smooth_l1_loss.default", x, y, 0, 0.5
    yield "aten.mse_loss_backward.default", x, y, x * 2, 0
    yield "aten.smooth_l1_loss_backward.default", x, y, x * 2, 0, 0.5
    for axes in ([0], [1], [0, 1]):
        yield "aten.sum.dim_IntList", x, axes
        yield "aten.mean.dim", x, axes, True
    yield "aten.sum.default", x
    yield "aten.mean.default", x
    for name in ("maximum", "minimum"):
        yield f"aten.{name}.default", x, y
    yield "aten.clamp.default", x, -0.5, 0.5
    yield "aten.div.Tensor", x, y
    yield "aten.sgn.default", x
    yield "aten.lerp.Scalar", x, y, 0.1
    for name in ("matmul", "mm"):
        yield f"aten.{name}.default", x, y.T


def overload(name: str) -> Any:
    _, packet, kind = name.split(".")
    return getattr(getattr(torch.ops.aten, packet), kind)


def lift(argument: Any, facts: Facts) -> Any:
    if isinstance(argument, torch.Tensor):
        return concrete(argument, facts)
    return [lift(part, facts) for part in argument] if isinstance(argument, list) else argument


def differs(call: Call, meaning: Callable[..., Any], arithmetic_kind: str = "ieee") -> str | None:
    """Where the meaning and the operator differ; None if nowhere."""
    name, *arguments = call
    options = arguments.pop() if arguments and isinstance(arguments[-1], dict) else {}
    facts = Facts(arithmetic_kind)
    expected = overload(name)(*arguments, **options)
    actual = meaning(facts, *(lift(a, facts) for a in arguments), **options)
    for tensor, meant in zip(*(r if isinstance(r, list | tuple) else [r] for r in (expected, actual)), strict=True):
        if not isinstance(meant, SymTensor):
            if meant != tensor:
                return f"{name}: {meant} for {tensor}"
            continue
        if tuple(map(fold, meant.shape)) != tuple(tensor.shape) or meant.dtype != tensor.dtype:
            return f"{name}: {meant.dtype} {meant.shape} for {tensor.dtype} {tuple(tensor.shape)}"
        for place in itertools.product(*map(range, tensor.shape)):
            if not agrees(tensor[place], meant.at(place), facts):
                return f"{name} at {place}: {meant.at(place)} for {tensor[place]}"
    return None


def agrees(value: torch.Tensor, meant: Any, facts: Facts) -> bool:
    meant = z3.simplify(meant) if isinstance(meant, z3.ExprRef) else meant
    if value.dtype not in FLOATS:
        return fold(meant) == value.item()
    if facts.arithmetic == "real":
        return abs(Fraction(value.item()) - meant.as_fraction()) <= Fraction(1, 10**9)
    bits = value.contiguous().view(FLOATS[value.dtype][2]).item()
    if z3.is_bv_value(meant):
        return meant.as_signed_long() == bits
    # A computed NaN: its bits are not specified, except that they encode a NaN.
    solver = z3.Solver()
    solver.add(z3.Not(z3.fpIsNaN(z3.fpBVToFP(meant, z3.FPSort(*FLOATS[value.dtype][:2])))))
    return bool(value.isnan()) and solver.check() == z3.unsat


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call[0])
def test_meaning_is_the_operator(call: Call) -> None:
    assert differs(call, TABLE[call[0]]) is None


@pytest.mark.parametrize("call", list(real_calls()), ids=lambda call: call[0])
def test_real_meaning_is_the_operator_up_to_rounding(call: Call) -> None:
    assert differs(call, TABLE[call[0]], "real") is None


def test_every_operator_of_the_table_is_tried() -> None:
    tried = {call[0] for call in [*CALLS, *real_calls()]}
    silent = {
        "aten._assert_async.default",
        "aten._assert_async.msg",
        "aten._assert_scalar.default",
        "aten._assert_tensor_metadata.default",
        "aten.promote_types.default",
        "aten.sym_constrain_range.default",
    }
    left = {name for name in TABLE if name.startswith("aten.")} - tried - silent
    assert not left


@pytest.mark.parametrize(
    ("planted", "call"),
    [
        ("aten.floor_divide.default", ("aten.remainder.Tensor", ints(9), nonzero(9))),
        ("aten.add.Tensor", ("aten.sub.Tensor", torch.ones(2), torch.ones(2))),
        ("aten.abs.default", ("aten.neg.default", torch.tensor([1.0, 2.0]))),
        ("aten.flip.default", ("aten.roll.default", torch.arange(5.0), [1], [0])),
        ("aten.any.default", ("aten.all.default", torch.tensor([True, False]))),
    ],
)
def test_a_wrong_meaning_is_caught(planted: str, call: Call) -> None:
    def wrong(facts: Facts, *arguments: Any) -> Any:
        return TABLE[planted](facts, *arguments[: 1 if planted == "aten.abs.default" else None])

    if planted == "aten.flip.default":
        assert differs(call, lambda facts, x, *_: TABLE[planted](facts, x, [0])) is not None
    else:
        assert differs(call, wrong) is not None


def test_half_precision_with_a_number_that_it_cannot_hold_has_no_meaning() -> None:
    with pytest.raises(NoMeaning, match="cannot hold"):
        differs(("aten.add.Scalar", floats(4, dtype=torch.bfloat16), 0.1), TABLE["aten.add.Scalar"])


def test_what_torch_rounds_in_its_own_order_has_no_meaning_bit_for_bit() -> None:
    for call in (("aten.matmul.default", floats(2, 3), floats(3, 2)), ("aten.lerp.Scalar", floats(2), floats(2), 0.5)):
        with pytest.raises(NoMeaning):
            differs(call, TABLE[call[0]])


@pytest.mark.parametrize("name", ["mse_loss", "l1_loss", "smooth_l1_loss"])
@pytest.mark.parametrize("reduction", [1, 2])
def test_a_reduced_loss_has_no_meaning(name: str, reduction: int) -> None:
    with pytest.raises(NoMeaning, match="with a reduction"):
        differs((f"aten.{name}.default", floats(3), floats(3), reduction), TABLE[f"aten.{name}.default"])


N, M = z3.Ints("n m")


def grid(*shape: Any, dtype: torch.dtype = torch.int64) -> SymTensor:
    return SymTensor(shape, dtype, lambda index: z3.Function("grid", *[z3.IntSort()] * (len(shape) + 1))(*index))


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("reshape", (grid(N, 2), (M, 2))),
        ("reshape", (grid(N, 2), (M, -1))),
        ("expand", (grid(N, 2), (M, 2))),
        ("squeeze.dim", (grid(N, 2), 0)),
        ("cat", ([grid(N, 2), grid(M, 2)], 1)),
        ("add.Tensor", (grid(N), grid(M))),
        ("broadcast_tensors", ([grid(N), grid(M)],)),
        ("narrow", (grid(N), 0, 0, M)),
        ("select.int", (grid(N), 0, M)),
        ("index.Tensor", (grid(N, N), [grid(N), grid(M)])),
        ("index.Tensor", (grid(5), [grid(2)])),
        ("index.Tensor", (grid(5), [grid(N)])),
        ("mm", (grid(N, 2, dtype=torch.float32), grid(M, 2, dtype=torch.float32))),
        ("floor_divide", (grid(N), grid(N))),
    ],
)
def test_what_an_operator_needs_of_sizes_is_asked(name: str, arguments: Any) -> None:
    facts = Facts("real")
    facts.assume(N >= 0, M >= 0)
    TABLE[f"aten.{name}" + ".default" * ("." not in name)](facts, *arguments)
    assert facts.needs


def test_truncating_division_is_caught() -> None:
    def truncated(facts: Facts, a: SymTensor, b: SymTensor) -> SymTensor:
        return SymTensor(a.shape, a.dtype, lambda i: int(a.at(i) / b.at(i)))

    assert differs(("aten.floor_divide.default", torch.tensor([-7]), torch.tensor([2])), truncated) is not None


@pytest.mark.parametrize("a", range(-6, 7))
@pytest.mark.parametrize("b", [-3, -1, 1, 2, 5])
def test_floor_division_of_terms_is_pythons(a: int, b: int) -> None:
    x, y = z3.Ints("x y")
    facts = Facts()
    for ours, python in ((facts.floordiv, operator.floordiv), (facts.mod, operator.mod)):
        term = z3.substitute(ours(x, y), (x, z3.IntVal(a)), (y, z3.IntVal(b)))
        assert fold(term) == python(a, b)


def test_a_joined_number_is_taken_apart_by_its_own_divisor_alone() -> None:
    x, r = z3.Ints("x r")
    facts = Facts()
    facts.assume(x >= 0, r >= 0, r < 3)
    whole = facts.join(x, 4, r)
    for divisor in (3, 4):
        term = z3.substitute(facts.floordiv(whole, divisor), (x, z3.IntVal(3)), (r, z3.IntVal(0)))
        assert fold(term) == 12 // divisor
