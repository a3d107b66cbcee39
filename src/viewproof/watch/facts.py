"""What was read off one training step: sources, losses, modules and the rest, before anything is concluded."""

from dataclasses import dataclass, field
from enum import StrEnum

from torch import Tensor

from viewproof.certify.report import Report


class Role(StrEnum):
    """What a module is in the step, by evidence."""

    TRAINED = "trained"
    FROZEN = "frozen"
    TEACHER = "teacher"
    MIXED = "partly frozen"
    UNUSED = "ran, and the loss does not read it"


@dataclass(frozen=True)
class Source:
    """One tensor of the batch that carries content, and the two planes of its dependence.

    ``group`` [*values.shape[1:]] numbers the group of every coordinate of one sample from 0, row-major over the
    group grid, -1 for none; ``grid`` is the grid's shape: (14, 14) patches, (49,) tokens. ``seen`` and ``scored``
    are bool [samples, groups]. What is False in them holds for all values at this step if ``followed``; ``text`` holds,
    for tokens, a word for each position of a sample.
    """

    path: str
    values: Tensor
    group: Tensor
    grid: tuple[int, ...]
    seen: Tensor
    scored: Tensor
    followed: bool = True
    text: tuple[tuple[str, ...], ...] = ()

    @property
    def leak(self) -> Tensor:
        """Groups that are both seen and scored."""
        return self.seen & self.scored


@dataclass(frozen=True)
class ModuleFacts:
    """One module that ran: ``path`` as the user's names say it, ``kind`` its class, its role and what it moves by.

    ``of`` names the module that a teacher averages and ``momentum`` its factor; ``moves`` says in words how parameters
    and buffers moved ("by AdamW", "0.996 of itself + 0.004 of `student`", "does not move"); ``reads`` are the paths
    of sources and modules whose outputs it read, in the order of the step; ``shapes`` its first input and output.
    """

    path: str
    kind: str
    role: Role
    parameters: int
    reads: tuple[str, ...] = ()
    shapes: tuple[tuple[int, ...], ...] = ()
    of: str = ""
    momentum: float | None = None
    moves: str = ""
    training: bool = True


@dataclass(frozen=True)
class LossFacts:
    """One tensor from which ``backward`` started, its value, the user's line, and what it reads (paths)."""

    value: float
    place: str
    reads: tuple[str, ...] = ()


@dataclass(frozen=True)
class StepFacts(Report):
    """The findings about one training step, with the facts that they follow from.

    ``ledger`` holds the rest of what was read off, a line each by topic: "generators", "dtypes", "in-place writes",
    "collectives", "time", "memory", ...
    """

    sources: tuple[Source, ...] = ()
    modules: tuple[ModuleFacts, ...] = ()
    losses: tuple[LossFacts, ...] = ()
    ledger: dict[str, tuple[str, ...]] = field(default_factory=dict)
