"""Draws that leave something out (C8), sentinels that are content (C1, C9), pairs and windows that are off (C3, C1)."""

from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from viewproof.bugzoo.specimen import Twin, specimen
from viewproof.certify import Contract, Witness, certify_coverage, certify_pairs, certify_sentinels, certify_windows

LENGTH, SPAN = 12, 3
coverage_bug = partial(specimen, contract=Contract.C8)


def drawn(ids: Tensor, epoch: int, seed: int) -> list[torch.Generator]:
    """One generator for each sample."""
    return [torch.Generator().manual_seed(1_000_003 * seed + 10_007 * epoch + i) for i in ids.tolist()]


def never_hidden(twin: Twin, witness: Witness) -> bool:
    """Whether 400 draws all treat the witness's coordinate alike."""
    rows = twin(torch.arange(400), epoch=0, seed=3)[:, witness.coordinates["coordinate"][0]] != 0
    return bool(rows.all()) or not bool(rows.any())


@coverage_bug(
    "the first token is never hidden",
    "reported",
    "google-research/text-to-text-transfer-transformer/issues/905",
    certify=certify_coverage,
    certifier_stood=True,
    breaks=never_hidden,
)
def first_token_never_hidden(ids: Tensor, *, epoch: int, seed: int, bug: bool) -> Tensor:
    """Noise spans and visible spans alternate, and the first is always a visible one.

    Shown: A position that is hidden in none of 4096 draws.
    Not shown: The lengths of the spans.
    """
    rows = []
    for generator in drawn(ids, epoch, seed):
        cuts = torch.randperm(LENGTH - 1, generator=generator)[:3].sort().values + 1
        spans = torch.zeros(LENGTH, dtype=torch.long)
        spans[cuts] = 1
        # The first span is visible, or either by a draw of its own.
        first = 0 if bug else int(torch.randint(2, (), generator=generator))
        rows.append((spans.cumsum(0) + first) % 2 == 1)
    return torch.stack(rows)


