"""The theorems about random masks: proved, and failing on changes of the real code."""

from collections.abc import Iterator

import pytest
import torch

pytest.importorskip("z3")

from viewproof.masks.random import blocks, blockwise, draws, rule, scored, tokens
from viewproof.symbolic.facts import Facts
from viewproof.symbolic.meaning import concrete
from viewproof.symbolic.operators import TABLE
from viewproof.symbolic.terms import fold
from viewproof.theorems import Verdict, check, registered
from viewproof.theorems.tensors import decide
from viewproof.theorems.tensors.corrupted_tokens import SORTED

MODULES = [f"viewproof.theorems.tensors.{part}" for part in ("random_choices", "random_masks", "corrupted_tokens")]
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
    assert len(THEOREMS) == 10


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
        (
            "tokens_are_masked_replaced_or_kept_by_the_draw",
            tokens,
            "among_first",
            lambda keys, k: draws.among_first(keys, k.clamp(min=1)),
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
            assert torch.equal(keys.sort(1).values[:, k - 1 : k], value)
            assert ((keys < value).sum(1) <= k - 1).all() and ((keys <= value).sum(1) >= k).all()


def test_whether_an_id_is_special_is_meant_as_torch_decides_it() -> None:
    facts, x = Facts(), torch.tensor([[3, 5, 0], [7, 5, 9]])
    for special in ([], [5], [9, 3]):
        chosen = torch.tensor(special, dtype=torch.int64)
        meant = SORTED["aten.isin.Tensor_Tensor"](facts, concrete(x, facts), concrete(chosen, facts))
        found = [[bool(fold(meant.at((n, i)))) for i in range(3)] for n in range(2)]
        assert found == torch.isin(x, chosen).tolist()
