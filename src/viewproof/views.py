"""Samples: the masked view a model sees and the original it must predict, for any batched tensor."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from viewproof.errors import InvalidArgument
from viewproof.masks import BlockMask, Mask, PatchMask, Sample, VectorMask, visible_patch_idxs
from viewproof.masks.finite import check_count, check_prefix
from viewproof.masks.patches import patch_grid
from viewproof.shapes import Float, Shaped, check_tensor

__all__ = [
    "PatchNormalization",
    "block_mae_sample",
    "flatten_batch_prefix",
    "image_patch_mae_sample",
    "patchify",
    "tensor_prefix_mae_sample",
    "unpatchify",
    "vector_mae_sample",
]


def flatten_batch_prefix(
    x: Shaped[Tensor, "batch *source"], length: int | None = None
) -> Shaped[Tensor, "batch length"]:
    """The first ``length`` entries of each flattened row, by default all.

    >>> import torch
    >>> flatten_batch_prefix(torch.arange(12).reshape(2, 2, 3), 4)
    tensor([[0, 1, 2, 3],
            [6, 7, 8, 9]])
    """
    check_tensor("x", x)
    if x.dim() == 0:
        raise InvalidArgument("x of shape () has no batch axis; pass [N, *source]")
    size = math.prod(x.shape[1:])
    length = check_prefix("length", size if length is None else length, size)
    return x.reshape(x.shape[0], size)[:, :length]


def vector_mae_sample(x: Shaped[Tensor, "batch features"], period: int, offset: int) -> Sample:
    """The sample of a batch of vectors with hidden features.

    x: the masked vectors; y: ``x: [N, D]`` itself; mask: the hidden features.

    Theorems: ``vector_mae_sample_input_eq_mask``, ``vector_mae_sample_target_eq_source``,
    ``vector_mae_sample_target_row_eq_source_row``, ``vector_mae_sample_input_hidden_get_eq_zero``.

    >>> import torch
    >>> sample = vector_mae_sample(torch.tensor([[1.0, 2.0, 3.0]]), period=3, offset=1)
    >>> sample.x, sample.y
    (tensor([[1., 0., 3.]]), tensor([[1., 2., 3.]]))
    """
    return VectorMask(period, offset).sample(x)


def tensor_prefix_mae_sample(x: Shaped[Tensor, "batch *source"], data_dim: int, period: int, offset: int) -> Sample:
    """A vector sample of the first ``data_dim`` entries of each flattened row of ``[N, *source]``.

    Theorem: ``tensor_prefix_mae_sample_eq_vector_sample_of_prefix``.

    >>> import torch
    >>> sample = tensor_prefix_mae_sample(torch.arange(1.0, 9.0).reshape(1, 2, 4), 5, period=2, offset=0)
    >>> sample.x, sample.y
    (tensor([[0., 2., 0., 4., 0.]]), tensor([[1., 2., 3., 4., 5.]]))
    """
    check_tensor("x", x)
    size = math.prod(x.shape[1:])
    return VectorMask(period, offset).sample(flatten_batch_prefix(x, check_prefix("data_dim", data_dim, size)))


def image_patch_mae_sample(
    x: Shaped[Tensor, "batch channels height width"],
    patch_h: int,
    patch_w: int,
    period: int,
    offset: int,
    recon_dim: int | None = None,
) -> Sample:
    """The sample of a batch of images with hidden patches.

    x: ``image_patch_mask(x, ...)``, still an image; y: the flattened originals' first ``recon_dim`` entries.

    Theorems: ``image_patch_mae_sample_input_eq_image_patch_mask``,
    ``image_patch_mae_sample_input_hidden_pixel_eq_zero``, ``image_patch_mae_sample_input_visible_pixel_eq_source``,
    ``image_patch_mae_sample_target_eq_flatten_batch_prefix``,
    ``image_patch_mae_sample_target_row_eq_flattened_source_row``.

    >>> import torch
    >>> sample = image_patch_mae_sample(torch.ones(2, 3, 8, 8), 4, 4, period=4, offset=1, recon_dim=100)
    >>> sample.x.shape, sample.y.shape, sample.mask.data_shape, sample.view.data_shape
    (torch.Size([2, 3, 8, 8]), torch.Size([2, 100]), torch.Size([100]), torch.Size([3, 8, 8]))
    """
    return PatchMask(patch_h, patch_w, period, offset).sample(x, recon_dim)


def block_mae_sample(
    x: Shaped[Tensor, "batch *source"],
    blocks: Sequence[int | None],
    period: int,
    offset: int,
    recon_dim: int | None = None,
) -> Sample:
    """The sample of a batch of any rank with hidden blocks.

    x: block-masked, of the same shape; y: the flattened originals' first ``recon_dim`` entries.

    >>> import torch
    >>> sample = block_mae_sample(torch.ones(1, 4, 6), (2, None), period=2, offset=1)
    >>> sample.x[0, :, 0], sample.y.shape
    (tensor([1., 1., 0., 0.]), torch.Size([1, 24]))
    """
    return BlockMask(blocks, period, offset).sample(x, recon_dim)


def patchify(
    x: Shaped[Tensor, "batch channels height width"], patch_h: int, patch_w: int
) -> Shaped[Tensor, "batch patches values"]:
    """Cut images into patches: ``[N, C, H, W]`` -> ``[N, patches, patch_h * patch_w * C]``.

    Patches are row-major, the values of one in the order (row, column, channel).

    >>> import torch
    >>> patchify(torch.arange(8).reshape(1, 1, 2, 4), 2, 2).tolist()
    [[[0, 1, 4, 5], [2, 3, 6, 7]]]
    """
    check_tensor("x", x)
    if x.dim() != 4:
        raise InvalidArgument(f"x of shape {tuple(x.shape)} must be images [N, C, H, W]")
    n, c, h, w = x.shape
    grid_h, grid_w = patch_grid(h, w, patch_h, patch_w)
    split = x.reshape(n, c, grid_h, patch_h, grid_w, patch_w).permute(0, 2, 4, 3, 5, 1)
    return split.reshape(n, grid_h * grid_w, patch_h * patch_w * c)


def unpatchify(
    tokens: Shaped[Tensor, "batch patches values"], channels: int, height: int, width: int, patch_h: int, patch_w: int
) -> Shaped[Tensor, "batch channels height width"]:
    """The inverse of `patchify`.

    >>> import torch
    >>> x = torch.arange(2 * 3 * 4 * 6).reshape(2, 3, 4, 6)
    >>> torch.equal(unpatchify(patchify(x, 2, 3), 3, 4, 6, 2, 3), x)
    True
    """
    check_tensor("tokens", tokens)
    check_count("channels", channels, "have no values")
    grid_h, grid_w = patch_grid(height, width, patch_h, patch_w)
    expected = (grid_h * grid_w, patch_h * patch_w * channels)
    if tokens.dim() != 3 or tuple(tokens.shape[1:]) != expected:
        raise InvalidArgument(f"tokens of shape {tuple(tokens.shape)} must be [N, {expected[0]}, {expected[1]}]")
    n = tokens.shape[0]
    split = tokens.reshape(n, grid_h, grid_w, patch_h, patch_w, channels).permute(0, 5, 1, 3, 2, 4)
    return split.reshape(n, channels, height, width)


@dataclass(frozen=True)
class PatchNormalization:
    """Normalises targets by their own patch's mean and variance (``norm_pix_loss`` of MAE).

    He et al. 2021. Only the target changes; what the model sees and the mask stay. The variance is the unbiased one
    over all pixels and channels of the patch, with ``eps`` added, as in the paper's code. ``grid`` is (C, H, W).

    >>> import torch
    >>> transform = PatchNormalization(2, 2)
    >>> sample = image_patch_mae_sample(torch.rand(2, 3, 4, 4), 2, 2, period=2, offset=0)
    >>> mean, std = transform.statistics(sample)
    >>> restored = transform.inverse(transform(sample).y, mean, std)
    >>> torch.allclose(restored, sample.y, atol=1e-5)
    True
    """

    patch_h: int
    patch_w: int
    eps: float = 1e-6

    def __post_init__(self) -> None:
        if isinstance(self.eps, bool) or not isinstance(self.eps, int | float) or not 0 < self.eps < math.inf:
            raise InvalidArgument(f"eps={self.eps!r} must be positive and finite: a constant patch has variance 0")

    def statistics(self, sample: Sample) -> tuple[Float[Tensor, "batch target"], Float[Tensor, "batch target"]]:
        """The mean and standard deviation of each target coordinate's patch, hidden content included."""
        c, h, w = self._image_shape(sample)
        tokens = patchify(sample.y.reshape(-1, c, h, w), self.patch_h, self.patch_w)
        if tokens.shape[2] < 2 or not tokens.is_floating_point():
            raise InvalidArgument(
                f"patches of {tokens.shape[2]} values of {tokens.dtype} have no variance; "
                "use a larger patch and a floating-point image"
            )
        mean, std = tokens.mean(2, keepdim=True), (tokens.var(2, keepdim=True) + self.eps).sqrt()
        flat = [unpatchify(s.expand_as(tokens), c, h, w, self.patch_h, self.patch_w).flatten(1) for s in (mean, std)]
        return flat[0], flat[1]

    def visible_statistics(self, sample: Sample) -> tuple[Float[Tensor, "batch target"], Float[Tensor, "batch target"]]:
        """The statistics averaged over each image's visible patches: for pictures without a leak.

        A patch of which only a part is hidden is an `InvalidArgument`: its statistics would show the hidden part.
        """
        visible = ~sample.mask.hidden
        if sample.mask.per_sample or not bool(visible.any()):
            raise InvalidArgument(f"{sample.mask.rule!r} must leave something visible, the same in every sample")
        image_mask = Mask(sample.mask.hidden.reshape(self._image_shape(sample)), rule=sample.mask.rule)
        visible_patch_idxs(image_mask, self.patch_h, self.patch_w)
        mean, std = self.statistics(sample)
        average = [s[:, visible].mean(1, keepdim=True).expand_as(sample.y) for s in (mean, std)]
        return average[0], average[1]

    def __call__(self, sample: Sample) -> Sample:
        """The sample with its target normalised."""
        mean, std = self.statistics(sample)
        return replace(sample, y=(sample.y - mean) / std)

    def inverse(
        self,
        prediction: Float[Tensor, "batch target"],
        mean: Float[Tensor, "batch target"],
        std: Float[Tensor, "batch target"],
    ) -> Float[Tensor, "batch target"]:
        """The prediction as pixel values, by `statistics` (exact) or `visible_statistics` (no leak)."""
        return prediction * std + mean

    def _image_shape(self, sample: Sample) -> tuple[int, int, int]:
        shape = tuple(sample.x.shape[1:])
        if len(shape) != 3 or tuple(sample.y.shape[1:]) != (math.prod(shape),):
            raise InvalidArgument(
                f"patch normalisation needs whole images as targets, x is {tuple(sample.x.shape)} and y is "
                f"{tuple(sample.y.shape)}; build the sample without recon_dim"
            )
        return shape[0], shape[1], shape[2]
