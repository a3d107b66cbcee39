"""The patch encoder and predictor: which pixels and places count, and which do not."""

import re
from collections.abc import Callable
from typing import Any

import plain
import pytest
import torch

import viewproof as vp
from viewproof.models.patches import PatchEncoder, PatchPredictor, Projector

SHAPE = (3, 8, 12)


def encoder() -> PatchEncoder:
    torch.manual_seed(0)
    return PatchEncoder(SHAPE, (4, 2), dim=16, depth=2, heads=2)


def predictor() -> PatchPredictor:
    torch.manual_seed(1)
    return PatchPredictor(encoder().grid, dim=16, width=8, depth=2, heads=2)


def test_only_the_patches_in_the_index_are_read() -> None:
    model, x = encoder(), torch.randn(2, *SHAPE)
    index = torch.tensor([[0, 3, 7], [11, 2, 5]])
    for n in range(2):
        kept = torch.zeros(12, dtype=torch.bool).index_fill(0, index[n], True)
        hidden = torch.where(kept[:, None], vp.patchify(x[n : n + 1], 4, 2)[0], torch.nan)
        poisoned = vp.unpatchify(hidden[None], *SHAPE, 4, 2)
        torch.testing.assert_close(model(poisoned, index[n : n + 1]), model(x, index)[n : n + 1])


def test_all_places_in_order_are_the_whole_image_and_order_moves_with_the_index() -> None:
    model, x = encoder(), torch.randn(2, *SHAPE)
    everything = torch.arange(12).expand(2, 12)
    torch.testing.assert_close(model(x, everything), model(x))
    torch.testing.assert_close(model(x, everything.flip(1)), model(x).flip(1))
    torch.testing.assert_close(model.encode(x), model(x).mean(1))


def test_predictions_depend_on_their_own_place_and_on_the_contexts_places() -> None:
    model, tokens = predictor(), torch.randn(1, 2, 16)
    index, wanted = torch.tensor([[0, 1]]), torch.tensor([[4, 7]])
    out = model(tokens, index, wanted)
    torch.testing.assert_close(model(tokens, index, wanted.flip(1)), out.flip(1))
    torch.testing.assert_close(model(tokens.flip(1), index.flip(1), wanted), out)
    for other in (model(tokens, index, wanted + 1), model(tokens, index + 2, wanted), model(2 * tokens, index, wanted)):
        assert not torch.isclose(other, out).all(2).any()


def test_batch_mates_do_not_matter() -> None:
    model, project, x = encoder(), Projector(16, 24), torch.randn(3, *SHAPE)
    torch.testing.assert_close(project(model.encode(x))[1:2], project(model.encode(x[1:2])))


X, TOKENS, INDEX = torch.zeros(2, *SHAPE), torch.zeros(1, 2, 16), torch.tensor([[0, 1]])
# As users have it: the annotations that the test run checks would speak first.
P: Any = plain
BAD: list[tuple[Callable[[], Any], str]] = [
    (lambda: PatchEncoder(SHAPE, (3, 2)), "patch_size=(3, 2) must divide the image"),
    (lambda: PatchEncoder(SHAPE, (4, 2), dim=16, heads=3), "heads=3 must divide dim=16"),
    (lambda: P.PatchEncoder(SHAPE, (4, 2), dim=16, heads=0.5), "heads=0.5 must divide dim=16; pass a positive integer"),
    (lambda: PatchEncoder(SHAPE, (4, 2), dim=16, heads=0), "heads=0 must divide dim=16"),
    (lambda: PatchEncoder(SHAPE, (4, 2), dim=0), "dim=0 must be an integer from 1"),
    (lambda: PatchEncoder(SHAPE, (4, 2), dim=16, depth=-1), "depth=-1 must be a non-negative integer"),
    (lambda: PatchPredictor((2, 6), width=8, heads=2, depth=-1), "depth=-1 must be a non-negative integer"),
    (lambda: encoder()(torch.zeros(1, 3, 8, 8)), "must be [N, 3, 8, 12]"),
    (lambda: encoder()(X, torch.tensor([[0, -1], [0, 1]])), "index from -1 to 1 must lie in 0 to 11"),
    (lambda: encoder()(X, torch.tensor([[0, 12], [0, 1]])), "index from 0 to 12 must lie in 0 to 11"),
    (lambda: encoder().tokens(X, torch.tensor([[0, 1]])), "index of shape (1, 2) must be one vector, or [N, v]"),
    (lambda: predictor()(TOKENS, INDEX, INDEX - 2), "target_index from -2 to -1 must lie in 0 to 11"),
    (lambda: predictor()(TOKENS, INDEX - 1, INDEX), "index from -1 to 0 must lie in 0 to 11"),
    (lambda: PatchPredictor((2, 6), width=10, heads=2), "dim=10 must be a multiple of 4"),
]


@pytest.mark.parametrize(("build", "message"), BAD, ids=[message for _, message in BAD])
def test_bad_input(build: Callable[[], Any], message: str) -> None:
    with pytest.raises((vp.InvalidArgument, P.InvalidArgument), match=re.escape(message)):
        build()
