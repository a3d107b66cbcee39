"""Losses that sum over something else than the hidden set (C4), or lose their numbers (C9)."""

from collections.abc import Callable
from dataclasses import replace
from enum import Enum
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from viewproof.bugzoo.specimen import Twin, specimen
from viewproof.certify import Contract, Report, Witness, certify_loss
from viewproof.masks import Mask, Sample, VectorMask

CLASSES = 6


def vectors(period: int = 3, offset: int = 1, features: int = 7) -> Sample:
    """Three rows of numbers, hidden with a period."""
    return VectorMask(period, offset).sample(torch.randn(3, features, generator=torch.Generator().manual_seed(0)))


def hidden_set(sample: Sample) -> Tensor:
    """The sample's mask in the shape of its target."""
    return sample.mask.hidden.expand(sample.y.shape)


def refuse_an_empty_mask(sample: Sample) -> None:
    """Raise instead of dividing by zero."""
    if sample.mask.count == 0:
        raise ValueError("nothing is hidden")


def mean_square(prediction: Tensor, sample: Sample, scored: Tensor) -> Tensor:
    """The mean squared error over ``scored``, right in itself."""
    refuse_an_empty_mask(sample)
    error = torch.where(scored, prediction.float() - sample.y.float(), 0.0)
    return error.square().sum() / scored.sum()


def on(sample: Sample, **options: Any) -> Callable[[Twin], Report]:
    """`certify_loss` on a sample."""
    return lambda loss: certify_loss(loss, sample, **options)


def as_square(sample: Sample) -> Callable[[Twin], Report]:
    """`certify_loss` on a sample, with the squared distance declared."""
    return on(sample, distance=lambda error: error * error)


def breaks(loss: Twin, witness: Witness) -> bool:
    """The witness on the loss, with autograd and nothing else."""
    prediction, sample = witness.inputs["prediction"].detach().clone().requires_grad_(), witness.inputs["sample"]
    try:
        value = loss(prediction, sample)
    except ValueError:
        return False
    if "prediction" in witness.coordinates:
        at = witness.coordinates["prediction"]
        slope = torch.autograd.grad(value, prediction)[0]
        return bool(hidden_set(sample)[at[: sample.y.dim()]]) == bool(slope[at] == 0)
    for name in ("clean", "before", "exact"):
        if name in witness.inputs:
            reference, reference_sample = witness.inputs[name]
            reference = reference.detach().clone().requires_grad_()
            reference_value = loss(reference, reference_sample)
            same = torch.allclose(value.double(), reference_value.double(), rtol=2**-6)
            slope = torch.autograd.grad(value, prediction)[0]
            return not same or (name == "clean" and not bool(slope.isfinite().all()))
    if not bool(value.isfinite()) or sample.mask.count == 0:
        return True
    if "shown" in witness.inputs:
        return not bool(torch.autograd.grad(value, prediction)[0].isfinite().all())
    expected = (prediction - sample.y)[hidden_set(sample)].square().mean()
    return not torch.allclose(value, expected, rtol=1e-4)


loss_bug = partial(
    specimen,
    contract=Contract.C4,
    certify=as_square(vectors()),
    breaks=breaks,
    shown="The gradient's support against the mask.",
    not_shown="The model and the data.",
)


@loss_bug("polarity", "confirmed", "Sllambias/asparagus/pull/12")
def polarity(prediction: Tensor, sample: Sample, bug: bool) -> Tensor:
    """Takes True for visible."""
    return mean_square(prediction, sample, ~hidden_set(sample) if bug else hidden_set(sample))


@loss_bug("off by the class token", "confirmed", "IcarusWizard/MAE/issues/17")
def off_by_the_class_token(prediction: Tensor, sample: Sample, bug: bool) -> Tensor:
    """Counts positions with the class token, in a prediction that has none; the last is lost.

    Not shown: The shuffle of the patches; positions stand in their own order here.
    """
    scored = hidden_set(sample)
    if bug:
        scored = torch.cat([torch.zeros_like(scored[:, :1]), scored[:, :-1]], 1)
    return mean_square(prediction, sample, scored)


