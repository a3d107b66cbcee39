"""Outputs that see what comes later or belongs to others, and outputs that see too little (C10, C4, C2)."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from viewproof.bugzoo.model_leaks import weights_from_seed_0
from viewproof.bugzoo.specimen import Twin, specimen
from viewproof.certify import Contract, Witness, certify_causal, certify_dependence

STEPS, WIDTH, IDS = 8, 6, 11
FEATURES = torch.randn(2, STEPS, WIDTH, generator=torch.Generator().manual_seed(0))
TOKENS = torch.randint(0, IDS, (2, STEPS), generator=torch.Generator().manual_seed(0))
DOCUMENTS = torch.tensor([[0, 0, 0, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 1, 1, 2]])
PADDING = torch.arange(STEPS) >= torch.tensor([8, 5])[:, None]
# Special tokens at both ends, masked ones between them.
SPECIAL = ((torch.arange(STEPS) == 0) | (torch.arange(STEPS) == STEPS - 1)).expand(2, STEPS)
MASKED = ((torch.arange(STEPS) == 2) | (torch.arange(STEPS) == 5)).expand(2, STEPS)


def attention() -> Callable[[Tensor, Tensor], Tensor]:
    """Attention with a residual, by a mask that is True where a position may look."""
    project = weights_from_seed_0(lambda: nn.Linear(WIDTH, 3 * WIDTH))

    def attend(x: Tensor, may: Tensor) -> Tensor:
        query, key, value = project(x).chunk(3, -1)
        scores = (query @ key.transpose(1, 2)).masked_fill(~may, float("-inf"))
        return x + scores.softmax(-1) @ value

    return attend


CAUSAL = torch.ones(STEPS, STEPS, dtype=torch.bool).tril()


def changes(twin: Twin, witness: Witness) -> bool:
    """Whether the output at the witness's place differs between its two inputs."""
    one, other = (twin()(witness.inputs[name]) for name in ("one", "other"))
    place = witness.coordinates["output"]
    return not torch.equal(one[place], other[place])


@specimen(
    "block summaries before the block is over",
    "reported",
    "karpathy/nanochat/issues/844",
    contract=Contract.C10,
    certify=lambda twin: certify_causal(twin(), FEATURES),
    breaks=changes,
)
def block_summaries(bug: bool) -> Twin:
    """Means over blocks of four are handed to every position of the block, the early ones too.

    Shown: A later input that changes an earlier output.
    Not shown: By how much it lowers the loss.
    """
    read = weights_from_seed_0(lambda: nn.Linear(WIDTH, WIDTH))

    def model(x: Tensor) -> Tensor:
        means = x.unflatten(1, (-1, 4)).mean(2)
        before = torch.cat([torch.zeros_like(means[:, :1]), means[:, :-1]], 1)
        summary: Tensor = read(x) + (means if bug else before).repeat_interleave(4, 1)
        return summary

    return model


@specimen(
    "packed documents attend to each other",
    "reported",
    "alex-hh/profam/issues/495",
    contract=Contract.C10,
    certify=lambda twin: certify_causal(twin(), FEATURES, segments=DOCUMENTS),
    breaks=changes,
)
def packed_documents(bug: bool) -> Twin:
    """Positions start again at each document, and the attention mask does not.

    Shown: An input of one document that changes an output of another.
    Not shown: Whether it harms: some train so on purpose.
    """
    attend, same = attention(), DOCUMENTS[:, :, None] == DOCUMENTS[:, None]
    return lambda x: attend(x, CAUSAL.expand(2, STEPS, STEPS) if bug else CAUSAL & same)


@specimen(
    "a padding mask that is not read",
    "confirmed",
    "sktime/sktime/issues/10685",
    contract=Contract.C10,
    certify=lambda twin: certify_causal(twin(), FEATURES, padding=PADDING),
    breaks=changes,
)
def padding_mask_not_read(bug: bool) -> Twin:
    """The padding mask is handed to an argument that the model does not use: a summary of the row reads padding.

    Shown: A padded input that changes the output at a place with content.
    Not shown: How often series are padded.
    """
    # Causality hides padding at the end from what stands before it; a pooled summary does not.
    content = (~PADDING)[..., None].expand(2, STEPS, WIDTH)

    def model(x: Tensor) -> Tensor:
        read = x if bug else torch.where(content, x, 0.0)
        return x.cumsum(1) + torch.where(content, 0.0, read).sum(1, keepdim=True)

    return model


