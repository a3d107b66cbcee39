"""Two views and keyed transforms: functions of (seed, epoch, sample id), of the announced crops, flips and colours."""

import math
import re
from typing import Any

import plain
import pytest
import torch
from torch import Tensor

import viewproof as vp
from viewproof.data.images import crop_box
from viewproof.training.augment import Augment, AugmentedPair, RandomViews, parse_transforms
from viewproof.training.transforms import (
    Affine,
    Blur,
    ColourJitter,
    Flip,
    Grey,
    RandomResizedCrop,
    Solarise,
    region,
)  # fmt: skip

AS_USED = plain.MODULES["viewproof.training.augment"]
"""The module without the checks of shapes, which speak before our own errors do."""


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


@pytest.mark.parametrize("name", ["x", "u"])
@pytest.mark.parametrize(
    "bad",
    [
        lambda x: None, lambda x: x.tolist(), lambda x: x[0], lambda x: x[:1], lambda x: x[:, :0], lambda x: x.int(),
        lambda x: x.to(torch.complex64), lambda x: x.to(torch.float8_e4m3fn), lambda x: x.to("meta"),
        lambda x: x.to_sparse(), lambda x: torch.quantize_per_tensor(x, 0.1, 0, torch.qint8),
    ],
)  # fmt: skip
def test_images_and_numbers_of_another_kind_are_refused(name: str, bad: Any) -> None:
    for transform in ALL:
        given = {"x": images(), "u": torch.rand(6, 8)}
        with pytest.raises(plain.InvalidArgument, match=r"^[xu] "):
            AS_USED.TRANSFORMS[type(transform).__name__]()(**given | {name: bad(given[name])})


def test_images_of_half_precision_are_transformed() -> None:
    for transform, dtype in [(t, d) for t in ALL for d in (torch.float16, torch.bfloat16, torch.float64)]:
        x = images().to(dtype)
        assert transform(x, torch.rand(6, 8)).shape == x.shape


@pytest.mark.parametrize("pair", [lambda a: a, lambda a: AS_USED.AugmentedPair(a), lambda a: AS_USED.RandomViews()])
@pytest.mark.parametrize(
    "ids", [None, [1, 2], torch.arange(5), torch.arange(6)[None], torch.rand(6), torch.arange(6, device="meta")]
)
def test_ids_that_are_not_one_a_sample_are_refused(pair: Any, ids: Any) -> None:
    with pytest.raises(plain.InvalidArgument, match="ids"):
        pair(AS_USED.Augment((AS_USED.Flip(),)))(images(), ids)


@pytest.mark.parametrize("options", [{"min_area": "1"}, {"min_area": None}, {"jitter": True}, {"jitter": 1j}])
def test_views_of_ill_typed_options_are_refused(options: dict[str, Any]) -> None:
    (name,) = options
    with pytest.raises(plain.InvalidArgument, match=f"^{name}="):
        AS_USED.RandomViews(**options)


ALL = (RandomResizedCrop(), Flip(), ColourJitter(), Grey(0.5), Blur(), Solarise(0.5), Affine())


@pytest.mark.parametrize("transforms", [*((transform,) for transform in ALL), ALL], ids=repr)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_sample_alone_has_the_bits_that_it_has_in_any_batch(transforms: Any, channels: int) -> None:
    x, ids = images(16, channels), torch.arange(16) * 2**33 + 5
    augment, before = Augment(transforms, seed=3), torch.get_rng_state()
    whole = augment(x, ids, 2)
    assert torch.equal(torch.get_rng_state(), before) and whole.shape == x.shape
    order = torch.randperm(16, generator=torch.Generator().manual_seed(1))
    assert torch.equal(augment(x[order], ids[order], 2), whole[order])
    for k in range(16):
        assert torch.equal(augment(x[k : k + 1], ids[k : k + 1], 2)[0], whole[k])
    if transforms == (Grey(0.5),) and channels == 1:
        return
    others = (
        augment(x, ids, 3),
        Augment(transforms, seed=4)(x, ids, 2),
        augment(x, ids + 1, 2),
        augment(x, ids, 2, 13),
    )
    assert all(not torch.equal(whole, other) for other in others)


@pytest.mark.parametrize("extents", [(1, 1), (1, 7), (2, 3), (9, 9)])
def test_any_extent(extents: tuple[int, int]) -> None:
    x = torch.rand(4, 3, *extents)
    assert Augment(ALL)(x, torch.arange(4)).isfinite().all()


def test_a_transform_draws_from_words_of_its_own() -> None:
    x, ids = images(), torch.arange(6)
    flipped = Augment((ColourJitter(0.0), Flip()))(x, ids)
    torch.testing.assert_close(flipped, Augment((RandomResizedCrop(), Flip()), first=1)(x, ids))


