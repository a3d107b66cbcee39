"""SIGReg (Balestriero and LeCun 2025, arXiv 2511.08544) on two random views."""

from viewproof.losses import SIGRegLoss
from viewproof.methods.two_view import TwoViewMethod


class SIGRegMethod(TwoViewMethod):
    """SIGReg's loss in the recipe of the other two-view methods; ``lejepa`` is the published one."""

    name = "sigreg"
    pair_loss = staticmethod(lambda seed: SIGRegLoss(seed=seed))
