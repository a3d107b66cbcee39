import copy
import pickle
from dataclasses import dataclass
from typing import Any

import naive
import plain
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from viewproof import (
    InvalidArgument,
    Mask,
    PatchMask,
    Rotating,
    Rule,
    Sample,
    VectorMask,
    masked_mse,
    predictive_view_objective,
    row_predictive_contract,
)


@dataclass(frozen=True)
class Diagonal(Rule):
    width: int

    def hidden(self, row: Tensor, col: Tensor) -> Tensor:
        return (row - col).abs() < self.width


@dataclass(frozen=True)
class Rows(Rule):
    stop: int

    def hidden(self, row: Tensor, col: Tensor) -> Tensor:
        return row < self.stop


@dataclass(frozen=True)
class Everything(Rule):
    answer: bool = True

    def hidden(self, *grids: Tensor) -> bool:
        return self.answer


def test_a_custom_rule_gets_masking_samples_losses_and_its_complement() -> None:
    x = torch.arange(1.0, 25.0).reshape(2, 3, 4)
    hidden = [abs(row - col) < 1 for row, col in naive.coordinates((3, 4))]
    sample = Diagonal(1).sample(x, recon_dim=7)
    assert sample.view.hidden.flatten().tolist() == hidden
    assert sample.mask.selected_idxs == [0, 5]
    assert [row.flatten().tolist() for row in sample.x] == [naive.apply(r.flatten().tolist(), hidden) for r in x]
    assert torch.equal(sample.y, x.flatten(1)[:, :7])
    prediction = torch.zeros(2, 7)
    assert masked_mse(prediction, sample).item() == (1 + 6**2 + 13**2 + 18**2) / 4
    contract = row_predictive_contract(sample, prediction, 1, lambda t, p: (t - p) ** 2)
    assert predictive_view_objective(contract).item() == 13**2 + 18**2
    assert (~Diagonal(1)).sample(x).mask.selected_idxs == [i for i, h in enumerate(hidden) if not h]


def test_a_rule_may_answer_with_fewer_axes_or_one_bool() -> None:
    assert Rows(1).mask((2, 3)).hidden.tolist() == [[True] * 3, [False] * 3]
    assert Rows(1).sample(torch.ones(1, 2, 3)).mask.selected_idxs == [0, 1, 2]
    assert Everything().mask((2, 3)).count == 6
    assert (~Everything()).mask((2, 3)).count == 0
    assert Everything(False).mask((2, 0, 3)).count == 0


# The shape checks draw random numbers, which a strategy may not.
rules = st.one_of(
    st.builds(plain.VectorMask, st.integers(0, 5), st.integers(0, 9)),
    st.builds(plain.BlockMask, st.tuples(st.none() | st.integers(0, 4)), st.integers(0, 5), st.integers(0, 9)),
)


@given(rule=rules, data_dim=st.integers(0, 20))
def test_mask_then_complement_partition(rule: plain.Rule, data_dim: int) -> None:
    mask, complement = rule.mask((data_dim,)), (~rule).mask((data_dim,))
    assert sorted(mask.selected_idxs + complement.selected_idxs) == list(range(data_dim))
    assert torch.equal((~mask).hidden, complement.hidden)
    assert torch.equal(plain.Complement(plain.Complement(rule)).mask((data_dim,)).hidden, mask.hidden)


@given(rule=rules, data_dim=st.integers(0, 12))
def test_the_complement_shows_exactly_what_the_rule_hides(rule: plain.Rule, data_dim: int) -> None:
    x = torch.arange(1.0, data_dim + 1).reshape(1, -1)
    assert torch.equal(rule.sample(x).x + (~rule).sample(x).x, x)


@given(period=st.integers(0, 5), offset=st.integers(0, 9), step=st.integers(0, 30), data_dim=st.integers(0, 20))
def test_rotating(period: int, offset: int, step: int, data_dim: int) -> None:
    rule = Rotating(VectorMask(period, offset))
    assert rule.at(step).mask((data_dim,)).hidden.tolist() == naive.vector_mask(data_dim, period, offset + step)
    assert (~rule).at(step).mask((data_dim,)).hidden.tolist() == [
        not h for h in naive.vector_mask(data_dim, period, offset + step)
    ]
    assert rule.mask((data_dim,)).hidden.tolist() == naive.vector_mask(data_dim, period, offset)


@pytest.mark.parametrize("step", ["3", None, 0.5, -1, True, 1j])
@pytest.mark.parametrize("rule", [plain.Rotating(plain.VectorMask(3, 0)), plain.SharedRandomPatchMask(2, 2, count=1)])
def test_a_step_is_a_count(rule: plain.Rule, step: Any) -> None:
    with pytest.raises(plain.InvalidArgument, match=r"^step="):
        rule.at(step)


def test_every_class_gets_its_turn_once_a_period() -> None:
    rule = Rotating(PatchMask(2, 3, period=5, offset=3))
    hidden = torch.stack([rule.at(step).mask((2, 7, 8)).hidden for step in range(5)])
    assert torch.equal(hidden.sum(0), torch.ones(2, 7, 8, dtype=torch.int64))
    assert rule.at(5) == PatchMask(2, 3, 5, 3)


def test_a_large_offset_rotates_without_overflow() -> None:
    rule = Rotating(VectorMask(3, 2**63 - 1))
    assert rule.at(7).mask((9,)).hidden.tolist() == naive.vector_mask(9, 3, 2**63 + 6)


def test_a_fixed_rule_is_the_same_at_every_step() -> None:
    rule = Diagonal(1)
    assert rule.at(12) is rule


