"""A PyTorch program as an ATen graph in which every size and every integer argument is a symbol.

`torch.export` records the operators that the Python program calls. Which operators those are depends on the decisions
that Python takes about sizes and arguments (``if period == 0``), and these make the *path condition* of a capture:
the graph is the program wherever it holds. Decisions inside an operator's shape rule (memory layout, broadcasting)
are no part of it, because each operator's meaning works its shape out anew; equalities between sizes that such a
rule settles on are kept, because torch rewrites later sizes by them. Sizes may be 0 and 1: the capture is made in
torch's size-oblivious mode.
"""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any
from unittest.mock import patch

import sympy  # type: ignore[import-untyped]
import torch
import z3
from torch._dynamo import config as dynamo_config
from torch.fx import config as fx_config
from torch.fx.experimental import _config as shape_config
from torch.fx.experimental import proxy_tensor
from torch.fx.experimental.symbolic_shapes import ShapeEnv

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
    """Export the program along the path that the hints (a shape or an integer for each argument) take."""
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
    with _decisions() as decided:
        try:
            exported = torch.export.export(_Module(program), arguments, dynamic_shapes=(dynamic,), strict=False)
        except Exception as error:
            raise CaptureFailed(f"{type(error).__name__}: {str(error).splitlines()[0]}") from error
    return _read(exported, signature, decided, hypotheses)


class _Module(torch.nn.Module):
    def __init__(self, program: Program) -> None:
        super().__init__()
        self.program = program

    def forward(self, *arguments: Any) -> tuple[torch.Tensor, ...]:
        # Symbols exist by now; oblivious to sizes, torch would make new unknowns for slices.
        with shape_config.patch(backed_size_oblivious=False):  # type: ignore[attr-defined]
            return tuple(self.program(*arguments))


@contextmanager
def _decisions() -> Iterator[list[tuple[sympy.Basic, Any]]]:
    """Collects what the program decides about symbols, while torch exports it; every decision goes by the hints."""
    decided: list[tuple[sympy.Basic, Any]] = []
    evaluate, check = ShapeEnv.evaluate_sym_node, ShapeEnv.guard_or_defer_runtime_assert

    def record(self: ShapeEnv, node: Any, *rest: Any, **options: Any) -> Any:
        if not isinstance(node.hint, bool):
            # A size that becomes a number in the graph is one wherever the graph is the program.
            expression = node.expr
            result = evaluate(self, node, *rest, **options)
            decided.append((expression, result))
            return result
        if _asked_by_program(sys._getframe(1)):
            decided.append((node.expr, node.hint))
        return sympy.true if node.hint else sympy.false

    def recorded_check(self: ShapeEnv, expression: Any, *rest: Any, **options: Any) -> bool:
        known_sizes = expression.xreplace(self.backed_var_to_val)
        if known_sizes not in (sympy.true, sympy.false):
            return check(self, expression, *rest, **options)
        if _asked_by_program(sys._getframe(1)):
            decided.append((expression, bool(known_sizes)))
        return bool(known_sizes)

    with ExitStack() as stack:
        stack.enter_context(patch.object(ShapeEnv, "evaluate_sym_node", record))
        stack.enter_context(patch.object(ShapeEnv, "guard_or_defer_runtime_assert", recorded_check))
        # Read when torch makes the symbols: sizes of 0 and 1 get one too.
        stack.enter_context(shape_config.patch(backed_size_oblivious=True))  # type: ignore[attr-defined]
        # With symbolic sizes its keys cost more than it saves: captures take half the time without it.
        stack.enter_context(dynamo_config.patch(fake_tensor_cache_enabled=False))
        stack.enter_context(patch.object(fx_config, "do_not_emit_stack_traces", True))
        # Nobody reads the memory layout that is noted beside each node, and with symbolic sizes it is slow to find out.
        stack.enter_context(patch.object(proxy_tensor, "_extract_tensor_metadata", lambda value: None, create=True))
        yield decided


_OPERATOR_RULES = ("_subclasses", "_refs", "_prims", "_prims_common", "_decomp", "_meta_registrations.py", "_ops.py")


def _asked_by_program(frame: FrameType | None) -> bool:
    """Whether a decision is the program's (``if size == 1``), and not that of an operator's shape or layout rule."""
    while frame is not None:
        path = frame.f_code.co_filename
        if "/torch/" in path and path.split("/torch/", 1)[1].split("/")[0] in _OPERATOR_RULES:
            return False
        if frame.f_code.co_name == "forward" and path == __file__:
            return True
        frame = frame.f_back
    return False


def _read(
    exported: torch.export.ExportedProgram,
    signature: Signature,
    decided: Sequence[tuple[sympy.Basic, Any]],
    hypotheses: Sequence[Term],
) -> Capture:
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
    path, symbols = _path(sizes, decided, hypotheses)
    return Capture(exported.graph, path, symbols, constants, exported.graph_module)


def _path(
    sizes: Sequence[tuple[Any, Term]], decided: Sequence[tuple[sympy.Basic, Any]], hypotheses: Sequence[Term]
) -> tuple[z3.BoolRef, dict[sympy.Symbol, Term]]:
    """The decisions as one condition on the unknowns, and torch's symbols as ours; ``sizes`` pairs them."""
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
    return z3.And(path), symbols
