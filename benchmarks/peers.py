"""Peers' own modules, transforms and losses, trained on a folder of images for a number of steps.

transformers' ViTMAE with the settings of its example run_mae.py; lightly's MAE, SimCLR, VICReg and DINO as in its
examples. Every encoder is a ViT of width 128 and depth 4 on patches of 4 x 4 pixels; features are those of `pooled`.
Where an example trains a ResNet with SGD, which a ViT does not learn by, AdamW takes its place. Warm-up is 5 % of the
steps, then half a cosine. Images are read by torchvision in this process, so that reading counts in its CPU seconds.
"""

import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from viewproof.models.vit import coarse_grid

BATCH, PATCH = 128, 4
ENCODERS = {"small": (128, 4, 4), "tiny": (192, 12, 3)}
"""Width, depth and heads: of the tables' small encoder and of ViT-Tiny."""
DIM, DEPTH, HEADS = ENCODERS["small"]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
"""Where images are encoded after training, which is on the CPU."""
RATES = {
    "transformers-mae": 1.5e-4 * BATCH / 256,
    "transformers-mae-1e-3": 1e-3,
    "lightly-mae": 1.5e-4,
    "lightly-mae-1e-3": 1e-3,
    "lightly-simclr": 1e-3,
    "lightly-vicreg": 1e-3,
    "lightly-dino": 1e-3,
    "timm-untrained": 0.0,
}
"""Every row's learning rate; the examples' for MAE, and one that suits short runs better."""


class Encoder(nn.Module):
    """timm's vision transformer; its value is the mean patch token, which the heads take."""

    def __init__(self, size: int) -> None:
        super().__init__()
        from timm.models.vision_transformer import VisionTransformer

        self.vit = VisionTransformer(
            img_size=size, patch_size=PATCH, embed_dim=DIM, depth=DEPTH, num_heads=HEADS, num_classes=0,
            dynamic_img_size=True,
        )  # fmt: skip

    def tokens(self, images: Tensor) -> Tensor:
        tokens: Tensor = self.vit.forward_features(images)
        return tokens[:, 1:]

    def encode(self, images: Tensor) -> Tensor:
        return self.tokens(images).mean(1)

    forward = encode


class MaeEncoder(nn.Module):
    """The encoder of transformers' ViTMAE, with no patch hidden."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.vit = model.vit

    def tokens(self, images: Tensor) -> Tensor:
        self.vit.config.mask_ratio = 0.0
        # Patches are put in the order of the noise, also where none is hidden.
        noise = torch.arange((images.shape[-1] // PATCH) ** 2, device=images.device).expand(len(images), -1)
        tokens: Tensor = self.vit(images, noise=noise).last_hidden_state
        return tokens[:, 1:]

    def encode(self, images: Tensor) -> Tensor:
        return self.tokens(images).mean(1)


def pooled(tokens: Tensor) -> Tensor:
    """The mean of ``[B, P, DIM]`` patch tokens of a square grid, then the means of 4 x 4 areas."""
    side = math.isqrt(tokens.shape[1])
    return torch.cat([tokens.mean(1), coarse_grid(tokens.mT.reshape(len(tokens), -1, side, side))], 1)


Loss = Callable[[Any], Tensor]
Peer = tuple[nn.Module, Any, Loss, Callable[[int], object], nn.Module]
"""The model, the transform of an image, a batch's loss, what follows a step, and the encoder, which has ``tokens``."""


def vit_mae(size: int, _steps: int) -> Peer:
    from torchvision import transforms
    from transformers import ViTMAEConfig, ViTMAEForPreTraining

    model = ViTMAEForPreTraining(ViTMAEConfig(
        image_size=size, patch_size=PATCH, hidden_size=DIM, num_hidden_layers=DEPTH, num_attention_heads=HEADS,
        intermediate_size=4 * DIM, decoder_hidden_size=64, decoder_num_hidden_layers=1, decoder_num_attention_heads=4,
        decoder_intermediate_size=256, mask_ratio=0.75, norm_pix_loss=True,
    ))  # fmt: skip
    cubic = transforms.InterpolationMode.BICUBIC
    transform = transforms.Compose([
        transforms.RandomResizedCrop(size, scale=(0.2, 1.0), interpolation=cubic), transforms.RandomHorizontalFlip(),
        transforms.ToTensor(), transforms.Normalize(MEAN, STD),
    ])  # fmt: skip

    return model, transform, lambda images: model(images).loss, lambda _: None, MaeEncoder(model)