def test_the_second_call_returns_the_very_same_mask() -> None:
    rule, x = PatchMask(2, 3, 3, 1), torch.ones(2, 3, 5, 7)
    assert rule.mask((3, 5, 7)) is PatchMask(2, 3, 3, 1).mask([3, 5, 7], device="cpu")
    first, second = rule.sample(x, 20), rule.sample(x + 1, 20)
    assert first.mask is second.mask
    assert first.view is second.view
    assert rule.mask((3, 7, 5)) is not rule.mask((3, 5, 7))


@pytest.mark.parametrize("rule", [PatchMask(2, 3, 3, 1), ~PatchMask(2, 3, 3, 1), Rotating(PatchMask(2, 3, 3, 1))])
def test_a_fixed_rule_is_called_like_a_random_one_and_ignores_ids_and_epoch(rule: Rule) -> None:
    x, ids = torch.randn(2, 3, 5, 7), torch.tensor([9, 4])
    mask, sample = rule.mask((3, 5, 7), sample_ids=ids, epoch=8), rule.sample(x, 20, sample_ids=ids, epoch=8)
    assert not rule.per_sample and rule.padded_axis is None
    assert mask is rule.mask((3, 5, 7)) and sample.view is rule.sample(x, 20).view
    assert sample.mask is rule.sample(x, 20).mask and not mask.per_sample


def test_another_prefix_is_another_mask() -> None:
    rule, x = VectorMask(2, 0), torch.ones(2, 5)
    assert [rule.sample(x, n).mask.data_shape for n in (3, 5, 0, 3)] == [(3,), (5,), (0,), (3,)]


def test_rules_of_two_classes_with_the_same_fields_have_their_own_masks() -> None:
    assert Diagonal(1).mask((2, 2)).hidden.tolist() != Rows(1).mask((2, 2)).hidden.tolist()


class Plain(Rule):
    def __init__(self, stop: int) -> None:
        self.stop = stop

    def hidden(self, j: Tensor) -> Tensor:
        return j < self.stop


@dataclass
class Mutable(Rule):
    stop: int

    def hidden(self, j: Tensor) -> Tensor:
        return j < self.stop


@dataclass(unsafe_hash=True)
class Hashable(Mutable):
    pass


@dataclass(frozen=True)
class Listed(Rule):
    stops: list[int]

    def hidden(self, j: Tensor) -> Tensor:
        return j < self.stops[0]


class Undeclared(VectorMask):
    """A subclass that is no dataclass itself: its new attributes take no part in ``==``."""


@pytest.mark.parametrize(
    "rule",
    [Plain(1), Mutable(1), Hashable(1), Listed([1]), ~Listed([1]), Undeclared(2, 0)],
    ids=lambda r: type(r).__name__,
)
def test_a_rule_that_could_change_under_its_kept_mask_is_refused(rule: Rule) -> None:
    with pytest.raises(InvalidArgument, match=rf"cannot be kept.* make {type(rule).__name__} a frozen dataclass"):
        rule.mask((3,))


ANSWERS = {
    "too long": (torch.ones(5, dtype=torch.bool), r"Answer\(.*\) gave shape \(5,\), which does not fit \(2, 3\)"),
    "too deep": (torch.ones(1, 2, 3, dtype=torch.bool), r"gave shape \(1, 2, 3\), which does not fit \(2, 3\)"),
    "float": (torch.ones(2, 3), "hidden of type torch.float32 must be a bool tensor, True = hidden; compare first"),
    "integer": (torch.ones(2, 3, dtype=torch.int64), "hidden of type torch.int64 must be a bool tensor"),
    "number": (1, "hidden of type torch.int64 must be a bool tensor"),
}


@dataclass(frozen=True)
class Answer(plain.Rule):
    name: str

    def hidden(self, *grids: Tensor) -> object:
        return ANSWERS[self.name][0]


@pytest.mark.parametrize("name", ANSWERS)
def test_a_custom_rule_with_a_wrong_answer(name: str) -> None:
    with pytest.raises(plain.InvalidArgument, match=ANSWERS[name][1]):
        Answer(name).mask((2, 3))


def test_a_rule_without_a_method_says_so() -> None:
    @dataclass(frozen=True)
    class Nothing(Rule):
        pass

    with pytest.raises(NotImplementedError, match=r"Nothing must define hidden\(\*grids\)"):
        Nothing().mask((3,))


def test_rules_masks_and_samples_travel_to_worker_processes() -> None:
    rule = ~Rotating(PatchMask(2, 3, 3, 1))
    assert pickle.loads(pickle.dumps(rule)) == rule
    sample = rule.sample(torch.randn(2, 1, 4, 6))
    _ = sample.mask.count
    for copied in (pickle.loads(pickle.dumps(sample)), copy.deepcopy(sample)):
        assert isinstance(copied, Sample)
        assert torch.equal(copied.x, sample.x)
        assert copied.mask.selected_idxs == sample.mask.selected_idxs


def test_a_mask_remembers_the_rule_that_made_it() -> None:
    assert VectorMask(2, 0).sample(torch.ones(1, 3)).mask.rule == VectorMask(2, 0)
    assert Mask.all((2,)).rule == "Mask.all"


@dataclass(frozen=True)
class Everywhere(Rule):
    def hidden(self, *grids: Tensor) -> Tensor:
        return torch.tensor(True)


def test_extents_have_a_bound_and_their_product_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("viewproof.masks.rule.LARGEST", 4)
    assert Everywhere().mask((4, 4, 4)).count == 64
    for shape in ((1, 1, 5), (4, 4, 4, 2)):
        with pytest.raises(InvalidArgument, match="must have extents of at most 4, 64 in all"):
            Everywhere().mask(shape)
