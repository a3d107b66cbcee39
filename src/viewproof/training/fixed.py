"""The smallest training loops: any model, any sample, any loss, plain PyTorch."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from viewproof.errors import InvalidArgument
from viewproof.masks import Sample
from viewproof.masks.finite import check_count
from viewproof.objectives import masked_mse

Loss = Callable[[Tensor, Sample], Tensor]


def predict(model: nn.Module, sample: Sample) -> Tensor:
    """``model(sample.x)``, or ``model(sample.x, sample.view)`` if it declares ``takes_view = True``.

    >>> from viewproof.views import vector_mae_sample
    >>> sample = vector_mae_sample(torch.tensor([[1.0, 2.0, 3.0]]), period=3, offset=1)
    >>> predict(nn.Identity(), sample)
    tensor([[1., 0., 3.]])
    """
    prediction: Tensor = model(sample.x, sample.view) if getattr(model, "takes_view", False) else model(sample.x)
    return prediction


def train_fixed(
    model: nn.Module,
    sample: Sample,
    steps: int,
    loss: Loss = masked_mse,
    learning_rate: float = 1e-3,
    optimizer: torch.optim.Optimizer | None = None,
) -> list[float]:
    """Train on one fixed sample; return the ``steps + 1`` losses before each step and after the last.

    The optimizer is Adam with ``learning_rate`` unless one is given.

    >>> from viewproof.views import vector_mae_sample
    >>> _ = torch.manual_seed(0)
    >>> curve = train_fixed(nn.Linear(3, 3), vector_mae_sample(torch.rand(4, 3), period=3, offset=1), steps=50)
    >>> len(curve), curve[-1] < curve[0]
    (51, True)
    """
    check_count("steps", steps, "only measure")
    if optimizer is None:
        if not any(p.requires_grad for p in model.parameters()):
            raise InvalidArgument(f"model {type(model).__name__} has no parameter to train")
        optimizer = torch.optim.Adam((p for p in model.parameters() if p.requires_grad), lr=learning_rate)
    curve = []
    for _ in range(steps):
        optimizer.zero_grad()
        value = loss(predict(model, sample), sample)
        value.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        curve.append(float(value.detach()))
    with torch.no_grad():
        curve.append(float(loss(predict(model, sample), sample)))
    return curve
