"""Losses that sum over something else than the hidden set (C4), or lose their numbers (C9)."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from enum import Enum
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from viewproof.bugzoo.specimen import Specimen, Standing
from viewproof.certify.loss import certify_loss
from viewproof.certify.report import Contract, Report, Witness
from viewproof.masks import Mask, Sample, VectorMask

Loss = Callable[[Tensor, Sample], Tensor]
CLASSES = 5


def _vectors(period: int = 3, offset: int = 1, rows: int = 3, features: int = 7) -> Sample:
    x = torch.randn(rows, features, generator=torch.Generator().manual_seed(0))
    return VectorMask(period, offset).sample(x)


def _mean_square(prediction: Tensor, sample: Sample, scored: Tensor) -> Tensor:
    """The mean squared error over what is scored, right in itself."""
    if sample.mask.count == 0:
        raise ValueError("nothing is hidden")
    error = torch.where(scored, prediction.float() - sample.y.float(), 0.0)
    return error.square().sum() / scored.sum()


def _hidden(sample: Sample) -> Tensor:
    return sample.mask.hidden.expand(sample.y.shape)


def over_the_mask(prediction: Tensor, sample: Sample) -> Tensor:
    """The twin of most: one mask, that of the sample."""
    return _mean_square(prediction, sample, _hidden(sample))


def flipped(prediction: Tensor, sample: Sample) -> Tensor:
    """Takes True for visible."""
    return _mean_square(prediction, sample, ~_hidden(sample))


def off_by_the_class_token(prediction: Tensor, sample: Sample) -> Tensor:
    """Counts positions with the class token, in a prediction that has none; the last one falls off the end."""
    scored = torch.zeros_like(_hidden(sample))
    scored[:, 1:] = _hidden(sample)[:, :-1]
    return _mean_square(prediction, sample, scored)


def mean_of_nothing(prediction: Tensor, sample: Sample) -> Tensor:
    """No one asks whether anything is hidden."""
    hidden = _hidden(sample)
    return (prediction.float() - sample.y.float())[hidden].square().mean()


def labels_never_assigned(prediction: Tensor, sample: Sample) -> Tensor:
    """The labels with the visible tokens ignored are built; the loss takes the tokens."""
    if not bool(_hidden(sample).any()):
        raise ValueError("nothing is hidden")
    sample.y.masked_fill(~_hidden(sample), -100)
    return F.cross_entropy(prediction.flatten(0, 1), sample.y.flatten())


def labels_taken(prediction: Tensor, sample: Sample) -> Tensor:
    """Visible tokens are left out."""
    if not bool(_hidden(sample).any()):
        raise ValueError("nothing is hidden")
    return F.cross_entropy(prediction[_hidden(sample)], sample.y[_hidden(sample)])


def padding_scored(prediction: Tensor, sample: Sample) -> Tensor:
    """Scores all that was drawn, padding too."""
    assert sample.view is not None
    return _mean_square(prediction, sample, sample.view.hidden.expand(sample.y.shape))


def _contrast(prediction: Tensor, sample: Sample, negatives: Tensor) -> Tensor:
    """Each hidden position's target against the targets of its row's negatives."""
    hidden = _hidden(sample)
    if not bool(hidden.any()):
        raise ValueError("nothing is hidden")
    rows = []
    for n in range(len(prediction)):
        anchors = prediction[n][hidden[n]].float()
        scores = -(anchors[:, None] - sample.y[n][negatives[n]].float()).square()
        own = -(anchors - sample.y[n][hidden[n]].float()).square()
        rows.append(scores.logsumexp(1) - own)
    return torch.cat(rows).mean()


def negatives_from_padding(prediction: Tensor, sample: Sample) -> Tensor:
    """Every position of the row is a negative, whatever it holds."""
    return _contrast(prediction, sample, torch.ones_like(_hidden(sample)))


def negatives_from_hidden(prediction: Tensor, sample: Sample) -> Tensor:
    """The negatives are hidden positions."""
    return _contrast(prediction, sample, _hidden(sample))


class State(Enum):
    """What a token is for."""

    ENCODER = 0
    DECODER = 1
    MISSING = 2


def missing_scored(prediction: Tensor, sample: Sample) -> Tensor:
    """Compares codes with a member of the enumeration, which no number equals: nothing is ever missing."""
    missing = sample.x == State.MISSING
    return _mean_square(prediction, sample, (sample.x != State.ENCODER.value) & (not missing))


def result_dropped(prediction: Tensor, sample: Sample) -> Tensor:
    """``masked_fill`` returns the masked errors; nobody takes them."""
    if sample.mask.count == 0:
        raise ValueError("nothing is hidden")
    error = prediction.float() - sample.y.float()
    error.masked_fill(~_hidden(sample), 0.0)
    return error.square().sum() / _hidden(sample).sum()


def last_view_only(prediction: Tensor, sample: Sample) -> Tensor:
    """``loss =`` where ``loss +=`` was meant, in the loop over the views (the rows here)."""
    if sample.mask.count == 0:
        raise ValueError("nothing is hidden")
    hidden, total = _hidden(sample), torch.zeros(())
    for view in range(len(prediction)):
        total = torch.where(hidden[view], prediction[view].float() - sample.y[view].float(), 0.0).square().sum()
    return total / hidden.sum()


def multiplied(prediction: Tensor, sample: Sample) -> Tensor:
    """Zero times NaN is NaN."""
    if sample.mask.count == 0:
        raise ValueError("nothing is hidden")
    error = prediction.float() - sample.y.float()
    return (error.square() * _hidden(sample)).sum() / _hidden(sample).sum()


def _pooled(scores: Tensor, sample: Sample, attended: Tensor) -> Tensor:
    """Each row's squared errors under attention by the scores."""
    weights = (scores + torch.where(attended, 0.0, -torch.inf)).softmax(1)
    error = torch.where(_hidden(sample), scores - sample.y.float(), 0.0)
    return (weights * error.square()).sum(1)