def test_the_crop_is_the_region_and_the_loaders_is_the_same_region() -> None:
    x, u = ramp(50, 64, 96), torch.rand(50, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = RandomResizedCrop(0.2)(x, u)
    height, width, down, across = region(u, 0.2)
    slopes = (found[:, 0, 40, 20] - found[:, 0, 20, 20]) / (x[:, 0, 40, 20] - x[:, 0, 20, 20])
    torch.testing.assert_close(slopes, height.float(), atol=1e-4, rtol=0)
    torch.testing.assert_close(found[:, 1, :, 47:49].mean((1, 2)), across.float(), atol=0.02, rtol=0)
    for k in range(50):
        top, left, tall, wide = crop_box(tuple(u[k, :4].tolist()), 0.2)
        expected = (2 * top + tall - 1, 2 * left + wide - 1, tall, wide)
        assert (down[k], across[k], height[k], width[k]) == pytest.approx(expected)


def test_flips_keep_every_bit_and_are_of_the_announced_share() -> None:
    x = torch.full((4000, 1, 1, 2), float("nan"))
    x[:, :, :, 0] = -0.0
    mirrored = Augment((Flip(0.25),))(x, torch.arange(4000))[:, 0, 0, 0].isnan()
    assert abs(int(mirrored.sum()) - 1000) < 5 * math.sqrt(750)


def test_colours_blur_and_solarising_do_what_their_names_say() -> None:
    x, u = images(6), torch.full((6, 8), 0.5, dtype=torch.float64)
    grey = Grey(1.0)(x, u)
    assert torch.equal(grey[:, 0], grey[:, 2]) and torch.allclose(grey[:, 0], x.mean(1), atol=1e-6)
    torch.testing.assert_close(ColourJitter()(x, u), x)
    blurred = Blur(1.0, 1.0)(x, u)
    assert (blurred.var((2, 3)) < x.var((2, 3))).all()
    flat = torch.ones(6, 3, 8, 8)
    torch.testing.assert_close(Blur(1.0, 1.0)(flat, u), flat)
    solarised = Solarise(1.0)(x, u)
    level = (x.amin((1, 2, 3)) * 0.25 + x.amax((1, 2, 3)) * 0.75)[:, None, None, None]
    assert torch.equal(solarised[x <= level], x[x <= level]) and (solarised <= level + 1e-6).all()


def test_blur_is_the_gaussian_of_its_deviation() -> None:
    point = torch.zeros(1, 1, 41, 41, dtype=torch.float64)
    point[:, :, 20, 20] = 1
    found = Blur(4.0, 1.0)(point, torch.full((1, 8), 0.5, dtype=torch.float64))[0, 0]
    place = torch.arange(41, dtype=torch.float64) - 20
    assert found.sum() == pytest.approx(1)
    assert (found.sum(0) * place.square()).sum().sqrt() == pytest.approx(4 * 0.55, rel=0.02)


def test_affine_moves_turn_about_the_centre_and_nothing_is_the_identity() -> None:
    x, u = images(6), torch.full((6, 8), 0.5, dtype=torch.float64)
    torch.testing.assert_close(Affine()(x, u), x, atol=1e-5, rtol=1e-5)
    square, most = torch.rand(1, 1, 9, 9), torch.tensor([[1.0, 0.5, 0.5, 0.5, 0, 0, 0, 0]], dtype=torch.float64)
    torch.testing.assert_close(Affine(90.0, 0.0, 0.0)(square, most), square.rot90(1, (2, 3)), atol=1e-5, rtol=0)


def test_two_views_from_streams_of_their_own() -> None:
    augment = Augment((RandomResizedCrop(), Flip()))
    x, ids = images(), torch.arange(6)
    a, b = AugmentedPair(augment)(x, ids, 1)
    assert torch.equal(a, augment(x, ids, 1, 12)) and torch.equal(b, augment(x, ids, 1, 13)) and not torch.equal(a, b)


def test_a_sample_of_an_augmented_image_is_certified() -> None:
    ids, rule = torch.arange(4), vp.PatchMask(4, 4, period=3, offset=1)
    augment, images_before = Augment((RandomResizedCrop(0.3), Flip(), Grey()), seed=1), images(4)
    source = augment(images_before, ids, 2)
    assert vp.certify_view(rule.sample, source, rule).verdict() is vp.Verdict.PROVED

    def target_before(z: Tensor) -> Any:
        sample = rule.sample(z)
        return sample.x, images_before.flatten(1), sample.mask

    def augmented_after(z: Tensor) -> Any:
        sample = rule.sample(z)
        return augment(sample.x, ids, 2), sample.y, sample.mask

    for mutant in (target_before, augmented_after):
        assert vp.certify_view(mutant, source, rule).verdict() is vp.Verdict.REFUTED


def test_the_text_is_the_transforms() -> None:
    text = ", ".join(map(repr, ALL))
    assert parse_transforms(text) == ALL and parse_transforms("none") == parse_transforms("") == ()
    assert parse_transforms("Flip()") == (Flip(),)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Crop(0.2)", "no transform is called 'Crop'"),
        ("Flip", None),
        ("Flip(", "is not an expression"),
        ("Flip(chance=2)", "chance=2.0 of Flip must lie from 0 to 1"),
        ("RandomResizedCrop(0)", "min_area=0.0 of RandomResizedCrop must lie from 0.001 to 1"),
        ("Flip(odds=0.5)", "augment='Flip(odds=0.5)'"),
        ("Flip(open('x'))", "augment="),
        ("__import__('os')", "no transform is called '__import__'"),
        ("\0", "null bytes"),
        ("(" * 900, "is not an expression"),
        ("-" * 900 + "1", "augment="),
        ("Flip(" + "-" * 900 + "1)", "augment="),
        ("Flip(" + "9" * 900 + ")", "augment="),
        ("9" * 5000, "must be a text of at most 1000 characters"),
        (3, "must be a text of at most 1000 characters"),
        (None, "must be a text of at most 1000 characters"),
    ],
)
def test_bad_texts(text: Any, message: str | None) -> None:
    if message is None:
        assert parse_transforms(text) == (Flip(),)
    else:
        with pytest.raises(plain.InvalidArgument, match=re.escape(message)):
            AS_USED.parse_transforms(text)
