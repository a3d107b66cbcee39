"""Two views: functions of (seed, epoch, sample id), of the announced crops, flips and jitter."""

import math
import re
from typing import Any

import pytest
import torch
from torch import Tensor

import viewproof as vp
from viewproof.training.augment import RandomViews


def images(n: int = 6, channels: int = 3) -> Tensor:
    return torch.randn(n, channels, 8, 12, generator=torch.Generator().manual_seed(0))


def ramp(n: int, h: int = 32, w: int = 48) -> Tensor:
    """Two channels that hold each pixel's own place, in the resampler's units from -1 to 1."""
    down = (2 * torch.arange(h) + 1) / h - 1
    across = (2 * torch.arange(w) + 1) / w - 1
    return torch.stack([down[:, None].expand(h, w), across.expand(h, w)]).expand(n, 2, h, w).contiguous()


def test_a_view_depends_on_seed_epoch_and_id_and_on_nothing_else() -> None:
    x, ids, views = images(), torch.tensor([5, 0, 3, 9, 1, 2**40]), RandomViews()
    before = torch.get_rng_state()
    a, b = views(x, ids, 2)
    assert torch.equal(torch.get_rng_state(), before)
    order = torch.tensor([3, 5, 0])
    for whole, part in zip((a, b), views(x[order], ids[order], 2), strict=True):
        torch.testing.assert_close(part, whole[order])
    for other in (views(x, ids, 3)[0], RandomViews(seed=1)(x, ids, 2)[0], views(x, ids + 1, 2)[0], b):
        assert not torch.isclose(a, other).flatten(1).all(1).any()


def test_crops_have_the_announced_area_aspect_and_place() -> None:
    n = 4000
    views = RandomViews(min_area=0.3, flip=False, jitter=0.0)
    a, _ = views(ramp(n), torch.arange(n))
    # Inside a crop the ramp's slope is the crop's extent, as a share of the image's.
    height = (a[:, 0, 20, 20] - a[:, 0, 12, 20]) / (ramp(1)[0, 0, 20, 20] - ramp(1)[0, 0, 12, 20])
    width = (a[:, 1, 16, 30] - a[:, 1, 16, 18]) / (ramp(1)[0, 1, 16, 30] - ramp(1)[0, 1, 16, 18])
    assert (height * width).min() > 0.3 * 0.74 and (height * width).max() < 1.01
    aspect = height / width
    assert 0.74 < aspect.min() < 0.77 and 1.3 < aspect.max() < 1.35
    assert (height > 0).all() and (width > 0).all()
    centre = a[:, :, 15:17, 23:25].mean((2, 3))
    assert (centre[:, 0].abs() <= 1 - height + 1e-4).all() and (centre[:, 1].abs() <= 1 - width + 1e-4).all()
    # Uniform places: the mean of 4,000 is within 5 standard errors of the middle.
    assert (centre.mean(0).abs() < 5 * centre.std(0) / math.sqrt(n)).all()


def test_every_second_view_is_mirrored_and_none_without_flip() -> None:
    n = 4000
    a, b = RandomViews(jitter=0.0)(ramp(n), torch.arange(n))
    for view in (a, b):
        mirrored = int((view[:, 1, 16, 30] < view[:, 1, 16, 18]).sum())
        assert abs(mirrored - n / 2) < 5 * math.sqrt(n / 4)
        assert (view[:, 0, 20, 20] > view[:, 0, 12, 20]).all()
    plain, _ = RandomViews(flip=False, jitter=0.0)(ramp(100), torch.arange(100))
    assert (plain[:, 1, 16, 30] > plain[:, 1, 16, 18]).all()


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_jitter_scales_about_the_mean_and_shifts(channels: int) -> None:
    x, ids = images(400, channels), torch.arange(400)
    still, moved = RandomViews(jitter=0.0)(x, ids)[0], RandomViews(jitter=0.4)(x, ids)[0]
    deviation = still.std((1, 2, 3), correction=0)
    shift = (moved.mean((1, 2, 3)) - still.mean((1, 2, 3))) / deviation
    assert shift.abs().max() < 0.4 * (1.4 if channels == 3 else 1.001) and shift.abs().max() > 0.35
    scale = moved.std((1, 2, 3), correction=0) / deviation
    if channels != 3:
        assert 0.6 < scale.min() < 0.62 and 1.38 < scale.max() < 1.4
    else:
        grey = [z.mean(1).std((1, 2), correction=0) for z in (still, moved)]
        assert (grey[1] / grey[0]).min() > 0.599 and (grey[1] / grey[0]).max() < 1.401
        colour = [(z - z.mean(1, keepdim=True)).std((1, 2, 3)) for z in (still, moved)]
        assert 0.36 < (colour[1] / colour[0]).min() < 0.5 and 1.7 < (colour[1] / colour[0]).max() < 1.96


def test_values_stay_in_range_and_finite() -> None:
    x = images().clamp(-1, 1)
    a, _ = RandomViews(jitter=0.0)(x, torch.arange(6))
    assert a.abs().max() <= 1 + 1e-6
    constant, _ = RandomViews()(torch.ones(3, 3, 8, 8), torch.arange(3))
    torch.testing.assert_close(constant, torch.ones(3, 3, 8, 8))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_area": 0.0}, "min_area=0.0 must lie above 0"),
        ({"min_area": 1.5}, "min_area=1.5 must lie above 0"),
        ({"jitter": 1.0}, "jitter=1.0 must lie in [0, 1)"),
        ({"seed": -1}, "seed=-1"),
    ],
)
def test_bad_input(options: dict[str, Any], message: str) -> None:
    with pytest.raises(vp.InvalidArgument, match=re.escape(message)):
        RandomViews(**options)
