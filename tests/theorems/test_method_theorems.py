"""The theorems about methods: proved, failing on changes of the real code, and exact about what they assume."""

import math
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import pytest
import torch
from torch.nn import functional as F

pytest.importorskip("z3")
import z3

from viewproof.losses import dino, lejepa, simclr
from viewproof.losses import tokens as token_losses
from viewproof.models import clips, patches
from viewproof.symbolic.capture import TensorInput, capture
from viewproof.symbolic.facts import Facts
from viewproof.symbolic.meaning import concrete, outputs
from viewproof.symbolic.operators import TABLE
from viewproof.symbolic.values import NoMeaning
from viewproof.theorems import Verdict, check, registered
from viewproof.theorems.tensors import decide
from viewproof.theorems.tensors.masked_tokens import GRADIENT
from viewproof.theorems.tensors.real_functions import EXP, LOG, MINUS_INFINITY, REAL_FUNCTIONS, SQRT

MODULES = [
    f"viewproof.theorems.tensors.{part}"
    for part in ("clips", "method_losses", "method_views", "masked_tokens", "target_branches")
]
THEOREMS = {name: theorem for name, theorem in registered().items() if theorem.module in MODULES}
pytestmark = pytest.mark.usefixtures("symbols_are_arguments")


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    """No capture of the real code is kept for the changed code, or the other way round."""
    decide.forget()
    yield
    decide.forget()


@pytest.mark.parametrize("name", THEOREMS)
def test_theorem_is_proved_and_its_mutants_are_refuted(name: str) -> None:
    checked = check(THEOREMS[name])
    assert checked.outcome.verdict is Verdict.PROVED, checked.outcome.detail
    assert checked.green, checked.complaints
    assert checked.outcome.goals and checked.outcome.graphs


def test_every_module_has_theorems() -> None:
    assert {theorem.module for theorem in THEOREMS.values()} == set(MODULES)
    assert len(THEOREMS) == 14


def test_documented_theorems_exist() -> None:
    for module in (dino, lejepa, simclr, token_losses, clips, patches):
        for function in vars(module).values():
            own = getattr(function, "__module__", "") == module.__name__
            text = (getattr(function, "__doc__", None) or "") if own else ""
            for line in text.split("Theorem")[1:]:
                names = [word for word in line.split("``")[1::2] if "_" in word]
                assert names and set(names) <= set(registered()), (module, names)


