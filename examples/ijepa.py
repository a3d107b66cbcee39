"""I-JEPA on scikit-learn's digits: predict a block's tokens from the patches around it.

``--bug``: the block is not cut out of the context, so that the model sees what it must predict.
"""

import argparse
import copy

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader

PATCH, SIDE, WIDTH, MOMENTUM = 2, 4, 64, 0.99
LAYER = {"nhead": 4, "dim_feedforward": 2 * WIDTH, "dropout": 0.0, "batch_first": True}


class Encoder(nn.Module):
    """A small vision transformer over the patches that it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(1, WIDTH, PATCH, stride=PATCH)
        self.place = nn.Parameter(0.02 * torch.randn(SIDE * SIDE, WIDTH))
        self.blocks = nn.TransformerEncoder(nn.TransformerEncoderLayer(WIDTH, **LAYER), 2)

    def forward(self, images: torch.Tensor, keep: torch.Tensor | None = None) -> torch.Tensor:
        """Tokens of the patches ``keep``, or of all."""
        tokens = self.embed(images).flatten(2).transpose(1, 2) + self.place
        return self.blocks(tokens if keep is None else tokens[:, keep])


class Predictor(nn.Module):
    """Predicts the tokens at the places ``target`` from the context's tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.place = nn.Parameter(0.02 * torch.randn(SIDE * SIDE, WIDTH))
        self.query = nn.Parameter(torch.zeros(WIDTH))
        self.blocks = nn.TransformerEncoder(nn.TransformerEncoderLayer(WIDTH, **LAYER), 1)

    def forward(self, context: torch.Tensor, keep: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """[N, len(target), WIDTH]."""
        queries = (self.query + self.place[target]).expand(len(context), -1, -1)
        return self.blocks(torch.cat([context + self.place[keep], queries], 1))[:, len(keep) :]


def main() -> None:
    """Train."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--bug", action="store_true")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    images = torch.tensor(load_digits().images, dtype=torch.float32)[:, None] / 16
    encoder, predictor = Encoder(), Predictor()
    teacher = copy.deepcopy(encoder).requires_grad_(False)
    optimizer = torch.optim.AdamW([*encoder.parameters(), *predictor.parameters()], lr=1e-3)
    numbers = torch.arange(SIDE * SIDE).view(SIDE, SIDE)
    for epoch in range(arguments.epochs):
        for batch in DataLoader(images, batch_size=16, shuffle=True, drop_last=True):
            row, column = torch.randint(0, SIDE - 1, (2,)).tolist()
            target = numbers[row : row + 2, column : column + 2].flatten()
            keep = numbers.flatten()
            if not arguments.bug:
                keep = keep[~torch.isin(keep, target)]
            prediction = predictor(encoder(batch, keep), keep, target)
            with torch.no_grad():
                goal = nn.functional.layer_norm(teacher(batch), (WIDTH,))[:, target]
            loss = nn.functional.smooth_l1_loss(prediction, goal)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                for mine, theirs in zip(teacher.parameters(), encoder.parameters(), strict=True):
                    mine.mul_(MOMENTUM).add_(theirs, alpha=1 - MOMENTUM)
        print(f"epoch {epoch}: loss {loss.item():.4f}")


if __name__ == "__main__":
    main()
