"""Masked tokens on a text file: the loss and its contract, ranks, and a run that resumes."""

import sys
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
import torch
from taught import check_resumed
from torch import Tensor

import viewproof as vp
from viewproof.certify.ranks import certify_ranks
from viewproof.cli import main
from viewproof.data import load_dataset
from viewproof.losses import masked_cross_entropy, masked_token_contract
from viewproof.losses.ranks import rank_weight
from viewproof.masks import TokenMask
from viewproof.methods.mlm import BYTES, MaskedTokens, TextEncoder
from viewproof.verdict import Verdict

# To the ranks go the losses, not this module, which takes seconds to import.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

RULE = TokenMask(2, 1, 1, mask_id=9, vocabulary=9)


def batch() -> tuple[vp.Sample, Tensor]:
    ids = torch.randint(9, (5, 8), generator=torch.Generator().manual_seed(0))
    logits = torch.randn(5, 8, 9, generator=torch.Generator().manual_seed(1)).double()
    return RULE.sample(ids, sample_ids=torch.arange(5)), logits


def test_the_loss_is_the_objective_of_its_contract_and_of_nothing_off_the_mask() -> None:
    sample, logits = batch()
    objective = vp.predictive_view_objective(masked_token_contract(sample, logits))
    torch.testing.assert_close(masked_cross_entropy(logits, sample), objective)
    everything = torch.nn.functional.cross_entropy(logits.flatten(0, 1), sample.y.flatten())
    assert not torch.isclose(everything, objective)
    poisoned = torch.where(sample.mask.hidden[:, :, None], logits, torch.nan).requires_grad_()
    value = masked_cross_entropy(poisoned, sample)
    assert torch.equal(value.detach(), masked_cross_entropy(logits, sample))
    value.backward()  # type: ignore[no-untyped-call]
    assert poisoned.grad is not None and torch.equal(poisoned.grad.ne(0).any(2), sample.mask.hidden)


# A part of the rows select more tokens than others: the ranks' means must be weighed.
UNEVEN = TokenMask(2, 0, 0, mask_id=9, vocabulary=9, per=4, special=(0,))


def on_ranks(rows: Tensor, weigh: bool = True) -> Tensor:
    ids = (rows.detach()[..., 0] * 4).round().long().clamp(0, 8)
    sample = UNEVEN.sample(ids, sample_ids=ids.sum(1))
    loss = masked_cross_entropy(rows, sample)
    return loss * rank_weight(sample.mask.count, rows.device) if weigh else loss


def mean_of_means(rows: Tensor) -> Tensor:
    return on_ranks(rows, weigh=False)


@pytest.mark.parametrize(("loss", "verdict"), [(on_ranks, Verdict.PROVED), (mean_of_means, Verdict.REFUTED)])
def test_two_unequal_ranks_have_the_value_and_gradient_of_one(loss: Any, verdict: Verdict) -> None:
    rows = torch.rand(8, 6, 9, generator=torch.Generator().manual_seed(2))
    assert certify_ranks(loss, rows, (3, 5)).verdict() is verdict


def test_the_module_scores_what_its_rule_selects() -> None:
    torch.manual_seed(0)
    rule = TokenMask(24, 3, 3, BYTES, BYTES, per=200)
    module = MaskedTokens(TextEncoder(128, dim=8, depth=1, heads=2), rule)
    x, ids = torch.randint(256, (3, 128)).float(), torch.tensor([7, 1, 3])
    sample = rule.sample(x.long(), sample_ids=ids, epoch=2)
    assert torch.equal(module.objective(x, ids, 0, 2), masked_cross_entropy(module.model(sample.x), sample))
    assert sample.mask.hidden.sum(1).tolist() == [19] * 3


def text(folder: Path) -> Path:
    path = folder / "words.txt"
    path.write_text("".join(f"The {k}th line says the same thing, süß.\n" for k in range(400)))
    return path


def test_a_text_is_its_bytes(tmp_path: Path) -> None:
    path = text(tmp_path)
    data = load_dataset(path)
    assert data.sample_shape == (128,) and len(data.train) + len(data.test) == path.stat().st_size // 128
    windows = torch.cat([data.fetch(part, range(len(data.part(part)))) for part in ("train", "test")])
    assert bytes(windows[0].to(torch.uint8).tolist()) == path.read_bytes()[:128]
    (tmp_path / "short.txt").write_text("short")
    with pytest.raises(vp.InvalidArgument, match="5 bytes must be at least 256"):
        load_dataset(tmp_path / "short.txt")


def test_numbers_are_not_made_of_a_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pretrain", str(text(tmp_path)), "--out", str(tmp_path / "run")]) == 2
    assert "is a text; pass method='mlm'" in capsys.readouterr().err


def test_a_run_learns_and_resumes_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["pretrain", str(text(tmp_path)), "--method", "mlm", "--dim", "16", "--depth", "1", "--heads", "2"]
    words += ["--epochs", "4", "--batch-size", "32", "--learning-rate", "0.01", "--threads", "1"]
    check_resumed(words, tmp_path, monkeypatch, 2)
    header, *rows = [line.split(",") for line in (tmp_path / "a" / "metrics.csv").read_text().splitlines()]
    held_out = [float(row[header.index("val_loss")]) for row in rows if row[header.index("val_loss")]]
    assert held_out[-1] < 0.8 * held_out[0]
    assert main(["evaluate", str(tmp_path / "a")]) == 0
    assert main(["pretrain", "digits", "--method", "mlm", "--out", str(tmp_path / "c")]) == 2
    assert "needs the bytes of a text" in capsys.readouterr().err
