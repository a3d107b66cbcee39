from collections.abc import Callable

import numpy as np
import pytest
import torch
from plain import (
    BlockMask,
    InvalidArgument,
    Mask,
    PatchMask,
    Rotating,
    Sample,
    VectorMask,
    image_patch_hidden,
    image_patch_mask,
    image_pixel,
    vector_mae_hidden_mask,
    vector_mae_mask,
    vector_mae_selected_idxs,
)

NO_INTEGERS = [-1, 2**63, 0.5, 2.0, True, False, "2", None, 1j, [2], torch.tensor(2), np.float64(2), np.bool_(True)]
X = torch.ones(2, 6)
IMAGES = torch.ones(2, 3, 4, 6)

CALLS: dict[str, tuple[str, Callable[[object], object]]] = {
    "VectorMask.period": ("period", lambda v: VectorMask(v, 0)),
    "VectorMask.offset": ("offset", lambda v: VectorMask(2, v)),
    "PatchMask.patch_h": ("patch_h", lambda v: PatchMask(v, 2, 2, 0)),
    "PatchMask.patch_w": ("patch_w", lambda v: PatchMask(2, v, 2, 0)),
    "PatchMask.period": ("period", lambda v: PatchMask(2, 2, v, 0)),
    "PatchMask.offset": ("offset", lambda v: PatchMask(2, 2, 2, v)),
    "BlockMask.period": ("period", lambda v: BlockMask((1,), v, 0)),
    "BlockMask.offset": ("offset", lambda v: BlockMask((1,), 2, v)),
    "BlockMask.blocks": (r"blocks\[1\]", lambda v: BlockMask((1, "None" if v is None else v), 2, 0)),
    "vector_mae_hidden_mask.data_dim": ("data_dim", lambda v: vector_mae_hidden_mask(v, 2, 0)),
    "vector_mae_hidden_mask.period": ("period", lambda v: vector_mae_hidden_mask(4, v, 0)),
    "vector_mae_selected_idxs.data_dim": ("data_dim", lambda v: vector_mae_selected_idxs(v, 2, 0)),
    "vector_mae_mask.period": ("period", lambda v: vector_mae_mask(X, v, 0)),
    "vector_mae_mask.offset": ("offset", lambda v: vector_mae_mask(X, 2, v)),
    "image_patch_mask.patch_h": ("patch_h", lambda v: image_patch_mask(IMAGES, v, 2, 2, 0)),
    "image_patch_mask.offset": ("offset", lambda v: image_patch_mask(IMAGES, 2, 2, 2, v)),
    "image_patch_hidden.height": (r"\[0\]", lambda v: image_patch_hidden(v, 4, 2, 2, 2, 0, 0, 0)),
    "image_patch_hidden.col": (r"\[3\]", lambda v: image_patch_hidden(4, 4, 2, 2, 2, 0, 0, v)),
    "image_pixel.row": (r"\[2\]", lambda v: image_pixel(IMAGES, 0, 0, v, 0)),
    "Mask.all": (r"shape\[0\]", lambda v: Mask.all((v,))),
    "Mask.empty": (r"shape\[1\]", lambda v: Mask.empty((1, v))),
    "Rule.mask": (r"data_shape\[0\]", lambda v: VectorMask(2, 0).mask((v,))),
    "Mask.prefix": ("length", lambda v: Mask.all((4,)).prefix(v)),
    "Mask.selected": (r"coordinate\[0\]", lambda v: Mask.all((4,)).selected((v,))),
    "Mask.row": ("n", lambda v: Mask(torch.ones(2, 3, dtype=torch.bool), per_sample=True).row(v)),
}


@pytest.mark.parametrize("value", NO_INTEGERS, ids=repr)
@pytest.mark.parametrize("call", CALLS)
def test_only_non_negative_integers_are_counts(call: str, value: object) -> None:
    name, function = CALLS[call]
    with pytest.raises(InvalidArgument, match=rf"{name}=.* must be a non-negative integer below 2\*\*63; .*=0 to "):
        function(value)