@coverage_bug(
    "evaluation always hides the upper half",
    "confirmed",
    "Clay-foundation/model/issues/156",
    certify=certify_coverage,
    certifier_stood=True,
    breaks=never_hidden,
)
def upper_half_always(ids: Tensor, *, epoch: int, seed: int, bug: bool) -> Tensor:
    """Without noise the order of the patches is the order of their indices, and the last of them are hidden.

    Shown: A patch that all draws hide, and one that none does.
    Not shown: By how much the evaluation is easier or harder for it.
    """
    noise = [torch.zeros(LENGTH) if bug else torch.rand(LENGTH, generator=g) for g in drawn(ids, epoch, seed)]
    return torch.stack([n.argsort(stable=True).argsort() >= LENGTH // 2 for n in noise])


def random_share_off(twin: Twin, witness: Witness) -> bool:
    """Whether fewer than one in 20 of the hidden tokens is replaced by a random one."""
    codes = twin(torch.arange(400), epoch=0, seed=3)
    return float((codes == 2).sum() / (codes > 0).sum()) < 0.05


@coverage_bug(
    "random tokens overwritten by the mask",
    "confirmed",
    "lucidrains/mlm-pytorch/issues/6",
    certify=lambda twin: certify_coverage(twin, outcomes=(0.8, 0.1, 0.1)),
    certifier_stood=True,
    breaks=random_share_off,
)
def random_tokens_overwritten(ids: Tensor, *, epoch: int, seed: int, bug: bool) -> Tensor:
    """Random tokens are put in first, and most of them are overwritten by the mask's id after.

    Shown: The share of random tokens, by one token of each draw.
    Not shown: Which share would be best.
    """
    rows = []
    for generator in drawn(ids, epoch, seed):
        hidden = torch.randperm(LENGTH, generator=generator) < 5
        kind, again = torch.rand(2, LENGTH, generator=generator)
        code = torch.where(kind < 0.1, 2, 3)
        masked = again < 0.89 if bug else (kind >= 0.1) & (kind < 0.9)
        rows.append(torch.where(hidden, torch.where(masked, 1, code), 0))
    return torch.stack(rows)


# Padding 0, class 1, mask 2, content from 3 on.
IDS = torch.randint(3, 20, (4, LENGTH), generator=torch.Generator().manual_seed(0))
IDS[:, 0] = 1
HIDDEN = (torch.arange(LENGTH) % 4 == 1).expand(4, LENGTH)


def sentinel_breaks(twin: Twin, witness: Witness) -> bool:
    """Whether a hidden place holds real content, a reserved value or an id out of range, in some of 20 draws."""
    for seed in range(20):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            x, _, hidden = twin(witness.inputs["x"])
        fresh = x[hidden & (x != witness.inputs["x"])]
        if bool(((fresh < 2) | (fresh == 19) | (fresh > 20)).any()):
            return True
    return False


sentinel_bug = partial(specimen, breaks=sentinel_breaks)


@sentinel_bug(
    "the mask's id is a codebook id",
    "confirmed",
    "dome272/MaskGIT-pytorch/issues/9",
    contract=Contract.C1,
    certify=lambda view: certify_sentinels(view, IDS, content=range(3, 20), reserved={"padding": 0, "class": 1}),
)
def mask_is_content(ids: Tensor, bug: bool) -> tuple[Tensor, Tensor, Tensor]:
    """The mask's id is the last of the codebook's, not one more.

    Shown: An id that is real content and what hides it.
    Not shown: How often that code occurs.
    """
    return torch.where(HIDDEN, 19 if bug else 2, ids), ids, HIDDEN


@sentinel_bug(
    "random tokens may be special ones",
    "reported",
    "CompEpigen/methylbert/issues/28",
    contract=Contract.C1,
    certify=lambda view: certify_sentinels(
        view, IDS, content=range(3, 20), reserved={"padding": 0, "class": 1}, replaced=True
    ),
)
def random_special_tokens(ids: Tensor, bug: bool) -> tuple[Tensor, Tensor, Tensor]:
    """The random replacement is drawn from the whole vocabulary, special ids and all.

    Shown: A hidden token that became the padding's id.
    Not shown: BERT's own code, which draws so and whose authors live with it.
    """
    some = torch.rand(ids.shape) < 0.5
    words = torch.randint(0 if bug else 3, 19, ids.shape)
    return torch.where(HIDDEN, torch.where(some, words, 2), ids), ids, HIDDEN


@sentinel_bug(
    "the mask's id is no row of the embedding",
    "reported",
    "huggingface/transformers/issues/3108",
    contract=Contract.C9,
    certify=lambda view: certify_sentinels(view, IDS, content=range(3, 20), reserved={"class": 1}, size=21),
)
def mask_out_of_range(ids: Tensor, bug: bool) -> tuple[Tensor, Tensor, Tensor]:
    """The configuration counts one id fewer than the tokenizer has, and the mask is the last.

    Shown: An id beyond the embedding's last row.
    Not shown: Devices on which that reads other memory instead of raising.
    """
    return torch.where(HIDDEN, 21 if bug else 20, ids), ids, HIDDEN


SAMPLES = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))


def stacked(x: Tensor) -> Tensor:
    """Both views, one after the other."""
    return torch.cat([x + 0.1, 2 * x])


STACKED = [4, 5, 6, 7, 0, 1, 2, 3]


def drawn_apart(loss: Twin, witness: Witness) -> bool:
    """Whether two views of one sample, alike and unlike all others, leave the loss above that of wrong pairs."""
    right = torch.eye(4).repeat(2, 1)
    wrong = torch.eye(4).repeat_interleave(2, 0)
    return bool(loss(right) > loss(wrong))


pair_bug = partial(specimen, contract=Contract.C3)