def nan_rows_dropped(prediction: Tensor, sample: Sample) -> Tensor:
    """Attention over a fully masked row is NaN; the value is mended afterwards, the gradient is not."""
    if sample.mask.count == 0:
        raise ValueError("nothing is hidden")
    rows = _pooled(prediction.float(), sample, _hidden(sample))
    return torch.where(rows.isnan(), 0.0, rows).sum() / _hidden(sample).any(1).sum()


def empty_rows_left_out(prediction: Tensor, sample: Sample) -> Tensor:
    """A row with nothing to attend to attends to everything, and takes no part."""
    if sample.mask.count == 0:
        raise ValueError("nothing is hidden")
    some = _hidden(sample).any(1)
    scores = torch.where(_hidden(sample), prediction.float(), 0.0)
    rows = _pooled(scores, sample, _hidden(sample) | ~some[:, None])
    return torch.where(some, rows, 0.0).sum() / some.sum()


def summed_in_half(prediction: Tensor, sample: Sample) -> Tensor:
    """The sum of squares of float16 errors is a float16, which ends at 65504."""
    error = torch.where(_hidden(sample), prediction - sample.y, 0.0)
    return error.square().sum() / _hidden(sample).sum()


def divided_twice(prediction: Tensor, sample: Sample) -> Tensor:
    """The mean over the hidden set, divided by the size of the hidden set."""
    return over_the_mask(prediction, sample) / _hidden(sample).sum()


def counted_once_for_all_channels(prediction: Tensor, sample: Sample) -> Tensor:
    """The sum runs over channels ``[N, C, L]``, the count over positions ``[N, L]``."""
    return over_the_mask(prediction, sample) * _hidden(sample).sum() / _hidden(sample)[:, 0].sum()


