"""What the model sees, what it must predict, and the coordinates that the loss asks for."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from viewproof.errors import InvalidArgument
from viewproof.masks.finite import Mask
from viewproof.shapes import Shaped, check_kind, check_tensor

Over = Literal["hidden", "all"]


@dataclass(frozen=True, eq=False)
class Sample:
    """One training sample of a whole batch.

    ``x: [N, *source]`` is what the model sees, ``y: [N, *target]`` what it must predict, ``mask`` lies over
    y's coordinates, and ``view`` (if known) over x's: the mask that made x, for encoders that gather visible
    patches and for pictures.

    >>> import torch
    >>> from viewproof.masks import VectorMask
    >>> sample = VectorMask(period=2, offset=0).sample(torch.tensor([[1.0, 2.0, 3.0]]))
    >>> sample.x, sample.y, sample.mask.selected_idxs
    (tensor([[0., 2., 0.]]), tensor([[1., 2., 3.]]), [0, 2])
    """

    x: Shaped[Tensor, "batch *source"]
    y: Shaped[Tensor, "batch *target"]
    mask: Mask
    view: Mask | None = None

    def __post_init__(self) -> None:
        check_tensor("x", self.x)
        check_tensor("y", self.y)
        check_kind("mask", self.mask, Mask)
        for name, tensor, mask in (("y", self.y, self.mask), ("x", self.x, self.view)):
            if mask is not None and not isinstance(mask, Mask):
                raise InvalidArgument(f"view={mask!r} must be the Mask that made x, or None")
            if mask is not None and not mask.fits(tensor):
                rows = f"{mask.hidden.shape[0]} rows over " if mask.per_sample else ""
                raise InvalidArgument(
                    f"{name} of shape {tuple(tensor.shape)} does not fit its mask of {rows}{tuple(mask.data_shape)}; "
                    "pass a batch of that shape, batch axis first"
                )
        if self.x.shape[:1] != self.y.shape[:1]:
            raise InvalidArgument(
                f"x of shape {tuple(self.x.shape)} and y of shape {tuple(self.y.shape)} must have one batch size"
            )

    def selection(self, over: Over = "hidden") -> Mask:
        """The target coordinates that losses and row contracts sum over: the mask, or every one."""
        if over not in ("hidden", "all"):
            raise InvalidArgument(f"over={over!r} must be 'hidden' (the mask) or 'all' (every target coordinate)")
        return self.mask if over == "hidden" else Mask.all(self.mask.data_shape, self.y.device)
