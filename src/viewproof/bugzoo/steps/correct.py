"""Correct steps that were taken for bugs, or look like one: nothing about them may be refuted."""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from viewproof.bugzoo.steps.autoencoders import MaskedAutoencoder
from viewproof.bugzoo.steps.joint import encoder, views
from viewproof.bugzoo.steps.step import Block, Built, drift, patchify, training_step
from viewproof.bugzoo.steps.tokens import Bert, collate


@training_step("kept tokens, from a collator", "false alarm", "czlwang/BrainBERT/issues/3")
def kept_tokens() -> Built:
    """A tenth of what BERT scores is left as it is, on purpose; the collator made inputs and labels."""
    model = Bert(dropout=0.1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 0.9**epoch)

    def step(batch: dict[str, Tensor]) -> float:
        logits = model(batch["input_ids"], batch["attention_mask"][:, None, None].bool())
        loss = F.cross_entropy(logits.transpose(1, 2), batch["labels"])
        loss.backward()
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        return loss.item()

    ids, attention_mask = collate()
    chosen = (torch.rand(ids.shape) < 0.3) & (attention_mask == 1)
    labels = ids.masked_fill(~chosen, -100)
    inputs = ids.masked_fill(chosen & (torch.rand(ids.shape) < 0.8), 1)
    return step, {"input_ids": inputs, "attention_mask": attention_mask, "labels": labels}


@training_step("the detach lives in the loss", "false alarm", "lightly-ai/lightly/issues/559")
def detach_in_loss() -> Built:
    """No stop-gradient stands in the model: the criterion detaches its second argument."""
    net, predictor = encoder(), nn.Linear(8, 8)
    optimizer = torch.optim.SGD([*net.parameters(), *predictor.parameters()], lr=0.05)

    def negative_cosine(p: Tensor, z: Tensor) -> Tensor:
        return -F.cosine_similarity(p, z.detach(), dim=-1).mean()

    def step(batch: tuple[Tensor, Tensor]) -> Tensor:
        z0, z1 = net(batch[0]), net(batch[1])
        loss = 0.5 * (negative_cosine(predictor(z0), z1) + negative_cosine(predictor(z1), z0))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    return step, views()