def two_divisors(prediction: Tensor, sample: Sample) -> Tensor:
    """A row's sum by the row's count, rows by their number: with one mask for all rows, the mean."""
    if sample.mask.count == 0:
        raise ValueError("nothing is hidden")
    hidden = _hidden(sample)
    error = torch.where(hidden, prediction.float() - sample.y.float(), 0.0)
    return (error.square().sum(1) / hidden.sum(1).clamp(min=1)).sum() / len(prediction)


def breaks(loss: Loss, witness: Witness) -> bool:
    """The witness on the loss, with autograd and nothing else."""
    prediction, sample = witness.inputs["prediction"].detach().clone().requires_grad_(), witness.inputs["sample"]
    try:
        value = loss(prediction, sample)
    except ValueError:
        return False
    if "prediction" in witness.coordinates:
        at = witness.coordinates["prediction"]
        slope = torch.autograd.grad(value, prediction)[0]
        return bool(sample.mask.hidden.expand(sample.y.shape)[at[: sample.y.dim()]]) == bool(slope[at] == 0)
    for other in ("clean", "before", "exact"):
        if other in witness.inputs:
            given, held = witness.inputs[other]
            again = given.detach().clone().requires_grad_()
            same = torch.allclose(value.double(), (whole := loss(again, held)).double(), rtol=2**-6)
            slopes = torch.autograd.grad(value, prediction)[0], torch.autograd.grad(whole, again)[0]
            return not same or (other == "clean" and not bool(slopes[0].isfinite().all()))
    if not bool(value.isfinite()) or sample.mask.count == 0:
        return True
    slope = torch.autograd.grad(value, prediction)[0]
    if "shown" in witness.inputs:
        return not bool(slope.isfinite().all())
    hidden = sample.mask.hidden.expand(sample.y.shape)
    plain = (prediction - sample.y)[hidden].square().mean()
    return not torch.allclose(value, plain, rtol=1e-4)


def _square(error: Any) -> Any:
    return error * error


def _on(sample: Sample, **options: Any) -> Callable[[Loss], Report]:
    return lambda loss: certify_loss(loss, sample, **options)


def _tokens() -> Sample:
    tokens = torch.randint(0, CLASSES, (2, 6), generator=torch.Generator().manual_seed(0))
    hidden = torch.tensor([[1, 0, 0, 1, 0, 0], [0, 1, 0, 0, 0, 1]]).bool()
    return Sample(tokens.float(), tokens, Mask(hidden, True, "drawn"))


def _padded() -> Sample:
    sample = _vectors(period=2, offset=1, features=8)
    inside = torch.arange(8) < torch.tensor([8, 6, 5])[:, None]
    return replace(sample, mask=Mask(sample.mask.hidden & inside, True, "drawn inside"))


def _states() -> Sample:
    states = torch.tensor([[0.0, 1, 2, 1, 0], [1.0, 0, 0, 2, 2]])
    y = torch.randn(2, 5, generator=torch.Generator().manual_seed(0))
    return Sample(states, y, Mask(states == State.DECODER.value, True, "the decoder's tokens"))


def _channels() -> Sample:
    x = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0))
    hidden = (torch.arange(5) % 2 == 0).expand(3, 5)
    return Sample(x, x, Mask(hidden, rule="every second position"))


def _rows() -> Sample:
    sample = _vectors()
    return replace(sample, mask=Mask(_hidden(sample).clone(), True, "a mask a row"))


