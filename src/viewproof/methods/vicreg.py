"""VICReg (Bardes et al. 2022, arXiv 2105.04906) on two random views."""

from viewproof.losses import VICRegLoss
from viewproof.methods.two_view import TwoViewMethod


class VICRegMethod(TwoViewMethod):
    """VICReg's loss on two random views, with the paper's constants."""

    name = "vicreg"
    pair_loss = staticmethod(lambda seed: VICRegLoss())