def lightly_mae(size: int, _steps: int) -> Peer:
    from lightly.models import utils
    from lightly.models.modules import MAEDecoderTIMM, MaskedVisionTransformerTIMM
    from lightly.transforms import MAETransform

    encoder = Encoder(size)
    backbone = MaskedVisionTransformerTIMM(vit=encoder.vit)
    decoder = MAEDecoderTIMM(
        num_patches=(size // PATCH) ** 2, patch_size=PATCH, embed_dim=DIM, decoder_embed_dim=64, decoder_depth=1,
        decoder_num_heads=4, mlp_ratio=4.0, proj_drop_rate=0.0, attn_drop_rate=0.0,
    )  # fmt: skip

    def loss(views: list[Tensor]) -> Tensor:
        images, length = views[0], backbone.sequence_length
        keep, masked = utils.random_token_mask(size=(len(images), length), mask_ratio=0.75)
        tokens = decoder.embed(backbone.encode(images=images, idx_keep=keep))
        filled = utils.set_at_index(utils.repeat_token(decoder.mask_token, (len(images), length)), keep, tokens)
        prediction = decoder.predict(utils.get_at_index(decoder.decode(filled), masked))
        return F.mse_loss(prediction, utils.get_at_index(utils.patchify(images, PATCH), masked - 1))

    return nn.ModuleList([backbone, decoder]), MAETransform(input_size=size), loss, lambda _: None, encoder


def lightly_simclr(size: int, _steps: int) -> Peer:
    from lightly.loss import NTXentLoss
    from lightly.models.modules import SimCLRProjectionHead
    from lightly.transforms import SimCLRTransform

    model, criterion = nn.Sequential(Encoder(size), SimCLRProjectionHead(DIM, 512, 128)), NTXentLoss()
    transform = SimCLRTransform(input_size=size, gaussian_blur=0.0)
    return model, transform, lambda views: criterion(*map(model, views)), lambda _: None, model[0]


def lightly_vicreg(size: int, _steps: int) -> Peer:
    from lightly.loss import VICRegLoss
    from lightly.models.modules.heads import VICRegProjectionHead
    from lightly.transforms import VICRegTransform

    model, criterion = nn.Sequential(Encoder(size), VICRegProjectionHead(DIM, 512, 512)), VICRegLoss()
    transform = VICRegTransform(input_size=size, gaussian_blur=0.0)
    return model, transform, lambda views: criterion(*map(model, views)), lambda _: None, model[0]


def lightly_dino(size: int, steps: int) -> Peer:
    from lightly.loss import DINOLoss
    from lightly.models.modules import DINOProjectionHead
    from lightly.models.utils import update_momentum
    from lightly.transforms import DINOTransform
    from lightly.utils.scheduler import cosine_schedule

    student, teacher = (
        nn.Sequential(Encoder(size), DINOProjectionHead(DIM, 512, 64, 2048, freeze_last_layer=1)) for _ in range(2)
    )
    teacher.load_state_dict(student.state_dict())
    teacher.requires_grad_(False)
    criterion = DINOLoss(output_dim=2048, warmup_teacher_temp_epochs=5)
    epoch_steps, done = 390, [0]

    def loss(views: list[Tensor]) -> Tensor:
        with torch.no_grad():
            targets = [teacher(view) for view in views[:2]]
        value: Tensor = criterion(targets, [student(view) for view in views], epoch=done[0] // epoch_steps)
        return value

    def after(step: int) -> None:
        done[0] = step
        update_momentum(student, teacher, m=cosine_schedule(step, steps, 0.996, 1))

    transform = DINOTransform(global_crop_size=size, local_crop_size=size // 2, gaussian_blur=(0.0, 0.0, 0.0))
    return nn.ModuleList([student, teacher]), transform, loss, after, teacher[0]


def timm_untrained(size: int, _steps: int) -> Peer:
    model = Encoder(size)
    return model, None, lambda _: torch.zeros(()), lambda _: None, model


MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
BUILD: dict[str, Callable[[int, int], Peer]] = {
    "transformers-mae": vit_mae, "lightly-mae": lightly_mae, "lightly-simclr": lightly_simclr,
    "lightly-vicreg": lightly_vicreg, "lightly-dino": lightly_dino, "timm-untrained": timm_untrained,
}  # fmt: skip


def forever(loader: Any) -> Iterator[Any]:
    while True:
        yield from loader


def train(name: str, folder: Path, seed: int, steps: int) -> tuple[nn.Module, list[float]]:
    """The encoder after so many steps, and the process's CPU seconds after each."""
    from torchvision.datasets import ImageFolder

    torch.manual_seed(seed)
    build = BUILD[name.removesuffix("-1e-3")]
    size = ImageFolder(str(folder / "train"))[0][0].size[0]
    model, transform, loss, after, encoder = build(size, steps)
    images = ImageFolder(str(folder / "train"), transform)
    loader = torch.utils.data.DataLoader(images, BATCH, shuffle=True, drop_last=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATES[name], weight_decay=0.05)
    warm = max(1, steps // 20)

    def factor(step: int) -> float:
        past = (step - warm) / max(1, steps - warm)
        return (step + 1) / warm if step < warm else 0.5 * (1 + math.cos(math.pi * past))

    schedule, clock = torch.optim.lr_scheduler.LambdaLR(optimizer, factor), []
    model.train()
    for step, (views, _) in zip(range(steps), forever(loader), strict=False):
        value = loss(views)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        schedule.step()
        after(step)
        clock.append(time.process_time())
    model.eval()
    return encoder.eval().to(DEVICE), clock


def features(encoder: Any, folder: Path, part: str) -> tuple[Any, Any]:
    """The features of a part's images, by an encoder on `DEVICE`, and their labels."""
    from torchvision import transforms
    from torchvision.datasets import ImageFolder

    transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize(MEAN, STD)])
    images = ImageFolder(str(folder / part), transform)
    with torch.no_grad():
        loader = torch.utils.data.DataLoader(images, 512)
        rows = torch.cat([pooled(encoder.tokens(x.to(DEVICE))).cpu() for x, _ in loader])
    return rows.numpy(), images.targets
