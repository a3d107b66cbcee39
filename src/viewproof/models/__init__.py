"""Small, plain models with nothing self-supervised inside.

Any other ``nn.Module`` of the right shapes serves as well.
"""

from viewproof.models.conv import ConvAutoencoder, ResNet
from viewproof.models.masked_autoencoder import MaskedAutoencoder
from viewproof.models.patches import PatchEncoder, PatchPredictor, Projector
from viewproof.models.vector import VectorAutoencoder
from viewproof.models.vit import ViTReconstructor

__all__ = [
    "ConvAutoencoder",
    "MaskedAutoencoder",
    "PatchEncoder",
    "PatchPredictor",
    "Projector",
    "ResNet",
    "VectorAutoencoder",
    "ViTReconstructor",
]
