"""Predictions of representations: data2vec, I-JEPA and DINO steps with one wrong line each."""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from viewproof.bugzoo.steps.step import LEAK, Block, Built, drift, patchify, training_step


class Data2Vec(nn.Module):
    """data2vec for sequences: masked student regresses the mean of the teacher's normalised layers."""

    def __init__(self, fault: str, registers: int = 0, dim: int = 16) -> None:
        super().__init__()
        self.fault, self.registers = fault, registers
        self.embed, self.mask_emb = nn.Linear(6, dim), nn.Parameter(torch.randn(dim))
        self.prefix, self.pos = nn.Parameter(torch.randn(1, 1 + registers, dim)), nn.Parameter(torch.randn(1, 12, dim))
        self.layers = nn.ModuleList([Block(dim), Block(dim)])

    def forward(self, x: Tensor, mask: Tensor | None = None) -> list[Tensor]:
        """Outputs of all layers, the prefix first."""
        x = self.embed(x)
        if mask is not None:
            x = torch.where(mask[..., None], self.mask_emb, x)
        x, outputs = torch.cat([self.prefix.expand(len(x), -1, -1), x + self.pos], 1), []
        for layer in self.layers:
            x = layer(x)
            outputs.append(x)
        return outputs


def data2vec(bug: bool, fault: str, registers: int = 0) -> Built:
    """One step of data2vec; the mask comes with the batch, from the collator."""
    fault = fault if bug else ""
    model, head = Data2Vec(fault, registers), nn.Linear(16, 16)
    ema = copy.deepcopy(model).eval()
    drift(ema)
    for p in ema.parameters():
        p.requires_grad = fault == "average of layers in the graph"
    groups: list[dict[str, Any]] = [{"params": model.parameters()}, {"params": head.parameters(), "lr": 1e-3}]
    optimizer = torch.optim.AdamW(groups, lr=5e-4)
    if fault == "head made anew":
        optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4)

    def step(batch: dict[str, Tensor]) -> float:
        source, mask = batch["source"], batch["mask_indices"]
        regression = nn.Linear(16, 16) if fault == "head made anew" else head
        student = regression(model(source, mask)[-1][:, 1 + registers :])
        with torch.set_grad_enabled(fault == "average of layers in the graph"):
            layers = ema(source, mask if fault == "teacher reads the masked" else None)
            skipped = 1 if fault == "registers as patches" else 1 + registers
            layers = [F.layer_norm(y, y.shape[-1:])[:, skipped : skipped + 12] for y in layers]
            target = torch.stack(layers).mean(0)
        loss = F.smooth_l1_loss(student[mask], target[mask], beta=0.5)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for name, value in ema.state_dict().items():
                value.mul_(0.999).add_(model.state_dict()[name], alpha=0.001)
        return loss.item()

    return step, {"source": torch.randn(3, 12, 6), "mask_indices": torch.rand(3, 12).argsort(1) < 6}


@training_step(
    "data2vec: the teacher reads the masked input",
    "reported",
    "facebookresearch/fairseq/issues/4881",
    contracts="C3 C4",
)
def teacher_reads_masked(bug: bool) -> Built:
    """The target of a hidden token is made without that token."""
    return data2vec(bug, "teacher reads the masked")


@training_step("data2vec: registers counted as tokens", "confirmed", "kaiko-ai/eva/pull/672", contracts=LEAK)
def registers_counted(bug: bool) -> Built:
    """The teacher's four registers are taken for its first tokens: targets are off by four positions."""
    return data2vec(bug, "registers as patches", registers=4)


@training_step("data2vec: layers averaged in the graph", "synthetic", contracts="C6")
def layers_in_graph(bug: bool) -> Built:
    """The teacher runs with gradient, and its weights ask for it."""
    return data2vec(bug, "average of layers in the graph")


@training_step("regression head made anew in each step", "synthetic", contracts="C6")
def head_made_anew(bug: bool) -> Built:
    """The head is constructed inside the step: it is random, gets a gradient, and no optimizer knows it."""
    return data2vec(bug, "head made anew")


def ijepa(bug: bool, fault: str) -> Built:
    """I-JEPA: one context block, two target blocks that share no patch with it, predictor with positions."""
    dim, fault = 16, fault if bug else ""
    pos = 0.3 * torch.randn(16, dim)
    encoder = nn.ModuleDict({"embed": nn.Linear(48, dim), "block": Block(dim), "norm": nn.LayerNorm(dim)})
    target_encoder = copy.deepcopy(encoder).requires_grad_(False)
    drift(target_encoder)
    predictor, token = nn.Sequential(Block(dim), nn.Linear(dim, dim)), nn.Parameter(torch.randn(dim))
    optimizer = torch.optim.AdamW([*encoder.parameters(), *predictor.parameters(), token], lr=1e-3)

    def encode(net: nn.ModuleDict, tokens: Tensor, keep: Tensor | None = None) -> Tensor:
        x = net["embed"](tokens) + pos
        return net["norm"](net["block"](x if keep is None else x[:, keep]))

    def step(batch: list[Any]) -> Tensor:
        imgs, (context, blocks) = batch
        tokens = patchify(imgs, 4)
        with torch.no_grad():
            h = encode(target_encoder, tokens)
            h = F.layer_norm(h, (dim,))
        z = encode(encoder, tokens, None if fault == "encoded whole" else context)
        z = z[:, context] if fault == "encoded whole" else z
        loss = torch.zeros(())
        for block in blocks:
            queries = (token + pos[block]).expand(len(z), -1, -1)
            predicted = predictor(torch.cat([z, queries], 1))[:, -len(block) :]
            target = h[:, context[: len(block)]] if fault == "targets of the context" else h[:, block]
            loss = loss + F.smooth_l1_loss(predicted, target) / len(blocks)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for q, k in zip(encoder.parameters(), target_encoder.parameters(), strict=True):
                k.data.mul_(0.996).add_((1.0 - 0.996) * q.detach().data)
        return loss

    context = [0, 1, 4, 5, 6, 8, 9] if fault == "blocks overlap" else [0, 1, 4, 5, 8, 9]
    return step, [
        torch.randn(2, 3, 16, 16),
        (torch.tensor(context), [torch.tensor([2, 3, 6, 7]), torch.tensor([10, 11, 14, 15])]),
    ]


