"""The objective that a loss is declared to be: a distance of prediction and target, over exactly the mask."""

import copy
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from viewproof.errors import InvalidArgument

Name = Literal["mse", "l1", "smooth_l1", "cross_entropy", "cosine"]
Distance = Callable[..., Any] | nn.Module | Name

_NAMED: dict[str, Callable[[], nn.Module]] = {
    "mse": nn.MSELoss,
    "l1": nn.L1Loss,
    "smooth_l1": nn.SmoothL1Loss,
    "cross_entropy": nn.CrossEntropyLoss,
    "cosine": lambda: nn.CosineSimilarity(dim=-1),
}


@dataclass(frozen=True, eq=False)
class Objective:
    """A declared distance: of an error, of a prediction and a target, or one of torch's loss modules.

    ``of_error`` is set for a function of ``prediction - target``, the only kind that takes Fractions.
    """

    distance: Any
    of_error: bool = False

    @classmethod
    def of(cls, distance: Distance) -> "Objective":
        """The objective of a declared distance; `InvalidArgument` if it is none."""
        if isinstance(distance, str):
            if distance not in _NAMED:
                names = ", ".join(_NAMED)
                raise InvalidArgument(f"distance={distance!r} must be a function, a torch.nn loss, or one of {names}")
            distance = _NAMED[distance]()
        if isinstance(distance, nn.Module):
            module = copy.deepcopy(distance)
            if isinstance(module, nn.CosineSimilarity):
                return cls(lambda p, y: 1 - module(p, y))
            if not hasattr(module, "reduction"):
                raise InvalidArgument(
                    f"distance={distance!r} must be a loss of torch.nn with a reduction; pass a function of prediction "
                    "and target instead"
                )
            return cls(module)
        if not callable(distance):
            raise InvalidArgument(f"distance={distance!r} must be a function of the error, or of prediction and target")
        try:
            parameters = inspect.signature(distance).parameters.values()
        except ValueError:
            parameters = ()  # type: ignore[assignment]
        positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        needed = [p for p in positional if p.default is p.empty]
        return cls(distance, of_error=len(needed) < 2)

    @property
    def of_classes(self) -> bool:
        """Whether the prediction has an axis of class scores behind the target's."""
        return isinstance(self.distance, nn.CrossEntropyLoss | nn.NLLLoss)

    def value(self, prediction: Tensor, y: Tensor, hidden: Tensor, reduction: str) -> Tensor:
        """The mean, sum or rows of the distance over what is hidden.

        Where the distance joins the last axes of the target (a cosine does), the mask must be constant on them. A mean
        of weighted classes is torch's own: divided by the sum of the weights.
        """
        if self.of_classes and reduction != "rows":
            self.distance.reduction = reduction
            return self.distance(prediction[hidden], y[hidden])  # type: ignore[no-any-return]
        if self.of_classes:
            self.distance.reduction = "sum"
            rows = [self.distance(p[h], t[h]) for p, t, h in zip(prediction, y, hidden, strict=True)]
            return torch.stack(rows)
        if hasattr(self.distance, "reduction"):
            self.distance.reduction = "none"
        terms = self.distance(prediction - y) if self.of_error else self.distance(prediction, y)
        if terms.shape != y.shape[: terms.dim()]:
            raise InvalidArgument(
                f"distance gave shape {tuple(terms.shape)} for a target of shape {tuple(y.shape)}; return one number "
                "for each coordinate, or for each position of its first axes"
            )
        if terms.dim() < hidden.dim():
            positions = hidden.flatten(terms.dim())
            if bool((positions.any(-1) != positions.all(-1)).any()):
                raise InvalidArgument("the mask cuts what the distance joins; pass one that is constant on those axes")
            hidden = positions.all(-1)
        if reduction == "rows":
            return torch.where(hidden, terms, 0.0).flatten(1).sum(1)
        value: Tensor = terms[hidden].sum() if reduction == "sum" else terms[hidden].mean()
        return value
