"""Parts of lightly and timm, certified as they are; each adapter is what a user would write. Skipped without them."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import viewproof as vp
from viewproof.certify import Contract, Report, Verdict

PROVED, REFUTED, UNKNOWN = Verdict.PROVED, Verdict.REFUTED, Verdict.UNKNOWN
IMAGES = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
PAIRS = torch.randn(8, 2, 6, generator=torch.Generator().manual_seed(1))
ROWS = torch.randn(6, 5, generator=torch.Generator().manual_seed(2))
HIDDEN = torch.zeros(2, 16, dtype=torch.bool).scatter(1, torch.tensor([[0, 5, 7], [3, 4, 11]]), True)


def pixels(patches: Tensor) -> Tensor:
    """A mask of 4 x 4 patches of 4 x 4 pixels as one of pixels."""
    return patches.reshape(len(patches), 1, 4, 4).repeat_interleave(4, 2).repeat_interleave(4, 3).expand(-1, 3, -1, -1)


def lightly(module: str) -> Any:
    return pytest.importorskip(f"lightly.{module}")


def timm(module: str) -> Any:
    return pytest.importorskip(f"timm.{module}")


def claim(report: Report, words: str) -> Any:
    return next(f for f in report.findings if words in f.claim)


def of_pairs(loss: Any, pairs: Tensor) -> Any:
    return loss(pairs[:, 0], pairs[:, 1])


@pytest.mark.parametrize(
    ("name", "verdict"), [("NTXentLoss", PROVED), ("VICRegLoss", PROVED), ("BarlowTwinsLoss", REFUTED)]
)
def test_lightly_losses_on_two_ranks(name: str, verdict: Verdict) -> None:
    """Barlow Twins takes mean and deviation of each rank's own rows: another loss than in one process."""
    loss = getattr(lightly("loss"), name)(gather_distributed=True)
    report = vp.certify_ranks(partial(of_pairs, loss), PAIRS, (4, 4))
    assert report.verdict() is verdict, str(report)


def test_lightly_contrast_draws_each_row_to_its_partner() -> None:
    loss = lightly("loss").NTXentLoss()
    report = vp.certify_pairs(lambda x: (x + 1, 2 * x), ROWS, loss=loss)
    assert report.verdict() is PROVED, str(report)
    wrong = vp.certify_pairs(lambda x: (x + 1, 2 * x), ROWS, loss=lambda a, b: loss(a, b.roll(1, 0)))
    assert wrong.verdict() is REFUTED


def test_lightly_negative_cosine_similarity_has_its_value() -> None:
    cosine = lightly("loss").NegativeCosineSimilarity()
    y = torch.randn(3, 6, 4, generator=torch.Generator().manual_seed(1))
    sample = vp.Sample(y, y, vp.Mask(torch.tensor([False, True, True, False, True, False])[:, None].expand(6, 4)))

    def loss(prediction: Tensor, s: vp.Sample) -> Any:
        rows = s.mask.hidden.expand(s.y.shape).all(-1)
        if not rows.any():
            raise ValueError("nothing is hidden")
        return cosine(prediction[rows], s.y[rows])

    def declared(p: Tensor, t: Tensor) -> Tensor:
        return -(F.normalize(p, dim=-1) * F.normalize(t, dim=-1)).sum(-1)

    report = vp.certify_loss(loss, sample, distance=declared)
    assert report.verdict() is PROVED, str(report)
    assert vp.certify_loss(loss, sample, distance=lambda p, t: 1 + declared(p, t)).verdict() is REFUTED


def test_lightly_dino_loss_leaves_the_teacher_to_its_caller() -> None:
    """The loss does not detach. Its center moves with each call: that it reads the target stays open."""
    loss = lightly("loss").DINOLoss(output_dim=4)
    torch.manual_seed(0)
    student, teacher = nn.Linear(5, 4), nn.Linear(5, 4)
    update = lightly("models.utils").update_momentum

    def branch(without_gradient: bool) -> vp.TargetBranch:
        def of_views(x: Tensor) -> Any:
            with torch.set_grad_enabled(not without_gradient):
                aims = [teacher(x), teacher(x.flip(1))]
            return loss(aims, [student(x), student(x.flip(1))])

        def average(step: int) -> None:
            update(student, teacher, m=0.9)

        return vp.TargetBranch(of_views, student, teacher, update=average, momentum=0.9)

    right, wrong = (vp.certify_target_branch(branch(off), ROWS) for off in (True, False))
    assert claim(right, "takes no gradient").verdict is PROVED and not right.refuted, str(right)
    assert "not a function of its batch" in claim(right, "uses the target").detail
    assert claim(wrong, "takes no gradient").verdict is REFUTED
    assert not bool(loss.center.any())


def test_lightly_update_momentum_averages_parameters_alone() -> None:
    update = lightly("models.utils").update_momentum
    online = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4))
    target = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4)).requires_grad_(False)

    def report(buffers: Any) -> Report:
        branch = vp.TargetBranch(
            lambda x: (online(x) - target(x)).square().mean(),
            online,
            target,
            update=lambda step: update(online, target, m=0.9),
            momentum=0.9,
            **buffers,
        )
        return vp.certify_target_branch(branch, ROWS)

    assert report({"buffers": "keep"}).verdict() is PROVED
    assert claim(report({}), "declared average").verdict is REFUTED


