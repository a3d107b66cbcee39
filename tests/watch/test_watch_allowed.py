"""What may be waived is checked before any work, and a claim that does not concern a step is passed over."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from trained_step import trained

import viewproof as vp
from viewproof.certify.report import Contract
from viewproof.watch.allowed import CLAIMS, CONTRACTS
from viewproof.watch.conclusions import claims


def test_the_names_are_those_of_the_claims() -> None:
    declared = [check for check, _ in claims._declared]
    assert tuple(check.claim for check in declared) == CLAIMS
    assert {check.contract.name for check in declared} == set(CONTRACTS)
    assert all(Contract[name].value == value for name, value in CONTRACTS.items())


@pytest.mark.parametrize(("allow", "part"), [({"C5": "x"}, "must be a contract or a claim"), ({"C4": " "}, "a reason")])
def test_a_wrong_name_raises_before_any_work(allow: dict[str, str], part: str) -> None:
    with pytest.raises(vp.InvalidArgument, match=part):
        vp.watch.recording(allow=allow)
    with pytest.raises(vp.InvalidArgument, match=part):
        vp.watch(lambda batch: pytest.fail("ran"), torch.zeros(2, 2), allow=allow)


def test_a_wrong_name_ends_the_command_before_the_script(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("print('ran')")
    words = [sys.executable, "-m", "viewproof", "watch", "--allow", "C5=never asked", "train.py"]
    process = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert process.returncode == 2 and not process.stdout and len(process.stderr.splitlines()) == 1


def test_a_claim_of_other_steps_is_passed_over() -> None:
    model = torch.nn.Linear(6, 3)
    visible = torch.tensor([1, 1, 1, 0, 0, 0])
    step, _ = trained(model, lambda x: (model(x * visible) - x[:, 3:]).square().mean(), None)
    with vp.watch.recording(allow={"C4": "a metric", "C9": "finite data"}) as seen:
        for x in torch.utils.data.DataLoader(torch.randn(12, 6), batch_size=4):
            step(x)
    assert seen.report is not None and not any(f.contract is Contract.C4 for f in seen.report.findings)
    assert all(f.waiver == ("finite data" if f.contract is Contract.C9 else "") for f in seen.report.findings)