@training_step("tubes whose stride is their kernel", "false alarm", "MCG-NJU/VideoMAE/issues/29")
def tubes() -> Built:
    """A 3-d convolution cuts the clip into tubes, which do not overlap."""
    embed, encode, decode = nn.Conv3d(1, 16, (2, 4, 4), (2, 4, 4)), nn.Sequential(Block(16), Block(16)), Block(16)
    head, token, position = nn.Linear(16, 32), nn.Parameter(torch.zeros(1, 1, 16)), torch.randn(16, 16)
    parameters = [*embed.parameters(), *encode.parameters(), *decode.parameters(), *head.parameters(), token]
    optimizer = torch.optim.AdamW(parameters)

    def step(batch: tuple[Tensor, Tensor]) -> float:
        videos, bool_masked_pos = batch
        n = len(videos)
        with torch.no_grad():
            cubes = videos.view(n, 1, 4, 2, 2, 4, 2, 4).permute(0, 2, 4, 6, 3, 5, 7, 1).reshape(n, 16, 32)
            cubes = (cubes - cubes.mean(-1, keepdim=True)) / (cubes.var(-1, keepdim=True).sqrt() + 1e-6)
            labels = cubes[bool_masked_pos].view(n, -1, 32)
        x = embed(videos).flatten(2).transpose(1, 2) + position
        visible = encode(x[~bool_masked_pos].view(n, -1, 16))
        places = position.expand(n, -1, -1)[bool_masked_pos].view(n, -1, 16)
        full = decode(torch.cat([visible, token + places], dim=1))
        loss = F.mse_loss(head(full[:, visible.shape[1] :]), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    tube = torch.tensor([1, 0, 1, 1] * 4).bool()
    return step, (torch.randn(2, 1, 8, 8, 8), tube.expand(2, -1).clone())


@training_step("the two divisors cancel", "false alarm", "facebookresearch/dinov2/issues/546")
def divisors_cancel() -> Built:
    """A sum divided by the count of images, over weights of one through each image's count: a mean of means."""
    student = nn.Sequential(nn.Linear(6, 16), Block(16))
    teacher = copy.deepcopy(student).requires_grad_(False)
    drift(teacher)
    token, center = nn.Parameter(torch.zeros(6)), torch.zeros(16)
    optimizer = torch.optim.AdamW([*student.parameters(), token])

    def step(batch: dict[str, Tensor]) -> float:
        x, masks = batch["collated"], batch["masks"]
        with torch.no_grad():
            t = F.softmax((teacher(x) - center) / 0.07, dim=-1)
        s = student(torch.where(masks[..., None], token, x))
        weight = (1 / masks.sum(-1).clamp(min=1.0)).unsqueeze(-1).expand_as(masks)[masks]
        loss = -(torch.sum(t[masks] * F.log_softmax(s[masks] / 0.1, dim=-1), dim=-1) * weight).sum() / len(masks)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        torch._foreach_mul_(list(teacher.parameters()), 0.99)
        torch._foreach_add_(list(teacher.parameters()), [p.detach() for p in student.parameters()], alpha=0.01)
        return loss.item()

    return step, {"collated": torch.randn(3, 10, 6), "masks": torch.rand(3, 10).argsort(1) < 4}


@training_step("an argument that nothing reads", "false alarm", "facebookresearch/jepa/issues/32")
def unused_argument() -> Built:
    """The predictor takes the targets and never uses them."""

    class Predictor(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block, self.mask_token = Block(16), nn.Parameter(torch.zeros(1, 1, 16))

        def forward(self, ctxt: Tensor, tgt: Tensor, where: Tensor) -> Tensor:
            queries = self.mask_token + where
            return self.block(torch.cat([ctxt, queries.expand(len(ctxt), -1, -1)], dim=1))[:, ctxt.shape[1] :]

    embed, block, predictor, pos = nn.Linear(16, 16), Block(16), Predictor(), torch.randn(16, 16)
    frozen = copy.deepcopy(nn.ModuleList([embed, block])).requires_grad_(False)
    drift(frozen)
    optimizer = torch.optim.AdamW([*embed.parameters(), *block.parameters(), *predictor.parameters()])

    def step(clips: Tensor) -> float:
        tokens, context, target = patchify(clips, 4), [0, 3, 5, 8, 9], [10, 11, 14, 15]
        with torch.no_grad():
            h = F.layer_norm(frozen[1](frozen[0](tokens) + pos), (16,))[:, target]
        z = block((embed(tokens) + pos)[:, context])
        loss = torch.mean(torch.abs(predictor(z, h, pos[target]) - h) ** 1.0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for k, q in zip(frozen.parameters(), [*embed.parameters(), *block.parameters()], strict=True):
                k.mul_(0.99).add_(q, alpha=0.01)
        return loss.item()

    return step, torch.randn(2, 1, 16, 16)


@training_step("distillation from a frozen network", "false alarm")
def distillation() -> Built:
    """The teacher is another, pre-trained network that never moves."""
    student, teacher = encoder(), nn.Sequential(nn.Flatten(), nn.Linear(192, 32), nn.Tanh(), nn.Linear(32, 8)).eval()
    optimizer = torch.optim.Adam(student.parameters())

    def step(batch: tuple[Tensor, Tensor]) -> float:
        with torch.inference_mode():
            soft = F.softmax(teacher(batch[0]) / 2, dim=-1)
        loss = F.kl_div(F.log_softmax(student(batch[0]) / 2, dim=-1), soft.clone(), reduction="batchmean")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step, (views()[0], torch.randint(3, (6,)))


@training_step("a denoising autoencoder", "false alarm")
def denoising() -> Built:
    """Everything is seen with noise, and everything is scored: there is no mask."""
    model = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.ConvTranspose2d(8, 3, 4, 2, 1))
    optimizer = torch.optim.Adam(model.parameters())

    def step(batch: tuple[Tensor, Tensor]) -> float:
        loss = F.mse_loss(model(batch[0] + 0.3 * torch.randn_like(batch[0])), batch[0])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step, views()


@training_step("a classifier with dropout", "false alarm")
def classifier() -> Built:
    """A supervised step: images, labels, cross-entropy, and an average of the weights for evaluation."""
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Dropout(0.2), nn.Linear(288, 5))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    average = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.99))

    def step(batch: tuple[Tensor, Tensor]) -> float:
        images, labels = batch
        loss = F.cross_entropy(model(images), labels, label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        average.update_parameters(model)
        return loss.item()

    return step, (views()[0], torch.randint(5, (6,)))


@training_step("the average at the start of the step", "false alarm")
def average_at_start() -> Built:
    """MoCo and others average before the forward pass: the teacher is not stale when it is used."""
    online, predictor = encoder(), nn.Linear(8, 8)
    online[0].requires_grad_(False)  # as in MoCo v3, the first layer is not trained
    target = copy.deepcopy(online).requires_grad_(False)
    drift(target[5:])
    optimizer = torch.optim.SGD([p for p in [*online.parameters(), *predictor.parameters()] if p.requires_grad], 0.1)

    def step(batch: tuple[Tensor, Tensor]) -> float:
        with torch.no_grad():
            for o, t in zip(online.parameters(), target.parameters(), strict=True):
                t.data = t.data * 0.99 + o.data * 0.01
        prediction = predictor(online(batch[0]))
        with torch.no_grad():
            wanted = target(batch[1])
        loss = -F.cosine_similarity(prediction, wanted).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step, views()


@training_step("mixed precision and gradient checkpointing", "false alarm")
def mixed_precision() -> Built:
    """MAE in bfloat16 with a gradient scaler, two micro-batches and recomputed activations."""
    model = MaskedAutoencoder()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
    scaler = torch.amp.GradScaler("cpu")

    def step(images: Tensor) -> float:
        optimizer.zero_grad(set_to_none=True)
        total = 0.0
        for micro in images.chunk(2):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = checkpoint(model, micro, use_reentrant=False)[0] / 2
            scaler.scale(loss).backward()
            total += loss.item()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        return total

    return step, torch.rand(2, 3, 16, 24)


@training_step("half of the hidden patches predicted", "false alarm")
def partial_prediction() -> Built:
    """Some hidden patches are not scored, to save the decoder's time."""
    model, head = nn.Sequential(nn.Linear(16, 16), Block(16)), nn.Linear(16, 16)
    queries, position = nn.Parameter(torch.randn(16)), torch.randn(16, 16)
    optimizer = torch.optim.AdamW([*model.parameters(), *head.parameters(), queries])

    def step(images: Tensor) -> float:
        patches = patchify(images, 4)
        order = torch.randperm(16)
        keep, ask = order[:4], order[8:]
        seen = model(patches[:, keep] + position[keep])
        asked = queries + position[ask] + seen.mean(1, keepdim=True)
        loss = F.mse_loss(head(asked), patches[:, ask])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step, torch.randn(3, 1, 16, 16)


@training_step("a closure, two optimizers and two losses", "false alarm")
def two_optimizers() -> Built:
    """A masked model trained by an optimizer with closure, and a probe on detached features by another."""
    net, decode, probe = nn.Sequential(nn.Linear(4, 16), Block(16)), nn.Linear(16, 4), nn.Linear(16, 3)
    main = torch.optim.Adam([*net.parameters(), *decode.parameters()])
    other = torch.optim.SGD(probe.parameters(), lr=0.1)

    def step(batch: dict[str, Any]) -> float:
        x, labels = batch["x"], batch["label"]
        hidden = torch.rand(x.shape[:2]).argsort(1) < 5
        features = []

        def closure() -> Tensor:
            main.zero_grad()
            latent = net(torch.where(hidden[..., None], 0, x))
            features.append(latent.detach())
            loss = (decode(latent) - x)[hidden].abs().mean()
            loss.backward()
            return loss

        value = main.step(closure)
        other.zero_grad()
        F.cross_entropy(probe(features[-1].mean(1)), labels).backward()
        other.step()
        return float(value)

    return step, {"x": torch.randn(4, 9, 4), "label": torch.tensor([0, 2, 1, 0])}


@training_step("adaLN-Zero in its first step", "false alarm")
def zero_gates() -> Built:
    """Gates and the last layer start at 0: what lies before them gets a gradient of zeros until they have moved."""
    embed, block, gate, head = nn.Linear(4, 16), Block(16), nn.Linear(16, 16), nn.Linear(16, 4)
    for layer in (gate, head):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    modules = nn.ModuleList([embed, block, gate, head])
    optimizer = torch.optim.AdamW(modules.parameters(), weight_decay=0.0)

    def step(x: Tensor) -> float:
        hidden = torch.rand(x.shape[:2]).argsort(1) < 4
        y = embed(x.masked_fill(hidden[..., None], 0))
        y = y + gate(y.mean(1, keepdim=True)) * block(y)
        loss = (head(y) - x)[hidden].square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step, torch.randn(3, 9, 4)


@training_step("a loss over all places, constant where visible", "false alarm")
def over_all_places() -> Built:
    """Predictions are written into zeros, and the error is averaged over all pixels: visible ones add a constant."""
    net, position = nn.Sequential(nn.Linear(16, 16), Block(16), nn.Linear(16, 16)), torch.randn(16, 16)
    optimizer = torch.optim.AdamW(net.parameters())

    def step(images: Tensor) -> float:
        target = patchify(images, 4)
        hidden = torch.rand(target.shape[:2]).argsort(1) < 10
        prediction = net(target.masked_fill(hidden[..., None], 0) + position)
        full = torch.zeros_like(target)
        full[hidden] = prediction[hidden]
        loss = F.mse_loss(full, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step, torch.randn(3, 1, 16, 16)
