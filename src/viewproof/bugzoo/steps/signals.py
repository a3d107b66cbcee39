"""Waveforms, spectrograms and series: wav2vec 2.0, masked audio, PatchTST and forecasting steps."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from viewproof.bugzoo.steps.step import LEAK, Block, Built, training_step


class Wav2Vec2(nn.Module):
    """wav2vec 2.0: convolutional frames, masked transformer, Gumbel-free quantizer, contrastive loss."""

    def __init__(self, fault: str = "", dim: int = 16) -> None:
        super().__init__()
        self.fault = fault
        self.features = nn.Sequential(nn.Conv1d(1, dim, 8, 4), nn.GELU(), nn.Conv1d(dim, dim, 2, 2), nn.GELU())
        self.norm, self.mask_emb = nn.LayerNorm(dim), nn.Parameter(torch.rand(dim))
        self.position = nn.Conv1d(dim, dim, 3, padding=1, groups=4)
        self.context = nn.ModuleList([Block(dim), Block(dim)])
        self.quantizer, self.project = nn.Linear(dim, 8), nn.Linear(dim, 8)

    def negatives(self, y: Tensor, usable: Tensor, count: int) -> Tensor:
        """Targets at ``count`` other places of the same utterance, for every place."""
        weights = (
            torch.ones_like(usable, dtype=torch.float) if self.fault == "negatives from padding" else usable.float()
        )
        weights = weights[:, None].expand(-1, y.shape[1], -1)
        if self.fault != "positive among the negatives":
            weights = weights * (1 - torch.eye(y.shape[1]))
        index = torch.multinomial(weights.flatten(0, 1), count, replacement=False).view(len(y), -1)
        return y.gather(1, index[..., None].expand(-1, -1, y.shape[2])).view(*y.shape[:2], count, -1)

    def forward(self, wave: Tensor, lengths: Tensor, mask: Tensor) -> Tensor:
        """The contrastive loss at masked frames."""
        frames = self.norm(self.features(wave[:, None]).mT)
        usable = torch.arange(frames.shape[1]) < lengths[:, None]
        unmasked = frames.clone()
        x = frames
        if self.fault == "quantized after the mask":
            x[mask] = self.mask_emb
            unmasked = x
        else:
            x = torch.where(mask[..., None], self.mask_emb, x)
        x = x * usable[..., None]
        x = x + F.gelu(self.position(x.mT)).mT
        for block in self.context:
            x = block(x, usable[:, None, None])
        c, q = self.project(x), self.quantizer(unmasked)
        if self.fault == "frame shifted":
            c = c.roll(1, dims=1)
        candidates = torch.cat([q[:, :, None], self.negatives(q, usable, 4)], dim=2)
        logits = F.cosine_similarity(c[:, :, None].float(), candidates.float(), dim=-1) / 0.1
        wanted = torch.zeros(mask.shape, dtype=torch.long).masked_fill(~mask, -100)
        return F.cross_entropy(logits.flatten(0, 1), wanted.flatten(), reduction="sum") / mask.sum()


def wav2vec2(bug: bool, fault: str) -> Built:
    """One step of wav2vec 2.0 on padded waveforms."""
    model = Wav2Vec2(fault if bug else "")
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-4, betas=(0.9, 0.98), eps=1e-6)

    def step(batch: dict[str, Tensor]) -> dict[str, float]:
        loss = model(batch["input_values"], batch["frames"], batch["mask_time_indices"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return {"loss": loss.item()}

    wave, frames = torch.randn(2, 132), torch.tensor([16, 11])
    wave[1, 92:] = 0
    mask = torch.zeros(2, 16, dtype=torch.bool)
    mask[0, 3:8] = mask[1, 4:8] = True
    return step, {"input_values": wave, "frames": frames, "mask_time_indices": mask}


@training_step("wav2vec 2.0: quantized after the mask", "synthetic", contracts="C3 C4")
def quantized_after_mask(bug: bool) -> Built:
    """Frames are masked in place, and the quantizer reads them afterwards: the target is the mask embedding."""
    return wav2vec2(bug, "quantized after the mask")


@training_step(
    "wav2vec 2.0: negatives from padding", "confirmed", "huggingface/transformers/pull/12748", contracts="C4 C8"
)
def negatives_from_padding(bug: bool) -> Built:
    """Distractors are drawn from padded frames, which are easy to tell from speech."""
    return wav2vec2(bug, "negatives from padding")


@training_step("wav2vec 2.0: the positive among the negatives", "synthetic", contracts="C4 C7", needs="several steps")
def positive_drawn(bug: bool) -> Built:
    """A distractor may be the target itself; whether it is drawn differs from step to step."""
    return wav2vec2(bug, "positive among the negatives")


def masked_audio(bug: bool, fault: str) -> Built:
    """A masked spectrogram model: time-frequency patches hidden, mean squared error where they are hidden."""
    fault = fault if bug else ""
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, 0.0, batch_first=True), 2)
    patch, out = nn.Conv2d(1, 16, (4, 2), (4, 2)), nn.Linear(16, 8)
    position, token = nn.Parameter(torch.randn(1, 24, 16)), nn.Parameter(torch.zeros(16))
    target_norm = nn.BatchNorm1d(8)
    optimizer = torch.optim.AdamW(
        [*model.parameters(), *patch.parameters(), *out.parameters(), position, token, *target_norm.parameters()]
    )

    def step(spectrogram: Tensor) -> Tensor:
        n = len(spectrogram)
        hidden = torch.rand(n, 4, 6).flatten(1).argsort(1).lt(16)  # frequency x time
        x = patch(spectrogram).flatten(2).mT
        cut = hidden.view(n, 4, 6).mT.reshape(n, 24) if fault == "time and frequency exchanged" else hidden
        x = torch.where(cut[..., None], token, x)
        prediction = out(model(x + position))
        target = F.unfold(spectrogram, (4, 2), stride=(4, 2)).mT
        if fault == "learnable norm of the target":
            target = target_norm(target.mT).mT
        loss = (prediction - target).pow(2).mean(-1).mul(hidden).sum().div(hidden.sum())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step, torch.randn(2, 1, 16, 12)


@training_step("spectrogram: time and frequency exchanged", "confirmed", "NVIDIA-NeMo/Speech/pull/2201", contracts=LEAK)
def exchanged_axes(bug: bool) -> Built:
    """The tokens' mask is the loss's with its axes exchanged."""
    return masked_audio(bug, "time and frequency exchanged")


@training_step(
    "spectrogram: a learnable norm of the target",
    "disputed",
    "AlanBaade/MAE-AST-Public/issues/4",
    contracts="C3 C6",
    needs="a declaration",
)
def learnable_target(bug: bool) -> Built:
    """The target passes a norm with weights trained on the same loss; joint embeddings train both sides on purpose."""
    return masked_audio(bug, "learnable norm of the target")


def series(bug: bool, fault: str) -> Built:
    """PatchTST's pre-training: patches of a series hidden, predicted channel by channel; missing values are NaN."""
    fault = fault if bug else ""
    embed, blocks, head = nn.Linear(4, 16), nn.Sequential(Block(16), Block(16)), nn.Linear(16, 4)
    position = nn.Parameter(0.02 * torch.randn(8, 16))
    optimizer = torch.optim.Adam([*embed.parameters(), *blocks.parameters(), *head.parameters(), position], 1e-4)

    def step(z: Tensor) -> float:
        observed = ~z.isnan()
        if fault == "instance norm":
            z = (z - z.mean(1, keepdim=True)) / (z.var(1, keepdim=True, unbiased=False) + 1e-5).sqrt()
        patches = z.transpose(1, 2).unfold(-1, 4, 4)
        n, channels, count, _ = patches.shape
        hidden = torch.rand(n, channels, count).argsort(-1) < 4
        x = patches.nan_to_num().masked_fill(hidden.unsqueeze(-1), 0.0)
        out = head(blocks((embed(x) + position).flatten(0, 1))).view(patches.shape)
        weight = hidden.unsqueeze(-1) & observed.transpose(1, 2).unfold(-1, 4, 4)
        if fault == "multiplied":
            loss = ((out - patches) ** 2 * weight).sum() / weight.sum()
        else:
            loss = (torch.where(weight, out - patches.nan_to_num(), 0) ** 2).sum() / weight.sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    z = torch.randn(3, 32, 2)
    if fault == "multiplied" or not bug:
        z[0, 5, 1] = float("nan")
    return step, z


