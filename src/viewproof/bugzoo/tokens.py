"""Token ids that mean two things at once (C4)."""

import torch
from torch import Tensor
from torch.nn import functional as F

from viewproof.bugzoo.specimen import Specimen
from viewproof.certify.loss import certify_loss
from viewproof.certify.report import Contract, Report, Witness
from viewproof.masks import Mask, Sample

PADDING, MASKED, CLASSES = 0, 1, 6

_IDS = torch.tensor([[2, 5, 3, 4, 2, 3, 5, 4], [4, 3, 5, 2, 5, PADDING, PADDING, PADDING]])
_DRAWN = torch.tensor([[0, 1, 0, 0, 1, 0, 1, 0], [1, 0, 0, 1, 0, 0, 0, 0]]).bool()


def _sample(mask_id: int) -> Sample:
    """Two rows of ids, the second padded; what was drawn is replaced by the mask's id."""
    return Sample(_IDS.masked_fill(_DRAWN, mask_id), _IDS, Mask(_DRAWN, True, "drawn before the padding"))


def _loss(mask_id: int, prediction: Tensor, sample: Sample) -> Tensor:
    """Scores the places that hold the mask's id."""
    if sample.mask.count == 0:
        raise ValueError("nothing is hidden")
    scored = sample.x == mask_id
    return F.cross_entropy(prediction[scored], sample.y[scored])


def _certify(mask_id: int) -> Report:
    def loss(prediction: Tensor, sample: Sample) -> Tensor:
        return _loss(mask_id, prediction, sample)

    return certify_loss(loss, _sample(mask_id), prediction_shape=(2, 8, CLASSES), invariant=())


def _scores_padding(mask_id: int, witness: Witness) -> bool:
    """Whether the place of the witness, which was not drawn, has a gradient."""
    leaf, at = witness.inputs["prediction"].clone().requires_grad_(), witness.coordinates["prediction"]
    slope = torch.autograd.grad(_loss(mask_id, leaf, _sample(mask_id)), leaf)[0]
    return not bool(_DRAWN[at[:2]]) and bool(slope[at] != 0)


SPECIMENS = (
    Specimen(
        "the mask's id is the padding's",
        Contract.C4,
        "https://github.com/TencentAILabHealthcare/scBERT/issues/64",
        "reported",
        "The mask's token id equals the padding's, and the loss finds what to score by that id: padding is scored too.",
        "A padded place with a gradient.",
        "An encoder that takes masked places for padding and does not attend to them.",
        _certify,
        MASKED,
        PADDING,
        _scores_padding,
    ),
)
