"""SIGReg (Balestriero and LeCun 2025, arXiv 2511.08544) on two random views."""

from viewproof.losses import SIGRegLoss
from viewproof.methods.two_view import TwoViewMethod


class SIGRegMethod(TwoViewMethod):
    """SIGReg's loss on two random views; its directions are drawn by the run's seed."""

    name = "sigreg"
    pair_loss = staticmethod(lambda seed: SIGRegLoss(seed=seed))
