"""The loss's graph of gradients, read backwards: the predictions, where trained parameters take part last."""

from collections.abc import Callable, Iterable
from typing import Any

# Steps that a loss is made of, which no part of a prediction is: beyond them nothing is a prediction.
_LOSS = frozenset(
    [
        "Mean",
        "Sum",
        "MseLoss",
        "L1Loss",
        "SmoothL1Loss",
        "HuberLoss",
        "NllLoss",
        "NllLoss2D",
        "BinaryCrossEntropy",
        "BinaryCrossEntropyWithLogits",
        "KlDiv",
        "Pow",
        "Abs",
        "Norm",
        "LinalgVectorNorm",
        "Logsumexp",
        "Bmm",
        "Mm",
        "Dot",
        "Cdist",
        "Var",
        "Std",
    ]
)
_OF_PARAMETERS = frozenset(
    ["T", "Transpose", "View", "UnsafeView", "ToCopy", "Expand", "Unsqueeze", "Permute", "ReshapeAlias", "Alias"]
)


def _kind(node: Any) -> str:
    return str(node.name()).split("Backward")[0].removeprefix("torch::autograd::")


def parameter_of(node: Any) -> Any:
    """The tensor whose gradient a node accumulates, directly or through a change of shape or dtype; else None."""
    for _ in range(6):
        if node is None:
            return None
        if hasattr(node, "variable"):
            return node.variable
        if _kind(node) not in _OF_PARAMETERS or len(node.next_functions) != 1:
            return None
        node = node.next_functions[0][0]
    return None


def _read_at_once(node: Any, seen: set[Any], above: dict[Any, set[Any]], module_outputs: dict[Any, int]) -> bool:
    """Whether a loss reads the node's output with no output of another trained module between them."""
    reach, queue = {node}, [node]
    while queue:
        one = queue.pop()
        if one not in above and one in seen:
            return True
        for parent in above.get(one, ()):
            if parent not in reach and parent not in module_outputs:
                reach.add(parent)
                queue.append(parent)
    return False


def predictions(
    losses: Iterable[Any], module_outputs: dict[Any, int], known: dict[Any, Any], trains: Callable[[Any], bool]
) -> list[Any]:
    """The nodes whose outputs are predictions; ``trains`` tells trained parameters.

    ``module_outputs`` has the nodes of trained modules' outputs, each with its depth in the modules, ``known`` those of
    which it is known where they were made. A prediction is what the last trained operator on a path gives, or, if
    only steps follow that are no loss's, the output of the outermost module that they lie in.
    """
    seen, above, last, queue = set(losses), dict[Any, set[Any]](), list[Any](), list(losses)
    while queue:
        node = queue.pop()
        children = [n for n, _ in node.next_functions if n is not None]
        if any(trains(parameter_of(n)) for n in children):
            # A product is made flat: what the program got is its view in the old shape.
            top = node
            while top not in known and len(above.get(top, ())) == 1 and _kind(next(iter(above[top]))) in _OF_PARAMETERS:
                top = next(iter(above[top]))
            if node in known or (top in known and _read_at_once(top, seen, above, module_outputs)):
                last.append(top)
                continue
        for child in children:
            above.setdefault(child, set()).add(node)
            if child not in seen and not hasattr(child, "variable"):
                seen.add(child)
                queue.append(child)
    found = dict[Any, None]()
    for node in last:
        reach, queue = {node}, [node]
        while queue:
            for parent in above.get(queue.pop(), ()):
                # A layer of a graph ends with a product too, of its edges, on the left, which take no gradients.
                edges = _kind(parent) == "Mm" and parent in module_outputs and parent.next_functions[0][0] is None
                if parent not in reach and (_kind(parent) not in _LOSS or edges):
                    reach.add(parent)
                    queue.append(parent)
        outputs = [n for n in reach if n in module_outputs]
        lowest = min((module_outputs[n] for n in outputs), default=0)
        found.update(dict.fromkeys([n for n in outputs if module_outputs[n] == lowest] or [node]))
    return list(found)