def test_lightly_patches_and_masks() -> None:
    utils = lightly("models.utils")
    grid = torch.cartesian_prod(torch.arange(4), torch.arange(4))
    assert vp.certify_geometry(lambda x: utils.patchify(x, 4), IMAGES, positions=grid).verdict() is PROVED
    assert vp.certify_geometry(lambda x: utils.patchify(x.mT, 4), IMAGES, positions=grid).verdict() is REFUTED

    def draw() -> Any:
        return utils.random_block_mask((1, 12, 12), batch_mask_ratio=1.0)[0]

    report = vp.certify_coverage(draw, draws=512)
    assert report.verdict() is not UNKNOWN, str(report)


def test_lightly_masked_vision_transformer_sees_no_hidden_patch() -> None:
    lightly_timm = lightly("models.modules.masked_vision_transformer_timm")
    torch.manual_seed(0)
    vit = timm("models.vision_transformer").VisionTransformer(
        img_size=16, patch_size=4, embed_dim=16, depth=1, num_heads=2, num_classes=0
    )
    part = lightly_timm.MaskedVisionTransformerTIMM(vit).eval()
    keep = torch.stack([(~row).nonzero()[:, 0] for row in HIDDEN]) + 1
    keep = torch.cat([torch.zeros(2, 1, dtype=torch.int64), keep], 1)

    def encoder(x: Tensor) -> Any:
        return part.encode(x, idx_keep=keep)

    report = vp.certify_encoder(encoder, IMAGES, hidden=pixels(HIDDEN))
    assert report.verdict() is PROVED, str(report)
    assert vp.certify_encoder(encoder, IMAGES, hidden=pixels(HIDDEN.roll(1, 1))).verdict() is REFUTED


def test_timm_patch_dropout_is_a_view() -> None:
    dropout = timm("layers.patch_dropout").PatchDropoutWithIndices(0.5, num_prefix_tokens=0)

    def view(tokens: Tensor) -> Any:
        visible, keep = dropout(tokens)
        return visible, tokens, torch.ones(tokens.shape[:2], dtype=torch.bool).scatter(1, keep, False)

    report = vp.certify_view(view, torch.randn(2, 12, 5), generator="global")
    assert report.verdict() is PROVED, str(report)
    assert vp.certify_view(view, torch.randn(2, 12, 5)).verdict(Contract.C8) is REFUTED


def test_timm_groups_decay_what_is_not_declared_to_it() -> None:
    torch.manual_seed(0)
    vit = timm("models.vision_transformer").VisionTransformer(
        img_size=16, patch_size=4, embed_dim=16, depth=1, num_heads=2, num_classes=0
    )
    groups = timm("optim").param_groups_weight_decay
    undecayed = ["*.bias", nn.LayerNorm, "cls_token", "pos_embed"]

    def report(names: Any) -> Report:
        optimizer = torch.optim.AdamW(groups(vit, 0.1, no_weight_decay_list=names), lr=0.1)
        return vp.certify_optimizer(vit, optimizer, no_decay=undecayed, decay=["blocks.*.weight"])

    spared = [f for f in report(vit.no_weight_decay()).findings if f.verdict is REFUTED]
    assert [f for f in report(()).findings if f.verdict is REFUTED] and len(spared) <= 1


def test_timm_average() -> None:
    ema = timm("utils.model_ema").ModelEmaV3
    torch.manual_seed(0)
    online = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4))
    average = ema(online, decay=0.9, use_warmup=False)
    target = average.module
    for p in online.parameters():
        p.data += 0.1

    def report(momentum: float) -> Report:
        branch = vp.TargetBranch(
            lambda x: (online(x) - target(x).detach()).square().mean(),
            online,
            target,
            update=lambda step: average.update(online),
            momentum=momentum,
        )
        return vp.certify_target_branch(branch, ROWS)

    assert claim(report(0.9), "declared average").verdict is not UNKNOWN
    assert claim(report(0.99), "declared average").verdict is REFUTED


def test_lightly_random_token_mask() -> None:
    utils = lightly("models.utils")

    def view(tokens: Tensor) -> Any:
        keep, _ = utils.random_token_mask((len(tokens), 25), mask_ratio=0.5)
        visible = utils.get_at_index(torch.cat([torch.zeros(len(tokens), 1, 16), tokens], 1), keep)
        mask = torch.ones(len(tokens), 25, dtype=torch.bool).scatter(1, keep, False)[:, 1:]
        return visible, tokens, mask

    report = vp.certify_view(view, torch.randn(2, 24, 16), generator="global")
    assert report.verdict() is PROVED, str(report)
    assert vp.certify_view(view, torch.randn(2, 24, 16)).verdict(Contract.C8) is REFUTED


def test_timm_patch_embedding_keeps_patches_apart() -> None:
    embedding = timm("layers").PatchEmbed(img_size=16, patch_size=4, embed_dim=8)

    def visible(tokens: Tensor) -> Tensor:
        return tokens[~HIDDEN]

    report = vp.certify_encoder(embedding, IMAGES, hidden=pixels(HIDDEN), visible_outputs=visible)
    assert report.verdict() is PROVED, str(report)
    wrong = vp.certify_encoder(embedding, IMAGES, hidden=pixels(HIDDEN.roll(1, 1)), visible_outputs=visible)
    assert wrong.verdict() is REFUTED
