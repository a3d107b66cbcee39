"""SimMIM, volumes, convolutions and status codes: steps that mask pixels or tokens in place and keep the grid."""

from enum import Enum

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from viewproof.bugzoo.steps.step import LEAK, Block, Built, patchify, training_step


def simmim(bug: bool, fault: str) -> Built:
    """SimMIM's step: mask tokens blended in by multiplication, L1 on hidden pixels, masks drawn by the loader."""
    fault, p, dim = fault if bug else "", 4, 32
    wide = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.ReLU())
    normed = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 3, 1))
    stem = {"wide stem": wide, "batch norm": normed}.get(fault, nn.Identity())
    embed, head = nn.Conv2d(3, dim, p, p), nn.Sequential(nn.Conv2d(dim, p * p * 3, 1), nn.PixelShuffle(p))
    blocks, norm = nn.ModuleList([Block(dim), Block(dim)]), nn.LayerNorm(dim)
    token, pos = nn.Parameter(0.02 * torch.randn(1, 1, dim)), nn.Parameter(0.02 * torch.randn(1, 24, dim))
    net = nn.ModuleDict({"stem": stem, "embed": embed, "blocks": blocks, "norm": norm, "head": head})
    optimizer = torch.optim.AdamW([*net.parameters(), token, pos], lr=1e-3)

    def step(batch: tuple[Tensor, Tensor]) -> Tensor:
        img, mask = batch
        n = len(img)
        if fault == "in place":
            img[F.interpolate(mask[:, None].float(), scale_factor=p).bool().expand_as(img)] = 0
        x = embed(stem(img)).flatten(2).transpose(1, 2)
        w = (mask.transpose(1, 2) if fault == "columns first" else mask).flatten(1).unsqueeze(-1).type_as(token)
        if fault == "token on the visible":
            w = 1 - w
        x = x * (1.0 - w) + token.expand(n, 24, -1) * w + pos
        for block in blocks:
            x = block(x)
        x_rec = head(norm(x).transpose(1, 2).reshape(n, dim, 4, 6))
        weight = mask.repeat_interleave(p, 1).repeat_interleave(p, 2).unsqueeze(1).contiguous()
        loss = (F.l1_loss(img, x_rec, reduction="none") * weight).sum() / (weight.sum() + 1e-5) / 3
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 5.0)
        optimizer.step()
        return loss.detach()

    mask = torch.rand(3, 24).argsort(1).lt(14).view(3, 4, 6).long()
    return step, (torch.randn(3, 3, 16, 24), mask)


@training_step("SimMIM: mask tokens on the visible", "synthetic", contracts=LEAK)
def token_on_visible(bug: bool) -> Built:
    """The mask token replaces what should be seen, and what is scored goes in."""
    return simmim(bug, "token on the visible")


@training_step("SimMIM: columns first in one of two flattenings", "synthetic", contracts=LEAK)
def columns_first(bug: bool) -> Built:
    """The grid of the mask is flattened columns first for the tokens, and laid over pixels rows first."""
    return simmim(bug, "columns first")


@training_step(
    "SimMIM: hidden pixels zeroed in place", "confirmed", "ServiceNow/Fast-LLM/pull/253", contracts="C2 C3 C4"
)
def in_place(bug: bool) -> Built:
    """The batch is written to, and the target is read from it afterwards: zeros."""
    return simmim(bug, "in place")


@training_step("SimMIM: a 3 x 3 stem before the mask", "synthetic", contracts=LEAK)
def wide_stem(bug: bool) -> Built:
    """A convolution reads across patches before tokens are replaced: visible tokens hold edges of hidden ones."""
    return simmim(bug, "wide stem")


@training_step("SimMIM: batch norm before the mask", "synthetic", contracts=LEAK)
def batch_norm(bug: bool) -> Built:
    """Batch statistics of all pixels, hidden ones too, scale what is visible."""
    return simmim(bug, "batch norm")


