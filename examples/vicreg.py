"""VICReg by PyTorch Lightning, on scikit-learn's digits: two views, an expander, three terms.

``--bug``: the optimizer is given the encoder's parameters alone, so that the expander never moves.
"""

import argparse
import warnings

import pytorch_lightning as lightning
import torch
from torch import nn
from torch.utils.data import DataLoader
from two_views import TwoViews


class VICReg(lightning.LightningModule):
    """Invariance between two views, variance and covariance of each."""

    def __init__(self, only_encoder: bool) -> None:
        super().__init__()
        self.only_encoder = only_encoder
        self.encoder = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.expander = nn.Sequential(nn.Linear(64, 128), nn.BatchNorm1d(128), nn.ReLU(), nn.Linear(128, 128))

    def training_step(self, batch: list[torch.Tensor], index: int) -> torch.Tensor:
        """The loss."""
        first, second = (self.expander(self.encoder(view)) for view in batch)
        loss = 25 * nn.functional.mse_loss(first, second)
        for z in (first, second):
            loss = loss + 25 * (1 - (z.var(0) + 1e-4).sqrt()).relu().mean()
            covariance = z.T.cov()
            loss = loss + (covariance.pow(2).sum() - covariance.diagonal().pow(2).sum()) / len(covariance)
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW."""
        return torch.optim.AdamW(self.encoder.parameters() if self.only_encoder else self.parameters(), lr=1e-3)


def main() -> None:
    """Train."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--bug", action="store_true")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    lightning.seed_everything(0, verbose=False)
    loader = DataLoader(TwoViews(), batch_size=16, shuffle=True, drop_last=True)
    trainer = lightning.Trainer(
        max_epochs=arguments.epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(VICReg(only_encoder=arguments.bug), loader)
    print(f"loss {trainer.callback_metrics['loss'].item():.4f}")


if __name__ == "__main__":
    main()