def _specimens() -> Iterator[Specimen]:
    C4, C9 = Contract.C4, Contract.C9
    mse = _on(_vectors(), distance=_square)
    gh = "https://github.com"

    def specimen(
        name: str, contract: Contract, source: str, standing: Standing, certify: Any, fixed: Loss, buggy: Loss,
        shown: str, not_shown: str = "the model and the data", decidable: bool = True,
    ) -> Specimen:  # fmt: skip
        mechanism = (buggy.__doc__ or "").strip()
        return Specimen(
            name, contract, source, standing, mechanism, shown, not_shown, certify, fixed, buggy, breaks, decidable
        )

    support = "the gradient's support against the mask"
    yield specimen(
        "polarity", C4, f"{gh}/Sllambias/asparagus/pull/12", "confirmed", mse, over_the_mask, flipped, support
    )
    yield specimen(
        "off by the class token", C4, f"{gh}/IcarusWizard/MAE/issues/17", "confirmed", mse, over_the_mask,
        off_by_the_class_token, support, "the shuffle of the patches; positions stand in their own order here",
    )  # fmt: skip
    yield specimen(
        "mean of nothing", C4, f"{gh}/huggingface/transformers/issues/16711", "confirmed", mse, over_the_mask,
        mean_of_nothing, "the empty mask, which must raise",
    )  # fmt: skip
    yield specimen(
        "labels never assigned", C4, f"{gh}/huggingface/course/issues/291", "confirmed",
        _on(_tokens(), prediction_shape=(2, 6, CLASSES), invariant=()), labels_taken, labels_never_assigned,
        support, "the language model",
    )  # fmt: skip
    yield specimen(
        "padding is masked", C4, f"{gh}/huggingface/transformers/issues/11155", "reported",
        _on(_padded(), distance=_square), over_the_mask, padding_scored, support, "how the positions are drawn",
    )  # fmt: skip
    yield specimen(
        "negatives from padding", C4, f"{gh}/huggingface/transformers/pull/12748", "confirmed",
        _on(_vectors(), invariant=("batch", "padding")), negatives_from_hidden, negatives_from_padding,
        "one more visible position changes the value", "the quantiser and the drawing of negatives", decidable=False,
    )  # fmt: skip
    yield specimen(
        "missing is never missing", C4, f"{gh}/allenai/olmoearth_pretrain/pull/457", "confirmed",
        _on(_states(), distance=_square), over_the_mask, missing_scored, support, "the test that asserted it",
    )  # fmt: skip
    yield specimen(
        "result dropped", C4, f"{gh}/allenai/olmoearth_pretrain/pull/343", "confirmed", mse, over_the_mask,
        result_dropped, support, "there it was the input, not the errors, that stayed unmasked",
    )  # fmt: skip
    yield specimen(
        "only the last view", C4, f"{gh}/facebookresearch/VICRegL/issues/6", "confirmed", mse, over_the_mask,
        last_view_only, "a view without gradient", "the local and global terms",
    )  # fmt: skip
    yield specimen(
        "divided twice by the count", C4, "synthetic", "synthetic", mse, over_the_mask, divided_twice,
        "the value against the exact objective",
    )  # fmt: skip
    yield specimen(
        "grows with the channels", C4, "synthetic", "synthetic", _on(_channels(), distance=_square), over_the_mask,
        counted_once_for_all_channels, "the value against the exact objective",
    )  # fmt: skip
    yield specimen(
        "loss times mask", C9, f"{gh}/ecmwf/WeatherGenerator/pull/2717", "confirmed", mse, over_the_mask, multiplied,
        "NaN off the mask",
    )  # fmt: skip
    yield specimen(
        "a fully masked row", C9, f"{gh}/AshleyLab/OpenMHC/issues/11", "reported", _on(_rows(), invariant=("batch",)),
        empty_rows_left_out, nan_rows_dropped, "a row with nothing hidden: right value, NaN gradient",
        "there the attention is inside the encoder",
    )  # fmt: skip
    yield specimen(
        "overflow in half precision", C9, "synthetic", "synthetic", mse, over_the_mask, summed_in_half,
        "float16 beside float64", "autocast, which widens some of these sums",
    )  # fmt: skip
    yield Specimen(
        "the two divisors cancel", C4, f"{gh}/facebookresearch/dinov2/issues/546", "false alarm",
        "Divides by each row's count and by the rows: taken for a loss that is divided twice.", "the value is the mean",
        "masks that hide more in one row than in another, where the two means differ by design", mse, two_divisors,
        decidable=False,
    )  # fmt: skip


SPECIMENS = tuple(_specimens())
