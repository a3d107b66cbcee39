"""Correct programs that were once reported as wrong, and wrong ones that were once PROVED: each as it is right.

Those that start processes for each call stand in test_ranks.py and test_reproducible.py.
"""

import copy
from collections.abc import Callable
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import viewproof as vp
from viewproof.certify import Contract, Report, Severity, Verdict

PROVED, REFUTED, UNKNOWN = Verdict.PROVED, Verdict.REFUTED, Verdict.UNKNOWN
CLASSES = 11
IDS = torch.randint(0, CLASSES, (3, 6), generator=torch.Generator().manual_seed(0))
TOKENS = vp.Sample(IDS, IDS, vp.Mask(torch.tensor([False, True, True, False, True, False])))
VECTOR = vp.vector_mae_sample(torch.rand(3, 7, generator=torch.Generator().manual_seed(1)), period=3, offset=1)
ROWS = torch.randn(5, 6, generator=torch.Generator().manual_seed(2))
IMAGES = torch.randn(2, 3, 8, 12, generator=torch.Generator().manual_seed(0))
PATCHES = vp.PatchMask(4, 4, period=3, offset=1)
GONE = torch.zeros(2, 6, dtype=torch.bool)
GONE[:, 3:5] = True


def square(error: Any) -> Any:
    return error * error


def minor(report: Report) -> set[str]:
    """The contracts that are refuted about robustness alone."""
    assert all(f.severity is Severity.ROBUSTNESS for f in report.refuted), str(report)
    return {f.contract.name for f in report.refuted}


def claim(report: Report, words: str) -> Any:
    return next(f for f in report.findings if words in f.claim)


class Branches:
    """An online and a target branch, an average and an optimizer's step."""

    def __init__(self, *, stem: bool = False, table: bool = False, late: bool = True, stationary: bool = False) -> None:
        torch.manual_seed(0)
        self.stem = nn.Linear(6, 6) if stem else nn.Identity()
        first: nn.Module = Positioned() if table else nn.Linear(6, 8)
        self.online = nn.Sequential(first, nn.Tanh(), nn.Linear(8, 4))
        self.target = copy.deepcopy(self.online).requires_grad_(stationary)
        self.head = nn.Identity() if stationary else nn.Linear(4, 4)
        self.late, self.stationary, self.shared = late, stationary, stem
        modules = [m for m in (self.stem, self.online, self.head) if any(True for _ in m.parameters())]
        self.trained = modules
        self.optimizer = torch.optim.SGD([p for m in modules for p in m.parameters() if p.requires_grad], 0.1)

    def loss(self, batch: Tensor) -> Tensor:
        features, aim = self.online(self.stem(batch)), self.target(self.stem(batch))
        if self.stationary:
            return -(aim.detach().softmax(-1) * features.log_softmax(-1)).sum(-1).mean()
        return F.mse_loss(self.head(features), aim if self.shared else aim.detach())

    @torch.no_grad()
    def average(self, step: int = 0) -> None:
        for t, o in zip(self.target.parameters(), self.online.parameters(), strict=True):
            t.mul_(0.9).add_(o, alpha=0.1)

    def step(self, batches: Any) -> None:
        self.optimizer.zero_grad()
        for batch in batches:
            (self.loss(batch) / len(batches)).backward()
        if not self.late:
            self.average()
        self.optimizer.step()
        if self.late:
            self.average()

    def report(self, order: Literal["before", "after"] | None = None) -> Report:
        branch = vp.TargetBranch(
            self.loss,
            self.online,
            self.target,
            update=self.average,
            momentum=0.9,
            step=self.step,
            trained=self.trained,
            frozen=() if self.stationary else (self.target,),
            stateful=(self.optimizer,),
            order=order,
        )
        return vp.certify_target_branch(branch, ROWS)


