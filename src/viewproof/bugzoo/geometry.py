"""Masks, tokens and positions that speak of different places (C5)."""

from collections.abc import Callable

import torch
from torch import Tensor

from viewproof.bugzoo.specimen import Specimen
from viewproof.bugzoo.views import Returned, View, images
from viewproof.certify.geometry import certify_geometry
from viewproof.certify.report import Contract, Report, Witness
from viewproof.certify.view import certify_view
from viewproof.masks import PatchMask
from viewproof.views import patchify, unpatchify

Spread = Callable[[Tensor], Tensor]

_VOLUME = (1, 4, 6, 8)
_DROPPED = torch.tensor([True, False, True, False, False, True] + [False, True] * 9)


def _volume_tokens(x: Tensor) -> Tensor:
    """Cubes of 2 voxels, flattened with the first spatial axis running fastest."""
    n, c, a, b, d = x.shape
    cubes = x.reshape(n, c, a // 2, 2, b // 2, 2, d // 2, 2).permute(0, 4, 6, 2, 1, 3, 5, 7)
    return cubes.reshape(n, -1, c * 8)


def _voxels(fastest_first: bool) -> Spread:
    """Which voxels the dropped tokens hold, according to the loss."""

    def spread(dropped: Tensor) -> Tensor:
        grid = dropped.reshape(3, 4, 2).permute(2, 0, 1) if fastest_first else dropped.reshape(2, 3, 4)
        for axis in range(3):
            grid = grid.repeat_interleave(2, axis)
        return grid[None]

    return spread


def _certify_volume(twin: Spread) -> Report:
    x = torch.arange(384.0).reshape(2, *_VOLUME)
    return certify_geometry(_volume_tokens, x, mask=twin(_DROPPED), patch_mask=_DROPPED)


def _disagrees(dropped: Tensor) -> Callable[[Spread, Witness], bool]:
    def breaks(twin: Spread, witness: Witness) -> bool:
        _, token = witness.coordinates["token"]
        return bool(twin(dropped)[witness.coordinates["source"][1:]] != dropped[token])

    return breaks


_BANDS = torch.tensor([True, True, False, False, False, True])


def _spectrogram_mask(transposed: bool) -> Spread:
    """A mask over 8 mel bands and 12 frames from a grid of 2 x 3 patches."""

    def spread(dropped: Tensor) -> Tensor:
        grid = dropped.reshape(3, 2).T if transposed else dropped.reshape(2, 3)
        return grid.repeat_interleave(4, 0).repeat_interleave(4, 1)[None]

    return spread


def _certify_spectrogram(twin: Spread) -> Report:
    x = torch.arange(192.0).reshape(2, 1, 8, 12)
    return certify_geometry(lambda x: patchify(x, 4, 4), x, mask=twin(_BANDS), patch_mask=_BANDS)


def _grid_positions(rows: int, cols: int) -> Tensor:
    return torch.cartesian_prod(torch.arange(rows), torch.arange(cols))


def _certify_positions(twin: Tensor) -> Report:
    return certify_geometry(lambda x: patchify(x, 4, 4), images(), positions=twin)


def _misplaces(twin: Tensor, witness: Witness) -> bool:
    """Whether tokens of the 2 x 3 grid, row-major, have other positions than their rows and columns."""
    return any(tuple(row) != divmod(token, 3) for token, row in enumerate(twin.tolist()))


def _indexed(uses_height: bool) -> View:
    def view(x: Tensor) -> Returned:
        rows, cols = torch.arange(x.shape[2])[:, None] // 4, torch.arange(x.shape[3]) // 4
        per_row = (x.shape[2] if uses_height else x.shape[3]) // 4
        hidden = ((rows * per_row + cols) % 4 == 1).expand(x.shape[1:])
        return torch.where(hidden, 0.0, x), x, hidden

    return view


def _not_the_rule(twin: View, witness: Witness) -> bool:
    hidden = twin(witness.inputs["x"].clone())[2]
    return any(
        bool(hidden[0, row, col]) != ((row // 4 * 3 + col // 4) % 4 == 1) for row in range(8) for col in range(12)
    )


def _ragged(pads: bool) -> Spread:
    def tokens(x: Tensor) -> Tensor:
        *_, height, width = x.shape
        if pads:
            x = torch.nn.functional.pad(x, (0, -width % 4, 0, -height % 4))
        return patchify(x[..., : x.shape[2] // 4 * 4, : x.shape[3] // 4 * 4], 4, 4)

    return tokens


def _drops(twin: Spread, witness: Witness) -> bool:
    marked = torch.zeros_like(witness.inputs["x"])
    marked[witness.coordinates["source"]] = 1.0
    return not bool(twin(marked).any())


_SHUFFLE = torch.tensor([[2, 0, 1, 5, 3, 4], [4, 2, 5, 0, 1, 3]])


def _does_not_restore(twin: Spread, witness: Witness) -> bool:
    tokens = torch.arange(6).expand(2, 6)
    return not torch.equal(tokens.gather(1, _SHUFFLE).gather(1, twin(_SHUFFLE)), tokens)


def _columns_first(x: Tensor) -> Tensor:
    """Row-major patches; only the names of the two sizes are exchanged."""
    n, c, w, h = x.shape
    return x.reshape(n, c, w // 4, 4, h // 4, 4).permute(0, 2, 4, 3, 5, 1).reshape(n, -1, 16 * c)


def _meshed() -> Tensor:
    """Column coordinates are meshed first; the table has them second."""
    cols, rows = torch.meshgrid(torch.arange(3), torch.arange(2), indexing="xy")
    return torch.stack([rows.reshape(-1), cols.reshape(-1)], 1)


SPECIMENS = (
    Specimen(
        "volume flattened in two orders",
        Contract.C5,
        "https://github.com/MIC-DKFZ/nnssl (evaMAE_module, create_mask)",
        "our reading",
        "The network flattens the patches of a volume in one order of axes, the loss spreads its mask in another.",
        "A voxel that is hidden although its token is seen, or the reverse.",
        "The share of hidden voxels that are never scored at the published sizes.",
        _certify_volume,
        _voxels(True),
        _voxels(False),
        _disagrees(_DROPPED),
    ),
    Specimen(
        "positions of another grid",
        Contract.C5,
        "https://github.com/Mountchicken/Union14M/issues/12",
        "confirmed",
        "The position table is that of a grid with other extents and as many patches.",
        "Two tokens of one row of the grid that have different row positions.",
        "What an encoder learns from wrong positions.",
        _certify_positions,
        _grid_positions(2, 3),
        _grid_positions(3, 2),
        _misplaces,
    ),
    Specimen(
        "time and frequency exchanged",
        Contract.C5,
        "https://github.com/NVIDIA-NeMo/Speech/pull/2201",
        "confirmed",
        "A spectrogram's mask is made for a grid whose time and frequency extents are exchanged.",
        "A cell of the spectrogram whose status is not that of its patch.",
        "Anything if both extents are equal.",
        _certify_spectrogram,
        _spectrogram_mask(False),
        _spectrogram_mask(True),
        _disagrees(_BANDS),
    ),
    Specimen(
        "height for width in a patch index",
        Contract.C5,
        "synthetic",
        "synthetic",
        "The row-major index of a patch is computed with the number of patches in a column.",
        "A pixel whose status is not the rule's.",
        "Anything on square images.",
        lambda twin: certify_view(twin, images(), PatchMask(4, 4, period=4, offset=1)),
        _indexed(False),
        _indexed(True),
        _not_the_rule,
    ),
    Specimen(
        "ragged patch dropped",
        Contract.C5,
        "synthetic",
        "synthetic",
        "The image is cut to whole patches: its last rows and columns are in no token.",
        "A pixel that no token holds.",
        "Whether padding is the better choice.",
        lambda twin: certify_geometry(twin, torch.arange(120.0).reshape(1, 1, 10, 12)),
        _ragged(True),
        _ragged(False),
        _drops,
    ),
    Specimen(
        "ids_restore is the shuffle",
        Contract.C5,
        "synthetic",
        "synthetic",
        "Tokens are put back by the permutation that shuffled them instead of its inverse.",
        "A token that comes back to another place.",
        "Permutations that are their own inverse, for which there is no difference.",
        lambda twin: certify_geometry(
            lambda x: patchify(x, 4, 4), images(), unpatchify=_to_images, restore=(_SHUFFLE, twin(_SHUFFLE))
        ),
        lambda shuffle: shuffle.argsort(1),
        lambda shuffle: shuffle,
        _does_not_restore,
    ),
    Specimen(
        "names of width and height, patches",
        Contract.C5,
        "https://github.com/facebookresearch/mae/issues/18",
        "false alarm",
        "The sizes of the image are called w and h in the wrong order, and used in the right one.",
        "Patches partition the image, and their inverse puts them back.",
        "Whether the names should be changed.",
        lambda twin: certify_geometry(twin, images(), unpatchify=_to_images, positions=_grid_positions(2, 3)),
        _columns_first,
    ),
    Specimen(
        "names of width and height, positions",
        Contract.C5,
        "https://github.com/facebookresearch/mae/issues/67",
        "false alarm",
        "The grid of positions is meshed with columns first; the table is right.",
        "Positions grow with the rows and columns of their patches.",
        "Whether the names should be changed.",
        _certify_positions,
        _meshed(),
    ),
)


def _to_images(tokens: Tensor) -> Tensor:
    return unpatchify(tokens, 3, 8, 12, 4, 4)
