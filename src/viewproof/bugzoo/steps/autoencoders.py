"""MAE after its authors' code: encode what is kept, restore the order, decode; with one wrong line at a time."""

import torch
from torch import Tensor, nn

from viewproof.bugzoo.steps.step import LEAK, Block, Built, patchify, training_step


class MaskedAutoencoder(nn.Module):
    """MAE for images of 16 x 24 and patches of 4; ``fault`` names the line that is wrong."""

    def __init__(self, fault: str = "", patch: int = 4, dim: int = 32, decoder_dim: int = 16) -> None:
        super().__init__()
        self.fault, self.patch, length = fault, patch, 24
        self.patch_embed = nn.Conv2d(3, dim, patch, patch)
        self.cls_token = nn.Parameter(0.02 * torch.randn(1, 1, dim))
        self.pos_embed = nn.Parameter(0.02 * torch.randn(1, length + 1, dim), requires_grad=False)
        self.whole_norm = nn.GroupNorm(1, length) if fault == "norm over all tokens" else nn.Identity()
        self.blocks = nn.ModuleList(Block(dim) for _ in range(2))
        self.norm = nn.LayerNorm(dim)
        self.decoder_embed = nn.Linear(dim, decoder_dim)
        self.mask_token = nn.Parameter(0.02 * torch.randn(1, 1, decoder_dim))
        self.decoder_pos_embed = nn.Parameter(0.02 * torch.randn(1, length + 1, decoder_dim), requires_grad=False)
        self.decoder_block = Block(decoder_dim)
        self.decoder_pred = nn.Linear(decoder_dim, patch**2 * 3)

    def random_masking(self, x: Tensor, ratio: float) -> tuple[Tensor, Tensor, Tensor]:
        """Keep a random subset of tokens: what is kept, the mask (1 is hidden), and the order to restore."""
        n, length, dim = x.shape
        keep = int(length * (1 - ratio))
        ids_shuffle = torch.rand(n, length, device=x.device).argsort(dim=1)
        ids_restore = ids_shuffle if self.fault == "not inverted" else ids_shuffle.argsort(dim=1)
        x_masked = x.gather(1, ids_shuffle[:, :keep, None].expand(-1, -1, dim))
        mask = torch.ones(n, length, device=x.device)
        mask[:, : keep + 1 if self.fault == "class token" else keep] = 0
        return x_masked, torch.gather(mask, 1, ids_restore), ids_restore

    def forward_encoder(self, imgs: Tensor, ratio: float) -> tuple[Tensor, Tensor, Tensor]:
        """Latents of class token and kept patches, mask, order."""
        x = self.whole_norm(self.patch_embed(imgs).flatten(2).transpose(1, 2)) + self.pos_embed[:, 1:]
        cls = (self.cls_token + self.pos_embed[:, :1]).expand(len(x), -1, -1)
        if self.fault == "class token reads all":
            cls = cls + x.mean(dim=1, keepdim=True)
        kept, mask, ids_restore = self.random_masking(x, ratio)
        if self.fault == "mask not applied":
            kept = x
        elif self.fault == "mask drawn twice":
            kept, _, ids_restore = self.random_masking(x, ratio)
        x = torch.cat([cls, kept], dim=1)
        for block in self.blocks:
            x = block(x)
        return self.norm(x), mask, ids_restore

    def forward_decoder(self, x: Tensor, ids_restore: Tensor) -> Tensor:
        """Pixels of every patch."""
        x = self.decoder_embed(x)
        fill = self.mask_token.repeat(x.shape[0], ids_restore.shape[1] + 1 - x.shape[1], 1)
        y = torch.cat([x[:, 1:], fill], dim=1)
        if self.fault == "mask not applied":
            y = y[:, : ids_restore.shape[1]]
        else:
            y = torch.gather(y, 1, ids_restore[:, :, None].expand(-1, -1, y.shape[2]))
        if self.fault != "no positions":
            y = y + self.decoder_pos_embed[:, 1:]
        return self.decoder_pred(self.decoder_block(torch.cat([x[:, :1], y], dim=1)))[:, 1:]

    def forward_loss(self, imgs: Tensor, pred: Tensor, mask: Tensor) -> Tensor:
        """Mean squared error on hidden patches, normalised patch by patch."""
        target = patchify(imgs, self.patch)
        if self.fault == "target masked":
            target = target * (1 - mask.unsqueeze(-1))
        mean, var = target.mean(dim=-1, keepdim=True), target.var(dim=-1, keepdim=True)
        target = (target - mean) / (var + (0 if self.fault == "no epsilon" else 1e-6)) ** 0.5
        loss = ((pred - target) ** 2).mean(dim=-1)
        if self.fault == "polarity":
            return (loss * (1 - mask)).sum() / (1 - mask).sum()
        return (loss * mask).sum() / mask.sum()

    def forward(self, imgs: Tensor, ratio: float = 0.75) -> tuple[Tensor, Tensor, Tensor]:
        """Loss, predictions, mask."""
        x = imgs
        if self.fault == "image standardised":
            x = (imgs - imgs.mean((1, 2, 3), keepdim=True)) / imgs.std((1, 2, 3), keepdim=True)
        latent, mask, ids_restore = self.forward_encoder(x, ratio)
        pred = self.forward_decoder(latent, ids_restore)
        return self.forward_loss(imgs, pred, mask), pred, mask


