"""Masks, tokens and positions that speak of different places (C5)."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from viewproof.bugzoo.specimen import Twin, specimen
from viewproof.bugzoo.views import ViewParts, images
from viewproof.certify import Contract, Report, Witness, certify_geometry, certify_view
from viewproof.masks import PatchMask
from viewproof.views import patchify, unpatchify

geometry_bug = partial(specimen, contract=Contract.C5)


def patches(x: Tensor) -> Tensor:
    """Patches of 4 x 4, in row-major order."""
    return patchify(x, 4, 4)


def to_images(tokens: Tensor) -> Tensor:
    """The inverse of `patches` on `images`."""
    return unpatchify(tokens, 3, 8, 12, 4, 4)


def disagrees(dropped: Tensor) -> Callable[[Twin, Witness], bool]:
    """Whether the twin's mask at the witness's coordinate is not the status of its token."""

    def breaks(twin: Twin, witness: Witness) -> bool:
        _, token = witness.coordinates["token"]
        return bool(twin(dropped)[witness.coordinates["source"][1:]] != dropped[token])

    return breaks


DROPPED_CUBES = torch.tensor([True, False, True, False, False, True] + [False, True] * 9)


def cubes(x: Tensor) -> Tensor:
    """Cubes of 2 voxels, flattened with the first spatial axis running fastest."""
    n, c, a, b, d = x.shape
    split = x.reshape(n, c, a // 2, 2, b // 2, 2, d // 2, 2).permute(0, 4, 6, 2, 1, 3, 5, 7)
    return split.reshape(n, -1, c * 8)


@geometry_bug(
    "volume flattened in two orders",
    "our reading",
    "MIC-DKFZ/nnssl (evaMAE_module, create_mask)",
    certify=lambda twin: certify_geometry(
        cubes, torch.arange(384.0).reshape(2, 1, 4, 6, 8), mask=twin(DROPPED_CUBES), patch_mask=DROPPED_CUBES
    ),
    breaks=disagrees(DROPPED_CUBES),
)
def two_orders(dropped: Tensor, bug: bool) -> Tensor:
    """The network flattens a volume's patches in one order of axes, the loss in another.

    Shown: A voxel that is hidden although its token is seen, or the reverse.
    Not shown: The share of hidden voxels that are never scored at the published sizes.
    """
    grid = dropped.reshape(2, 3, 4) if bug else dropped.reshape(3, 4, 2).permute(2, 0, 1)
    for axis in range(3):
        grid = grid.repeat_interleave(2, axis)
    return grid[None]


def certify_positions(twin: Twin) -> Report:
    """The twin's table of positions beside the patches of `images`."""
    return certify_geometry(patches, images(), positions=twin())


def misplaces(twin: Twin, witness: Witness) -> bool:
    """Whether tokens of the 2 x 3 grid, row-major, have other positions than their rows and columns."""
    return any(tuple(row) != divmod(token, 3) for token, row in enumerate(twin().tolist()))


@geometry_bug(
    "positions of another grid",
    "confirmed",
    "Mountchicken/Union14M/issues/12",
    certify=certify_positions,
    breaks=misplaces,
)
def positions_of_another_grid(bug: bool) -> Tensor:
    """The position table is that of a grid with other extents and as many patches.

    Shown: Two tokens of one row of the grid that have different row positions.
    Not shown: What an encoder learns from wrong positions.
    """
    rows, cols = (3, 2) if bug else (2, 3)
    return torch.cartesian_prod(torch.arange(rows), torch.arange(cols))


DROPPED_BANDS = torch.tensor([True, True, False, False, False, True])


@geometry_bug(
    "time and frequency exchanged",
    "confirmed",
    "NVIDIA-NeMo/Speech/pull/2201",
    certify=lambda twin: certify_geometry(
        patches, torch.arange(192.0).reshape(2, 1, 8, 12), mask=twin(DROPPED_BANDS), patch_mask=DROPPED_BANDS
    ),
    breaks=disagrees(DROPPED_BANDS),
)
def time_and_frequency_exchanged(dropped: Tensor, bug: bool) -> Tensor:
    """A spectrogram's mask is made for a grid whose time and frequency extents are exchanged.

    Shown: A cell of the spectrogram whose status is not that of its patch.
    Not shown: Anything if both extents are equal.
    """
    # 2 x 3 patches of 4 mel bands by 4 frames.
    grid = dropped.reshape(3, 2).T if bug else dropped.reshape(2, 3)
    return grid.repeat_interleave(4, 0).repeat_interleave(4, 1)[None]