@loss_bug("mean of nothing", "confirmed", "huggingface/transformers/issues/16711")
def mean_of_nothing(prediction: Tensor, sample: Sample, bug: bool) -> Tensor:
    """No one asks whether anything is hidden.

    Shown: The empty mask, which must raise.
    """
    if bug:
        return (prediction.float() - sample.y.float())[hidden_set(sample)].square().mean()
    return mean_square(prediction, sample, hidden_set(sample))


def tokens() -> Sample:
    """Two rows of six token ids."""
    ids = torch.randint(0, 5, (2, 6), generator=torch.Generator().manual_seed(0))
    hidden = torch.tensor([[1, 0, 0, 1, 0, 0], [0, 1, 0, 0, 0, 1]]).bool()
    return Sample(ids.float(), ids, Mask(hidden, True, "drawn"))


@loss_bug(
    "labels never assigned",
    "confirmed",
    "huggingface/course/issues/291",
    certify=on(tokens(), prediction_shape=(2, 6, 5), invariant=()),
)
def labels_never_assigned(prediction: Tensor, sample: Sample, bug: bool) -> Tensor:
    """The labels with the visible tokens ignored are built; the loss takes the tokens.

    Not shown: The language model.
    """
    refuse_an_empty_mask(sample)
    hidden = hidden_set(sample)
    if bug:
        sample.y.masked_fill(~hidden, -100)
        return F.cross_entropy(prediction.flatten(0, 1), sample.y.flatten())
    return F.cross_entropy(prediction[hidden], sample.y[hidden])


def padded() -> Sample:
    """Three rows, two of them padded; the mask holds those drawn places that are no padding."""
    sample = vectors(period=2, features=8)
    inside = torch.arange(8) < torch.tensor([8, 6, 5])[:, None]
    return replace(sample, mask=Mask(sample.mask.hidden & inside, True, "drawn inside"))


@loss_bug("padding is masked", "reported", "huggingface/transformers/issues/11155", certify=as_square(padded()))
def padding_is_masked(prediction: Tensor, sample: Sample, bug: bool) -> Tensor:
    """Scores all that was drawn, padding too.

    Not shown: How the positions are drawn.
    """
    if not bug:
        return mean_square(prediction, sample, hidden_set(sample))
    assert sample.view is not None
    return mean_square(prediction, sample, sample.view.hidden.expand(sample.y.shape))


@loss_bug(
    "negatives from padding",
    "confirmed",
    "huggingface/transformers/pull/12748",
    certify=on(vectors(), invariant=("batch", "padding")),
    decidable=False,
)
def negatives_from_padding(prediction: Tensor, sample: Sample, bug: bool) -> Tensor:
    """Every position of the row is a negative, whatever it holds; it should be the hidden ones.

    Shown: One more visible position changes the value.
    Not shown: The quantiser and the drawing of negatives.
    """
    refuse_an_empty_mask(sample)
    hidden, rows = hidden_set(sample), []
    for n in range(len(prediction)):
        anchors = prediction[n][hidden[n]].float()
        negatives = sample.y[n] if bug else sample.y[n][hidden[n]]
        scores = -(anchors[:, None] - negatives.float()).square()
        own_score = -(anchors - sample.y[n][hidden[n]].float()).square()
        rows.append(scores.logsumexp(1) - own_score)
    return torch.cat(rows).mean()


class TokenUse(Enum):
    """What a token is for."""

    ENCODER = 0
    DECODER = 1
    MISSING = 2


def token_uses() -> Sample:
    """Two rows of codes of `TokenUse`; the decoder's tokens are hidden."""
    codes = torch.tensor([[0.0, 1, 2, 1, 0], [1.0, 0, 0, 2, 2]])
    y = torch.randn(2, 5, generator=torch.Generator().manual_seed(0))
    return Sample(codes, y, Mask(codes == TokenUse.DECODER.value, True, "the decoder's tokens"))