@training_step(
    "masked world model: three strided convolutions as patch", "disputed", "younggyoseo/MWM/issues/6", contracts=LEAK
)
def overlapping(bug: bool) -> Built:
    """Three convolutions of kernel 4 and stride 2 are called a patch of 8: receptive fields cross patches."""

    class ConvMAE(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            early = [
                nn.Conv2d(1, 8, 4, 2, 1),
                nn.ReLU(),
                nn.Conv2d(8, 16, 4, 2, 1),
                nn.ReLU(),
                nn.Conv2d(16, 16, 4, 2, 1),
            ]
            self.stem = nn.Sequential(*early) if bug else nn.Conv2d(1, 16, 8, 8)
            self.encoder, self.decoder = Block(16), Block(16)
            self.token = nn.Parameter(torch.zeros(16))
            self.position = nn.Parameter(0.1 * torch.randn(16, 16))
            self.pixels = nn.Linear(16, 64)

        def forward(self, frames: Tensor, hidden: Tensor) -> Tensor:
            tokens = self.stem(frames).flatten(2).mT + self.position
            visible = tokens[~hidden].view(len(frames), -1, 16)
            latent = self.encoder(visible)
            full = self.token.expand(len(frames), 16, 16).clone()
            full[~hidden] = latent.flatten(0, 1)
            return self.pixels(self.decoder(full + self.position))

    model = ConvMAE()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-4, eps=1e-5)

    def step(batch: dict[str, Tensor]) -> dict[str, float]:
        frames = batch["image"]
        hidden = torch.rand(len(frames), 16).argsort(1) < 12
        error = (model(frames, hidden) - patchify(frames, 8)).square().mean(-1)
        loss = error[hidden].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return {"mae": loss.item()}

    return step, {"image": torch.rand(2, 1, 32, 32)}


@training_step("volume flattened in two orders", "our reading", "MIC-DKFZ/nnssl", contracts=LEAK)
def volume(bug: bool) -> Built:
    """The network flattens height, width, depth; the loss lays the same vector over depth, height, width."""
    p, grid = 2, (2, 3, 4)
    embed, blocks, unembed = (
        nn.Conv3d(1, 16, p, p),
        nn.Sequential(Block(16), Block(16)),
        nn.ConvTranspose3d(16, 1, p, p),
    )
    token, position = nn.Parameter(torch.zeros(16)), nn.Parameter(0.1 * torch.randn(24, 16))
    parameters = [*embed.parameters(), *blocks.parameters(), *unembed.parameters(), token, position]
    optimizer = torch.optim.SGD(parameters, lr=1e-2, momentum=0.99, nesterov=True)

    def create_mask(keep: Tensor) -> Tensor:
        """One for each voxel that is hidden."""
        hidden = torch.ones(24)
        hidden[keep] = 0
        voxels = hidden.view(*grid) if bug else hidden.view(3, 4, 2).permute(2, 0, 1)
        for axis in range(3):
            voxels = voxels.repeat_interleave(p, axis)
        return voxels[None, None]

    def step(data: Tensor) -> Tensor:
        keep = torch.randperm(24)[:8]
        tokens = embed(data).permute(0, 3, 4, 2, 1).flatten(1, 3)  # h w d
        seen = torch.zeros(24, dtype=torch.bool)
        seen[keep] = True
        latent = blocks(torch.where(seen[:, None], tokens, token) + position)
        output = unembed(latent.view(-1, 3, 4, 2, 16).permute(0, 4, 3, 1, 2))
        mask = create_mask(keep)
        loss = ((output - data) ** 2 * mask).sum() / (mask.sum() * len(data))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    return step, torch.randn(2, 1, *(p * extent for extent in grid))


class Status(Enum):
    """What a modality's token is in this step."""

    VISIBLE = 0
    HIDDEN = 1


@training_step(
    "comparison with an enum is never true", "confirmed", "allenai/olmoearth_pretrain/pull/457", contracts=LEAK
)
def enum_compared(bug: bool) -> Built:
    """``status == Status.HIDDEN`` compares a tensor with an object, which is False: nothing is hidden."""
    encoder, decoder = nn.Sequential(nn.Linear(6, 16), Block(16), Block(16)), nn.Linear(16, 6)
    position = nn.Parameter(torch.randn(10, 6))
    optimizer = torch.optim.AdamW([*encoder.parameters(), *decoder.parameters(), position])

    def step(batch: dict[str, Tensor]) -> Tensor:
        tokens, status = batch["sentinel2"], batch["sentinel2_status"]
        hidden = torch.as_tensor(status == (Status.HIDDEN if bug else Status.HIDDEN.value))
        prediction = decoder(
            encoder(tokens.masked_fill(hidden.view(-1, 10, 1) if hidden.ndim else hidden, 0) + position)
        )
        scored = status == Status.HIDDEN.value
        loss = F.mse_loss(prediction[scored], tokens[scored])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    status = (torch.rand(3, 10).argsort(1) < 5).long()
    return step, {"sentinel2": torch.randn(3, 10, 6), "sentinel2_status": status}


