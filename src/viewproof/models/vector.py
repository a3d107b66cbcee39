"""An autoencoder of vectors."""

from torch import Tensor, nn

from viewproof.errors import InvalidArgument
from viewproof.shapes import Float


class VectorAutoencoder(nn.Module):
    """Two-layer encoder and decoder, ``[N, D] -> [N, D]``; other shapes are flattened first.

    >>> import torch
    >>> VectorAutoencoder(data_dim=12, hidden_dim=32, latent_dim=8)(torch.zeros(5, 3, 4)).shape
    torch.Size([5, 12])
    """

    def __init__(self, data_dim: int, hidden_dim: int = 256, latent_dim: int = 64) -> None:
        super().__init__()
        self.data_dim = data_dim
        self.encoder = nn.Sequential(nn.Linear(data_dim, hidden_dim), nn.GELU(), nn.Linear(hidden_dim, latent_dim))
        self.decoder = nn.Sequential(nn.GELU(), nn.Linear(latent_dim, hidden_dim), nn.GELU())
        self.head = nn.Linear(hidden_dim, data_dim)

    def encode(self, x: Float[Tensor, "batch *source"]) -> Float[Tensor, "batch latent"]:
        """The latent vector of each sample."""
        flat = x.flatten(1)
        if flat.shape[1] != self.data_dim:
            raise InvalidArgument(f"x of shape {tuple(x.shape)} must have {self.data_dim} values a sample")
        latent: Tensor = self.encoder(flat)
        return latent

    def forward(self, x: Float[Tensor, "batch *source"]) -> Float[Tensor, "batch data"]:
        """A flat reconstruction."""
        reconstruction: Tensor = self.head(self.decoder(self.encode(x)))
        return reconstruction
