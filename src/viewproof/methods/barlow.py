"""Barlow Twins (Zbontar et al. 2021, arXiv 2103.03230) on two random views."""

from viewproof.losses import BarlowTwinsLoss
from viewproof.methods.two_view import TwoViewMethod


class BarlowMethod(TwoViewMethod):
    """The loss of Barlow Twins on two random views, with the paper's constant."""

    name = "barlow"
    pair_loss = staticmethod(lambda seed: BarlowTwinsLoss())
