"""Steps that do not train what they should (C4, C6), and evaluations that train (C8)."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from viewproof.bugzoo.model_leaks import weights_from_seed_0
from viewproof.bugzoo.specimen import Twin, specimen
from viewproof.certify import Contract, Witness, certify_accumulation, certify_evaluation, certify_optimizer

IDS, IGNORED = 7, -100
INPUTS = torch.randn(9, 5, 4, generator=torch.Generator().manual_seed(0))
LABELS = torch.randint(0, IDS, (9, 5), generator=torch.Generator().manual_seed(0))
# Rows of unequal length.
LABELS[torch.arange(5) >= (torch.arange(9) % 5 + 1)[:, None]] = IGNORED


def accumulated(twin: Twin, sizes: list[int]) -> Tensor:
    """The gradient of the head that a step over parts of these sizes leaves."""
    model, step = twin()
    step(list(zip(torch.split(INPUTS, sizes), torch.split(LABELS, sizes), strict=True)))
    gradient: Tensor = model[-1].weight.grad
    return gradient


def parts_differ(twin: Twin, witness: Witness) -> bool:
    """Whether the parts' gradient is not that of the whole."""
    whole, parts = (accumulated(twin, sizes) for sizes in ([9], witness.inputs["sizes"]))
    return not torch.allclose(whole, parts, rtol=1e-3, atol=1e-5)


accumulation_bug = partial(
    specimen,
    contract=Contract.C4,
    certify=lambda twin: certify_accumulation(twin()[1], (INPUTS, LABELS)),
    certifier_stood=True,
    breaks=parts_differ,
)


