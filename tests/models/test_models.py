"""Models: shapes, what they read, and that any other module trains the same way."""

import pytest
import torch
from torch import nn

import viewproof as vp
from viewproof.masks.patches import split_patches
from viewproof.training.fixed import predict

SHAPE = (3, 8, 12)
RANDOM = vp.RandomPatchMask(4, 2, count=5)


def masked_autoencoder(decoder="self-attention", shape=SHAPE, patch=(4, 2)):
    torch.manual_seed(0)
    return vp.MaskedAutoencoder(
        shape, patch, dim=16, depth=2, heads=2, decoder_dim=8, decoder_depth=2, decoder_heads=2, decoder=decoder
    )


def image_sample(n=4, shape=SHAPE, patch=(4, 2), seed=0):
    x = torch.randn(n, *shape, generator=torch.Generator().manual_seed(seed))
    return (~vp.PatchMask(*patch, period=4, offset=1)).sample(x)


class Features(nn.Module):
    """The pooled features of a transformers model, as a plain module."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone

    def forward(self, x):
        return self.backbone(pixel_values=x).pooler_output.flatten(1)


def vit_from_transformers():
    from transformers import ViTConfig, ViTModel

    config = ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, image_size=8, patch_size=4,
        pooler_output_size=16,
    )  # fmt: skip
    return nn.Sequential(Features(ViTModel(config)), nn.Linear(16, 192)), (3, 8, 8)


def resnet_from_transformers():
    from transformers import ResNetConfig, ResNetModel

    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
    return nn.Sequential(Features(ResNetModel(config)), nn.Linear(16, 192)), (3, 8, 8)


MODELS = {
    "vector": lambda: (vp.VectorAutoencoder(288, 32, 8), SHAPE),
    "conv": lambda: (vp.ConvAutoencoder(3, (8, 16)), SHAPE),
    "resnet": lambda: (vp.ResNet(3, 288, (8, 16), 1), SHAPE),
    "vit": lambda: (vp.ViTReconstructor(SHAPE, (4, 2), 16, 1, 2), SHAPE),
    "mae": lambda: (masked_autoencoder(), SHAPE),
    "cross-mae": lambda: (masked_autoencoder("cross-attention"), SHAPE),
    "sequential": lambda: (nn.Sequential(nn.Conv2d(3, 8, 3), nn.GELU(), nn.Flatten(), nn.Linear(480, 288)), SHAPE),
    "transformers ViTModel": vit_from_transformers,
    "transformers ResNetModel": resnet_from_transformers,
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_every_model_trains_the_same_way(name):
    torch.manual_seed(1)
    model, shape = MODELS[name]()
    sample = image_sample(shape=shape, patch=(4, 4) if shape == (3, 8, 8) else (4, 2))
    curve = vp.train_fixed(model, sample, steps=30, learning_rate=3e-3)
    assert len(curve) == 31
    assert curve[-1] < 0.9 * curve[0]


def test_train_fixed_returns_the_loss_before_every_step_and_after_the_last():
    sample = vp.vector_mae_sample(torch.randn(5, 6), period=2, offset=1)
    model = nn.Linear(6, 6)
    expected = [vp.masked_mse(model(sample.x), sample).item()]
    twin = nn.Linear(6, 6)
    twin.load_state_dict(model.state_dict())
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        vp.masked_mse(twin(sample.x), sample).backward()
        optimizer.step()
        expected.append(vp.masked_mse(twin(sample.x), sample).item())
    assert vp.train_fixed(model, sample, 3, optimizer=torch.optim.SGD(model.parameters(), lr=0.1)) == expected
    assert len(vp.train_fixed(model, sample, 0)) == 1


@pytest.mark.parametrize("shape, patch", [((1, 8, 8), (2, 2)), ((5, 6, 20), (3, 4)), ((3, 8, 12), (8, 12))])
def test_any_divisible_image_and_any_channel_count(shape, patch):
    x = torch.randn(2, *shape)
    flat = 1
    for extent in shape:
        flat *= extent
    reconstructor = vp.ViTReconstructor(shape, patch, dim=8, depth=1, heads=2, recon_dim=7)
    assert reconstructor(x).shape == (2, 7) and reconstructor.encode(x).shape == (2, 8)
    model = masked_autoencoder(shape=shape, patch=patch)
    assert model.encode(x).shape == (2, 16)
    if patch != shape[1:]:
        sample = (~vp.PatchMask(*patch, period=3, offset=0)).sample(x)
        assert model(sample.x, sample.view).shape == (2, flat)


@pytest.mark.parametrize("decoder", ["self-attention", "cross-attention"])
def test_hidden_pixels_are_never_read(decoder):
    model, sample = masked_autoencoder(decoder), image_sample()
    poisoned = torch.where(sample.view.hidden, torch.nan, sample.y.reshape(sample.x.shape))
    assert torch.equal(model(poisoned, sample.view), model(sample.x, sample.view))


def test_gather_path_and_zero_filled_path_see_the_same_visible_tokens():
    model, sample = masked_autoencoder(), image_sample()
    visible, _ = split_patches(sample.view, 4, 2)
    gathered = model.gather(sample.x, visible)
    assert torch.equal(gathered, by_channel(sample.x)[:, visible])
    assert torch.equal(gathered, by_channel(sample.y.reshape(sample.x.shape))[:, visible])
    # With every token kept, attention restricted to visible keys must give the gather path's visible tokens.
    everything = torch.arange(len(visible) + sample.view.count // 24)
    tokens = model.embed(model.gather(sample.x, everything)) + model.positions
    for block in model.blocks:
        tokens = block(tokens, tokens_seen(block, tokens, visible))
    torch.testing.assert_close(model.norm(tokens)[:, visible], model.tokens(sample.x, visible))


def by_channel(x):
    """Patches of 4 x 2 with their values channel by channel; `patchify` has the channels last."""
    return vp.patchify(x, 4, 2).unflatten(2, (8, 3)).transpose(2, 3).flatten(2)


def tokens_seen(block, tokens, visible):
    return block.norm1(tokens)[:, visible]


def test_swapped_rows_and_columns_would_be_seen():
    """The test above rests on unequal extents: a transposed index gathers other pixels."""
    model, sample = masked_autoencoder(), image_sample()
    visible, _ = split_patches(sample.view, 4, 2)
    rows, cols = model.grid
    transposed = visible % rows * cols + visible // rows
    assert not torch.equal(model.gather(sample.x, visible), model.gather(sample.x, transposed % (rows * cols)))


@pytest.mark.parametrize("decoder", ["self-attention", "cross-attention"])
def test_predictions_land_on_their_own_patches(decoder):
    model, sample = masked_autoencoder(decoder), image_sample()
    _, hidden = split_patches(sample.view, 4, 2)
    tokens = torch.arange(len(hidden) * 24.0).reshape(1, len(hidden), 24)
    placed = model._place(tokens, hidden).reshape(1, *SHAPE)
    assert torch.equal(by_channel(placed)[:, hidden], tokens)
    assert not model(sample.x, sample.view)[:, ~sample.mask.hidden].any()


def test_every_parameter_gets_a_gradient():
    for decoder in ("self-attention", "cross-attention"):
        model, sample = masked_autoencoder(decoder), image_sample()
        vp.masked_mse(model(sample.x, sample.view), sample).backward()
        still = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
        assert still == []


def test_cross_attention_queries_do_not_see_each_other():
    model, sample = masked_autoencoder("cross-attention"), image_sample()
    fewer = (~vp.PatchMask(4, 2, period=4, offset=1)).mask(SHAPE)
    visible, hidden = split_patches(fewer, 4, 2)
    encoded = model.tokens(sample.x, visible)
    alone = model._decode(encoded, visible, hidden[:1])
    torch.testing.assert_close(model._decode(encoded, visible, hidden)[:, :1], alone)
    others = masked_autoencoder("self-attention")
    encoded = others.tokens(sample.x, visible)
    together, alone = others._decode(encoded, visible, hidden)[:, :1], others._decode(encoded, visible, hidden[:1])
    assert not torch.allclose(together, alone)


def test_the_last_decoder_block_leaves_out_only_what_nobody_reads():
    model, sample = masked_autoencoder(), image_sample()
    visible, hidden = split_patches(sample.view, 4, 2)
    encoded = model.tokens(sample.x, visible)
    context = model.project(encoded) + model.decoder_positions[visible]
    queries = (model.mask_token + model.decoder_positions[hidden]).expand(len(encoded), -1, -1)
    tokens = torch.cat([context, queries], dim=1)
    for block in model.decoder_blocks:
        tokens = block(tokens)
    whole = model.head(model.decoder_norm(tokens[:, len(visible) :]))
    torch.testing.assert_close(model._decode(encoded, visible, hidden), whole)


def test_batch_mates_do_not_matter():
    for name in ("conv", "resnet", "vit", "mae", "cross-mae"):
        model, _ = MODELS[name]()
        sample = image_sample(n=3)
        alone = (~vp.PatchMask(4, 2, period=4, offset=1)).sample(sample.y[:1].reshape(1, *SHAPE))
        torch.testing.assert_close(predict(model, sample)[:1], predict(model, alone))


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: vp.MaskedAutoencoder((3, 8, 12), (5, 2), 16, 1, 2), r"patch_size=\(5, 2\) must divide the image"),
        (lambda: vp.ViTReconstructor((3, 8, 12), (0, 2), 16, 1, 2), r"patch_size\[0\]=0 must be an integer from 1"),
        (lambda: vp.MaskedAutoencoder(SHAPE, (4, 2), 16, 1, 2, decoder_depth=0), "decoder_depth=0 must be at least 1"),
        (lambda: vp.MaskedAutoencoder(SHAPE, (4, 2), 16, 1, 2, decoder_depth=-1), "decoder_depth=-1 must be a non-neg"),
        (
            lambda: masked_autoencoder()(torch.zeros(1, *SHAPE), RANDOM.mask(SHAPE, sample_ids=torch.arange(3))),
            "view of 3 samples must have one row for each of 1 samples",
        ),
        (
            lambda: masked_autoencoder().decode(
                torch.zeros(1, 7, 16), RANDOM.mask(SHAPE, sample_ids=torch.arange(3))
            ),
            "view of 3 samples must have one row for each of 1 samples",
        ),
        (lambda: vp.MaskedAutoencoder((3, 8, 12), (4, 2), 16, 1, 3), "heads=3 must divide dim=16"),
        (lambda: vp.MaskedAutoencoder((3, 8, 12), (4, 2), 18, 1, 2), "dim=18 must be a multiple of 4"),
        (lambda: masked_autoencoder()(torch.zeros(1, 3, 8, 8), image_sample().view), "must be \\[N, 3, 8, 12\\]"),
        (lambda: masked_autoencoder()(torch.zeros(1, *SHAPE), image_sample().mask), "pass sample.view"),
        (lambda: masked_autoencoder()(torch.zeros(1, *SHAPE), vp.Mask.empty(SHAPE)), "leaves 12 patches visible and 0"),
        (lambda: masked_autoencoder()(torch.zeros(1, *SHAPE), vp.Mask.all(SHAPE)), "leaves 0 patches visible and 12"),
        (lambda: masked_autoencoder()(torch.zeros(1, *SHAPE), vp.PatchMask(3, 2, 5, 0).mask(SHAPE)), "only a part"),
        (lambda: vp.train_fixed(nn.Identity(), image_sample(), 3), "Identity has no parameter to train"),
    ],
)  # fmt: skip
def test_bad_input(build, message):
    with pytest.raises(vp.InvalidArgument, match=message):
        build()