@training_step("I-JEPA: a target block overlaps the context", "synthetic", contracts=LEAK)
def blocks_overlap(bug: bool) -> Built:
    """The context is not cut by the target blocks: one patch is seen and asked for."""
    return ijepa(bug, "blocks overlap")


@training_step("I-JEPA: encoded whole, then cut", "confirmed", "huggingface/lerobot/issues/4153", contracts=LEAK)
def encoded_whole(bug: bool) -> Built:
    """The context is taken from tokens that attended to the whole image."""
    return ijepa(bug, "encoded whole")


@training_step("I-JEPA: targets taken at the context's places", "synthetic", contracts=LEAK)
def targets_of_context(bug: bool) -> Built:
    """The index of the wrong list: the predictor is asked for what the context holds."""
    return ijepa(bug, "targets of the context")


def dino(bug: bool, fault: str) -> Built:
    """DINO: two global and two local crops, centred and sharpened teacher, student on all crops."""
    fault, dim = fault if bug else "", 16

    class Head(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mlp = nn.Sequential(nn.Linear(dim, 16), nn.GELU(), nn.Linear(16, 8))
            self.last_layer = nn.utils.parametrizations.weight_norm(nn.Linear(8, 12, bias=False))
            self.last_layer.parametrizations.weight.original0.requires_grad = False

        def forward(self, x: Tensor) -> Tensor:
            return self.last_layer(F.normalize(self.mlp(x), dim=-1, p=2))

    class ViT(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patch_embed, self.cls = nn.Conv2d(3, dim, 4, 4), nn.Parameter(torch.randn(1, 1, dim))
            self.pos, self.block = nn.Parameter(0.1 * torch.randn(1, 16, dim)), Block(dim)

        def forward(self, x: Tensor) -> Tensor:
            x = self.patch_embed(x).flatten(2).transpose(1, 2)
            x = torch.cat([self.cls.expand(len(x), -1, -1), x + self.pos[:, : x.shape[1]]], dim=1)
            return self.block(x)[:, 0]

    student = nn.Sequential(ViT(), Head())
    teacher = copy.deepcopy(student)
    drift(teacher[0], teacher[1].get_submodule("mlp"))
    for p in teacher.parameters():
        p.requires_grad = False
    center = [torch.zeros(1, 12)]
    optimizer = torch.optim.AdamW([p for p in student.parameters() if p.requires_grad], lr=5e-4)

    def step(images: list[Tensor]) -> float:
        crops = [images[0]] * 2 + images[2:] if fault == "one crop twice" else images
        teacher_output = teacher(torch.cat(crops[:2]))
        student_output = torch.cat([student(torch.cat(crops[:2])), student(torch.cat(crops[2:]))])
        student_out = [s / 0.1 for s in student_output.chunk(len(crops))]
        shown = student_output[: len(teacher_output)] if fault == "targets from the student" else teacher_output
        targets = F.softmax((shown - center[0]) / 0.04, dim=-1)
        targets = targets if fault == "targets from the student" else targets.detach()
        total, terms = torch.zeros(()), 0
        for i, q in enumerate(targets.chunk(2)):
            for v, out in enumerate(student_out):
                if v == i and fault != "same crop":
                    continue
                if fault == "last pair only":
                    total = torch.sum(-q * F.log_softmax(out, dim=-1), dim=-1).mean()
                else:
                    total = total + torch.sum(-q * F.log_softmax(out, dim=-1), dim=-1).mean()
                terms += 1
        loss = total / terms
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        center[0] = center[0] * 0.9 + shown.detach().mean(0, keepdim=True) * 0.1
        with torch.no_grad():
            for q, k in zip(student.parameters(), teacher.parameters(), strict=True):
                k.data.mul_(0.996).add_((1 - 0.996) * q.detach().data)
        return loss.item()

    return step, [torch.randn(2, 3, 16, 16) for _ in range(2)] + [torch.randn(2, 3, 8, 8) for _ in range(2)]


@training_step("DINO: targets from the student", "synthetic", contracts="C6")
def dino_student_targets(bug: bool) -> Built:
    """The teacher runs and nothing reads it: targets come from the student, with gradient."""
    return dino(bug, "targets from the student")


@training_step("DINO: one crop twice", "synthetic", contracts="C4 C7 C8")
def one_crop_twice(bug: bool) -> Built:
    """Both global views are the first crop: equal bit for bit, and the second is read by nothing."""
    return dino(bug, "one crop twice")


@training_step("DINO: only the last pair counts", "confirmed", "facebookresearch/VICRegL/issues/6", contracts="C4 C7")
def last_pair_only(bug: bool) -> Built:
    """``loss =`` for ``loss +=`` over the pairs of crops: most outputs are not read."""
    return dino(bug, "last pair only")


@training_step("DINO: student and teacher on the same crop", "synthetic", contracts="C4 C7", needs="a declaration")
def same_crop(bug: bool) -> Built:
    """A crop is compared with itself. Whether that pair is meant cannot be read off the step."""
    return dino(bug, "same crop")
