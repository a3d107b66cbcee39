"""A masked image model by Lightning: keyed masks, the view certified, the first step watched.

``--bug``: the loss is over every pixel, the visible ones too.
"""

import argparse
import sys
import warnings

import pytorch_lightning as lightning
import torch
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset

import viewproof as vp


class MaskedDigits(lightning.LightningModule):
    """Hides 12 of 16 patches by (seed, epoch, image number), alike on all ranks and in all workers."""

    def __init__(self, everywhere: bool) -> None:
        super().__init__()
        self.over = "all" if everywhere else "hidden"
        self.rule = vp.RandomPatchMask(2, 2, count=12, seed=0)
        self.model = vp.ViTReconstructor((1, 8, 8), patch_size=(2, 2), dim=64, depth=2, heads=4)

    def training_step(self, batch: list[torch.Tensor], index: int) -> torch.Tensor:
        """The loss."""
        images, ids = batch
        sample = self.rule.sample(images, sample_ids=ids, epoch=self.current_epoch)
        loss = vp.masked_mse(self.model(sample.x), sample, over=self.over)
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW."""
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


def main() -> None:
    """Certify, train and watch."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--bug", action="store_true")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    lightning.seed_everything(0, verbose=False)
    images = torch.tensor(load_digits().images, dtype=torch.float32)[:, None] / 16
    ids = torch.arange(len(images))
    module = MaskedDigits(everywhere=arguments.bug)
    print(vp.certify_view(lambda x: module.rule.sample(x, sample_ids=ids[:4]), images[:4]))

    watcher = vp.watch.LightningCallback(picture="xray.png")
    trainer = lightning.Trainer(
        max_epochs=arguments.epochs,
        accelerator="cpu",
        callbacks=[watcher],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, DataLoader(TensorDataset(images, ids), batch_size=16, shuffle=True, drop_last=True))
    print(f"loss {trainer.callback_metrics['loss'].item():.4f}")
    sys.exit(bool(watcher.report.failures()))


if __name__ == "__main__":
    main()
