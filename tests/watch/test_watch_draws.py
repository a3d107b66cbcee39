"""``report.draws``: what the masks of a loader cover; loader and collator run again, and nothing stays behind."""

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

import viewproof as vp
from viewproof.bits import GeneratorStates
from viewproof.errors import InvalidArgument
from viewproof.verdict import Verdict
from viewproof.watch.report import WatchReport

REPORT = WatchReport("step", ())


def loader_of(hide: int, always: bool = False) -> DataLoader[Tensor]:
    """Batches with a mask of six coordinates, ``hide`` of them hidden: the first ones, or any."""

    def collate(rows: list[Tensor]) -> tuple[Tensor, Tensor]:
        order = torch.arange(6).expand(len(rows), -1) if always else torch.rand(len(rows), 6).argsort(1)
        return torch.stack(rows), order < hide

    return DataLoader(list(torch.randn(8, 6)), batch_size=2, shuffle=True, collate_fn=collate)  # type: ignore[arg-type]


def test_masks_of_a_loader_are_judged_and_generators_stay() -> None:
    loader, before = loader_of(3), GeneratorStates.now()
    report = REPORT.draws(200, loader, count=3, share=0.5)
    assert report.verdict() is Verdict.PROVED, str(report)
    assert all(f.claim.startswith("batch[1]: ") for f in report.findings) and GeneratorStates.now() == before
    assert REPORT.draws(200, loader_of(3, always=True), rarest=0.2).verdict() is Verdict.REFUTED
    assert REPORT.draws(200, loader_of(2), count=3).verdict() is Verdict.REFUTED


def test_outcomes_of_masked_words_have_berts_shares() -> None:
    def words(kept: float) -> DataLoader[Tensor]:
        def collate(rows: list[Tensor]) -> dict[str, Tensor]:
            ids = torch.stack(rows)
            chosen = torch.rand(ids.shape) < 0.3
            share = torch.rand(ids.shape)
            inputs = torch.where(chosen & (share < 0.9 - kept), 1, ids)
            other = torch.where(ids == 19, 2, ids + 1)
            inputs = torch.where(chosen & (share >= 0.9 - kept) & (share < 1 - kept), other, inputs)
            return {"input_ids": inputs, "labels": torch.where(chosen, ids, -100)}

        data = list(torch.randint(2, 20, (64, 12)))
        return DataLoader(data, batch_size=8, collate_fn=collate)  # type: ignore[arg-type]

    right = REPORT.draws(600, words(0.1), kept="mlm")
    assert right.verdict() is Verdict.PROVED, str(right)
    assert REPORT.draws(600, words(0.6), kept="mlm").verdict() is Verdict.REFUTED


def test_a_recording_knows_its_loader_and_others_ask_for_it() -> None:
    model = torch.nn.Linear(6, 6)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with vp.watch.recording() as seen:
        for x, hidden in loader_of(3):
            loss = torch.nn.functional.mse_loss(model(x.masked_fill(hidden, 0))[hidden], x[hidden])
            torch.autograd.backward(loss)
            optimizer.step()
    assert seen.report is not None and seen.report.draws(100).verdict() is Verdict.PROVED
    with pytest.raises(InvalidArgument, match="loader=None must be the loader"):
        REPORT.draws(100)
    nothing = REPORT.draws(100, [torch.zeros(2, 3)])
    assert nothing.verdict() is Verdict.UNKNOWN and "draw no mask" in nothing.findings[0].detail
