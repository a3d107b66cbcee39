"""`certify_geometry`: the package's own patches are proved, and every claim has mutants that it rejects."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import viewproof as vp
from viewproof.certify.geometry import certify_geometry
from viewproof.certify.report import Contract, Finding
from viewproof.errors import InvalidArgument
from viewproof.verdict import Verdict

LOST = "every source coordinate lies in a token of its own sample"
TWICE = "no source coordinate lies in two tokens, or twice in one"
STATUS = "each token's coordinates are hidden exactly if the token is"
INVERSE = "unpatchify inverts patchify"
POSITIONS = "positions grow with the grid coordinates of their tokens, axis by axis"
RESTORE = "ids_restore is the inverse of the shuffle"

IMAGES = torch.randn(2, 3, 8, 12, generator=torch.Generator().manual_seed(0))
RULE = vp.PatchMask(4, 4, period=3, offset=1)
MASK = RULE.mask((3, 8, 12))
PATCH_MASK = torch.zeros(6, dtype=torch.bool).index_fill(0, torch.tensor(vp.hidden_patch_idxs(MASK, 4, 4)), True)
GRID = torch.cartesian_prod(torch.arange(2), torch.arange(3))
OTHER_GRID = torch.cartesian_prod(torch.arange(3), torch.arange(2))
LATER_CHANNELS = MASK.hidden & (torch.arange(3) > 0).reshape(3, 1, 1)
UNEQUAL = torch.stack([PATCH_MASK, PATCH_MASK.roll(1)])
SHUFFLE = torch.tensor([[2, 0, 1, 5, 3, 4], [4, 2, 5, 0, 1, 3]])


def patches(x: Tensor) -> Tensor:
    return vp.patchify(x, 4, 4)


def images(tokens: Tensor) -> Tensor:
    return vp.unpatchify(tokens, 3, 8, 12, 4, 4)


def certify(patchify: Callable[[Tensor], Tensor], claim: str, **more: Any) -> Finding:
    report = certify_geometry(patchify, IMAGES, **more)
    assert all(f.contract is Contract.C5 for f in report.findings)
    return next(f for f in report.findings if f.claim == claim)


def test_the_packages_own_patches_are_proved() -> None:
    report = certify_geometry(
        patches,
        IMAGES,
        mask=MASK,
        patch_mask=PATCH_MASK,
        unpatchify=images,
        positions=GRID,
        restore=(SHUFFLE, SHUFFLE.argsort(1)),
    )
    assert len(report.findings) == 6 and report.verdict() is Verdict.PROVED, report
    assert report.findings[0].scope == "all values at 2x3x8x12"


@pytest.mark.parametrize(
    "positions", [GRID / 7, GRID * 2.0 - 1, GRID[:, 1:], (GRID + 0.5).double(), torch.exp(GRID.float())], ids=str
)
def test_positions_in_any_growing_unit_are_proved(positions: Tensor) -> None:
    assert certify(patches, POSITIONS, positions=positions).verdict is Verdict.PROVED


def test_other_cuts_that_partition_are_proved() -> None:
    for cut in (
        lambda x: F.unfold(x, (4, 4), stride=(4, 4)).transpose(1, 2),
        lambda x: x.unfold(2, 4, 4).unfold(3, 4, 4).permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2),
        lambda x: x.flatten(2).transpose(1, 2),
        lambda x: F.pad(x, (0, 4)).unfold(3, 8, 8).permute(0, 3, 1, 2, 4).flatten(2),
    ):
        assert certify_geometry(cut, IMAGES).verdict() is Verdict.PROVED
    assert certify_geometry(lambda x: x, torch.arange(6).reshape(2, 3)).verdict() is Verdict.PROVED


def columns_first(x: Tensor) -> Tensor:
    return x.reshape(2, 3, 2, 4, 3, 4).permute(0, 4, 2, 3, 5, 1).reshape(2, 6, 48)


REJECTED: list[tuple[str, str, Callable[[Tensor], Tensor], dict[str, Any]]] = [
    ("ragged", LOST, lambda x: vp.patchify(x[..., :8], 4, 4), {}),
    ("samples exchanged", LOST, lambda x: patches(x).flip(0), {}),
    ("one pixel of a token blank", LOST, lambda x: patches(x).index_fill(2, torch.tensor([5]), 0.0), {}),
    ("overlap", TWICE, lambda x: x.unfold(3, 4, 2).permute(0, 3, 1, 2, 4).flatten(2), {}),
    ("reflected padding", TWICE, lambda x: vp.patchify(F.pad(x, (0, 4, 0, 0), mode="reflect"), 4, 4), {}),
    ("a token twice", TWICE, lambda x: patches(x)[:, [0, 1, 2, 3, 4, 5, 5]], {}),
    ("columns first", STATUS, columns_first, {"mask": MASK, "patch_mask": PATCH_MASK}),
    ("polarity", STATUS, patches, {"mask": MASK, "patch_mask": ~PATCH_MASK}),
    ("one channel not hidden", STATUS, patches, {"mask": LATER_CHANNELS, "patch_mask": PATCH_MASK}),
    ("one sample's mask rolled", STATUS, patches, {"mask": MASK, "patch_mask": UNEQUAL}),
    ("inverse of another order", INVERSE, columns_first, {"unpatchify": images}),
    ("inverse of another shape", INVERSE, patches, {"unpatchify": lambda t: vp.unpatchify(t, 3, 12, 8, 4, 4)}),
    ("inverse that crops", INVERSE, patches, {"unpatchify": lambda t: F.pad(images(t)[..., 1:], (1, 0))}),
    ("columns of positions exchanged", POSITIONS, patches, {"positions": GRID.flip(1)}),
    ("positions of another grid", POSITIONS, patches, {"positions": OTHER_GRID}),
    ("positions backwards", POSITIONS, patches, {"positions": -GRID}),
    ("positions with a class token", POSITIONS, patches, {"positions": torch.cat([GRID[:1], GRID])}),
    ("positions of shuffled tokens", POSITIONS, lambda x: patches(x)[:, SHUFFLE[0]], {"positions": GRID}),
    ("forward permutation", RESTORE, patches, {"restore": (SHUFFLE, SHUFFLE)}),
    ("not a permutation", RESTORE, patches, {"restore": (SHUFFLE, SHUFFLE.argsort(1) // 2)}),
    ("indices with repetition", RESTORE, patches, {"restore": (SHUFFLE // 2, SHUFFLE)}),
    ("other length", RESTORE, patches, {"restore": (SHUFFLE, torch.arange(5).expand(2, 5))}),
]  # fmt: skip


@pytest.mark.parametrize(("claim", "cut", "more"), [r[1:] for r in REJECTED], ids=[r[0] for r in REJECTED])
def test_mutants_are_refuted(claim: str, cut: Callable[[Tensor], Tensor], more: dict[str, Any]) -> None:
    found = certify(cut, claim, **more)
    assert found.verdict is Verdict.REFUTED and found.witness is not None and found.witness.what


def test_witnesses_name_places_that_replay() -> None:
    witness = certify(lambda x: vp.patchify(x[..., :8], 4, 4), LOST).witness
    assert witness is not None and witness.coordinates["source"] == (0, 0, 0, 8)
    marked = torch.zeros_like(IMAGES)
    marked[witness.coordinates["source"]] = 1.0
    assert not bool(vp.patchify(marked[..., :8], 4, 4).any())
    witness = certify(lambda x: x.unfold(3, 4, 2).permute(0, 3, 1, 2, 4).flatten(2), TWICE).witness
    assert witness is not None
    assert witness.what == "the source coordinate (0, 0, 0, 2) lies at (0, 0, 2) and at (0, 1, 0) of the tokens"
    witness = certify(patches, STATUS, mask=MASK, patch_mask=~PATCH_MASK).witness
    assert witness is not None and witness.coordinates == {"source": (0, 0, 0, 0), "token": (0, 0)}
    assert "(0, 0, 0, 0) is visible, its token 0 hidden" in witness.what
    witness = certify(patches, RESTORE, restore=(SHUFFLE, SHUFFLE)).witness
    assert witness is not None and witness.what == "row 0: token 0 is restored from where the shuffle put token 1"


def test_tokens_that_are_computed_or_turn_on_values_are_unknown() -> None:
    conv = torch.nn.Conv2d(3, 5, 4, 4)
    for cut, reason in (
        (lambda x: conv(x).flatten(2).transpose(1, 2), "computed, not moved"),
        (lambda x: patches(x)[:, : 6 if x.mean() < 9 else 5], "looks at values"),
        (lambda x: x.reshape(5, 5), "raised RuntimeError"),
        (lambda x: x.reshape(-1), "tokens must be [N, P, ...]"),
    ):
        report = certify_geometry(cut, IMAGES)
        assert {f.verdict for f in report.findings} == {Verdict.UNKNOWN}
        assert reason in report.findings[0].detail


def test_masks_that_hide_nothing_are_vacuous() -> None:
    found = certify(patches, STATUS, mask=torch.zeros(3, 8, 12, dtype=torch.bool), patch_mask=PATCH_MASK & False)
    assert found.verdict is Verdict.VACUOUS


def test_bad_input_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="mask and patch_mask are compared with each other; pass both or neither"):
        certify_geometry(patches, IMAGES, mask=MASK)
    with pytest.raises(InvalidArgument, match=re.escape("example of shape (3,) must be a batch [N, *data]")):
        certify_geometry(patches, torch.zeros(3))


def test_positions_of_a_wrong_rank_are_reported() -> None:
    found = certify(patches, POSITIONS, positions=torch.arange(6))
    assert found.verdict is Verdict.UNKNOWN and "positions of shape (6,) must be [P, d]" in found.detail
