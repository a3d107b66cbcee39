"""Random transforms of a batch, and two views of it, each a function of (seed, epoch, sample id, stream).

Any other function of a batch, its ids and the epoch, one that calls kornia among them, serves the training modules as
well.
"""

import ast
import difflib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from viewproof.data.batches import CROP_STREAM
from viewproof.errors import InvalidArgument
from viewproof.expressions import LONGEST
from viewproof.masks.finite import check_count
from viewproof.masks.random.draws import Draws
from viewproof.shapes import Float, Int, check_tensor
from viewproof.training.transforms import (
    WORDS,
    Affine,
    Blur,
    ColourJitter,
    Flip,
    Grey,
    RandomResizedCrop,
    Solarise,
    Transform,
    check_images,
    jittered,
    region,
)  # fmt: skip

TRANSFORMS = {kind.__name__: kind for kind in (RandomResizedCrop, Flip, ColourJitter, Grey, Blur, Solarise, Affine)}


@dataclass(frozen=True)
class Augment:
    """Transforms of a batch, one after the other: ``augment(x, sample_ids, epoch)``.

    The k-th draws from words 8k to 8k + 7 of a stream, which are a function of (seed, epoch, sample id, stream): not of
    batch mates, their order, the device, a worker or global random state. ``first`` is the place of the first transform
    that is applied: images that are cropped as they are read come with the crop made.

    >>> augment = Augment((RandomResizedCrop(0.5), Flip()))
    >>> x, ids = torch.rand(3, 1, 8, 8), torch.tensor([4, 0, 9])
    >>> torch.equal(augment(x, ids, epoch=1)[2:], augment(x[2:], ids[2:], epoch=1))
    True
    """

    transforms: tuple[Transform, ...]
    seed: int = 0
    first: int = 0

    def __post_init__(self) -> None:
        check_count("seed", self.seed)
        if not all(isinstance(transform, Transform) for transform in self.transforms):
            raise InvalidArgument(f"transforms={self.transforms!r} must be transforms, for instance Flip()")

    def __call__(
        self,
        x: Float[Tensor, "batch channels height width"],
        sample_ids: Int[Tensor, " batch"],
        epoch: int = 0,
        stream: int = CROP_STREAM,
    ) -> Float[Tensor, "batch channels height width"]:
        """The transformed images, of the same shape."""
        check_batch_of_images(x, sample_ids)
        numbers = Draws(self.seed, epoch, sample_ids.to(x.device)).uniforms(WORDS * len(self.transforms), stream)
        for k, transform in enumerate(self.transforms):
            if k >= self.first:
                x = transform(x, numbers[:, WORDS * k : WORDS * (k + 1)])
        return x

    @property
    def of_reading(self) -> tuple[float, float] | None:
        """The least area and the share of flips of images that are cropped as they are decoded.

        They are those of a crop that comes first and of a flip behind it; None without such a crop.
        """
        if not self.transforms or not isinstance(self.transforms[0], RandomResizedCrop):
            return None
        second = self.transforms[1] if len(self.transforms) > 1 else None
        return self.transforms[0].min_area, second.chance if isinstance(second, Flip) else 0.0

    def after_reading(self) -> "Augment":
        """The rest: what is left to do once images were decoded by `of_reading`."""
        return replace(self, first=2 if len(self.transforms) > 1 and isinstance(self.transforms[1], Flip) else 1)


@dataclass(frozen=True)
class AugmentedPair:
    """Two views of each image by the same transforms, from streams of their own.

    >>> a, b = AugmentedPair(Augment((Flip(),)))(torch.rand(9, 1, 4, 4), torch.arange(9))
    >>> a.shape, torch.equal(a, b)
    (torch.Size([9, 1, 4, 4]), False)
    """

    augment: Augment

    def __call__(
        self, x: Float[Tensor, "batch channels height width"], sample_ids: Int[Tensor, " batch"], epoch: int = 0
    ) -> tuple[Float[Tensor, "batch channels height width"], Float[Tensor, "batch channels height width"]]:
        """Two views of each image."""
        return self.augment(x, sample_ids, epoch, 12), self.augment(x, sample_ids, epoch, 13)


