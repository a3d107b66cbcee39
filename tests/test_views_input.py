from collections.abc import Callable

import pytest
import torch
from plain import (
    InvalidArgument,
    block_mae_sample,
    flatten_batch_prefix,
    image_patch_mae_sample,
    patchify,
    tensor_prefix_mae_sample,
    unpatchify,
    vector_mae_sample,
)

X = torch.ones(2, 6)
IMAGES = torch.ones(2, 3, 4, 6)
TOO_LONG = "={0} is larger than the flattened size {1}; pass at most {1}"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: image_patch_mae_sample(IMAGES, 2, 2, 2, 0, 73), "recon_dim" + TOO_LONG.format(73, 72)),
        (lambda: block_mae_sample(IMAGES, (None, 2, 2), 2, 0, 100), "recon_dim" + TOO_LONG.format(100, 72)),
        (lambda: tensor_prefix_mae_sample(IMAGES, 73, 2, 0), "data_dim" + TOO_LONG.format(73, 72)),
        (lambda: flatten_batch_prefix(X, 7), "length" + TOO_LONG.format(7, 6)),
        (lambda: flatten_batch_prefix(torch.ones(()), 0), "x of shape () has no batch axis; pass [N, *source]"),
        (
            lambda: tensor_prefix_mae_sample(torch.ones(()), 1, 2, 0),
            "x of shape () has no batch axis; pass [N, *source]",
        ),
        (
            lambda: vector_mae_sample(IMAGES, 2, 0),
            "VectorMask(period=2, offset=0) masks data of 1 axes besides the batch, got 3; use VectorMask for [N, D], "
            "PatchMask for [N, C, H, W], BlockMask with one entry per axis for the rest",
        ),
        (
            lambda: image_patch_mae_sample(X, 2, 2, 2, 0),
            "PatchMask(patch_h=2, patch_w=2, period=2, offset=0) masks data of 3 axes besides the batch, got 1; use "
            "VectorMask for [N, D], PatchMask for [N, C, H, W], BlockMask with one entry per axis for the rest",
        ),
        (
            lambda: block_mae_sample(X, (1, 1), 2, 0),
            "BlockMask(blocks=(1, 1), period=2, offset=0) masks data of 2 axes besides the batch, got 1; use "
            "VectorMask for [N, D], PatchMask for [N, C, H, W], BlockMask with one entry per axis for the rest",
        ),
        (lambda: block_mae_sample(X, None, 2, 0), "blocks=None must be a tuple with a width or None per axis"),
        (lambda: block_mae_sample(X, 1, 2, 0), "blocks=1 must be a tuple with a width or None per axis"),
        (lambda: patchify(X, 2, 2), "x of shape (2, 6) must be images [N, C, H, W]"),
        (lambda: patchify(IMAGES, 3, 2), "patch_h=3 must divide the image's 4; pass a divisor or pad the image"),
        (lambda: patchify(IMAGES, 2, 4), "patch_w=4 must divide the image's 6; pass a divisor or pad the image"),
        (lambda: patchify(IMAGES, 0, 2), "patch_h=0 must divide the image's 4; pass a divisor or pad the image"),
        (lambda: unpatchify(torch.ones(2, 6, 11), 3, 4, 6, 2, 2), "tokens of shape (2, 6, 11) must be [N, 6, 12]"),
        (lambda: unpatchify(torch.ones(6, 12), 3, 4, 6, 2, 2), "tokens of shape (6, 12) must be [N, 6, 12]"),
        (
            lambda: unpatchify(torch.ones(1, 2, 6, 12), 3, 4, 6, 2, 2),
            "tokens of shape (1, 2, 6, 12) must be [N, 6, 12]",
        ),
    ],
)
def test_messages_name_the_value_and_the_remedy(call: Callable[[], object], message: str) -> None:
    with pytest.raises(InvalidArgument) as raised:
        call()
    assert str(raised.value) == message


@pytest.mark.parametrize("value", [-1, 0.5, True, "2"])
@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("recon_dim", lambda v: image_patch_mae_sample(IMAGES, 2, 2, 2, 0, v)),
        ("recon_dim", lambda v: block_mae_sample(IMAGES, (None, 2, 2), 2, 0, v)),
        ("data_dim", lambda v: tensor_prefix_mae_sample(IMAGES, v, 2, 0)),
        ("period", lambda v: vector_mae_sample(X, v, 0)),
        ("offset", lambda v: tensor_prefix_mae_sample(IMAGES, 4, 2, v)),
        (r"blocks\[0\]", lambda v: block_mae_sample(X, (v,), 2, 0)),
        ("patch_w", lambda v: patchify(IMAGES, 2, v)),
        ("patch_h", lambda v: unpatchify(torch.ones(2, 6, 12), 3, 4, 6, v, 2)),
        ("channels", lambda v: unpatchify(torch.ones(2, 6, 12), v, 4, 6, 2, 2)),
    ],
)
def test_only_non_negative_integers_are_counts(name: str, call: Callable[[object], object], value: object) -> None:
    with pytest.raises(InvalidArgument, match=rf"{name}=.* must be a non-negative integer"):
        call(value)


def test_a_missing_length_is_not_a_bad_one() -> None:
    assert tensor_prefix_mae_sample(IMAGES, 0, 2, 0).x.shape == (2, 0)
    with pytest.raises(InvalidArgument, match="data_dim=None must be a non-negative integer"):
        tensor_prefix_mae_sample(IMAGES, None, 2, 0)
