"""A PyTorch program as an ATen graph in which every size and every integer argument is a symbol.

`torch.export` records the operators that the Python program calls. Which operators those are depends on the decisions
that Python takes about sizes and arguments (``if period == 0``), and these make the *path condition* of a capture:
the graph is the program wherever it holds. Decisions inside an operator's shape rule (memory layout, broadcasting)
are no part of it, because each operator's meaning works its shape out anew; equalities between sizes that such a
rule relies on are collected, because torch rewrites later sizes by them. Sizes may be 0 and 1: the capture is made in
torch's size-oblivious mode.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sympy  # type: ignore[import-untyped]
import torch
import z3

from viewproof import torch_internals
from viewproof.symbolic.expressions import translate
from viewproof.symbolic.facts import Facts
from viewproof.symbolic.terms import Term, iff, known, same
from viewproof.symbolic.values import NoMeaning


@dataclass(frozen=True)
class TensorInput:
    """A tensor argument with symbolic extents."""

    rank: int
    dtype: torch.dtype = torch.float32


@dataclass(frozen=True)
class IntInput:
    """An integer argument."""


Signature = Mapping[str, TensorInput | IntInput]
Program = Callable[..., Sequence[torch.Tensor]]


def unknowns(signature: Signature) -> dict[str, z3.ArithRef | tuple[z3.ArithRef, ...]]:
    """The Z3 integers that stand for each tensor's extents and each integer argument, by argument."""
    return {
        name: tuple(z3.Int(f"{name}.shape[{axis}]") for axis in range(kind.rank))
        if isinstance(kind, TensorInput)
        else z3.Int(name)
        for name, kind in signature.items()
    }


def unknowns_at(signature: Signature, sizes: Mapping[str, Any]) -> list[tuple[z3.ArithRef, Any]]:
    """Each of the `unknowns` with its value, of a shape or an integer an argument."""
    pairs: list[tuple[z3.ArithRef, Any]] = []
    for name, terms in unknowns(signature).items():
        pairs += zip(terms, sizes[name], strict=True) if isinstance(terms, tuple) else [(terms, sizes[name])]
    return pairs


@dataclass(frozen=True, eq=False)
class Capture:
    """A graph, the condition under which it is the program, and the values of its tensor constants."""

    graph: torch.fx.Graph
    path: z3.BoolRef
    symbols: Mapping[sympy.Symbol, Term]
    constants: Mapping[str, torch.Tensor]
    module: torch.fx.GraphModule

    @property
    def text(self) -> str:
        """The graph, one node a line."""
        return str(self.graph)


class CaptureFailed(Exception):
    """Torch could not export the program; the message says why."""


def capture(
    program: Program, signature: Signature, hints: Mapping[str, Any], hypotheses: Sequence[Term] = ()
) -> Capture:
    """Export the program along the path that the hints take: a shape or an integer an argument."""
    arguments = tuple(
        torch.zeros(hints[name], dtype=kind.dtype) if isinstance(kind, TensorInput) else hints[name]
        for name, kind in signature.items()
    )
    dynamic = tuple(
        dict.fromkeys(range(kind.rank), torch.export.Dim.AUTO)
        if isinstance(kind, TensorInput)
        else torch.export.Dim.AUTO
        for kind in signature.values()
    )
    try:
        with torch_internals.size_decisions(__file__) as decided:
            exported = torch.export.export(_Module(program), arguments, dynamic_shapes=(dynamic,), strict=False)
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        raise CaptureFailed(f"{type(error).__name__}: {reason}".removesuffix(": ")) from error
    return _read(exported, signature, decided, hypotheses)


class _Module(torch.nn.Module):
    def __init__(self, program: Program) -> None:
        super().__init__()
        self.program = program

    def forward(self, *arguments: Any) -> tuple[torch.Tensor, ...]:
        with torch_internals.no_unknown_slices():
            return tuple(self.program(*arguments))


def _read(
    exported: torch.export.ExportedProgram,
    signature: Signature,
    decided: Sequence[tuple[sympy.Basic, Any]],
    hypotheses: Sequence[Term],
) -> Capture:
    """The graph with its decisions as one condition, and our term for each of torch's symbols."""
    constants: dict[str, torch.Tensor] = {}
    sizes: list[tuple[Any, Term]] = []
    arguments = iter(unknowns(signature).values())
    places = [node for node in exported.graph.nodes if node.op == "placeholder"]
    for node, spec in zip(places, exported.graph_signature.input_specs, strict=True):
        if spec.target is not None:
            constants[node.name] = exported.constants[spec.target]
            continue
        value, terms = node.meta["val"], next(arguments)
        sizes += zip(value.shape, terms, strict=True) if isinstance(value, torch.Tensor) else [(value, terms)]
    symbols: dict[sympy.Symbol, Term] = {}
    environment = None
    for size, term in sizes:
        if isinstance(size, torch.SymInt):
            environment = size.node.shape_env
            if isinstance(size.node.expr, sympy.Symbol):
                symbols.setdefault(size.node.expr, term)
    facts = Facts(assumed=[h for h in hypotheses if not known(h)])
    path: list[Any] = []
    decisions = [(size.node.expr if isinstance(size, torch.SymInt) else sympy.Integer(size), t) for size, t in sizes]
    if environment is not None:
        for symbol, value in environment.replacements.items():
            symbols.setdefault(symbol, translate(environment.replace(value), symbols, facts))
    decisions += [(e, bool(r) if r in (sympy.true, sympy.false) else int(r)) for e, r in dict.fromkeys(decided)]
    for expression, result in decisions:
        term = translate(expression, symbols, facts)
        part = iff(term, result) if isinstance(result, bool) else same(term, result)
        if known(part) and not part:
            raise NoMeaning("a path that contradicts itself")
        # What the hypotheses imply would only make the coverage harder to decide.
        if not facts.entails(part):
            path.append(part)
            facts.assume(part)
    return Capture(exported.graph, z3.And(path), symbols, constants, exported.graph_module)
