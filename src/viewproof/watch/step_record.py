"""What a plain run sends home of the step: calls, losses, parameters, and the rest of its record."""

from dataclasses import dataclass, field

from torch import Tensor

from viewproof.watch.gradients import GradientFacts
from viewproof.watch.loss_terms import Terms


@dataclass
class Call:
    """One call of a module: where in the order, below which call, with what; ``differentiable`` as autograd was set.

    ``reads`` are the paths of what it was given, ``made_of`` of what its results are made of. ``rows`` tell the rows
    that it was given apart, ``made`` those rows with what it made of them; of a ``text``, ``rows`` tell apart what it
    made. ``of_predictions`` says that what it was given takes gradients, where they are recorded.
    """

    index: int
    module: int
    parent: int | None
    depth: int
    differentiable: bool
    training: bool
    reads: tuple[str, ...] = ()
    made_of: tuple[str, ...] = ()
    shapes: tuple[tuple[int, ...], ...] = ()
    seconds: float = 0.0
    drops: tuple[str, ...] = ()
    rows: tuple[int, ...] = ()
    made: tuple[int, ...] = ()
    after_backwards: int = 0
    kind: str = ""
    of_predictions: bool = False
    text: bool = False


@dataclass
class Loss:
    """A loss: value, the line where backward was asked for, what it reads, and its dtypes back to the predictions."""

    value: float
    bits: bytes
    place: str
    reads: tuple[str, ...]
    dtype: str
    inner: tuple[str, ...] = ()
    finite: bool = True


@dataclass
class Parameter:
    """What happened to one parameter: its optimizers' groups, its gradient, how it moved."""

    name: str
    numel: int
    groups: tuple[tuple[int, int], ...] = ()
    gradient: bool = False
    nonzero: bool = False
    moved: bool = False
    decay: float = 0.0
    dim: int = 0
    requires_grad: bool = True
    finite: bool = True


@dataclass
class Record:
    """All of it. Modules and parameters are named by their ``id``, which forked copies share."""

    losses: list[Loss] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    parameters: dict[int, Parameter] = field(default_factory=dict)
    optimizers: dict[int, str] = field(default_factory=dict)
    predictions: list[tuple[str, int, str]] = field(default_factory=list)
    hold: frozenset[int] = frozenset()
    strides: dict[str, tuple[int, ...]] = field(default_factory=dict)
    stopped_by: list[str] = field(default_factory=list)
    generators: list[str] = field(default_factory=list)
    in_place: list[str] = field(default_factory=list)
    collectives: list[str] = field(default_factory=list)
    gathered_after: list[str] = field(default_factory=list)
    support: dict[str, Tensor] = field(default_factory=dict)
    steps: int = 0
    backwards: int = 0
    seconds: float = 0.0
    moved_at_backward: frozenset[int] = frozenset()
    moved_at_step: frozenset[int] = frozenset()
    made_in_step: list[str] = field(default_factory=list)
    first_nan: str = ""
    logged: list[str] = field(default_factory=list)
    losses_read: frozenset[int] = frozenset()
    outside: list[str] = field(default_factory=list)
    noisy: set[str] = field(default_factory=set)
    indices: frozenset[str] = frozenset()
    unread: tuple[str, ...] = ()
    left: frozenset[str] = frozenset()
    tested: frozenset[tuple[str, float]] = frozenset()
    terms: Terms = field(default_factory=Terms)
    gradients: GradientFacts = field(default_factory=GradientFacts)
    alone: list[int] = field(default_factory=list)
    remedy: str = ""
    averaged_some: bool = False