@pytest.mark.parametrize("call", CALLS)
def test_the_calls_above_accept_an_integer(call: str) -> None:
    CALLS[call][1](1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: VectorMask(-1, 0),
            "period=-1 must be a non-negative integer below 2**63; pass period=0 to hide nothing",
        ),
        (
            lambda: PatchMask(0.5, 2, 2, 0),
            "patch_h=0.5 must be a non-negative integer below 2**63; round patch_h or pass patch_h=0 to hide nothing",
        ),
        (
            lambda: VectorMask("3", 0),
            "period='3' must be a non-negative integer below 2**63; pass period=0 to hide nothing",
        ),
        (
            lambda: vector_mae_mask(IMAGES, 2, 0),
            "VectorMask(period=2, offset=0) masks data of 1 axes besides the batch, got 3; use VectorMask for [N, D], "
            "PatchMask for [N, C, H, W], BlockMask with one entry per axis for the rest",
        ),
        (
            lambda: vector_mae_mask(torch.ones(()), 2, 0),
            "VectorMask(period=2, offset=0) masks data of 1 axes besides the batch, got 0; use VectorMask for [N, D], "
            "PatchMask for [N, C, H, W], BlockMask with one entry per axis for the rest",
        ),
        (
            lambda: image_patch_mask(IMAGES[0], 2, 2, 2, 0),
            "PatchMask(patch_h=2, patch_w=2, period=2, offset=0) masks data of 3 axes besides the batch, got 2; use "
            "VectorMask for [N, D], PatchMask for [N, C, H, W], BlockMask with one entry per axis for the rest",
        ),
        (
            lambda: BlockMask((2, 2), 2, 0).mask((3, 4, 6)),
            "BlockMask(blocks=(2, 2), period=2, offset=0) masks data of 2 axes besides the batch, got 3; use "
            "VectorMask for [N, D], PatchMask for [N, C, H, W], BlockMask with one entry per axis for the rest",
        ),
        (lambda: BlockMask("22", 2, 0), "blocks='22' must be a tuple with a width or None per axis"),
        (lambda: BlockMask(None, 2, 0), "blocks=None must be a tuple with a width or None per axis"),
        (lambda: BlockMask(2, 2, 0), "blocks=2 must be a tuple with a width or None per axis"),
        (lambda: VectorMask(2, 0).mask(6), "data_shape=6 must be a sequence of axis extents, such as (3, 32, 32)"),
        (lambda: Mask.all("3"), "shape='3' must be a sequence of axis extents, such as (3, 32, 32)"),
        (lambda: Mask([True]), "hidden of type list must be a bool tensor, True = hidden; compare first"),
        (
            lambda: Mask(torch.ones(3)),
            "hidden of type torch.float32 must be a bool tensor, True = hidden; compare first",
        ),
        (
            lambda: Mask(torch.tensor(True), per_sample=True),
            "hidden of shape () has no batch axis; pass per_sample=False",
        ),
        (lambda: Mask.all((2, 3)).selected((2, 0)), "coordinate=(2, 0) is not inside a mask of shape (2, 3)"),
        (lambda: Mask.all((2, 3)).selected(1), "coordinate=(1,) is not inside a mask of shape (2, 3)"),
        (lambda: Mask.all((2, 3)).selected((0, 0, 0)), "coordinate=(0, 0, 0) is not inside a mask of shape (2, 3)"),
        (
            lambda: Mask(torch.ones(2, 3, dtype=torch.bool), per_sample=True).selected_idxs,
            "selected_idxs of a per-sample mask has no single list; take mask.row(n) first",
        ),
        (
            lambda: Mask(torch.ones(2, 3, dtype=torch.bool), per_sample=True).row(2),
            "n=2 is not a row of a mask of 2 rows; rows count from 0",
        ),
        (lambda: Mask.all((4,)).prefix(5), "length=5 is larger than the flattened size 4; pass at most 4"),
        (lambda: image_patch_hidden(4, 6, 2, 2, 2, 0, 4, 0), "pixel (4, 0) is outside a 4 x 6 image"),
        (lambda: image_patch_hidden(4, 6, 2, 2, 2, 0, 0, 6), "pixel (0, 6) is outside a 4 x 6 image"),
        (lambda: image_pixel(IMAGES, 0, 0, 4, 0), "pixel (0, 0, 4, 0) is outside an image batch of shape (2, 3, 4, 6)"),
        (lambda: image_pixel(X, 0, 0, 0, 0), "pixel (0, 0, 0, 0) is outside an image batch of shape (2, 6)"),
        (
            lambda: Rotating(PatchMask),
            f"rule={PatchMask!r} has no period to rotate; pass a VectorMask, PatchMask or BlockMask",
        ),
        (lambda: VectorMask(2, 0).sample(torch.ones(())), "x of shape () has no batch axis; pass [N, *source]"),
    ],
)
def test_messages_name_the_value_and_the_remedy(call: Callable[[], object], message: str) -> None:
    with pytest.raises(InvalidArgument) as raised:
        call()
    assert str(raised.value) == message