def differs_from_the_rule(twin: Twin, witness: Witness) -> bool:
    """Whether some pixel's status is not that of ``PatchMask(4, 4, period=4, offset=1)``."""
    hidden = twin(witness.inputs["x"].clone())[2]
    return any(
        bool(hidden[0, row, col]) != ((row // 4 * 3 + col // 4) % 4 == 1) for row in range(8) for col in range(12)
    )


@geometry_bug(
    "height for width in a patch index",
    "synthetic",
    certify=lambda twin: certify_view(twin, images(), PatchMask(4, 4, period=4, offset=1)),
    breaks=differs_from_the_rule,
)
def height_for_width(x: Tensor, bug: bool) -> ViewParts:
    """The row-major index of a patch is computed with the number of patches in a column.

    Shown: A pixel whose status is not the rule's.
    Not shown: Anything on square images.
    """
    rows, cols = torch.arange(x.shape[2])[:, None] // 4, torch.arange(x.shape[3]) // 4
    patches_in_a_row = (x.shape[2] if bug else x.shape[3]) // 4
    hidden = ((rows * patches_in_a_row + cols) % 4 == 1).expand(x.shape[1:])
    return torch.where(hidden, 0.0, x), x, hidden


def drops(twin: Twin, witness: Witness) -> bool:
    """Whether the source coordinate of the witness is in no token."""
    marked = torch.zeros_like(witness.inputs["x"])
    marked[witness.coordinates["source"]] = 1.0
    return not bool(twin(marked).any())


@geometry_bug(
    "ragged patch dropped",
    "synthetic",
    certify=lambda twin: certify_geometry(twin, torch.arange(120.0).reshape(1, 1, 10, 12)),
    breaks=drops,
)
def ragged_patch_dropped(x: Tensor, bug: bool) -> Tensor:
    """The image is cut to whole patches: its last rows and columns are in no token.

    Shown: A pixel that no token holds.
    Not shown: Whether padding is the better choice.
    """
    height, width = x.shape[2:]
    return patches(x[..., : height // 4 * 4, : width // 4 * 4] if bug else F.pad(x, (0, -width % 4, 0, -height % 4)))


SHUFFLE = torch.tensor([[2, 0, 1, 5, 3, 4], [4, 2, 5, 0, 1, 3]])


def does_not_restore(twin: Twin, witness: Witness) -> bool:
    """Whether shuffled tokens come back to other places."""
    tokens = torch.arange(6).expand(2, 6)
    return not torch.equal(tokens.gather(1, SHUFFLE).gather(1, twin(SHUFFLE)), tokens)


@geometry_bug(
    "ids_restore is the shuffle",
    "synthetic",
    certify=lambda twin: certify_geometry(patches, images(), unpatchify=to_images, restore=(SHUFFLE, twin(SHUFFLE))),
    breaks=does_not_restore,
)
def ids_restore_is_the_shuffle(shuffle: Tensor, bug: bool) -> Tensor:
    """Tokens are put back by the permutation that shuffled them instead of its inverse.

    Shown: A token that comes back to another place.
    Not shown: Permutations that are their own inverse, for which there is no difference.
    """
    return shuffle if bug else shuffle.argsort(1)


@geometry_bug(
    "names of width and height, patches",
    "false alarm",
    "facebookresearch/mae/issues/18",
    certify=lambda twin: certify_geometry(
        twin, images(), unpatchify=to_images, positions=torch.cartesian_prod(torch.arange(2), torch.arange(3))
    ),
)
def width_called_height(x: Tensor) -> Tensor:
    """The sizes of the image are called w and h in the wrong order, and used in the right one.

    Shown: Patches partition the image, and their inverse puts them back.
    Not shown: Whether the names should be changed.
    """
    n, c, w, h = x.shape
    return x.reshape(n, c, w // 4, 4, h // 4, 4).permute(0, 2, 4, 3, 5, 1).reshape(n, -1, 16 * c)


@geometry_bug(
    "names of width and height, positions", "false alarm", "facebookresearch/mae/issues/67", certify=certify_positions
)
def columns_meshed_first() -> Tensor:
    """The grid of positions is meshed with columns first; the table is right.

    Shown: Positions grow with the rows and columns of their patches.
    Not shown: Whether the names should be changed.
    """
    cols, rows = torch.meshgrid(torch.arange(3), torch.arange(2), indexing="xy")
    return torch.stack([rows.reshape(-1), cols.reshape(-1)], 1)