def shifted_loss_breaks(twin: Twin, witness: Witness) -> bool:
    """Whether the gradient at an output follows another input than the next one."""

    def gradient(x: Tensor) -> Tensor:
        leaf = witness.inputs["output"].clone().requires_grad_()
        return torch.autograd.grad(twin(leaf, x), leaf)[0]

    x, changed = witness.inputs["x"], witness.inputs["changed"]
    moved = (gradient(x) != gradient(changed)).any(-1)
    row, step = witness.coordinates["input"]
    expected = torch.zeros_like(moved)
    if step:
        expected[row, step - 1] = True
    return not torch.equal(moved, expected)


def logits(x: Tensor) -> Tensor:
    """Logits that follow the input so far."""
    return F.one_hot(x, IDS).float().cumsum(1)


@specimen(
    "labels shifted twice",
    "confirmed",
    "huggingface/transformers/issues/47394",
    contract=Contract.C4,
    certify=lambda twin: certify_causal(logits, TOKENS, loss=twin),
    breaks=shifted_loss_breaks,
)
def shifted_twice(output: Tensor, x: Tensor, bug: bool) -> Tensor:
    """The collator shifts the labels and the loss shifts them again, over the rows' ends into the next row.

    Shown: An output whose gradient follows another input than the next.
    Not shown: Which of the two shifts is wrong.
    """
    if bug:
        return F.cross_entropy(output.flatten(0, 1), x.flatten().roll(-2))
    return F.cross_entropy(output[:, :-1].flatten(0, 1), x[:, 1:].flatten())


depends = partial(specimen, contract=Contract.C2)


def blind_to(twin: Twin, witness: Witness) -> bool:
    """Whether the output at the place is the same for the two inputs."""
    place = witness.coordinates["output"]
    one, other = (twin()(witness.inputs[name]) for name in ("one", "other"))
    return torch.equal(one[place], other[place])


@depends(
    "special tokens that see no masked token",
    "confirmed",
    "huggingface/transformers/issues/8409",
    certify=lambda twin: certify_dependence(
        twin(), FEATURES, must={"each special token sees each masked one": (MASKED, SPECIAL)}
    ),
    breaks=blind_to,
)
def special_tokens_see_nothing(bug: bool) -> Twin:
    """Where a position may not look is joined by "or" of the complements where "and" is meant.

    Shown: A special token's output that no content of a masked token changes.
    Not shown: What the order of a permutation language model allows beyond that.
    """
    attend, special = attention(), SPECIAL[0]
    blocked = MASKED[0][None] & ~special[:, None]
    if bug:
        blocked = MASKED[0][None] | (special[:, None] & ~special[None])
    return lambda x: attend(x, (~blocked | torch.eye(STEPS, dtype=torch.bool)).expand(2, STEPS, STEPS))


def one_view_breaks(twin: Twin, witness: Witness) -> bool:
    """Whether the embeddings are the same for another second view."""
    first = FEATURES
    outputs = [twin()(first=first, second=witness.inputs[name]) for name in ("one", "other")]
    return torch.equal(*outputs)


@depends(
    "the second view is never read",
    "confirmed",
    "catalyst-team/catalyst/pull/1278",
    certify=lambda twin: certify_dependence(
        twin(), {"first": FEATURES, "second": FEATURES.flip(0)}, must={"both views count": ("second", None)}
    ),
    breaks=one_view_breaks,
)
def second_view_unread(bug: bool) -> Twin:
    """Both embeddings are made of the first view.

    Shown: That no content of the second view changes the embeddings.
    Not shown: That the loss falls to its least at once.
    """
    encode = weights_from_seed_0(lambda: nn.Linear(WIDTH, 3))
    return lambda first, second: torch.stack([encode(first), encode(first if bug else second)])


def order_breaks(twin: Twin, witness: Witness) -> bool:
    """Whether input and reordered input give the same output up to rounding."""
    one, other = (twin()(witness.inputs[name]["x"]) for name in ("one", "other"))
    return torch.allclose(one, other, atol=1e-5)


@depends(
    "a transformer without positions",
    "reported",
    "iacobo/continual/issues/16",
    certify=lambda twin: certify_dependence(twin(), FEATURES, must={"order counts": (lambda x: x.flip(1), None)}),
    breaks=order_breaks,
)
def no_positions(bug: bool) -> Twin:
    """Attention without a positional encoding, then a mean over time: a series and its reverse are the same to it.

    Shown: Two orders with one output.
    Not shown: Tasks in which order does not count.
    """
    attend = attention()
    positions = torch.randn(STEPS, WIDTH, generator=torch.Generator().manual_seed(1))
    everywhere = torch.ones(2, STEPS, STEPS, dtype=torch.bool)
    return lambda x: attend(x if bug else x + positions, everywhere).mean(1)
