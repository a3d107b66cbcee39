"""What `ContractGuard` costs: checked and unchecked training steps of a ViT-Tiny MAE, 75 % hidden."""

import torch
from timing import side_by_side

import viewproof as vp
from viewproof.certify.guard import check_batch

SHAPE, PATCH, BATCH, EVERY = (3, 224, 224), (16, 16), 8, 100


def main(rounds: int = 5) -> list[str]:
    torch.manual_seed(0)
    images = torch.randn(BATCH, *SHAPE)
    model = vp.MaskedAutoencoder(SHAPE, PATCH)
    rule = ~vp.PatchMask(*PATCH, period=4, offset=1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    sample = rule.sample(images)
    with torch.no_grad():
        prediction = model(sample.x, sample.view)

    def step() -> None:
        optimizer.zero_grad()
        sample = rule.sample(images)
        vp.masked_mse(model(sample.x, sample.view), sample).backward()
        optimizer.step()

    def check() -> None:
        check_batch(images.clone(), sample, prediction, vp.masked_mse)

    seconds = side_by_side({"step": step, "check": check}, rounds)
    share = 100 * seconds["check"] / seconds["step"] / EVERY
    return [
        f"ContractGuard, batch {BATCH}: a check {1e3 * seconds['check']:.0f} ms, "
        f"a step {1e3 * seconds['step']:.0f} ms; one check in {EVERY} steps costs {share:.2f} % (limit 1)"
    ]


if __name__ == "__main__":
    print("\n".join(main()))