@training_step("masked tensor computed, not stored", "confirmed", "allenai/olmoearth_pretrain/pull/343", contracts=LEAK)
def not_stored(bug: bool) -> Built:
    """``masked_fill`` without its underscore returns a new tensor, which nobody takes."""
    model = nn.Sequential(nn.Linear(4, 16), Block(16), Block(16), nn.Linear(16, 4))
    optimizer = torch.optim.Adam(model.parameters())

    class Trainer:
        def __init__(self) -> None:
            self.model, self.optimizer = model, optimizer

        def training_step(self, batch: Tensor) -> Tensor:
            hide = torch.rand(batch.shape[:2]).argsort(1) < 6
            x = batch.clone()
            if bug:
                x.masked_fill(hide[..., None], 0.0)
            else:
                x.masked_fill_(hide[..., None], 0.0)
            error = F.smooth_l1_loss(self.model(x), batch, reduction="none").mean(-1)
            loss = torch.where(hide, error, 0).sum() / hide.sum()
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            return loss

    return Trainer().training_step, torch.randn(3, 12, 4)


@training_step(
    "hidden rows zeroed in place, then cut as target",
    "reported",
    "vishalned/MMEarth-train/issues/7",
    contracts="C2 C3 C4",
)
def zeroed_rows(bug: bool) -> Built:
    """The network zeroes what is hidden in the tensor that it was given; the target is cut from that tensor."""
    net = nn.Sequential(
        nn.Conv2d(2, 16, 2, 2), nn.GELU(), nn.Conv2d(16, 16, 3, padding=1), nn.GELU(), nn.Conv2d(16, 8, 1)
    )
    optimizer = torch.optim.AdamW(net.parameters(), 1e-3)

    def masked_forward(x: Tensor, mask: Tensor) -> Tensor:
        x *= mask.logical_not()[:, None].repeat_interleave(2, -2).repeat_interleave(2, -1)
        return net(x)

    def step(batch: Tensor) -> Tensor:
        mask = torch.rand(len(batch), 16).argsort(1).lt(9).view(-1, 4, 4)
        pred = masked_forward(batch if bug else batch.clone(), mask).flatten(2).mT
        loss = ((pred - patchify(batch, 2)) ** 2).mean(-1)[mask.flatten(1)].mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss

    return step, torch.randn(4, 2, 8, 8)


@training_step("denoising: a noisy copy beside the image", "synthetic", contracts=LEAK, needs="a declaration")
def noisy_copy(bug: bool) -> Built:
    """The loader gives the image and a noisy copy; the mask is laid over neither, so the copy shows what is hidden."""
    net = nn.Sequential(nn.Linear(16, 32), Block(32), nn.Linear(32, 16))
    position = nn.Parameter(0.1 * torch.randn(16, 16))
    optimizer = torch.optim.AdamW([*net.parameters(), position])

    def step(batch: dict[str, Tensor]) -> float:
        clean, noisy = patchify(batch["clean"], 4), patchify(batch["noisy"], 4)
        hidden = torch.rand(clean.shape[:2]).argsort(1) < 8
        shown = noisy if bug else noisy.masked_fill(hidden[..., None], 0)
        loss = (net(shown + position) - clean)[hidden].square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    clean = F.interpolate(torch.randn(4, 1, 4, 4), scale_factor=4, mode="bilinear")
    return step, {"clean": clean, "noisy": clean + 0.2 * torch.randn_like(clean)}


@training_step("a head behind a factor of 0", "synthetic", contracts="C4 C6", needs="a declaration")
def factor_of_zero(bug: bool) -> Built:
    """An auxiliary head's term has a weight that stays at 0: the head never learns, as before a warm-up."""
    net, head, other = nn.Sequential(nn.Linear(4, 16), Block(16)), nn.Linear(16, 4), nn.Linear(16, 1)
    optimizer = torch.optim.Adam([*net.parameters(), *head.parameters(), *other.parameters()])

    def step(x: Tensor) -> float:
        hidden = torch.rand(x.shape[:2]).argsort(1) < 5
        z = net(x.masked_fill(hidden[..., None], 0))
        count = (other(z.mean(1))[:, 0] - hidden.sum(1)).square().mean()
        loss = (head(z) - x)[hidden].square().mean() + (0.0 if bug else 0.1) * count
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step, torch.randn(3, 9, 4)