BROADCASTABLE = [(6,), (1, 6), (4, 1), (1, 1), (), (4, 5), (2, 4, 6), (1,)]


@pytest.mark.parametrize("shape", BROADCASTABLE)
def test_a_mask_does_not_broadcast_over_other_data(shape: tuple[int, ...]) -> None:
    with pytest.raises(InvalidArgument, match=r"does not fit a mask over \(.*\); pass a batch of that shape"):
        Mask.all(shape).apply(torch.ones(2, 4, 6))


@pytest.mark.parametrize("rows", [0, 1, 3])
def test_one_mask_a_sample_does_not_broadcast_over_the_batch(rows: int) -> None:
    mask = Mask(torch.ones(rows, 4, dtype=torch.bool), per_sample=True)
    with pytest.raises(InvalidArgument, match=r"x of shape \(2, 4\) does not fit a mask over \(4,\)"):
        mask.apply(torch.ones(2, 4))


@pytest.mark.parametrize(
    "out",
    [torch.empty(2, 5), torch.empty(4), torch.empty(1, 4), torch.empty(2, 4).half(), torch.empty(2, 4, device="meta")],
)
def test_a_buffer_must_be_like_the_input(out: torch.Tensor) -> None:
    with pytest.raises(InvalidArgument, match=r"x is torch.float32 \(2, 4\) on cpu; pass out=torch.empty_like\(x\)"):
        Mask.all((4,)).apply(torch.ones(2, 4), out=out)


def test_a_buffer_that_holds_one_value_for_many_places_is_refused() -> None:
    with pytest.raises(RuntimeError, match="single memory location"):
        Mask.empty((4,)).apply(torch.ones(2, 4), out=torch.empty(1, 4).expand(2, 4))


def test_another_device_is_named_not_copied_to() -> None:
    mask = VectorMask(2, 0).mask((4,))
    with pytest.raises(InvalidArgument, match="x is on meta, the mask on cpu; make the mask there: device=meta"):
        mask.apply(torch.ones(2, 4, device="meta"))


@pytest.mark.parametrize(
    ("x", "y", "mask", "view", "message"),
    [
        ((2, 3), (3, 3), Mask.all((3,)), None, r"x of shape \(2, 3\) and y of shape \(3, 3\) must have one batch size"),
        ((2, 3), (2, 4), Mask.all((3,)), None, r"y of shape \(2, 4\) does not fit its mask of \(3,\)"),
        ((2, 3), (2, 4), Mask.all((1,)), None, r"y of shape \(2, 4\) does not fit its mask of \(1,\)"),
        ((2, 3), (2, 3), Mask.all((3,)), Mask.all((4,)), r"x of shape \(2, 3\) does not fit its mask of \(4,\)"),
        ((), (), Mask.all(()), None, r"y of shape \(\) does not fit its mask of \(\)"),
        (
            (2, 3),
            (2, 3),
            Mask(torch.ones(1, 3, dtype=torch.bool), per_sample=True),
            None,
            r"y of shape \(2, 3\) does not fit its mask of 1 rows over \(3,\); pass a batch of that shape",
        ),
    ],
)
def test_a_sample_whose_parts_do_not_fit(
    x: tuple[int, ...], y: tuple[int, ...], mask: Mask, view: Mask | None, message: str
) -> None:
    with pytest.raises(InvalidArgument, match=message):
        Sample(torch.ones(x), torch.ones(y), mask, view)


@pytest.mark.parametrize("over", ["visible", "", None, "HIDDEN"])
def test_over_has_two_values(over: object) -> None:
    with pytest.raises(InvalidArgument, match=r"over=.* must be 'hidden' \(the mask\) or 'all'"):
        VectorMask(2, 0).sample(X).selection(over)