class Positioned(nn.Module):
    """A linear layer behind a table of positions that is not trained."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.net = nn.Parameter(torch.randn(6), requires_grad=False), nn.Linear(6, 8)

    def forward(self, x: Tensor) -> Any:
        return self.net(x + self.table)


def test_distillation_that_starts_at_a_stationary_point() -> None:
    assert Branches(stationary=True).report().verdict() is PROVED


def test_a_frozen_table_in_a_trained_module() -> None:
    assert Branches(table=True).report().verdict() is PROVED


def test_a_stem_that_feeds_the_frozen_target() -> None:
    assert claim(Branches(stem=True).report(), "takes no gradient").verdict is REFUTED


@pytest.mark.parametrize(("late", "order"), [(False, "before"), (True, "after")])
def test_an_average_that_is_one_step_stale(late: bool, order: Literal["before", "after"]) -> None:
    branches = Branches(late=late)
    assert claim(branches.report(), "moves").verdict is PROVED
    assert f"reads online {order} the optimizer's step" in claim(branches.report(), "micro-batches").detail
    assert branches.report(order).verdict() is PROVED
    assert branches.report("before" if late else "after").verdict() is REFUTED


def ignoring(logits: Tensor, s: vp.Sample) -> Tensor:
    if s.mask.count == 0:
        raise ValueError("nothing is scored")
    targets = torch.where(s.mask.hidden, s.y, -100)
    return F.cross_entropy(logits.float().transpose(1, 2), targets, ignore_index=-100)


def selecting(logits: Tensor, s: vp.Sample) -> Tensor:
    if s.mask.count == 0:
        raise ValueError("nothing is scored")
    h = s.mask.hidden.expand(s.y.shape)
    return F.cross_entropy(logits.float()[h], s.y[h])


@pytest.mark.parametrize(("loss", "contracts"), [(ignoring, {"C9"}), (selecting, set())])
@pytest.mark.parametrize("distance", [None, "cross_entropy"])
def test_masked_tokens(loss: Any, contracts: set[str], distance: Any) -> None:
    report = vp.certify_loss(loss, TOKENS, prediction_shape=(3, 6, CLASSES), distance=distance)
    assert report.verdict() is PROVED and minor(report) == contracts, str(report)
    reason = {"C9": "logits are finite"} if contracts else {}
    assert report.waive(reason).verdict(strict=True) is PROVED


def own_dtype(p: Tensor, s: vp.Sample) -> Tensor:
    h = s.mask.hidden.expand(s.y.shape)
    if not h.any():
        raise ValueError("nothing is hidden")
    return torch.where(h, p - s.y, 0.0).square().sum() / h.sum()


def asserting(p: Tensor, s: vp.Sample) -> Tensor:
    assert p.sum() > -1e30
    return own_dtype(p, s)


def of_patches(p: Tensor, s: vp.Sample) -> Tensor:
    target = vp.patchify(s.y.reshape(-1, 3, 8, 12), 4, 4)
    h = vp.patchify(s.mask.hidden.reshape(-1, 3, 8, 12).expand(len(target), 3, 8, 12).float(), 4, 4)[..., 0]
    if s.mask.count == 0:
        raise ValueError("nothing is hidden")
    error = (vp.patchify(p.reshape(-1, 3, 8, 12), 4, 4).float() - target.float()).square().mean(-1)
    return (error * h).sum() / h.sum()


@pytest.mark.parametrize(
    ("loss", "sample"),
    [(own_dtype, VECTOR), (asserting, VECTOR), (of_patches, PATCHES.sample(IMAGES))],
    ids=["in the input's dtype", "with an assert", "of patches"],
)
def test_losses_that_are_right_and_not_robust(loss: Any, sample: vp.Sample) -> None:
    report = vp.certify_loss(loss, sample, distance=square)
    assert report.verdict() is PROVED and minor(report) == {"C9"}, str(report)


def test_a_dtype_that_is_declared() -> None:
    report = vp.certify_loss(own_dtype, VECTOR, distance=square, dtypes=(torch.float32,))
    assert report.verdict(strict=True) is PROVED, str(report)


def test_blocks_that_are_neither_visible_nor_scored() -> None:
    blocks = vp.MultiBlockMask(4, 4, context=20, target_area=(9, 12), context_area=(50, 60), targets=4, seed=0)
    report = vp.certify_view(lambda x: blocks.sample(x, sample_ids=torch.arange(2), epoch=0), torch.randn(2, 3, 32, 32))
    assert report.verdict() is PROVED
    assert "neither visible nor scored" in claim(report, "declared target coordinates").detail


def test_a_source_that_is_the_input() -> None:
    hidden = PATCHES.mask((3, 8, 12)).hidden
    report = vp.certify_view(lambda x: (torch.where(hidden, 0.0, x), x, hidden), IMAGES, source=lambda x: x)
    assert report.verdict() is PROVED


LIBRARY = torch.library.Library("viewproof_known_cases", "DEF")
LIBRARY.define("select(Tensor x, Tensor score) -> Tensor")
LIBRARY.impl("select", lambda t, s: t[s.nan_to_num(0, 0, 0) > 50], "CPU")


def test_a_shape_that_follows_from_values() -> None:
    def by_shape(x: Tensor) -> Tensor:
        chosen = torch.ops.viewproof_known_cases.select(torch.arange(6.0), x[0])
        return torch.full((1,), float(chosen.shape[0]))

    hidden = torch.tensor([[False, False, False, True, False, False]])
    assert vp.certify_encoder(by_shape, torch.rand(1, 6), hidden=hidden).verdict() is REFUTED


def test_an_output_that_is_nan_throughout() -> None:
    torch.manual_seed(0)
    up, attention = nn.Linear(3, 8), nn.MultiheadAttention(8, 2, batch_first=True)

    def uninitialised(x: Tensor) -> Any:
        h = torch.empty(2, 6, 8).fill_(float("inf"))
        h[~GONE] = up(x[~GONE])
        return attention(h, h, h, key_padding_mask=GONE)[0]

    def visible(output: Tensor) -> Tensor:
        return output[:, [0, 1, 2, 5]]

    hidden = GONE[..., None].expand(2, 6, 3)
    report = vp.certify_encoder(uninitialised, torch.randn(2, 6, 3), hidden=hidden, visible_outputs=visible)
    assert report.verdict() is UNKNOWN


def test_an_encoder_that_writes_to_its_input() -> None:
    def in_place(x: Tensor) -> Tensor:
        return x.masked_fill_(GONE[..., None], 0.0).sum(-1)

    report = vp.certify_encoder(in_place, torch.randn(2, 6, 3), hidden=GONE[..., None].expand(2, 6, 3))
    assert report.verdict(Contract.C2) is REFUTED


def test_kept_places_that_follow_from_hidden_values() -> None:
    place, scored = torch.zeros(2, 8, dtype=torch.bool), torch.zeros(2, 8, dtype=torch.bool)
    place[:, 2], scored[:, 2:5] = True, True
    ids = torch.randint(10, 20, (2, 8))
    ids[place] = 99

    def view(ids: Tensor) -> dict[str, Tensor]:
        return {"x": torch.where(scored & ~place, 1, ids), "y": ids, "mask": scored, "kept": scored & (ids > 50)}

    assert vp.certify_view(view, ids).verdict(Contract.C1) is REFUTED


def first_half(p: Tensor, y: Tensor, hidden: Tensor) -> Tensor:
    return (p[:, :4] - y[:, :4]).square().mean()


def of_the_given_mask(p: Tensor, y: Tensor, hidden: Tensor) -> Tensor:
    return (p - y)[hidden].square().mean()


HALF = torch.arange(8) < 4
DECLARED: dict[str, Callable[[int], Tensor]] = {
    "others": lambda number: HALF.roll(number + 1),
    "this one alone": lambda number: HALF,
}


@pytest.mark.parametrize(
    ("per_sample", "masks", "verdict"),
    [(True, None, REFUTED), (False, "others", REFUTED), (False, None, UNKNOWN), (False, "this one alone", None)],
)
def test_a_mask_that_is_never_read(per_sample: bool, masks: str | None, verdict: Verdict | None) -> None:
    """Two masks with one value refute it; a mask that all rows share may be the only one."""
    y = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    sample = vp.Sample(y, y, vp.Mask(HALF.expand(3, 8) if per_sample else HALF, per_sample))
    options: Any = {"takes": "tensors", "invariant": (), "masks": masks and DECLARED[masks]}
    report = vp.certify_loss(first_half, sample, **options)
    follows = claim(report, "follows the mask")
    if verdict is None:
        assert follows.verdict is Verdict.VACUOUS and claim(report, "every hidden").verdict is PROVED
        return
    assert follows.verdict is verdict and any("never reads the mask" in remark for remark in follows.remarks)
    assert not [f for f in report.findings if f.verdict is PROVED], str(report)
    right = vp.certify_loss(of_the_given_mask, sample, **options)
    assert claim(right, "follows the mask").verdict is PROVED
    if verdict is REFUTED:
        inputs = follows.witness.inputs
        one, other = inputs["sample"], inputs["other"]
        values = [
            (first_half(inputs["prediction"], s.y, h := s.mask.hidden.expand(3, 8)), h.clone()) for s in (one, other)
        ]
        assert torch.equal(values[0][0], values[1][0]) and not torch.equal(values[0][1], values[1][1])


def test_labels_that_hold_the_mask_are_not_called_a_mask_that_is_never_read() -> None:
    hidden = torch.rand(3, 6, generator=torch.Generator().manual_seed(0)) < 0.5
    labels = torch.where(hidden, IDS, -100)

    def of_labels(logits: Tensor, s: vp.Sample) -> Tensor:
        return F.cross_entropy(logits.flatten(0, 1), s.y.flatten())

    report = vp.certify_loss(of_labels, vp.Sample(IDS, labels, vp.Mask(hidden, True)), prediction_shape=(3, 6, CLASSES))
    assert claim(report, "follows the mask").verdict is UNKNOWN, str(report)


def test_an_objective_that_is_nan_where_the_loss_is() -> None:
    def by_its_deviation(x: Tensor) -> Tensor:
        return ((x - x.mean(0)) / x.std(0)).square().mean()

    def exact(rows: Any, *, nan: bool, factor: int = 1) -> Any:
        total = 0
        for column in zip(*rows, strict=True):
            mean = sum(column) / len(rows)
            squares = sum((a - mean) ** 2 for a in column)
            if nan and not squares:
                return float("nan")
            total += squares / (squares / (len(rows) - 1))
        return factor * total / (len(rows) * len(rows[0]))

    constant = torch.ones(4, 3)
    report = vp.certify_objective(by_its_deviation, lambda x: exact(x, nan=True), constant)
    assert report.verdict() is UNKNOWN and "both are NaN" in report.findings[0].detail
    report = vp.certify_objective(by_its_deviation, lambda x: exact(x, nan=False), constant)
    assert report.verdict() is UNKNOWN and "divides by 0" in report.findings[0].detail
    report = vp.certify_objective(by_its_deviation, lambda x: exact(x, nan=True, factor=2), constant)
    assert report.verdict() is REFUTED
    nowhere = vp.certify_objective(lambda x: x.mean() * float("nan"), lambda x: exact(x, nan=True), torch.rand(4, 3))
    assert nowhere.verdict() is REFUTED


def test_an_objective_of_errors_that_is_nan_where_the_loss_is() -> None:
    def declared(p: Tensor, t: Tensor) -> Tensor:
        return ((p - t) / t.std(-1, keepdim=True)).square()

    def loss(p: Tensor, s: vp.Sample) -> Tensor:
        h = s.mask.hidden.expand(s.y.shape)
        if not h.any():
            raise ValueError("nothing is hidden")
        return declared(p, s.y)[h].mean()

    constant = vp.Sample(torch.ones(3, 7), torch.ones(3, 7), VECTOR.mask)
    assert claim(vp.certify_loss(loss, constant, distance=declared), "declared distance").verdict is not REFUTED