def test_a_changed_line_is_refuted(monkeypatch: pytest.MonkeyPatch) -> None:
    def late(tokens: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        return tokens[torch.arange(tokens.shape[0])[:, None], tokens.shape[1] - 1 - places]

    monkeypatch.setattr(patches, "tokens_at", late)
    for name in ("data2vec_target_is_the_mean_of_the_last_layers", "ijepa_block_is_predicted_from_its_own_context"):
        outcome = THEOREMS[name].prove(THEOREMS[name].program)
        assert outcome.verdict is Verdict.REFUTED and outcome.witness is not None


def test_the_gradient_of_a_selection_is_zero_where_its_meaning_says_so() -> None:
    facts, chosen, sent = Facts(), torch.tensor([2, 0, 2]), torch.tensor([[1.0, 2.0], [3.0, math.nan], [5.0, 6.0]])
    arguments = concrete(sent, facts), [4, 2], 0, concrete(chosen, facts)
    meant = GRADIENT.meanings["aten.index_select_backward.default"](facts, *arguments)
    leaf = torch.ones(4, 2, requires_grad=True)
    gradient = torch.autograd.grad(leaf.index_select(0, chosen), leaf, sent)[0]
    for row in range(4):
        for k in range(2):
            value = z3.simplify(meant.at((row, k)))
            assert z3.is_bv_value(value) == (row in (1, 3))
            assert not z3.is_bv_value(value) or value.as_long() == 0
            assert row not in (1, 3) or torch.equal(gradient[row], torch.zeros(2))


def number(term: Any) -> float:
    """The number that a term of numerals, exp, log and sqrt stands for."""
    if z3.is_rational_value(term):
        return float(term.as_fraction())
    values = [number(part) for part in term.children()]
    for function, python in ((EXP, math.exp), (LOG, math.log), (SQRT, math.sqrt)):
        if term.decl().eq(function):
            return python(*values)
    kinds: dict[int, Callable[..., float]] = {
        z3.Z3_OP_ADD: lambda *parts: sum(parts),
        z3.Z3_OP_MUL: lambda *parts: math.prod(parts),
        z3.Z3_OP_SUB: lambda a, *parts: a - sum(parts),
        z3.Z3_OP_UMINUS: lambda a: -a,
        z3.Z3_OP_DIV: lambda a, b: a / b,
        z3.Z3_OP_TO_REAL: lambda a: a,
    }
    return kinds[term.decl().kind()](*values)


X = torch.tensor([[0.5, -1.0, 2.0], [0.25, 0.0, -3.0]], dtype=torch.float64)
MEANINGS = {
    "aten.softmax.int": ((1,), torch.softmax(X, 1)),
    "aten.log_softmax.int": ((-1,), torch.log_softmax(X, 1)),
    "aten.layer_norm.default": (([3],), F.layer_norm(X, [3])),
    "aten.sqrt.default": ((), X.square().sqrt()),
}


@pytest.mark.parametrize("name", MEANINGS)
def test_meaning_over_the_reals_is_the_operator_up_to_rounding(name: str) -> None:
    arguments, expected = MEANINGS[name]
    facts = Facts("real")
    meant = REAL_FUNCTIONS[name](facts, concrete(X.square() if "sqrt" in name else X, facts), *arguments)
    for n in range(2):
        for k in range(3):
            assert number(meant.at((n, k))) == pytest.approx(float(expected[n, k]), abs=1e-12)


def test_cross_entropy_over_the_reals_is_the_operator_and_leaves_out_what_is_minus_infinity() -> None:
    facts, targets = Facts("real"), torch.tensor([2, 0])
    mask = torch.tensor([[True, False, False], [False, False, True]])
    filled = REAL_FUNCTIONS["aten.masked_fill.Scalar"](facts, concrete(X, facts), concrete(mask, facts), -math.inf)
    loss = REAL_FUNCTIONS["aten.cross_entropy_loss.default"](facts, filled, concrete(targets, facts)).at(())
    (axiom,) = facts.assumed
    assert axiom.eq(EXP(MINUS_INFINITY) == 0)
    loss = z3.simplify(z3.substitute(loss, (EXP(MINUS_INFINITY), z3.RealVal(0))))
    expected = F.cross_entropy(X.masked_fill(mask, -math.inf), targets)
    assert number(loss) == pytest.approx(float(expected), abs=1e-12)
    assert not facts.needs or all(z3.is_true(z3.simplify(need)) for _, need in facts.needs)


def test_operators_with_functions_have_no_meaning_of_their_own() -> None:
    assert set(REAL_FUNCTIONS) & set(TABLE) == {"aten.masked_fill.Scalar"}
    x = concrete(X, Facts("real"))
    with pytest.raises(NoMeaning, match="scale and shift"):
        REAL_FUNCTIONS["aten.layer_norm.default"](Facts("real"), x, [3], x)
    with pytest.raises(NoMeaning, match="mean over rows"):
        REAL_FUNCTIONS["aten.cross_entropy_loss.default"](Facts("real"), x, x, None, 2)


def test_a_region_without_gradient_is_its_graph_and_one_with_autocast_has_no_meaning() -> None:
    def run(x: torch.Tensor) -> list[torch.Tensor]:
        with torch.no_grad():
            shifted = x + 1
        with torch.autocast("cpu", enabled=autocast):
            return [shifted * 2]

    facts, x = Facts("real", assumed=[z3.Int("x.shape[0]") == 2]), torch.tensor([1.0, 5.0])
    autocast = False
    (value,) = outputs(capture(run, {"x": TensorInput(1)}, {"x": (2,)}), {"x": concrete(x, facts)}, facts)
    assert [z3.simplify(value.at((i,))).as_fraction() for i in range(2)] == [Fraction(4), Fraction(12)]
    autocast = True
    with pytest.raises(NoMeaning, match="autocast is on"):
        outputs(capture(run, {"x": TensorInput(1)}, {"x": (2,)}), {"x": concrete(x, facts)}, facts)
