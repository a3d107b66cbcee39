"""The theorems about `Mask` itself are proved, and their mutants refuted."""

import pytest

pytest.importorskip("z3")

from viewproof.theorems import check, registered

NAMES = ["all_mask_selected", "empty_mask_not_selected", "complement_selected_iff"]


pytestmark = pytest.mark.usefixtures("symbols_are_arguments")


@pytest.mark.parametrize("name", NAMES)
def test_theorem_is_proved_and_its_mutants_are_refuted(name: str) -> None:
    checked = check(registered()[name])
    assert checked.green, (checked.outcome, checked.complaints)


def test_a_mask_that_reads_another_coordinate_is_refuted_by_enumeration() -> None:
    theorem = registered()["complement_selected_iff"]
    backwards = next(mutant for mutant in theorem.mutants if mutant.name == "reads backwards")
    witness = theorem.prove(backwards.program).witness
    assert witness is not None and witness["case"] == "enumerated"
    assert not theorem.holds(backwards.program, witness) and theorem.holds(theorem.program, witness)