@loss_bug(
    "missing is never missing", "confirmed", "allenai/olmoearth_pretrain/pull/457", certify=as_square(token_uses())
)
def missing_is_never_missing(prediction: Tensor, sample: Sample, bug: bool) -> Tensor:
    """Compares codes with a member of the enumeration, which no number equals.

    Not shown: The test that asserted it.
    """
    if not bug:
        return mean_square(prediction, sample, hidden_set(sample))
    missing = sample.x == TokenUse.MISSING
    return mean_square(prediction, sample, (sample.x != TokenUse.ENCODER.value) & (not missing))


@loss_bug("result dropped", "confirmed", "allenai/olmoearth_pretrain/pull/343")
def result_dropped(prediction: Tensor, sample: Sample, bug: bool) -> Tensor:
    """``masked_fill`` returns the masked errors; nobody takes them.

    Not shown: There it was the input, not the errors, that stayed unmasked.
    """
    refuse_an_empty_mask(sample)
    error = prediction.float() - sample.y.float()
    masked_error = error.masked_fill(~hidden_set(sample), 0.0)
    return (error if bug else masked_error).square().sum() / hidden_set(sample).sum()


@loss_bug("only the last view", "confirmed", "facebookresearch/VICRegL/issues/6")
def only_the_last_view(prediction: Tensor, sample: Sample, bug: bool) -> Tensor:
    """``loss =`` where ``loss +=`` was meant, in the loop over the views (the rows here).

    Shown: A view without gradient.
    Not shown: The local and global terms.
    """
    if not bug:
        return mean_square(prediction, sample, hidden_set(sample))
    refuse_an_empty_mask(sample)
    hidden, total = hidden_set(sample), torch.zeros(())
    for view in range(len(prediction)):
        total = torch.where(hidden[view], prediction[view].float() - sample.y[view].float(), 0.0).square().sum()
    return total / hidden.sum()


@loss_bug("divided twice by the count", "synthetic")
def divided_twice(prediction: Tensor, sample: Sample, bug: bool) -> Tensor:
    """The mean over the hidden set, divided by the size of the hidden set.

    Shown: The value against the exact objective.
    """
    loss = mean_square(prediction, sample, hidden_set(sample))
    return loss / hidden_set(sample).sum() if bug else loss


def channels() -> Sample:
    """Two samples ``[3, 5]`` that hide every second position in all channels."""
    x = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0))
    return Sample(x, x, Mask((torch.arange(5) % 2 == 0).expand(3, 5), rule="every second position"))


@loss_bug("grows with the channels", "synthetic", certify=as_square(channels()))
def grows_with_the_channels(prediction: Tensor, sample: Sample, bug: bool) -> Tensor:
    """The sum runs over channels ``[N, C, L]``, the count over positions ``[N, L]``.

    Shown: The value against the exact objective.
    """
    loss, hidden = mean_square(prediction, sample, hidden_set(sample)), hidden_set(sample)
    return loss * hidden.sum() / hidden[:, 0].sum() if bug else loss


@loss_bug("the two divisors cancel", "false alarm", "facebookresearch/dinov2/issues/546", decidable=False)
def two_divisors(prediction: Tensor, sample: Sample) -> Tensor:
    """Divides by each row's count and by the rows: taken for a loss that is divided twice.

    Shown: The value is the mean.
    Not shown: Masks that hide more in one row than in another, where the two means differ by design.
    """
    refuse_an_empty_mask(sample)
    hidden = hidden_set(sample)
    error = torch.where(hidden, prediction.float() - sample.y.float(), 0.0)
    return (error.square().sum(1) / hidden.sum(1).clamp(min=1)).sum() / len(prediction)


PADDING_ID, MASK_ID = 0, 1
IDS = torch.tensor([[2, 5, 3, 4, 2, 3, 5, 4], [4, 3, 5, 2, 5, PADDING_ID, PADDING_ID, PADDING_ID]])
DRAWN = torch.tensor([[0, 1, 0, 0, 1, 0, 1, 0], [1, 0, 0, 1, 0, 0, 0, 0]]).bool()


