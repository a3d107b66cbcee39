"""The theorems about random masks: proved, and failing on changes of the real code."""

from collections.abc import Iterator

import pytest
import torch

pytest.importorskip("z3")

from viewproof.masks.random import blocks, blockwise, draws, rule, scored, tokens
from viewproof.symbolic.operators import TABLE
from viewproof.theorems import Verdict, check, registered
from viewproof.theorems.tensors import decide

MODULES = [f"viewproof.theorems.tensors.{part}" for part in ("random_choices", "random_masks")]
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
    assert "aten.kthvalue.default" not in TABLE


def test_every_module_has_theorems() -> None:
    assert len(THEOREMS) == 9


def test_documented_theorems_exist() -> None:
    for module in (blocks, blockwise, draws, rule, scored, tokens):
        for function in vars(module).values():
            own = getattr(function, "__module__", "") == module.__name__
            text = (getattr(function, "__doc__", None) or "") if own else ""
            for line in text.split("Theorem")[1:]:
                names = [word for word in line.split("``")[1::2] if "_" in word]
                assert names and set(names) <= set(registered()), (module, names)


def test_a_changed_line_is_refuted(monkeypatch: pytest.MonkeyPatch) -> None:
    changes = [
        (
            "exactly_count_places_are_first",
            draws,
            "among_first",
            lambda keys, k: keys > keys.kthvalue(k, 1, True).values,
        ),
        ("padding_is_never_hidden", rule, "inside", lambda lengths, shape, axis: torch.ones((), dtype=torch.bool)),
    ]
    for name, module, attribute, wrong in changes:
        with monkeypatch.context() as patched:
            patched.setattr(module, attribute, wrong)
            decide.forget()
            assert THEOREMS[name].prove(THEOREMS[name].program).verdict is Verdict.REFUTED


def test_what_the_smallest_key_is_assumed_to_be_is_true_of_torch() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        keys = torch.randint(-3, 4, (2, 5), generator=generator)
        for k in range(1, 6):
            value, place = keys.kthvalue(k, 1, keepdim=True)
            assert torch.equal(keys.gather(1, place), value)
            assert ((keys < value).sum(1) <= k - 1).all() and ((keys <= value).sum(1) >= k).all()
