"""A user's program in which every type is checked: `mypy --strict examples/typed.py`, or pyright."""

import torch
from torch import Tensor, nn

import viewproof as vp


def view(images: Tensor) -> vp.Sample:
    """Hide 12 of the 16 patches of every image."""
    return (~vp.PatchMask(8, 8, period=4, offset=1)).sample(images)


def train_step(model: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor) -> float:
    """One step on one batch; the loss."""
    sample = view(images)
    prediction: Tensor = model(sample.x)
    loss = vp.masked_mse(prediction, sample)
    optimizer.zero_grad()
    torch.autograd.backward(loss)  # as loss.backward(), which torch leaves untyped
    optimizer.step()
    return float(loss.item())  # torch 2.14 types item() as Any


def main() -> None:
    """Certify the view, then train for three steps."""
    torch.manual_seed(0)
    images = torch.rand(4, 3, 32, 32)
    report: vp.Report = vp.certify_view(view, images)
    refuted: list[str] = [finding.claim for finding in report.failures() if finding.verdict is vp.Verdict.REFUTED]
    assert not refuted, report
    model = vp.ViTReconstructor((3, 32, 32), patch_size=(8, 8))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for step in range(3):
        print(f"step {step}: loss {train_step(model, optimizer, images):.4f}")


if __name__ == "__main__":
    main()
