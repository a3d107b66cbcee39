"""The theorems about masks, samples and bridges: proved, and failing on one-character changes of the real code."""

import inspect
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest
import torch
import z3

from viewproof import masks as rules
from viewproof.masks import finite, periodic, rule
from viewproof.objectives import masked
from viewproof.symbolic.capture import IntInput, TensorInput, capture
from viewproof.symbolic.tensor import SymTensor
from viewproof.theorems import Verdict, check, registered
from viewproof.theorems.tensors import decide, masks, statuses, training
from viewproof.theorems.tensors.case import TensorCase
from viewproof.theorems.tensors.witness import broken, read_model

MODULES = ("masks", "samples", "statuses", "geometry", "laws", "counts", "bridges", "tokens", "training")
THEOREMS = {
    name: t for name, t in registered().items() if t.module.removeprefix("viewproof.theorems.tensors.") in MODULES
}
pytestmark = pytest.mark.usefixtures("symbols_are_arguments")


@pytest.mark.parametrize("name", THEOREMS)
def test_theorem_is_proved_and_its_mutants_are_refuted(name: str) -> None:
    checked = check(THEOREMS[name])
    assert checked.outcome.verdict is Verdict.PROVED, checked.outcome.detail
    assert checked.green, checked.complaints
    assert checked.outcome.goals
    assert checked.outcome.graphs


def test_an_argument_that_breaks_a_hypothesis_about_values_is_no_counterexample() -> None:
    """On a slow machine random trials come before Z3's answer, and a mean over an empty mask raises."""
    theorem = THEOREMS["partial_loss_gradient_support"]
    case = training.gradient_case("mse", "mean", per_sample=False, partial=True)
    numbers, places = torch.ones(1, 2), torch.tensor([[True, False]])
    nothing = [numbers, 2 * numbers, torch.tensor([False, True]), places]
    assert broken(case, theorem.program, nothing) is None
    unasked = replace(case, subject=replace(case.subject, value_hypotheses=None))
    assert "selects nothing" in str(broken(unasked, theorem.program, nothing))
    something = [numbers, 2 * numbers, torch.tensor([True, True]), places]
    (mutant,) = [m for m in theorem.mutants if m.name == "loss over the view"]
    assert broken(case, theorem.program, something) is None
    assert "the gradient is +0.0" in str(broken(case, mutant.program, something))


def test_every_module_has_theorems() -> None:
    assert {theorem.module.rpartition(".")[2] for theorem in THEOREMS.values()} == set(MODULES)
    assert len(THEOREMS) == 39


def test_scored_is_hidden_is_about_every_rule_that_ships() -> None:
    shipped = {name for name, rule in vars(rules).items() if isinstance(rule, type) and issubclass(rule, rules.Rule)}
    tried = {name for name in shipped if any(name in text for text in statuses.RULES)}
    assert shipped - tried == {"Rule", "RandomRule", "Complement", "TokenMask"}
    assert any(text.startswith("~") for text in statuses.RULES)


def changed(module: ModuleType, name: str, old: str, new: str) -> Callable[..., Any]:
    """The module's function with one place of its text replaced."""
    function = getattr(module, name)
    source = inspect.getsource(function)
    assert source.count(old) == 1, source
    scope = dict(vars(module))
    exec(compile(source.replace(old, new), module.__file__ or "", "exec"), scope)
    return scope[name]  # type: ignore[no-any-return]


CHANGES = [
    (periodic, "block_hidden", "width - 1)", "width - 0)", "image_patch_mask_pixel_eq_if_hidden"),
    (periodic, "block_hidden", "+ coordinate //", "- coordinate //", "image_patch_mask_pixel_eq_if_hidden"),
    (periodic, "block_hidden", "== offset %", "!= offset %", "vector_mae_hidden_mask_selected_iff"),
    (periodic, "block_hidden", "offset % period", "offset", "vector_mae_mask_get_eq_if_selected_hidden"),
    (masked, "masked_distance", "error, zero)", "zero, error)", "training_loss_eq_row_objectives"),
    (masked, "masked_distance", "- sample.y", "+ sample.y", "training_loss_eq_row_objectives"),
]


@pytest.fixture
def fresh() -> Any:
    """Neither captures nor masks of the real code are kept for the changed code, or the other way round."""

    def forget() -> None:
        decide.forget()
        rule._built.cache_clear()

    forget()
    yield
    forget()


