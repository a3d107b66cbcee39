"""A masked autoencoder on scikit-learn's digits, in plain torch; 12 of 16 patches are hidden.

``--bug``: the patch embedding is a convolution that overlaps its neighbours, so that hidden pixels reach the encoder.
"""

import argparse

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader

PATCH, WIDTH, VISIBLE = 2, 64, 4


class MaskedAutoencoder(nn.Module):
    """Embeds 16 patches, encodes the visible ones, and predicts the pixels of all."""

    def __init__(self, overlap: bool) -> None:
        super().__init__()
        size = {"kernel_size": 3, "padding": 1} if overlap else {"kernel_size": PATCH}
        self.embed = nn.Conv2d(1, WIDTH, stride=PATCH, **size)
        self.place = nn.Parameter(0.02 * torch.randn(16, WIDTH))
        self.mask_token = nn.Parameter(torch.zeros(WIDTH))
        layer = {"nhead": 4, "dim_feedforward": 2 * WIDTH, "dropout": 0.0, "batch_first": True}
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(WIDTH, **layer), 2)
        self.decoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(WIDTH, **layer), 1)
        self.to_pixels = nn.Linear(WIDTH, PATCH * PATCH)

    def forward(self, images: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
        """Predicted pixels [N, 16, 4] from the patches ``keep`` [N, 4]."""
        tokens = self.embed(images).flatten(2).transpose(1, 2) + self.place
        index = keep[..., None].expand(-1, -1, WIDTH)
        visible = self.encoder(tokens.gather(1, index))
        whole = self.mask_token.expand(len(images), 16, -1).scatter(1, index, visible)
        return self.to_pixels(self.decoder(whole + self.place))


def patches(images: torch.Tensor) -> torch.Tensor:
    """The pixels of the patches [N, 16, 4]."""
    return nn.functional.unfold(images, PATCH, stride=PATCH).transpose(1, 2)


def main() -> None:
    """Train."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--bug", action="store_true")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    images = torch.tensor(load_digits().images, dtype=torch.float32)[:, None] / 16
    model = MaskedAutoencoder(overlap=arguments.bug)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for epoch in range(arguments.epochs):
        for batch in DataLoader(images, batch_size=16, shuffle=True, drop_last=True):
            order = torch.rand(len(batch), 16).argsort(1)
            keep, hidden = order[:, :VISIBLE], order[:, VISIBLE:, None].expand(-1, -1, PATCH * PATCH)
            prediction = model(batch, keep)
            loss = nn.functional.mse_loss(prediction.gather(1, hidden), patches(batch).gather(1, hidden))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        print(f"epoch {epoch}: loss {loss.item():.4f}")


if __name__ == "__main__":
    main()