@training_step(
    "PatchTST: a series normalised before it is masked", "disputed", "yuqinie98/PatchTST/issues/35",
    contracts=LEAK, needs="a declaration",
)  # fmt: skip
def instance_norm(bug: bool) -> Built:
    """Statistics of the whole series scale input and target: all is seen and scored, as in an autoencoder."""
    return series(bug, "instance norm")


@training_step("series: loss times mask", "confirmed", "ecmwf/WeatherGenerator/pull/2717", contracts="C9")
def loss_times_mask(bug: bool) -> Built:
    """A missing value is NaN, and NaN times zero is NaN: the loss and every weight are lost."""
    return series(bug, "multiplied")


@training_step("forecasting: the context ends one step late", "synthetic", contracts=LEAK)
def context_late(bug: bool) -> Built:
    """The first of the steps to be predicted stands in the context."""
    model = nn.GRU(3, 16, batch_first=True)
    head = nn.Linear(16, 12)
    optimizer = torch.optim.RMSprop([*model.parameters(), *head.parameters()], lr=1e-3)

    def step(window: Tensor) -> float:
        past, future = window[:, : 13 if bug else 12], window[:, 12:]
        _, state = model(past)
        loss = F.huber_loss(head(state[-1]).view(-1, 4, 3), future)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step, torch.randn(4, 16, 3)


