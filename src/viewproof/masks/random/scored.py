"""Partial prediction: the loss asks for some of the hidden patches, drawn by the sample's id."""

from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from viewproof.errors import InvalidArgument
from viewproof.masks.finite import Mask
from viewproof.masks.patches import patch_cells
from viewproof.masks.random.blocks import spread
from viewproof.masks.random.draws import Draws, among_first, ranked
from viewproof.masks.random.rule import check_counts
from viewproof.masks.rule import Batch, Rule, check_rule
from viewproof.shapes import Bool, Int

_STREAM = 2


def choose_hidden(
    words: Int[Tensor, "batch patches"], hidden: Bool[Tensor, "batch patches"], count: int
) -> Bool[Tensor, "batch patches"]:
    """The ``count`` hidden patches of each sample whose words are smallest.

    Theorem: ``scored_patches_are_hidden_patches``.

    >>> import torch
    >>> choose_hidden(torch.tensor([[4, 9, 1, 7]]), torch.tensor([[True, True, False, True]]), 2)
    tensor([[ True, False, False,  True]])
    """
    return among_first(ranked(words, hidden), count)


def score_within(mask: Mask, places: Bool[Tensor, "batch target"]) -> Mask:
    """The coordinates of a mask that lie in ``places``, one mask a sample: what a partial loss sums over.

    Theorems: ``partial_loss_eq_row_objectives``, ``partial_loss_gradient_support``.
    """
    return Mask(mask.hidden & places, per_sample=True, rule=mask.rule)


@dataclass(frozen=True)
class ScoredPatches(Rule):
    """Hides what ``rule`` hides of images ``[N, C, H, W]``, and scores ``count`` of the hidden patches of each sample.

    CrossMAE's partial prediction (Fu et al. 2024, arXiv 2401.14391). ``sample.view`` is the rule's mask and
    ``sample.mask`` the scored part of it: a coordinate is visible, scored, or neither. Which patches are scored is a
    function of (seed, epoch, sample id), also where the rule hides the same in all samples. A rule that hides parts of
    patches or fewer than ``count`` patches, and missing ids, raise `InvalidArgument`. Theorems:
    ``scored_patches_are_hidden_patches``, ``partial_loss_eq_row_objectives``, ``partial_loss_gradient_support``.

    >>> import torch
    >>> from viewproof.masks import PatchMask
    >>> rule = ScoredPatches(~PatchMask(2, 2, period=4, offset=0), 2, 2, count=2)
    >>> sample = rule.sample(torch.ones(3, 1, 4, 8), sample_ids=torch.arange(3))
    >>> sample.view.count, sample.mask.hidden.sum(1)
    (24, tensor([8, 8, 8]))
    """

    rule: Rule
    patch_h: int
    patch_w: int
    count: int
    seed: int = 0

    def __post_init__(self) -> None:
        check_rule("rule", self.rule)
        check_counts(self, ("seed",))

    @property
    def per_sample(self) -> bool:  # type: ignore[override]
        """The rule's: whether it hides something else in each sample."""
        return self.rule.per_sample

    def at(self, step: int) -> "ScoredPatches":
        """The rule of that step, scored alike."""
        return replace(self, rule=self.rule.at(step))

    def hidden(self, *grids: Int[Tensor, "..."]) -> Tensor | bool:
        """What the rule hides."""
        return self.rule.hidden(*grids)

    def _masks(self, shape: tuple[int, ...], length: int | None, device: Any, batch: Batch) -> tuple[Mask, Mask]:
        view, target = self.rule._masks(shape, length, device, batch)
        if length is None:
            # `mask` is the rule's; which part of it is scored stands in `sample` alone.
            return view, target
        ids, epoch, _ = batch
        if not isinstance(ids, Tensor):
            raise InvalidArgument(
                f"sample_ids=None: {self!r} scores other patches in each sample; pass sample_ids=ids, integers [N]"
            )
        cells, (_, height, width) = self._hidden_patches(view), shape
        ids = ids.to(cells.device)
        words = Draws(self.seed, epoch, ids).words(cells[0].numel(), _STREAM)
        chosen = choose_hidden(words, cells.flatten(1).expand(len(ids), -1), self.count)
        places = spread(chosen.reshape(-1, 1, *cells.shape[1:]), (1, height, width), (None, self.patch_h, self.patch_w))
        scored = places.expand(-1, *shape).reshape(len(ids), -1)[:, :length]
        return view, score_within(replace(target, rule=self), scored)

    def _hidden_patches(self, view: Mask) -> Bool[Tensor, "rows grid_h grid_w"]:
        """Whether each patch is hidden, of each sample or, if the mask is shared, once for all."""
        hidden = view.hidden if view.per_sample else view.hidden[None]
        if hidden.dim() != 4 or hidden.shape[2] % self.patch_h or hidden.shape[3] % self.patch_w:
            raise InvalidArgument(
                f"patch_h={self.patch_h}, patch_w={self.patch_w} must divide images [C, H, W]; {self!r} masks "
                f"samples of {tuple(view.data_shape)}"
            )
        cells = patch_cells(hidden, self.patch_h, self.patch_w, self.rule)
        least = int(cells.flatten(1).sum(1).min()) if len(cells) else self.count
        if least < self.count:
            raise InvalidArgument(
                f"count={self.count} patches are scored and {self.rule!r} hides {least}; pass at most that many"
            )
        return cells
