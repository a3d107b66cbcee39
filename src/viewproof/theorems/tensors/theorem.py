"""How a theorem about a tensor program is written: a function with its statement as docstring."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from viewproof.theorems.registry import Mutant, Outcome, Theorem, register
from viewproof.theorems.tensors.case import Claims, Subject, TensorCase
from viewproof.theorems.tensors.decide import decide
from viewproof.theorems.tensors.witness import replays
from viewproof.verdict import Verdict

ALL_SIZES = (
    "all sizes from 0, all periods, offsets and widths from 0 (every path captured, coverage checked); every float32 "
    "bit pattern; 64-bit indices do not overflow"
)
CAPTURED = "torch.export graph, its operators' coordinate meanings, Z3"
NOT_NEGATIVE = "period, offset and widths are non-negative"


@dataclass(frozen=True)
class Enumeration:
    """A part of a statement that no capture reaches: ``right`` is run at finitely many inputs."""

    wrong: str
    """What is wrong where ``right`` is False."""
    inputs: Callable[[], Iterable[Mapping[str, Any]]]
    right: Callable[[Any, Mapping[str, Any]], bool]


def theorem(
    program: Any,
    *,
    on: Subject | Sequence[Subject] | None = None,
    mutants: Sequence[Any],
    layer: str = "masks",
    given: Sequence[str] = (NOT_NEGATIVE,),
    scope: str = ALL_SIZES,
    method: str = CAPTURED,
    enumerated: Enumeration | None = None,
) -> Callable[[Callable[..., Claims | list[TensorCase]]], Theorem]:
    """Register the decorated function as a theorem about ``program``, decided on its captured graphs.

    The function's name is the theorem's and the first paragraph of its docstring the statement. It is called with
    the inputs, the observed tensors and the facts of each subject in ``on``, and returns what is claimed of them;
    without ``on`` it takes nothing and returns a list of cases. ``given`` are the hypotheses in words. Each of
    ``mutants`` is a program like ``program`` with a docstring that says what is wrong with it.
    """

    def enter(statement: Callable[..., Any]) -> Theorem:
        subjects = [on] if isinstance(on, Subject) else on
        cases = statement() if subjects is None else [TensorCase(subject, statement) for subject in subjects]

        def prove(program: Any) -> Outcome:
            if enumerated is not None:
                wrong = next((inputs for inputs in enumerated.inputs() if not enumerated.right(program, inputs)), None)
                if wrong is not None:
                    return Outcome(Verdict.REFUTED, enumerated.wrong, {"case": "enumerated", **wrong})
            return decide(cases, program)

        def holds(program: Any, witness: Mapping[str, Any]) -> bool:
            if enumerated is not None and witness["case"] == "enumerated":
                return enumerated.right(program, witness)
            return replays(cases, program, witness)

        return register(
            statement,
            layer=layer,
            hypotheses=tuple(given),
            scope=scope,
            method=method,
            program=program,
            prove=prove,
            holds=holds,
            mutants=tuple(map(Mutant.of, mutants)),
        )

    return enter