def padding_has_a_gradient(twin: Twin, witness: Witness) -> bool:
    """Whether the place of the witness, which was not drawn, has a gradient."""
    loss, sample = twin()
    prediction, at = witness.inputs["prediction"].clone().requires_grad_(), witness.coordinates["prediction"]
    slope = torch.autograd.grad(loss(prediction, sample), prediction)[0]
    return not bool(DRAWN[at[:2]]) and bool(slope[at] != 0)


@loss_bug(
    "the mask's id is the padding's",
    "reported",
    "TencentAILabHealthcare/scBERT/issues/64",
    certify=lambda twin: certify_loss(*twin(), prediction_shape=(2, 8, CLASSES), invariant=()),
    breaks=padding_has_a_gradient,
)
def mask_id_is_padding(bug: bool) -> tuple[Twin, Sample]:
    """The mask's token id is the padding's, and the loss scores by that id: padding too.

    Shown: A padded place with a gradient.
    Not shown: An encoder that takes masked places for padding and does not attend to them.
    """
    mask_id = PADDING_ID if bug else MASK_ID

    def loss(prediction: Tensor, sample: Sample) -> Tensor:
        refuse_an_empty_mask(sample)
        scored = sample.x == mask_id
        return F.cross_entropy(prediction[scored], sample.y[scored])

    return loss, Sample(IDS.masked_fill(DRAWN, mask_id), IDS, Mask(DRAWN, True, "drawn before the padding"))


@loss_bug("loss times mask", "confirmed", "ecmwf/WeatherGenerator/pull/2717", contract=Contract.C9)
def loss_times_mask(prediction: Tensor, sample: Sample, bug: bool) -> Tensor:
    """Zero times NaN is NaN.

    Shown: NaN off the mask.
    """
    if not bug:
        return mean_square(prediction, sample, hidden_set(sample))
    refuse_an_empty_mask(sample)
    square = (prediction.float() - sample.y.float()).square()
    return (square * hidden_set(sample)).sum() / hidden_set(sample).sum()


@loss_bug(
    "a fully masked row",
    "reported",
    "AshleyLab/OpenMHC/issues/11",
    contract=Contract.C9,
    certify=on(
        replace(vectors(), mask=Mask(hidden_set(vectors()).clone(), True, "a mask a row")), invariant=("batch",)
    ),
)
def fully_masked_row(prediction: Tensor, sample: Sample, bug: bool) -> Tensor:
    """Attention over a fully masked row is NaN; the value is mended afterwards, the gradient is not.

    Shown: A row with nothing hidden: right value, NaN gradient.
    Not shown: There the attention is inside the encoder.
    """
    refuse_an_empty_mask(sample)
    hidden = hidden_set(sample)
    scored_rows = hidden.any(1)
    # The fixed twin lets a row with nothing to attend to attend to everything, and leaves it out of the sum.
    attended = hidden if bug else hidden | ~scored_rows[:, None]
    scores = prediction.float() if bug else torch.where(hidden, prediction.float(), 0.0)
    weights = (scores + torch.where(attended, 0.0, -torch.inf)).softmax(1)
    error = torch.where(hidden, scores - sample.y.float(), 0.0)
    rows = (weights * error.square()).sum(1)
    rows = torch.where(rows.isnan(), 0.0, rows) if bug else torch.where(scored_rows, rows, 0.0)
    return rows.sum() / scored_rows.sum()


@loss_bug("overflow in half precision", "synthetic", contract=Contract.C9)
def summed_in_half_precision(prediction: Tensor, sample: Sample, bug: bool) -> Tensor:
    """The sum of squares of float16 errors is a float16, which ends at 65504.

    Shown: Float16 beside float64.
    Not shown: Autocast, which widens some of these sums.
    """
    if not bug:
        return mean_square(prediction, sample, hidden_set(sample))
    error = torch.where(hidden_set(sample), prediction - sample.y, 0.0)
    return error.square().sum() / hidden_set(sample).sum()
