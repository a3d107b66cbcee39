"""Small, plain models with nothing self-supervised inside; any others serve as well."""

from viewproof.models.backbone import Backbone, MaskedImageModel
from viewproof.models.masked_autoencoder import MaskedAutoencoder
from viewproof.models.patches import PatchEncoder, PatchPredictor, Projector
from viewproof.models.reconstructors import ConvAutoencoder, ResNet, VectorAutoencoder
from viewproof.models.vit import TokenSettings, ViTReconstructor

__all__ = [
    "Backbone",
    "ConvAutoencoder",
    "MaskedAutoencoder",
    "MaskedImageModel",
    "PatchEncoder",
    "PatchPredictor",
    "Projector",
    "ResNet",
    "TokenSettings",
    "VectorAutoencoder",
    "ViTReconstructor",
]
