"""SimCLR (Chen et al. 2020, arXiv 2002.05709) on two random views."""

from viewproof.losses import InfoNCELoss
from viewproof.methods.two_view import TwoViewMethod


class SimCLRMethod(TwoViewMethod):
    """SimCLR's loss on two random views, with the paper's temperature for small images."""

    name = "simclr"
    pair_loss = staticmethod(lambda seed: InfoNCELoss())
