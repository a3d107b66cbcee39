"""The meaning of a captured graph: each output as a function of its coordinate."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import z3

from viewproof.symbolic.capture import Capture, IntInput, Signature, unknowns
from viewproof.symbolic.expressions import translate
from viewproof.symbolic.facts import Facts
from viewproof.symbolic.operators import TABLE
from viewproof.symbolic.tensor import Index, SymTensor
from viewproof.symbolic.terms import as_z3, fold, known
from viewproof.symbolic.values import FLOATS, NoMeaning, constant, sort, width
from viewproof.torch_internals import OpOverload


def symbolic_inputs(signature: Signature, facts: Facts) -> dict[str, Any]:
    """Arbitrary arguments: a tensor is an unknown function of its coordinate, over symbolic extents."""
    inputs: dict[str, Any] = {}
    for name, terms in unknowns(signature).items():
        kind = signature[name]
        if isinstance(kind, IntInput):
            inputs[name] = terms
            continue
        assert isinstance(terms, tuple)
        facts.assume(*(extent >= 0 for extent in terms))
        inputs[name] = SymTensor(terms, kind.dtype, _reader(name, kind.rank, sort(facts, kind.dtype)))
    return inputs


def _reader(name: str, rank: int, values: z3.SortRef) -> Callable[[Index], Any]:
    function = z3.Function(name, *[z3.IntSort()] * rank, values)
    return lambda index: function(*index)


def concrete(tensor: torch.Tensor, facts: Facts) -> SymTensor:
    """A tensor of known values.

    At a coordinate that is no number, a case distinction over all entries.
    """
    shape, dtype = tuple(tensor.shape), tensor.dtype
    values = tensor.detach().cpu().contiguous()
    if dtype in FLOATS and facts.arithmetic != "real":
        values = values.view(FLOATS[dtype][2])

    def entry(index: tuple[int, ...]) -> Any:
        value = values[index].item()
        if dtype in FLOATS and facts.arithmetic != "real":
            return z3.BitVecVal(value, width(dtype))
        return constant(facts, value, dtype)

    def at(index: Index) -> Any:
        place = tuple(map(fold, index))
        if all(map(known, place)):
            within = all(0 <= i < d for i, d in zip(place, shape, strict=True))
            return entry(place) if within else constant(facts, 0, dtype)
        result = constant(facts, 0, dtype)
        for other in itertools.product(*map(range, shape)):
            here = [as_z3(i == o) for i, o in zip(place, other, strict=True)]
            result = z3.If(z3.And(here), entry(other), result)
        return result

    return SymTensor(shape, dtype, at)


def _without_autocast(arguments: Sequence[Any]) -> int:
    if arguments[2]:
        raise NoMeaning("a region in which autocast is on")
    return 4


_REGIONS: dict[str, Callable[[Sequence[Any]], int]] = {
    "wrap_with_set_grad_enabled": lambda _: 1,
    "wrap_with_autocast": _without_autocast,
}
"""Parts of a program that run with or without gradients, or without autocast: where the region's graph stands."""


def outputs(capture: Capture, inputs: Mapping[str, Any], facts: Facts) -> list[Any]:
    """What the graph returns for these inputs.

    An operator without a meaning raises `NoMeaning` with its name.
    """
    return _graph_outputs(capture, capture.module, list(inputs.values()), facts)


def _graph_outputs(capture: Capture, module: torch.fx.GraphModule, inputs: Sequence[Any], facts: Facts) -> list[Any]:
    results: dict[torch.fx.Node, Any] = {}
    arguments = iter(inputs)
    for node in module.graph.nodes:
        if node.op == "placeholder":
            fixed = capture.constants.get(node.name) if module is capture.module else None
            results[node] = next(arguments) if fixed is None else concrete(fixed, facts)
        elif node.op == "get_attr" and isinstance(getattr(module, node.target), torch.fx.GraphModule):
            results[node] = getattr(module, node.target)
        elif node.op == "call_function" and node.target.__name__ in _REGIONS:
            region, *rest = _resolve(node.args, results)[_REGIONS[node.target.__name__](node.args) :]
            results[node] = _graph_outputs(capture, region, rest, facts)
        elif node.op == "call_function":
            results[node] = apply(node.target, facts, _resolve(node.args, results), _resolve(node.kwargs, results))
            _check_shape(capture, node, results[node], facts)
        elif node.op == "output":
            return list(_resolve(node.args[0], results))
        else:
            raise NoMeaning(f"graph node {node.op} {node.target}")
    raise NoMeaning("a graph without output")


def _check_shape(capture: Capture, node: torch.fx.Node, value: Any, facts: Facts) -> None:
    """Raise `NoMeaning` if the meaning's shape is not the one that torch worked out at the hints.

    The program's later decisions rest on torch's.
    """
    recorded = node.meta.get("val")
    if not isinstance(value, SymTensor) or not isinstance(recorded, torch.Tensor):
        return
    shape = [
        translate(d.node.expr, capture.symbols, facts) if isinstance(d, torch.SymInt) else d for d in recorded.shape
    ]
    if len(shape) != value.rank or not all(facts.same_size(a, b) for a, b in zip(shape, value.shape, strict=True)):
        raise NoMeaning(f"operator {node.target}: shape {value.shape}, which torch takes for {shape}")


def apply(target: Any, facts: Facts, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """The meaning of one operator on these arguments."""
    name = str(target) if isinstance(target, OpOverload) else f"operator.{target.__name__}"
    meaning = facts.meanings.get(name) or TABLE.get(name)
    if meaning is None:
        raise NoMeaning(f"operator {name}")
    return meaning(facts, *args, **kwargs)


def _resolve(argument: Any, results: Mapping[torch.fx.Node, Any]) -> Any:
    if isinstance(argument, torch.fx.Node):
        return results[argument]
    if isinstance(argument, list | tuple):
        return [_resolve(part, results) for part in argument]
    if isinstance(argument, dict):
        return {key: _resolve(part, results) for key, part in argument.items()}
    return argument