def trainer(weight: Callable[..., Tensor | float], norm: bool = False) -> tuple[nn.Module, Callable[[list[Any]], None]]:
    """A model and its step, whose micro-batches count by ``weight(labels, parts)`` times their summed loss."""

    def make() -> nn.Module:
        return nn.Sequential(nn.Linear(4, 6), *([nn.BatchNorm1d(5)] if norm else []), nn.Tanh(), nn.Linear(6, IDS))

    model = weights_from_seed_0(make).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def step(parts: list[Any]) -> None:
        optimizer.zero_grad()
        for x, labels in parts:
            loss = F.cross_entropy(model(x).flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum")
            torch.autograd.backward(loss * weight(labels, parts))
        optimizer.step()

    return model, step


def scored(*parts: Any) -> Any:
    """How many tokens are scored."""
    return sum((labels != IGNORED).sum() for _, labels in parts)


@accumulation_bug("a mean of token means", "confirmed", "meta-pytorch/torchtune/issues/1875")
def mean_of_token_means(bug: bool) -> Any:
    """Each micro-batch's loss is a mean over its own tokens, and the mean of those is taken.

    Shown: Micro-batches of unequal length that move the parameters otherwise than the whole.
    Not shown: By how much a run differs in the end.
    """
    if bug:
        return trainer(lambda labels, parts: 1 / ((labels != IGNORED).sum() * len(parts)))
    return trainer(lambda labels, parts: 1 / scored(*parts))


@accumulation_bug("a sum of means, never divided", "confirmed", "huggingface/transformers/pull/34191")
def sum_of_means(bug: bool) -> Any:
    """The means of the micro-batches are added up: the gradient grows with their number.

    Shown: Three parts whose gradient is not that of the whole.
    Not shown: That Adam hides the scale of it.
    """
    if bug:
        return trainer(lambda labels, parts: 1 / (labels != IGNORED).sum())
    return trainer(lambda labels, parts: 1 / scored(*parts))


@accumulation_bug("batch norm under accumulation", "synthetic")
def batch_norm_accumulated(bug: bool) -> Any:
    """A batch norm takes mean and deviation of each micro-batch, not of the batch.

    Shown: Parts whose gradient is not that of the whole.
    Not shown: Whether it harms.
    """
    return trainer(lambda labels, parts: 1 / scored(*parts), norm=bug)


def vit() -> nn.Module:
    """A block with biases and norms, and a class token."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cls_token = nn.Parameter(torch.zeros(1, 1, 4))
            self.norm = nn.LayerNorm(4)
            self.mlp = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 4))
            self.predictor = nn.Linear(4, 4)

    return weights_from_seed_0(Block)


UNDECAYED = ("*.bias", nn.LayerNorm, "cls_token")
group_bug = partial(
    specimen,
    contract=Contract.C6,
    certify=lambda twin: certify_optimizer(*twin(), no_decay=UNDECAYED, decay=["mlp.*.weight", "predictor.weight"]),
    certifier_stood=True,
)


def decays_a_norm(twin: Twin, witness: Witness) -> bool:
    """Whether a step with gradients of 0 moves a parameter that the witness names."""
    model, optimizer = twin()
    before = {k: p.detach().fill_(1.0).clone() for k, p in model.named_parameters()}
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    named = dict(model.named_parameters())
    return any(not torch.equal(named[k], before[k]) for k in witness.inputs["decayed"])


@group_bug("names compared whole", "confirmed", "namisan/mt-dnn/pull/37", breaks=decays_a_norm)
def names_compared_whole(bug: bool) -> Any:
    """Whole names are looked up in a list of their endings, so that next to nothing is spared the decay.

    Shown: A bias that a step with a gradient of 0 makes smaller.
    Not shown: What decay of a bias does to a run.
    """
    model, endings = vit(), ("bias", "norm.weight", "cls_token")
    spared = [k in endings if bug else k.endswith(endings) for k, _ in model.named_parameters()]
    groups = [
        {"params": [p for p, s in zip(model.parameters(), spared, strict=True) if s is side], "weight_decay": rate}
        for side, rate in ((True, 0.0), (False, 0.1))
    ]
    return model, torch.optim.AdamW([g for g in groups if g["params"]])


@group_bug("norms decayed after a refactoring", "confirmed", "ServiceNow/Fast-LLM/issues/542", breaks=decays_a_norm)
def norms_decayed(bug: bool) -> Any:
    """The flag that spares norms is no longer handed on, and the default is to decay.

    Shown: A norm's weight that a step with a gradient of 0 makes smaller.
    Not shown: How it changes a run.
    """
    model = vit()
    spared = [(not bug and "norm" in k) or k.endswith(("bias", "token")) for k, _ in model.named_parameters()]
    if bug:
        spared = [s and "norm" not in k for s, (k, _) in zip(spared, model.named_parameters(), strict=True)]
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p, s in zip(parameters, spared, strict=True) if s is side], "weight_decay": rate}
        for side, rate in ((True, 0.0), (False, 0.1))
    ]
    return model, torch.optim.AdamW(groups)


def predictor_stays(twin: Twin, witness: Witness) -> bool:
    """Whether a parameter that the witness names stays where it is in a step that moves the others."""
    model, optimizer = twin()
    named = dict(model.named_parameters())
    before = {k: p.detach().clone() for k, p in named.items()}
    for p in named.values():
        p.grad = torch.ones_like(p)
    optimizer.step()
    return any(torch.equal(named[k], before[k]) for k in witness.inputs.get("missing", ()))


@group_bug("the predictor in no group", "confirmed", "openai/parameter-golf/pull/1581", breaks=predictor_stays)
def predictor_in_no_group(bug: bool) -> Any:
    """Groups are made by hand, module by module, and the predictor is in none.

    Shown: A parameter that no group holds.
    Not shown: What an untrained predictor predicts.
    """
    model = vit()
    parts = [(k, p) for k, p in model.named_parameters() if not (bug and k.startswith("predictor"))]
    matrices = [p for k, p in parts if k in ("mlp.0.weight", "mlp.2.weight", "predictor.weight")]
    ids = {id(p) for p in matrices}
    others = [p for _, p in parts if id(p) not in ids]
    groups: list[dict[str, Any]] = [{"params": matrices}, {"params": others, "weight_decay": 0.0}]
    return model, torch.optim.AdamW(groups, weight_decay=0.1)


BATCH = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))


def evaluation_changes(twin: Twin, witness: Witness) -> bool:
    """Whether an evaluation changes the state that the specimen returns beside it."""
    step, state = twin()
    before = [t.clone() for t in state()]
    step(witness.inputs["batch"])
    return not all(map(torch.equal, before, state()))


evaluation_bug = partial(
    specimen,
    contract=Contract.C8,
    certify=lambda twin: certify_evaluation(twin()[0], BATCH),
    certifier_stood=True,
    breaks=evaluation_changes,
)


@evaluation_bug("validation fills the queue", "confirmed", "Lightning-Universe/lightning-bolts/issues/630")
def validation_fills_the_queue(bug: bool) -> Any:
    """The validation step is the training step: it moves the key encoder and puts its keys into the queue.

    Shown: A parameter and a queue that are other after an evaluation.
    Not shown: How much validation images in the queue flatter the score.
    """
    query, key = nn.Linear(4, 3), nn.Linear(4, 3).requires_grad_(False)
    queue = torch.zeros(8, 3)

    def evaluate(x: Tensor) -> Tensor:
        with torch.no_grad():
            if bug:
                key.weight.mul_(0.9).add_(query.weight, alpha=0.1)
            keys = key(x)
            loss = F.cross_entropy(query(x) @ torch.cat([keys, queue]).T, torch.arange(len(x)))
            if bug:
                queue[: len(keys)] = keys
        return loss

    return evaluate, lambda: [queue, key.weight]


@evaluation_bug("statistics move at validation", "reported", "dragen1860/MAML-Pytorch/issues/4")
def statistics_move(bug: bool) -> Any:
    """The model evaluates in training mode, so that running statistics take in validation batches.

    Shown: A buffer that is other after an evaluation.
    Not shown: How far the statistics are off.
    """
    model = weights_from_seed_0(lambda: nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))).train()

    def evaluate(x: Tensor) -> Tensor:
        training = model.training
        model.train(bug)
        with torch.no_grad():
            score: Tensor = model(x).square().mean()
        model.train(training)
        return score

    return evaluate, lambda: list(model.buffers())


@evaluation_bug("no way back to training mode", "synthetic")
def no_way_back(bug: bool) -> Any:
    """``eval()`` without the way back: from the first evaluation on there is no dropout any more.

    Shown: A flag that is other after an evaluation.
    Not shown: Trainers that set the mode before every epoch.
    """
    model = weights_from_seed_0(lambda: nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.1))).train()

    def evaluate(x: Tensor) -> Tensor:
        training = model.training
        model.eval()
        with torch.no_grad():
            score: Tensor = model(x).square().mean()
        if not bug:
            model.train(training)
        return score

    return evaluate, lambda: [torch.tensor(m.training) for m in model.modules()]
