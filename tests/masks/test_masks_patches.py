import naive
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from plain import InvalidArgument as PlainInvalidArgument
from plain import Mask as PlainMask
from plain import hidden_patch_idxs as plain_hidden_patch_idxs

from viewproof import InvalidArgument, Mask, PatchMask, hidden_patch_idxs, visible_patch_idxs
from viewproof.masks.patches import split_patches


@given(
    channels=st.integers(1, 3),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    patch_h=st.integers(1, 11),
    patch_w=st.integers(1, 11),
    period=st.integers(0, 6),
    offset=st.integers(0, 9),
)
def test_hidden_and_visible_patches(
    channels: int, height: int, width: int, patch_h: int, patch_w: int, period: int, offset: int
) -> None:
    mask = PatchMask(patch_h, patch_w, period, offset).mask((channels, height, width))
    patches = naive.ceil_div(height, patch_h) * naive.ceil_div(width, patch_w)
    hidden = [p for p in range(patches) if period and p % period == offset % period]
    assert hidden_patch_idxs(mask, patch_h, patch_w) == hidden
    assert visible_patch_idxs(mask, patch_h, patch_w) == [p for p in range(patches) if p not in hidden]


@given(patch_h=st.integers(1, 3), patch_w=st.integers(1, 3), period=st.integers(1, 5), offset=st.integers(0, 5))
def test_patches_of_a_divisor_size(patch_h: int, patch_w: int, period: int, offset: int) -> None:
    mask = PatchMask(2 * patch_h, 3 * patch_w, period, offset).mask((2, 4 * patch_h, 9 * patch_w))
    expected = set()
    for row, col in naive.coordinates((4 * patch_h, 9 * patch_w)):
        if mask.selected((0, row, col)):
            expected.add(row // patch_h * 9 + col // patch_w)
    assert hidden_patch_idxs(mask, patch_h, patch_w) == sorted(expected)


@pytest.mark.parametrize(("patch_h", "patch_w"), [(4, 4), (4, 2), (2, 4), (3, 2), (5, 7)])
def test_a_torn_patch_is_refused_by_name(patch_h: int, patch_w: int) -> None:
    mask = PatchMask(2, 2, period=3, offset=1).mask((3, 8, 8))
    with pytest.raises(InvalidArgument, match=rf"patch_h={patch_h}, patch_w={patch_w}.*PatchMask\(.*\).*part of patch"):
        hidden_patch_idxs(mask, patch_h, patch_w)


@pytest.mark.parametrize("channel", [0, 1])
def test_a_mask_that_differs_between_channels_is_refused(channel: int) -> None:
    hidden = torch.zeros(2, 4, 4, dtype=torch.bool)
    hidden[channel, :2, 2:] = True
    with pytest.raises(InvalidArgument, match="hides only a part of patch 1"):
        hidden_patch_idxs(Mask(hidden), 2, 2)


def test_one_visible_pixel_tears_a_patch() -> None:
    hidden = torch.ones(3, 4, 6, dtype=torch.bool)
    assert hidden_patch_idxs(Mask(hidden), 2, 3) == [0, 1, 2, 3]
    hidden = hidden.clone()
    hidden[2, 3, 5] = False
    with pytest.raises(InvalidArgument, match="part of patch 3"):
        hidden_patch_idxs(Mask(hidden), 2, 3)


def test_the_index_vectors_are_found_once_a_mask() -> None:
    mask = PatchMask(2, 2, 3, 1).mask((3, 8, 8))
    assert split_patches(mask, 2, 2) is split_patches(mask, 2, 2)
    visible, hidden = split_patches(mask, 2, 2)
    assert torch.cat([visible, hidden]).sort().values.tolist() == list(range(16))


@pytest.mark.parametrize(
    ("patch_h", "patch_w", "message"),
    [
        (0, 2, "patch_h=0 has no patches to index; pass the encoder's patch size"),
        (2, 0, "patch_w=0 has no patches to index"),
        (-1, 2, "patch_h=-1 must be a non-negative integer"),
        (True, 2, "patch_h=True must be a non-negative integer"),
        (2, 2.0, "patch_w=2.0 must be a non-negative integer"),
    ],
)
def test_bad_patch_sizes(patch_h: object, patch_w: object, message: str) -> None:
    mask = PlainMask.all((3, 4, 4))
    for size in (1, 2):
        plain_hidden_patch_idxs(mask, size, size)
    with pytest.raises(PlainInvalidArgument, match=message):
        plain_hidden_patch_idxs(mask, patch_h, patch_w)


@pytest.mark.parametrize(
    "mask", [Mask.all((4, 4)), Mask.all((48,)), Mask(torch.ones(2, 3, 4, 4, dtype=torch.bool), per_sample=True)]
)
def test_masks_that_lie_over_no_image(mask: Mask) -> None:
    with pytest.raises(InvalidArgument, match=r"must lie over \[C, H, W\]; take mask.row"):
        hidden_patch_idxs(mask, 2, 2)