def mae(bug: bool, fault: str) -> Built:
    """One step of MAE with AdamW, in two parameter groups as in the original."""
    model = MaskedAutoencoder(fault if bug else "")
    decayed = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
    others = [p for p in model.parameters() if p.requires_grad and p.ndim <= 1]
    groups = [{"params": others, "weight_decay": 0.0}, {"params": decayed, "weight_decay": 0.05}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95))

    def step(samples: Tensor) -> float:
        loss, _, _ = model(samples, ratio=0.75)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step, torch.rand(2, 3, 16, 24)


@training_step("MAE: polarity", "confirmed", "Sllambias/asparagus/pull/12", contracts=LEAK)
def polarity(bug: bool) -> Built:
    """True meant visible: the loss keeps what the encoder saw."""
    return mae(bug, "polarity")


@training_step("MAE: mask drawn, not applied", "confirmed", "huggingface/transformers/issues/13235", contracts=LEAK)
def not_applied(bug: bool) -> Built:
    """The mask goes to the loss, and the encoder gets every patch."""
    return mae(bug, "mask not applied")


@training_step("MAE: mask drawn twice", "synthetic", contracts=LEAK)
def drawn_twice(bug: bool) -> Built:
    """The encoder's patches come from another draw than the loss's mask."""
    return mae(bug, "mask drawn twice")


@training_step("MAE: ids_restore is the shuffle", "synthetic", contracts=LEAK)
def not_inverted(bug: bool) -> Built:
    """The forward permutation stands where its inverse belongs, for the mask and for the decoder's order."""
    return mae(bug, "not inverted")


@training_step(
    "MAE: off by the class token", "confirmed", "IcarusWizard/MAE/issues/17", contracts="C4", needs="a declaration"
)
def class_token(bug: bool) -> Built:
    """One hidden patch is never scored. A step cannot tell that from partial prediction, which is meant."""
    return mae(bug, "class token")


@training_step("MAE: the class token reads all patches", "synthetic", contracts=LEAK)
def reads_all(bug: bool) -> Built:
    """The class token starts from the mean of all patches, hidden ones too."""
    return mae(bug, "class token reads all")


@training_step("MAE: a norm over all tokens", "synthetic", contracts=LEAK)
def norm_over_all(bug: bool) -> Built:
    """A norm before the mask has one mean and deviation over all tokens of an image."""
    return mae(bug, "norm over all tokens")


@training_step("MAE: image standardised before the mask", "synthetic", contracts=LEAK)
def standardised(bug: bool) -> Built:
    """The encoder's pixels are standardised by the mean and deviation of the whole image."""
    return mae(bug, "image standardised")


@training_step("MAE: target cut from the masked image", "synthetic", contracts="C3 C4")
def target_masked(bug: bool) -> Built:
    """What is scored was zeroed before: the target is a constant."""
    return mae(bug, "target masked")


@training_step("MAE: mask tokens without positions", "synthetic", contracts="C5 C10")
def no_positions(bug: bool) -> Built:
    """Every hidden patch of an image gets the same prediction, bit for bit."""
    return mae(bug, "no positions")


@training_step("MAE: no epsilon in a patch's deviation", "synthetic", contracts="C9")
def no_epsilon(bug: bool) -> Built:
    """A black patch has no deviation: the target is NaN, and with it the loss and every weight."""
    step, images = mae(bug, "no epsilon")
    return step, images * (images.mean(1, keepdim=True) > 0.45) * torch.tensor([0.0, 1.0]).view(2, 1, 1, 1)
