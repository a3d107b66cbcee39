"""A silent bug as a whole training step, beside its correct twin; and small parts that the steps share."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from viewproof.bugzoo.specimen import Standing
from viewproof.certify import Contract

Built = tuple[Callable[[Any], Any], Any]
Needs = Literal["", "a declaration", "several steps", "several ranks"]
LEAK = "C1 C4 C5 C10"
"""What is both seen and scored breaks the view, the loss, the geometry or the model; a step does not say which."""


@dataclass(frozen=True)
class StepSpecimen:
    """A whole training step with a bug, and its correct twin.

    ``build(bug)`` returns a new ``(step, batch)``, the same at every call. Watching the buggy twin should refute one of
    ``contracts``, and nothing of the correct twin. ``needs`` says what one step on one rank lacks, if it cannot show
    the bug. A false alarm is correct, was taken for a bug or could be, and has no buggy twin.
    """

    name: str
    contracts: tuple[Contract, ...]
    standing: Standing
    source: str
    mechanism: str
    needs: Needs
    function: Callable[..., Built]

    def build(self, bug: bool) -> Built:
        """A twin: the step, with models and optimizer as in mid-training, and a batch for it."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return self.function() if self.standing == "false alarm" else self.function(bug)


REGISTERED: list[StepSpecimen] = []
"""Every specimen, in the order in which its file has it."""


def training_step(
    name: str, standing: Standing, source: str = "", *, contracts: str = "", needs: Needs = ""
) -> Callable[[Callable[..., Built]], Callable[..., Built]]:
    """Register the decorated builder; its docstring is the mechanism, its argument ``bug`` tells the twins apart."""

    def register(function: Callable[..., Built]) -> Callable[..., Built]:
        mechanism = inspect.getdoc(function) or ""
        address = f"https://github.com/{source}" if source else ""
        broken = tuple(Contract[contract] for contract in contracts.split())
        REGISTERED.append(StepSpecimen(name, broken, standing, address, mechanism, needs, function))
        return function

    return register


class Block(nn.Module):
    """A transformer block with the norm in front; ``allowed`` is True where a query may read a key."""

    def __init__(self, dim: int, heads: int = 2, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads, self.dropout = heads, nn.Dropout(dropout)
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))

    def forward(self, x: Tensor, allowed: Tensor | None = None) -> Tensor:
        """Tokens ``x`` [N, tokens, dim] after attention and MLP."""
        n, length, dim = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(n, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed)
        x = x + self.dropout(self.proj(attended.transpose(1, 2).reshape(n, length, dim)))
        return x + self.dropout(self.mlp(self.norm2(x)))


def patchify(images: Tensor, p: int) -> Tensor:
    """Square patches of ``images`` [N, C, H, W] as [N, patches, p * p * C], row-major."""
    n, c, h, w = images.shape
    return images.view(n, c, h // p, p, w // p, p).permute(0, 2, 4, 3, 5, 1).reshape(n, -1, p * p * c)


def drift(*modules: nn.Module) -> None:
    """Move an EMA teacher's parameters a little, as if training had gone on."""
    with torch.no_grad():
        for p in (p for module in modules for p in module.parameters()):
            p.add_(0.05 * torch.randn_like(p))
