"""The losses of methods that predict embeddings or tokens, each a predictive loss plus a regularizer.

`viewproof.objectives` defines what an objective is in plain arithmetic; this package has the batched formulas that
train, with their statistics over all samples and ranks. Every loss has ``contract(...)``, the same objective as a
`PredictiveViewContract` over plain numbers, so that what trains can be compared with what is meant; the regularizer is
its field ``geometry_guard``. With ``Fraction`` in, that contract is exact up to its square roots, cosines and sines.

Constants are named after the papers. No claim is made that any of these objectives learns good representations.
"""

from viewproof.losses.barlow import BarlowTwinsLoss
from viewproof.losses.dino import DINOLoss
from viewproof.losses.jepa import JEPALoss
from viewproof.losses.lejepa import LeJEPALoss
from viewproof.losses.sigreg import SIGRegLoss
from viewproof.losses.simclr import InfoNCELoss
from viewproof.losses.tokens import masked_cross_entropy, masked_token_contract
from viewproof.losses.vicreg import VICRegLoss

__all__ = [
    "BarlowTwinsLoss",
    "DINOLoss",
    "InfoNCELoss",
    "JEPALoss",
    "LeJEPALoss",
    "SIGRegLoss",
    "VICRegLoss",
    "masked_cross_entropy",
    "masked_token_contract",
]
