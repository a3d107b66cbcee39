"""BERT's corruption of token ids: masked, replaced, kept."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from viewproof.errors import InvalidArgument
from viewproof.masks.finite import Mask, check_count, check_prefix
from viewproof.masks.random.draws import Draws, among_first, below, count_by_length, ranked
from viewproof.masks.random.rule import RandomRule, inside
from viewproof.masks.sample import Sample
from viewproof.shapes import Bool, Int, Shaped


def corrupt(
    x: Shaped[Tensor, "batch tokens"],
    roles: Int[Tensor, "batch tokens"],
    other: Shaped[Tensor, "batch tokens"],
    mask_id: int,
) -> Shaped[Tensor, "batch tokens"]:
    """``mask_id`` where the role is 3, ``other`` where it is 2, else x."""
    return torch.where(roles == 3, mask_id, torch.where(roles == 2, other, x))


def allowed_tokens(x: Shaped[Tensor, "batch tokens"], special: Shaped[Tensor, "ids"]) -> Bool[Tensor, "batch tokens"]:
    """Whether each token may be selected: it is none of the special ids."""
    return ~torch.isin(x, special)


def roles_by_words(
    words: Int[Tensor, "batch tokens"], allowed: Bool[Tensor, "batch tokens"], ends: Sequence[Int[Tensor, " batch"]]
) -> Int[Tensor, "batch tokens"]:
    """How many of the ``ends`` each token lies before, in the order of the words, those not allowed last."""
    keys = ranked(words, allowed)
    return torch.stack([among_first(keys, end[:, None]) for end in ends]).sum(0)


@dataclass(frozen=True)
class TokenMask(RandomRule):
    """Selects tokens of each row ``[N, T]`` and corrupts them: BERT's masking.

    Devlin et al. 2019, arXiv 1810.04805. Of every row exactly ``masked`` tokens become ``mask_id``, ``replaced`` become
    a token drawn from ``vocabulary`` ids (their own included) and ``kept`` stay as they are: BERT's 15 % split 80/10/10
    is ``masked=24, replaced=3, kept=3, per=200``. With ``per`` the counts grow with the number n of tokens that may be
    selected: ``masked * n // per`` become ``mask_id``, and so on for the sums ``masked + replaced`` and ``masked +
    replaced + kept``. Padding (by ``lengths``) and the ids in ``special`` are never selected. Too few tokens for the
    counts raise `InvalidArgument`.

    `sample` gives x: the corrupted ids, y: the ids, mask: the selected places, which are what the loss scores.
    Theorems: ``tokens_off_the_mask_are_unchanged``, ``tokens_are_masked_replaced_or_kept_by_the_draw``.

    >>> rule = TokenMask(masked=3, replaced=1, kept=1, mask_id=0, vocabulary=100)
    >>> ids = torch.arange(50, 60).repeat(2, 1)
    >>> sample = rule.sample(ids, sample_ids=torch.arange(2))
    >>> sample.x
    tensor([[50, 51, 52, 53, 54, 14, 56,  0,  0,  0],
            [50, 51,  0, 52, 54, 55,  0,  0, 58, 59]])
    >>> sample.mask.hidden.sum(1), (sample.x == 0).sum(1)
    (tensor([5, 5]), tensor([3, 3]))
    """

    masked: int
    replaced: int
    kept: int
    mask_id: int
    vocabulary: int
    seed: int = 0
    per: int | None = None
    special: tuple[int, ...] = ()
    may_be_zero: ClassVar[tuple[str, ...]] = ("masked", "replaced", "kept", "mask_id", "seed")

    def __post_init__(self) -> None:
        super().__post_init__()
        least = max(1, self.masked + self.replaced + self.kept)
        if self.per is not None and check_count("per", self.per) < least:
            raise InvalidArgument(f"per={self.per} must be at least {least}: masked + replaced + kept, or 1")
        if self.vocabulary > 2**31:
            raise InvalidArgument(f"vocabulary={self.vocabulary} must be at most 2**31; pass the number of token ids")
        if isinstance(self.special, str) or not isinstance(self.special, Sequence):
            raise InvalidArgument(f"special={self.special!r} must be a tuple of token ids, such as (0, 101, 102)")
        object.__setattr__(self, "special", tuple(check_count("special id", token) for token in self.special))

    @property
    def padded_axis(self) -> int | None:
        """The axis of tokens."""
        return 0

    def draw(self, shape: tuple[int, ...], draws: Draws, lengths: Tensor | None = None) -> Bool[Tensor, "batch *shape"]:
        """The selected places."""
        if self.special:
            raise InvalidArgument(f"{self!r}: which tokens are special is known from the ids; call sample(ids, ...)")
        if len(shape) != 1:
            raise InvalidArgument(f"{self!r} masks token ids [N, T], got data of shape {shape}")
        allowed = torch.ones(len(draws.sample_ids), *shape, dtype=torch.bool, device=draws.sample_ids.device)
        return self._roles(draws, allowed, lengths) > 0

    def sample(
        self,
        x: Shaped[Tensor, "batch *source"],
        recon_dim: int | None = None,
        *,
        sample_ids: Int[Tensor, " batch"] | None = None,
        epoch: int = 0,
        lengths: Int[Tensor, " batch"] | None = None,
    ) -> Sample:
        """x: the corrupted ids; y: the first ``recon_dim`` ids; mask: the selected places."""
        if x.dim() != 2 or x.is_floating_point() or x.dtype == torch.bool:
            raise InvalidArgument(f"x of {x.dtype} {tuple(x.shape)} must be token ids: an integer tensor [N, T]")
        most = torch.iinfo(x.dtype).max
        for name, value, largest in (("mask_id", self.mask_id, most), ("vocabulary", self.vocabulary, most + 1)):
            if value > largest:
                raise InvalidArgument(
                    f"{name}={value} must be at most {largest} for token ids of {x.dtype}; pass ids of torch.int64"
                )
        draws = self._draws(sample_ids, epoch, x.device)
        if lengths is not None:
            lengths = self._checked(lengths, tuple(x.shape[1:]), draws.sample_ids)
        special = [token for token in self.special if token <= most]
        allowed = allowed_tokens(x, torch.tensor(special, dtype=x.dtype, device=x.device))
        roles = self._roles(draws, allowed, lengths)
        other = below(draws.words(x.shape[1], stream=1), self.vocabulary).to(x.dtype)
        corrupted = corrupt(x, roles, other, self.mask_id)
        mask = Mask(roles > 0, per_sample=True, rule=self)
        length = check_prefix("recon_dim", x.shape[1] if recon_dim is None else recon_dim, x.shape[1])
        return Sample(corrupted, x[:, :length], mask.prefix(length))

    def _roles(self, draws: Draws, allowed: Tensor, lengths: Tensor | None) -> Int[Tensor, "batch tokens"]:
        """3 masked, 2 replaced, 1 kept, 0 not selected."""
        if lengths is not None:
            allowed = allowed & inside(lengths, allowed.shape[1:], 0)
        total = self.masked + self.replaced + self.kept
        few = allowed.sum(1) < (total if self.per is None else 0)
        if bool(few.any()):
            n = int(few.nonzero()[0])
            raise InvalidArgument(
                f"sample {n} has {int(allowed[n].sum())} tokens to select from, {self!r} selects {total}; pass smaller "
                "counts, or per= for counts that grow with the length"
            )
        ends = (self.masked, self.masked + self.replaced, total)
        counts = [count_by_length(end, allowed.sum(1), self.per) for end in ends]
        return roles_by_words(draws.words(allowed.shape[1]), allowed, counts)
