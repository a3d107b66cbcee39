"""The programs' call forms: which arguments are symbolic, and what is observed of a mask or a sample."""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from torch import Tensor

import viewproof as vp
from viewproof.masks import BlockMask
from viewproof.symbolic.capture import IntInput, Signature, TensorInput
from viewproof.symbolic.terms import Term, product
from viewproof.theorems.tensors.case import Inputs, Subject

INT = IntInput()


def not_negative(inputs: Inputs) -> list[Term]:
    """Every integer argument is at least 0."""
    return [value >= 0 for value in inputs.values() if not hasattr(value, "at")]


def prefix_fits(name: str) -> Callable[[Inputs], list[Term]]:
    """The prefix is no longer than the flattened source."""
    return lambda inputs: [*not_negative(inputs), inputs[name] <= product(inputs["x"].shape[1:])]


def _sample(sample: vp.Sample) -> Sequence[Tensor]:
    assert sample.view is not None
    return sample.x, sample.y, sample.mask.hidden, sample.view.hidden


PERIODIC: Signature = {"period": INT, "offset": INT}
PATCHES: Signature = {"patch_h": INT, "patch_w": INT, **PERIODIC}

HIDDEN_MASK = Subject(
    "vector mask", {"data_dim": INT, **PERIODIC}, lambda program, *arguments: [program(*arguments).hidden], not_negative
)
VECTOR = Subject(
    "vectors", {"x": TensorInput(2), **PERIODIC}, lambda program, *arguments: [program(*arguments)], not_negative
)
IMAGES = Subject(
    "images", {"x": TensorInput(4), **PATCHES}, lambda program, *arguments: [program(*arguments)], not_negative
)
VECTOR_SAMPLE = Subject(
    "vector sample",
    {"x": TensorInput(2), **PERIODIC},
    lambda program, x, period, offset: [*_sample(program(x, period, offset)), vp.vector_mae_mask(x, period, offset)],
    not_negative,
)
IMAGE_SAMPLE = Subject(
    "image sample",
    {"x": TensorInput(4), **PATCHES, "recon_dim": INT},
    lambda program, x, *rest: [
        *_sample(program(x, *rest)),
        vp.image_patch_mask(x, *rest[:4]),
        vp.flatten_batch_prefix(x, rest[4]),
    ],
    prefix_fits("recon_dim"),
)


@cache
def prefix_sample(rank: int) -> Subject:
    """A prefix sample of a source of this rank, the batch axis counted, and the vector sample of the prefix."""

    def observe(program: Any, x: Tensor, data_dim: int, period: int, offset: int) -> Sequence[Tensor]:
        prefix = vp.flatten_batch_prefix(x, data_dim)
        return [
            *_sample(program(x, data_dim, period, offset))[:3],
            *_sample(vp.vector_mae_sample(prefix, period, offset))[:3],
        ]

    signature: Signature = {"x": TensorInput(rank), "data_dim": INT, **PERIODIC}
    return Subject(f"prefix sample of rank {rank}", signature, observe, prefix_fits("data_dim"))


@cache
def blocks(pattern: tuple[bool, ...]) -> Subject:
    """A block mask over data of this rank: the axes marked True take part, with symbolic widths."""
    widths = [f"block_{axis}" for axis, takes_part in enumerate(pattern) if takes_part]

    def observe(program: Any, x: Tensor, *rest: Any) -> Sequence[Tensor]:
        given = iter(rest)
        spec = tuple(next(given) if takes_part else None for takes_part in pattern)
        period, offset = given
        return [program(x, BlockMask(spec, period, offset))]

    name = f"blocks {tuple('k' if takes_part else None for takes_part in pattern)}"
    signature: Signature = {"x": TensorInput(len(pattern) + 1), **dict.fromkeys(widths, INT), **PERIODIC}
    return Subject(name, signature, observe, not_negative)