@dataclass(frozen=True)
class RandomViews:
    """Two random views of images ``[N, C, H, W]``: resized crops, flips and colour jitter in one resampling.

    Crops are those of `RandomResizedCrop`, the jitter is that of `ColourJitter`. With ``flip`` every second view is
    mirrored, on average. No global random state is read or changed.

    >>> views = RandomViews(min_area=0.5)
    >>> x = torch.rand(3, 1, 8, 8)
    >>> a, b = views(x, torch.tensor([4, 0, 9]), epoch=1)
    >>> a.shape, torch.allclose(a[2:], views(x[2:], torch.tensor([9]), epoch=1)[0]), torch.equal(a, b)
    (torch.Size([3, 1, 8, 8]), True, False)
    """

    min_area: float = 0.3
    flip: bool = True
    jitter: float = 0.4
    seed: int = 0

    def __post_init__(self) -> None:
        if not is_number(self.min_area) or not 0 < self.min_area <= 1:
            raise InvalidArgument(f"min_area={self.min_area!r} must lie above 0 and at most at 1, the whole image")
        if not is_number(self.jitter) or not 0 <= self.jitter < 1:
            raise InvalidArgument(f"jitter={self.jitter!r} must lie in [0, 1); pass 0 to leave the values as they are")
        check_count("seed", self.seed)

    def __call__(
        self, x: Float[Tensor, "batch channels height width"], sample_ids: Int[Tensor, " batch"], epoch: int = 0
    ) -> tuple[Float[Tensor, "batch channels height width"], Float[Tensor, "batch channels height width"]]:
        """Two views of each image."""
        check_batch_of_images(x, sample_ids)
        draws = Draws(self.seed, epoch, sample_ids.to(x.device))
        words = (draws.uniforms(WORDS, stream).to(x.dtype) for stream in (12, 13))
        a, b = (random_view(x, u, (self.min_area, 1.0), self.flip, self.jitter, x.shape[2:]) for u in words)
        return a, b


def random_view(
    x: Tensor, u: Tensor, area: tuple[float, float], flip: bool, jitter: float, size: Sequence[int]
) -> Tensor:
    """A region of each image with an area between two shares, resampled to ``size``, mirrored or not, and jittered."""
    height, width, down, across = region(u, *area)
    sign = torch.where(u[:, 4] < 0.5, -1, 1) if flip else 1
    zero = torch.zeros_like(down)
    rows = [torch.stack(row, 1) for row in ((sign * width, zero, across), (zero, height, down))]
    grid = F.affine_grid(torch.stack(rows, 1), [*x.shape[:2], *size], align_corners=False)
    view = F.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return view if jitter == 0 else jittered(view, jitter, u[:, 5:])


def is_number(value: object) -> bool:
    """Whether a value is a number as a person writes one, not True or a tensor."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def check_batch_of_images(x: Tensor, sample_ids: Tensor) -> None:
    """Refuse what is not images ``[N, C, H, W]`` with one id a sample."""
    check_images(x)
    check_tensor("sample_ids", sample_ids)
    if sample_ids.shape != x.shape[:1] or sample_ids.is_meta != x.is_meta:
        raise InvalidArgument(
            f"x of shape {tuple(x.shape)} on {x.device} with ids of shape {tuple(sample_ids.shape)} on"
            f" {sample_ids.device} must be images [N, C, H, W] and N ids; pass one id a sample"
        )


def parse_transforms(text: str) -> tuple[Transform, ...]:
    """The transforms that a text such as ``RandomResizedCrop(0.2), Flip()`` stands for; ``none`` is no transform.

    >>> parse_transforms("RandomResizedCrop(0.5), Blur(sigma=1)")
    (RandomResizedCrop(min_area=0.5), Blur(sigma=1.0, chance=0.5))
    >>> parse_transforms("Flop()")
    Traceback (most recent call last):
    viewproof.errors.InvalidArgument: augment='Flop()': no transform is called 'Flop'; did you mean Flip?
    """
    if not isinstance(text, str) or len(text) > LONGEST:
        raise InvalidArgument(f"augment={str(text)[:40]!r}... must be a text of at most {LONGEST} characters")
    if text.strip() in ("", "none"):
        return ()
    transforms = []
    try:
        body = ast.parse(text.strip(), mode="eval").body
        calls: Sequence[ast.expr] = body.elts if isinstance(body, ast.Tuple | ast.List) else [body]
        for call in calls:
            name = ast.unparse(call.func) if isinstance(call, ast.Call) else ast.unparse(call)
            if name not in TRANSFORMS:
                near = difflib.get_close_matches(name, TRANSFORMS, n=1)
                hint = f"did you mean {near[0]}?" if near else f"pass some of {', '.join(TRANSFORMS)}, or none"
                raise InvalidArgument(f"no transform is called {name!r}; {hint}")
            given = (call.args, call.keywords) if isinstance(call, ast.Call) else ([], [])
            arguments = [_number(argument) for argument in given[0]]
            transforms.append(TRANSFORMS[name](*arguments, **{str(w.arg): _number(w.value) for w in given[1]}))
    except SyntaxError as error:
        raise InvalidArgument(f"augment={text!r} is not an expression: {error.msg}") from error
    except (RecursionError, MemoryError) as error:
        raise InvalidArgument(f"augment={text[:40]!r}... is nested too deep; write the transforms plainly") from error
    except (ValueError, TypeError, OverflowError) as error:
        raise InvalidArgument(f"augment={text!r}: {error}") from error
    return tuple(transforms)


def _number(node: ast.expr) -> Any:
    value = ast.literal_eval(node)
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value
