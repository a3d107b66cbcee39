"""Two views of which the encoder sees a share of the patches: by sample, in training, and not at the end."""

import pytest
import torch

from viewproof.losses import VICRegLoss
from viewproof.methods.two_view import ProjectedEncoder, TwoView
from viewproof.models.patches import PatchEncoder, Projector

SHAPE = (1, 8, 12)


def module(**options: float) -> TwoView:
    torch.manual_seed(0)
    model = ProjectedEncoder(PatchEncoder(SHAPE, (2, 2), dim=16, depth=1, heads=2), Projector(16, 12))
    return TwoView(model, VICRegLoss(), total_steps=20, **options)  # type: ignore[arg-type]


def test_kept_tokens_are_half_of_the_patches_by_seed_epoch_sample_and_view() -> None:
    trained, ids = module(keep_tokens=0.5), torch.tensor([5, 2, 5])
    kept = trained.kept_tokens(ids, 0, 3)
    assert kept is not None
    for index in kept:
        assert index.shape == (3, 12) and 0 <= int(index.min()) <= int(index.max()) < 24
        assert (index.diff(dim=1) > 0).all() and torch.equal(index[0], index[2])
    assert not torch.equal(*kept) and not torch.equal(kept[0][0], kept[0][1])
    alone = trained.kept_tokens(ids[1:2], 17, 3)
    assert alone is not None and torch.equal(alone[0][0], kept[0][1])
    other = module(keep_tokens=0.5, seed=1).kept_tokens(ids, 0, 3), trained.kept_tokens(ids, 0, 4)
    assert all(index is not None and not torch.equal(index[0], kept[0]) for index in other)


def test_all_tokens_are_seen_in_the_last_tenth_and_in_validation() -> None:
    x, ids = torch.randn(6, *SHAPE), torch.arange(6)
    part, whole = module(keep_tokens=0.5), module()
    assert part.kept_tokens(ids, 17, 0) is not None and part.kept_tokens(ids, 18, 0) is None
    assert torch.equal(part.objective(x, ids, 18, 0), whole.objective(x, ids, 18, 0))
    assert not torch.equal(part.objective(x, ids, 17, 0), whole.objective(x, ids, 17, 0))
    assert torch.equal(part.eval().validation_step((x, ids), 0), whole.eval().validation_step((x, ids), 0))
    assert whole.train().kept_tokens(ids, 0, 0) is None


def test_dropped_patches_are_not_read() -> None:
    trained, x, ids = module(keep_tokens=0.25), torch.randn(4, *SHAPE), torch.arange(4)
    index = trained.kept_tokens(ids, 0, 0)
    assert index is not None
    leaf = x.clone().requires_grad_()
    trained.model(leaf, index[0]).sum().backward()
    read = leaf.grad.reshape(4, 4, 2, 6, 2).abs().sum((2, 4)).flatten(1) > 0  # type: ignore[union-attr]
    assert torch.equal(read, torch.zeros(4, 24, dtype=torch.bool).scatter(1, index[0], True))


@pytest.mark.parametrize("share", [0.01, 1.0])
def test_a_small_share_keeps_one_patch_and_one_keeps_all(share: float) -> None:
    kept = module(keep_tokens=share).kept_tokens(torch.arange(2), 0, 0)
    assert kept is None if share == 1 else kept is not None and kept[0].shape == (2, 1)