@pytest.mark.parametrize(("module", "name", "old", "new", "theorem"), CHANGES)
def test_one_change_of_the_code_is_refuted(
    module: ModuleType, name: str, old: str, new: str, theorem: str, monkeypatch: pytest.MonkeyPatch, fresh: None
) -> None:
    monkeypatch.setattr(module, name, changed(module, name, old, new))
    outcome = THEOREMS[theorem].prove(THEOREMS[theorem].program)
    assert outcome.verdict is Verdict.REFUTED
    assert outcome.witness is not None


def test_a_wrong_selection_is_refuted(monkeypatch: pytest.MonkeyPatch, fresh: None) -> None:
    monkeypatch.setattr(finite.Mask, "apply", lambda self, x, out=None: torch.where(self.hidden, x, x.new_zeros(())))
    for name in ("vector_mae_mask_hidden_get_eq_zero", "block_mask_apply_scalar_at", "mask_then_complement_partition"):
        assert THEOREMS[name].prove(THEOREMS[name].program).verdict is Verdict.REFUTED


def test_a_prefix_from_another_place_is_refuted(monkeypatch: pytest.MonkeyPatch, fresh: None) -> None:
    def late(self: finite.Mask, length: int) -> finite.Mask:
        flat = self.hidden.reshape(-1)
        return finite.Mask(flat[flat.shape[0] - length :], rule=self.rule)

    monkeypatch.setattr(finite.Mask, "prefix", late)
    theorem = THEOREMS["image_patch_mae_sample_target_row_eq_flattened_source_row"]
    assert theorem.prove(theorem.program).verdict is Verdict.REFUTED


def test_an_operator_without_a_meaning_is_named(fresh: None) -> None:
    def right(x: torch.Tensor, period: int, offset: int) -> torch.Tensor:
        masked = masks.vp.vector_mae_mask(x, period, offset)
        return torch.where(torch.sort(x)[0] > 0, masked, masked)

    outcome = THEOREMS["vector_mae_mask_get_eq_if_selected_hidden"].prove(right)
    assert outcome.verdict is Verdict.UNKNOWN
    assert "aten.sort" in outcome.detail


def test_a_wrong_program_with_such_an_operator_is_refuted_by_trial(fresh: None) -> None:
    theorem = THEOREMS["vector_mae_mask_get_eq_if_selected_hidden"]
    outcome = theorem.prove(lambda x, period, offset: torch.sort(x)[0])
    assert outcome.verdict is Verdict.REFUTED and outcome.witness is not None
    assert not theorem.holds(lambda x, period, offset: torch.sort(x)[0], outcome.witness)


def test_hypotheses_that_cannot_hold_are_vacuous() -> None:
    def contradiction(inputs: Any) -> Any:
        return [inputs["period"] < 0, inputs["period"] > 0]

    def claims(inputs: Any, observed: Any, facts: Any) -> Any:
        return masks.zero_or_input(masks.vector_hides, inputs, observed[0], facts)

    case = TensorCase(replace(masks.VECTORS, hypotheses=contradiction), claims)
    assert decide.decide([case], masks.vp.vector_mae_mask).verdict is Verdict.VACUOUS


def test_a_statement_without_claims_is_vacuous() -> None:
    case = TensorCase(masks.VECTORS, lambda inputs, observed, facts: [])
    assert decide.decide([case], masks.vp.vector_mae_mask).verdict is Verdict.VACUOUS
    assert decide.decide([], masks.vp.vector_mae_mask).verdict is Verdict.VACUOUS


def test_an_irrational_counterexample_is_a_witness() -> None:
    """Over the reals a solver may answer with a root: the witness holds a float next to it."""
    x = z3.Real("x")
    solver = z3.Solver()
    solver.add(x * x == 2, x > 0)
    assert solver.check() == z3.sat
    number = SymTensor((), torch.float32, lambda place: x)
    assert read_model(solver.model(), {"x": number}, real=True)["x"]["values"] == [pytest.approx(2**0.5)]


def test_the_mask_graph_is_the_same_for_every_dtype() -> None:
    texts = set()
    for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool):
        signature = {"x": TensorInput(4, dtype), **dict.fromkeys(("h", "w", "period", "offset"), IntInput())}
        program = lambda *arguments: [masks.vp.image_patch_mask(*arguments)]  # noqa: E731
        texts.add(capture(program, signature, {"x": (2, 3, 4, 5), "h": 2, "w": 3, "period": 6, "offset": 7}).text)
    assert len(texts) == 1


def test_importing_the_core_does_not_import_z3() -> None:
    code = "import sys, viewproof.masks, viewproof.objectives, viewproof.views; sys.exit('z3' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
