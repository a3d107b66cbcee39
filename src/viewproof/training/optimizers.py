"""The optimizers of a run: AdamW, or Muon on hidden matrices with AdamW on everything else."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Muon, Optimizer

from viewproof.errors import InvalidArgument
from viewproof.torch_internals import has_bfloat16_units

BETAS = (0.9, 0.95)
OUTER = ("embed", "head")
"""Names of linear layers that read pixels or write predictions: no hidden matrices."""


def is_decayed(name: str, parameter: nn.Parameter) -> bool:
    """Whether weight decay applies: to weights of two axes or more, not to biases, norms, tokens and positions.

    >>> is_decayed("blocks.0.mlp.0.weight", nn.Parameter(torch.zeros(2, 2)))
    True
    >>> is_decayed("registers", nn.Parameter(torch.zeros(1, 2)))
    False
    """
    return parameter.dim() >= 2 and name.rpartition(".")[2].endswith("weight")


def hidden_matrices(model: nn.Module) -> list[Tensor]:
    """The weights of linear layers that neither read the data nor write the prediction, in the model's order.

    A layer whose name is in `OUTER` reads or writes; so does the first linear layer of a model without an embedding.

    >>> from viewproof.models import VectorAutoencoder
    >>> [tuple(weight.shape) for weight in hidden_matrices(VectorAutoencoder(12, 32, 8))]
    [(8, 32), (32, 8)]
    """
    linear = {name: m for name, m in model.named_modules() if isinstance(m, nn.Linear) and m.weight.requires_grad}
    names = [name.rpartition(".")[2] for name, _ in model.named_modules()]
    outer = {name for name in linear if name.rpartition(".")[2] in OUTER}
    if "embed" not in names:
        outer |= set(list(linear)[:1])
    return [module.weight for name, module in linear.items() if name not in outer]


def orthogonalize(update: Tensor, coefficients: Sequence[float], steps: int, least: float) -> Tensor:
    """Newton and Schulz's iteration of torch's Muon, in the update's own dtype: singular values near 1.

    >>> values = torch.linalg.svdvals(orthogonalize(torch.randn(6, 9), (3.4445, -4.775, 2.0315), 5, 1e-7))
    >>> bool((values > 0.5).all() and (values < 1.3).all())
    True
    """
    a, b, c = coefficients
    wide = update.T if update.shape[0] > update.shape[1] else update
    wide = wide / wide.norm().clamp(min=least)
    for _ in range(steps):
        gram = wide @ wide.T
        wide = torch.addmm(wide, torch.addmm(gram, gram, gram, beta=b, alpha=c), wide, beta=a)
    return wide.T if update.shape[0] > update.shape[1] else wide


class Float32Muon(Muon):
    """Torch's Muon with its products in float32, for CPUs that have no units for bfloat16.

    Torch's iterates in bfloat16, which such a CPU multiplies tens of times slower than float32.
    """

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step of every matrix that has a gradient, with Nesterov's momentum and decoupled decay."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state, momentum = self.state[weight], group["momentum"]
                buffer = state.setdefault("momentum_buffer", torch.zeros_like(weight))
                buffer.lerp_(weight.grad, 1 - momentum)
                update = weight.grad.lerp(buffer, momentum)
                update = orthogonalize(update, group["ns_coefficients"], group["ns_steps"], group["eps"])
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.add_(update, alpha=-group["lr"] * 0.2 * math.sqrt(max(weight.shape)))


class MuonAdamW(Optimizer):
    """Muon (Jordan et al. 2024) on hidden matrices and AdamW on the rest, as one optimizer.

    Muon is torch's, with ``adjust_lr_fn="match_rms_adamw"`` (Liu et al. 2025, arXiv 2502.16982): its updates have the
    size of AdamW's, so that both take the same rate, schedule and weight decay. On a CPU without units for bfloat16 it
    is `Float32Muon`. State and groups are those of the two optimizers together; what is saved and loaded is one
    dictionary.
    """

    def __init__(self, muon: list[dict[str, Any]], adamw: list[dict[str, Any]], lr: float) -> None:
        slow = muon[0]["params"][0].is_cpu and not has_bfloat16_units()
        parts = [
            (Float32Muon if slow else Muon)(muon, lr=lr, momentum=0.95, adjust_lr_fn="match_rms_adamw"),
            AdamW(adamw, lr=lr, betas=BETAS, fused=True),
        ]
        super().__init__([group for part in parts for group in part.param_groups], {"lr": lr})
        self.parts, self._split = parts, len(parts[0].param_groups)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of both."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        # Loading a checkpoint replaces groups and state; both parts always work on the present ones.
        groups = self.param_groups[: self._split], self.param_groups[self._split :]
        for part, own in zip(self.parts, groups, strict=True):
            part.param_groups, part.state = own, self.state
            part.step()
        return loss


def check_optimizer(name: str, model: nn.Module) -> None:
    """Refuse an unknown optimizer, and Muon for a model without hidden matrices, with an `InvalidArgument`."""
    if name not in ("adamw", "muon"):
        raise InvalidArgument(f"optimizer={name!r} must be 'adamw' or 'muon'")
    if name == "muon" and not hidden_matrices(model):
        raise InvalidArgument(
            f"optimizer='muon' moves hidden matrices, and {type(model).__name__} has none; pass optimizer='adamw'"
        )


def build_optimizer(name: str, model: nn.Module, learning_rate: float, weight_decay: float) -> Optimizer:
    """AdamW, or Muon with AdamW, on the model's trained parameters."""
    trained = {key: p for key, p in model.named_parameters() if p.requires_grad}
    matrices = hidden_matrices(model) if name == "muon" else []
    chosen = {id(weight) for weight in matrices}
    rest = {key: p for key, p in trained.items() if id(p) not in chosen}
    groups: list[dict[str, Any]] = [
        {"params": [p for key, p in rest.items() if is_decayed(key, p)], "weight_decay": weight_decay},
        {"params": [p for key, p in rest.items() if not is_decayed(key, p)], "weight_decay": 0.0},
    ]
    if name == "muon":
        return MuonAdamW([{"params": matrices, "weight_decay": weight_decay}], groups, learning_rate)
    return AdamW(groups, lr=learning_rate, betas=BETAS, fused=True)
