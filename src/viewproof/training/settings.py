"""Settings whose fields carry their own checks, and those that every training run has."""

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import partial
from typing import Annotated, Any, Literal, get_args, get_origin

from viewproof.data.checks import check_int
from viewproof.errors import InvalidArgument
from viewproof.models import TokenSettings
from viewproof.models.backbone import is_library


def one_of(*choices: Any) -> Callable[[str, Any], None]:
    """A check that a value is one of some choices.

    >>> one_of("ddp", "fsdp")("strategy", "zero")
    Traceback (most recent call last):
    viewproof.errors.InvalidArgument: strategy='zero' must be one of 'ddp', 'fsdp'
    """

    def check(name: str, value: Any) -> None:
        if value not in choices:
            raise InvalidArgument(f"{name}={value!r} must be one of {', '.join(map(repr, choices))}")

    return check


def network(*choices: str) -> Callable[[str, Any], None]:
    """A check that a value is one of some networks, or a model of another library.

    >>> network("vit")("model", "timm:resnet18")
    >>> network("vit")("model", "resnet")
    Traceback (most recent call last):
    viewproof.errors.InvalidArgument: model='resnet' must be one of 'vit', timm:NAME, transformers:NAME
    """

    def check(name: str, value: Any) -> None:
        if value not in choices and not (isinstance(value, str) and is_library(value)):
            names = ", ".join([*map(repr, choices), "timm:NAME", "transformers:NAME"])
            raise InvalidArgument(f"{name}={value!r} must be one of {names}")

    return check


def number(fits: Callable[[float], bool], must: str) -> Callable[[str, Any], None]:
    """A check that a value is a number that fits; ``must`` says what it must be."""

    def check(name: str, value: Any) -> None:
        if isinstance(value, bool) or not isinstance(value, int | float) or not fits(value):
            raise InvalidArgument(f"{name}={value!r} must {must}")

    return check


positive = number(lambda value: 0 < value < math.inf, "be positive and finite")
non_negative = number(lambda value: 0 <= value < math.inf, "be at least 0 and finite")
momentum = number(lambda value: 0 <= value < 1, "be at least 0 and below 1; 1 would keep the first weights")
share = number(lambda value: 0 < value <= 1, "lie above 0 and at most at 1, which is all")


_count = partial(check_int, minimum=1)
Count = Annotated[int, _count]
OptionalCount = Annotated[int | None, _count]
CountOrZero = Annotated[int, partial(check_int, minimum=0)]


def machine_sized(minimum: int) -> Callable[[str, Any], None]:
    """A check that a number of processes or threads is one that a machine of this size can run."""
    most = 16 * (os.cpu_count() or 1)

    def check(name: str, value: Any) -> None:
        if check_int(name, value, minimum=minimum) > most:
            raise InvalidArgument(f"{name}={value} must be at most {most}, 16 times this machine's processors")

    return check


def seed_of_torch(name: str, value: Any) -> None:
    """A check that a value is a seed that torch takes.

    >>> seed_of_torch("seed", 2**64)
    Traceback (most recent call last):
    viewproof.errors.InvalidArgument: seed=18446744073709551616 must be at most 2**64 - 1
    """
    if check_int(name, value, minimum=0) >= 2**64:
        raise InvalidArgument(f"{name}={value} must be at most 2**64 - 1")


Seed = Annotated[int, seed_of_torch]
Flag = Annotated[bool, one_of(True, False)]


def check_fields(kind: type, values: Mapping[str, Any]) -> None:
    """Run the check of each field of a dataclass on its value, unless that is None or missing.

    A field's check is what its annotation carries: ``Annotated[int, check]``, called as ``check(name, value)``; that of
    a ``Literal`` is that the value is one of its choices.
    """
    for field in fields(kind):
        if values.get(field.name) is not None:
            choices = get_args(field.type) if get_origin(field.type) is Literal else ()
            for check in [one_of(*choices)] if choices else getattr(field.type, "__metadata__", ()):
                check(field.name, values[field.name])


@dataclass(frozen=True, kw_only=True)
class CheckedFields:
    """Base of dataclasses whose fields are checked when one is made; see `check_fields`.

    >>> @dataclass(frozen=True, kw_only=True)
    ... class Sizes(CheckedFields):
    ...     width: Count = 8
    >>> Sizes(width=0)
    Traceback (most recent call last):
    viewproof.errors.InvalidArgument: width=0 must be an integer of at least 1
    """

    def __post_init__(self) -> None:
        check_fields(type(self), vars(self))


@dataclass(frozen=True, kw_only=True)
class TrainingSettings(CheckedFields):
    """What every run is trained with, whatever its method; see `viewproof.runs.config`.

    None stands for "no limit" in ``clip``, for "at the end of each epoch only" in ``checkpoint_every``; and one of
    ``epochs`` and ``steps``, the one that does not end the run, is None.
    """

    data: str
    backbone: str | None = None
    init: str | None = None
    class_token: Flag = False
    registers: CountOrZero = 0
    positions: Literal["fixed", "learned"] = "fixed"
    features: Literal["mean", "class", "both", "grid"] = "mean"
    norm_eps: Annotated[float, positive] = 1e-6
    patch_size: Count
    tubelet: Count = 1
    dim: Count = 128
    depth: Count = 4
    heads: Count = 4
    epochs: OptionalCount = 20
    steps: OptionalCount = None
    batch_size: Count
    accumulate: Count
    learning_rate: Annotated[float, positive] = 1e-3
    weight_decay: Annotated[float, non_negative]
    warmup_epochs: Annotated[float, non_negative]
    optimizer: Literal["adamw", "muon"] = "adamw"
    rate_rule: Literal["fixed", "linear", "sqrt"] = "fixed"
    ema: Annotated[float | None, momentum] = None
    clip: Annotated[float | None, positive] = None
    seed: Seed
    workers: Annotated[int, machine_sized(0)]
    threads: Annotated[int, machine_sized(1)]
    precision: Literal["32-true", "bf16-mixed"]
    compile: Flag
    checkpoint_every: OptionalCount = None
    accelerator: Literal["auto", "cpu", "cuda"]
    devices: Annotated[int, machine_sized(1)]
    nodes: Count
    strategy: Literal["ddp", "fsdp"]
    logger: Literal["tensorboard", "csv", "wandb", "mlflow"] = "tensorboard"

    @property
    def tokens(self) -> TokenSettings:
        """What the encoder has beside its patch tokens."""
        return TokenSettings(self.class_token, self.registers, self.positions, self.features, self.norm_eps)

    @property
    def tubelet_sizes(self) -> tuple[int, int, int]:
        """The frames, rows and columns of a patch of clips."""
        return self.tubelet, self.patch_size, self.patch_size

    @property
    def ranks(self) -> int:
        """The processes that train together."""
        return self.devices * self.nodes

    @property
    def peak_rate(self) -> float:
        """The learning rate at its peak, scaled by the batch as ``rate_rule`` says."""
        power = {"fixed": 0.0, "sqrt": 0.5, "linear": 1.0}[self.rate_rule]
        return self.learning_rate * float((self.batch_size / 256) ** power)