@pair_bug(
    "positives of another order",
    "confirmed",
    "open-mmlab/mmselfsup/issues/159",
    certify=lambda loss: certify_pairs(stacked, SAMPLES, positives=STACKED, loss=loss),
    certifier_stood=True,
    breaks=drawn_apart,
)
def positives_of_another_order(rows: Tensor, bug: bool) -> Tensor:
    """The views stand one after the other, and the loss takes neighbours for pairs.

    Shown: A row that is drawn to another sample.
    Not shown: Anything about several ranks.
    """
    partners = torch.arange(8) ^ 1 if bug else torch.tensor(STACKED)
    rows = F.normalize(rows)
    scores = rows @ rows.T / 0.2
    return F.cross_entropy(scores.masked_fill(torch.eye(8, dtype=torch.bool), -1e9), partners)


def equal_views(twin: Twin, witness: Witness) -> bool:
    """Whether both views are the same."""
    one, other = twin(witness.inputs["x"])
    return torch.equal(one, other)


@pair_bug(
    "one view twice",
    "confirmed",
    "catalyst-team/catalyst/pull/1278",
    certify=lambda views: certify_pairs(views, SAMPLES),
    certifier_stood=True,
    breaks=equal_views,
)
def one_view_twice(x: Tensor, bug: bool) -> tuple[Tensor, Tensor]:
    """Both embeddings are taken of the first augmentation.

    Shown: Rows that equal their partners.
    Not shown: Augmentations that are too weak.
    """
    first, second = x + 0.1, x.flip(1)
    return first, first if bug else second


SERIES = torch.randn(2, 12, 3, generator=torch.Generator().manual_seed(0))
ACTIONS = torch.randn(2, 12, generator=torch.Generator().manual_seed(1))


def window_breaks(twin: Twin, witness: Witness) -> bool:
    """Whether the context, or the actions, change with a step that they must not read."""
    one, other = (witness.inputs[name] for name in ("one", "other"))
    if one.dim() == 3:
        return not torch.equal(twin(one)[0], twin(other)[0])
    changed = torch.where(torch.arange(12) < 8, one + 1, one)
    return not torch.equal(twin(SERIES, one)[1], twin(SERIES, changed)[1])


@specimen(
    "actions one step off the frames",
    "confirmed",
    "galilai-group/stable-worldmodel/issues/293",
    contract=Contract.C3,
    certify=lambda split: certify_windows(
        split,
        {"frames": SERIES, "actions": ACTIONS},
        context="output[0]",
        target="output[2]",
        steps={"output[1]": range(8, 12), "output[2]": range(8, 12)},
    ),
    breaks=window_breaks,
)
def actions_off(frames: Tensor, actions: Tensor, bug: bool) -> tuple[Tensor, Tensor, Tensor]:
    """The window of the actions begins one step before that of the frames that they lead to.

    Shown: A step that the actions' window reads and must not.
    Not shown: Which of two conventions the data set has.
    """
    return frames[:, :8], actions[:, 7:11] if bug else actions[:, 8:], frames[:, 8:]


@specimen(
    "the decoder is given the first target",
    "confirmed",
    "sktime/pytorch-forecasting/issues/182",
    contract=Contract.C1,
    certify=lambda split: certify_windows(split, SERIES),
    breaks=window_breaks,
)
def decoder_given_the_target(x: Tensor, bug: bool) -> tuple[Tensor, Tensor]:
    """The decoder starts from the first value that it is to predict.

    Shown: A step of the target that the context changes with.
    Not shown: How much of a test score that explains.
    """
    return x[:, : 9 if bug else 8], x[:, 8:]


@specimen("scaled by the whole series", "synthetic", contract=Contract.C1, breaks=window_breaks,
          certify=lambda split: certify_windows(split, SERIES))  # fmt: skip
def scaled_by_the_whole(x: Tensor, bug: bool) -> tuple[Tensor, Tensor]:
    """The context is divided by a deviation that is taken over the target too.

    Shown: A step of the target that the context changes with.
    Not shown: Whether it harms: one number leaks.
    """
    context = x[:, :8]
    return context / (x if bug else context).std((1, 2), keepdim=True), x[:, 8:]
