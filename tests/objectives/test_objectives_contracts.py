from dataclasses import FrozenInstanceError
from fractions import Fraction
from typing import Any

import naive
import plain
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from viewproof import (
    Mask,
    Sample,
    block_mae_row_predictive_contract,
    image_mae_reconstruction_idxs,
    image_patch_mae_row_predictive_contract,
    image_patch_token_row_predictive_contract,
    mae_as_predictive_view_contract,
    mae_loss,
    matrix_row_as_patch_batch,
    matrix_row_as_prediction,
    patchify,
    predictive_view_objective,
    row_predictive_contract,
    vector_mae_row_predictive_contract,
)

parameters = st.integers(0, 6)
overs = st.sampled_from(["hidden", "all"])


def sq(t: Any, p: Any) -> Any:
    return (t - p) ** 2


def pair(*shape: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(-9, 9, shape, generator=generator), torch.randint(-9, 9, shape, generator=generator)


def by_hand(y: Tensor, yhat: Tensor, row: int, idxs: list[int]) -> int:
    targets, predictions = y.flatten(1).tolist(), yhat.flatten(1).tolist()
    return sum((targets[row][i] - predictions[row][i]) ** 2 for i in idxs)


@given(data_dim=st.integers(0, 12), row=st.integers(0, 2), period=parameters, offset=parameters)
def test_vector_mae_row_predictive_objective_eq_mae_loss(data_dim: int, row: int, period: int, offset: int) -> None:
    x, yhat = pair(3, data_dim)
    contract = vector_mae_row_predictive_contract(x, yhat, row, period, offset, sq)
    idxs = [j for j, hidden in enumerate(naive.vector_mask(data_dim, period, offset)) if hidden]
    assert contract.target_idxs == idxs
    assert contract.geometry_guard == 0
    objective = predictive_view_objective(contract)
    assert objective == mae_loss(idxs, matrix_row_as_patch_batch(x, row), matrix_row_as_prediction(yhat, row), sq)
    assert objective == by_hand(x, yhat, row, idxs)


@given(
    channels=st.integers(1, 2),
    height=st.integers(0, 5),
    width=st.integers(0, 5),
    row=st.integers(0, 2),
    patch_h=parameters,
    patch_w=parameters,
    period=parameters,
    offset=parameters,
    share=st.none() | st.fractions(0, 1),
    over=overs,
)
def test_image_patch_mae_row_predictive_objective_eq_mae_loss(
    channels: int,
    height: int,
    width: int,
    row: int,
    patch_h: int,
    patch_w: int,
    period: int,
    offset: int,
    share: Fraction | None,
    over: str,
) -> None:
    size = channels * height * width
    length = size if share is None else int(share * size)
    x, yhat = pair(3, channels, height, width)[0], pair(3, length)[1]
    contract = image_patch_mae_row_predictive_contract(
        x, yhat, row, patch_h, patch_w, period, offset, sq, None if share is None else length, over
    )
    hidden = naive.image_mask(channels, height, width, patch_h, patch_w, period, offset)
    idxs = [i for i in range(length) if hidden[i] or over == "all"]
    assert contract.target_idxs == idxs
    if over == "all":
        assert contract.target_idxs == image_mae_reconstruction_idxs(length)
    y = x.flatten(1)[:, :length]
    objective = predictive_view_objective(contract)
    assert objective == mae_loss(idxs, matrix_row_as_patch_batch(y, row), matrix_row_as_prediction(yhat, row), sq)
    assert objective == by_hand(y, yhat, row, idxs)


@given(
    shape_and_blocks=st.lists(st.tuples(st.integers(0, 3), st.none() | parameters), min_size=1, max_size=5),
    row=st.integers(0, 2),
    period=parameters,
    offset=parameters,
    share=st.none() | st.fractions(0, 1),
    over=overs,
)
def test_block_mae_row_predictive_objective_eq_mae_loss(
    shape_and_blocks: list[tuple[int, int | None]],
    row: int,
    period: int,
    offset: int,
    share: Fraction | None,
    over: str,
) -> None:
    shape, blocks = zip(*shape_and_blocks, strict=True)
    hidden = naive.block_mask(shape, blocks, period, offset)
    length = len(hidden) if share is None else int(share * len(hidden))
    x, yhat = pair(3, *shape)[0], pair(3, length)[1]
    contract = block_mae_row_predictive_contract(
        x, yhat, row, blocks, period, offset, sq, None if share is None else length, over
    )
    idxs = [i for i in range(length) if hidden[i] or over == "all"]
    assert contract.target_idxs == idxs
    assert predictive_view_objective(contract) == by_hand(x.reshape(3, len(hidden))[:, :length], yhat, row, idxs)


@given(
    channels=st.integers(1, 3),
    grid_h=st.integers(1, 3),
    grid_w=st.integers(1, 3),
    patch_h=st.integers(1, 3),
    patch_w=st.integers(1, 3),
    period=parameters,
    offset=parameters,
    row=st.integers(0, 1),
)
def test_patch_token_objective_eq_hidden_pixel_objective(
    channels: int, grid_h: int, grid_w: int, patch_h: int, patch_w: int, period: int, offset: int, row: int
) -> None:
    x, yhat = pair(2, channels, grid_h * patch_h, grid_w * patch_w)
    tokens = patchify(yhat, patch_h, patch_w)

    def token_distance(t: Tensor, p: Tensor) -> Tensor:
        return sum(sq(a, b) for a, b in zip(t, p, strict=True))

    by_patch = image_patch_token_row_predictive_contract(
        x, tokens, row, patch_h, patch_w, period, offset, token_distance
    )
    by_pixel = image_patch_mae_row_predictive_contract(x, yhat.flatten(1), row, patch_h, patch_w, period, offset, sq)
    patches = grid_h * grid_w
    assert by_patch.target_idxs == [p for p in range(patches) if period and p % period == offset % period]
    assert predictive_view_objective(by_patch) == predictive_view_objective(by_pixel)


def test_rows_of_per_sample_masks() -> None:
    hidden = torch.tensor([[True, False, True], [False, False, True]])
    y, yhat = pair(2, 3)
    sample = Sample(y, y, Mask(hidden, per_sample=True))
    contracts = [row_predictive_contract(sample, yhat, row, sq) for row in range(2)]
    assert [contract.target_idxs for contract in contracts] == [[0, 2], [2]]
    for row, contract in enumerate(contracts):
        assert predictive_view_objective(contract) == by_hand(y, yhat, row, contract.target_idxs)


def test_the_target_comes_from_the_sample_not_from_the_view() -> None:
    x = torch.tensor([[5, 7]])
    contract = vector_mae_row_predictive_contract(x, torch.zeros_like(x), 0, 2, 0, sq)
    assert contract.target(0) == 5
    assert contract.predict(contract.context, 0) == 0


def test_changing_a_contract_s_list_does_not_change_the_mask() -> None:
    x = torch.ones(1, 5)
    first = vector_mae_row_predictive_contract(x, x, 0, 2, 0, sq)
    first.target_idxs.clear()
    assert vector_mae_row_predictive_contract(x, x, 0, 2, 0, sq).target_idxs == [0, 2, 4]


X = torch.ones(2, 4)
IMAGES = torch.ones(2, 1, 4, 4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: plain.vector_mae_row_predictive_contract(X, X[:1], 0, 2, 0, sq),
            "yhat of shape (1, 4) must have the target's shape (2, 4)",
        ),
        (
            lambda: plain.vector_mae_row_predictive_contract(X, torch.ones(2, 1), 0, 2, 0, sq),
            "yhat of shape (2, 1) must have the target's shape (2, 4)",
        ),
        (
            lambda: plain.image_patch_mae_row_predictive_contract(IMAGES, IMAGES, 0, 2, 2, 2, 0, sq),
            "yhat of shape (2, 1, 4, 4) must have the target's shape (2, 16)",
        ),
        (
            lambda: plain.image_patch_mae_row_predictive_contract(IMAGES, torch.ones(2, 9), 0, 2, 2, 2, 0, sq, 17),
            "recon_dim=17 is larger than the flattened size 16; pass at most 16",
        ),
        (
            lambda: plain.image_patch_token_row_predictive_contract(IMAGES, torch.ones(2, 4, 1), 0, 2, 2, 2, 0, sq),
            "yhat_tokens of shape (2, 4, 1) must be (2, 4, 4)",
        ),
        (
            lambda: plain.vector_mae_row_predictive_contract(X, X, 2, 2, 0, sq),
            "row=2 is not a row of a tensor of shape (2, 4); rows count from 0",
        ),
        (
            lambda: plain.vector_mae_row_predictive_contract(X, X, -1, 2, 0, sq),
            "row=-1 must be a non-negative integer below 2**63; pass row=0 to take the first row",
        ),
        (
            lambda: plain.vector_mae_row_predictive_contract(X, X, True, 2, 0, sq),
            "row=True must be a non-negative integer below 2**63; pass row=0 to take the first row",
        ),
        (
            lambda: plain.matrix_row_as_patch_batch(X[0], 0),
            "row=0 is not a row of a tensor of shape (4,); rows count from 0",
        ),
        (
            lambda: plain.matrix_row_as_prediction(X, 0.5),
            "row=0.5 must be a non-negative integer below 2**63; round row or pass row=0 to take the first row",
        ),
        (
            lambda: plain.image_mae_reconstruction_idxs(-1),
            "recon_dim=-1 must be a non-negative integer below 2**63; pass recon_dim=0 to predict nothing",
        ),
    ],
)
def test_messages_name_the_value_and_the_remedy(call: Any, message: str) -> None:
    with pytest.raises(plain.InvalidArgument) as raised:
        call()
    assert str(raised.value) == message


def test_a_contract_does_not_change_once_it_is_made() -> None:
    contract = mae_as_predictive_view_contract([0], lambda i: i, lambda i: i, sq)
    with pytest.raises(FrozenInstanceError):
        contract.context = 1  # type: ignore[misc]