@training_step("rows of uninitialised memory", "disputed", "nasaharvest/galileo/issues/15", contracts="C9")
def uninitialised(bug: bool) -> Built:
    """Tokens are gathered into ``torch.empty``, and the rows that nothing fills are attended to."""
    embed, block, head = nn.Linear(4, 16), Block(16), nn.Linear(16, 4)
    optimizer = torch.optim.SGD([*embed.parameters(), *block.parameters(), *head.parameters()], lr=1e-2)

    def step(x: Tensor) -> float:
        hidden = torch.rand(x.shape[:2]) < 0.5
        hidden[:, 0], hidden[:, 1] = True, False
        make = torch.empty if bug else torch.zeros
        rows = make(*x.shape[:2], 16)
        tokens = embed(x)
        for i, keep in enumerate(~hidden):
            rows[i, : int(keep.sum())] = tokens[i, keep]
        prediction = head(block(rows).mean(1, keepdim=True)).expand_as(x)
        loss = (prediction - x)[hidden].square().mean()
        if loss.isfinite():
            loss.backward()
            optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return step, torch.randn(3, 8, 4)


@training_step(
    "masks seeded alike in every worker",
    "confirmed",
    "pengzhiliang/MAE-pytorch/issues/28",
    contracts="C8",
    needs="several steps",
)
def seeded_alike(bug: bool) -> Built:
    """The mask's generator starts anew in each step: every batch hides the same patches."""
    net = nn.Sequential(nn.Linear(4, 16), Block(16), nn.Linear(16, 4))
    optimizer = torch.optim.Adam(net.parameters())
    generator = torch.Generator()

    def step(x: Tensor) -> float:
        if bug:
            generator.manual_seed(7)
        hidden = torch.rand(x.shape[:2], generator=generator).argsort(1) < 4
        loss = F.mse_loss(net(x.masked_fill(hidden[..., None], 0))[hidden], x[hidden])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step, torch.randn(3, 8, 4)


@training_step(
    "views drawn once, at creation of the data set",
    "confirmed",
    "emadeldeen24/TS-TCC/issues/20",
    contracts="C8",
    needs="several steps",
)
def views_drawn_once(bug: bool) -> Built:
    """Augmentations are stored with the data: every epoch has the same two views."""
    net = nn.Sequential(nn.Conv1d(2, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 8))
    optimizer = torch.optim.Adam(net.parameters())
    data = torch.randn(16, 2, 8)
    stored = data + 0.1 * torch.randn_like(data), data + 0.1 * torch.randn_like(data)

    def step(index: Tensor) -> float:
        if bug:
            one, two = stored[0][index], stored[1][index]
        else:
            one, two = (data[index] + 0.1 * torch.randn(len(index), 2, 8) for _ in range(2))
        a, b = F.normalize(net(one), dim=-1), F.normalize(net(two), dim=-1)
        loss = F.cross_entropy(a @ b.T / 0.2, torch.arange(len(a)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step, torch.arange(6)
