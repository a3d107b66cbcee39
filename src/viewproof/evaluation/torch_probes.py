"""The probes of `viewproof.evaluation.probes` in torch, chunk by chunk, for GPUs and large sets."""

import torch
from torch import Tensor
from torch.nn import functional as F

from viewproof.progress import progress
from viewproof.shapes import Float, Int

QUERIES = 1024
CHUNK = 8192


def standardizer(x: Float[Tensor, "samples features"]) -> tuple[Float[Tensor, " features"], Float[Tensor, " features"]]:
    """Mean and standard deviation of each feature, in float64; the deviation of a constant is 1.

    A feature is constant where rounding alone may explain its variance, as scikit-learn's scaler decides it.

    >>> standardizer(torch.tensor([[1.0, 5.0], [3.0, 5.0]]))
    (tensor([2., 5.], dtype=torch.float64), tensor([1., 1.], dtype=torch.float64))
    """
    size = len(x)
    mean = torch.stack([part.double().sum(0) for part in torch.split(x, CHUNK)]).sum(0) / size
    variance = torch.stack([(part.double() - mean).square().sum(0) for part in torch.split(x, CHUNK)]).sum(0) / size
    eps = torch.finfo(torch.float64).eps
    constant = variance <= size * eps * variance + (size * mean * eps).square()
    return mean, torch.where(constant, 1.0, variance.sqrt())


def knn_predict(
    train: Float[Tensor, "samples features"],
    labels: Int[Tensor, " samples"],
    test: Float[Tensor, "queries features"],
    neighbours: int,
) -> Int[Tensor, " queries"]:
    """The most frequent class among the nearest training samples; of equally frequent ones the least.

    ``labels`` are classes from 0. No more than 1,024 x 8,192 distances exist at a time.

    >>> train, labels = torch.tensor([[0.0], [1.0], [5.0], [6.0]]), torch.tensor([0, 0, 1, 1])
    >>> knn_predict(train, labels, torch.tensor([[0.4], [5.2]]), neighbours=3)
    tensor([0, 1])
    """
    classes = int(labels.max()) + 1
    predicted = []
    for queries in progress(torch.split(test, QUERIES), "k-NN"):
        near = queries.new_empty(len(queries), 0)
        voters = labels.new_empty(len(queries), 0)
        for part, names in zip(torch.split(train, CHUNK), torch.split(labels, CHUNK), strict=True):
            # A query's own norm moves all its distances alike.
            distances = part.square().sum(1) - 2 * queries @ part.T
            distances, order = distances.topk(min(neighbours, len(part)), largest=False)
            near, voters = torch.cat([near, distances], 1), torch.cat([voters, names[order]], 1)
            near, order = near.topk(min(neighbours, near.shape[1]), largest=False)
            voters = voters.gather(1, order)
        votes = voters.new_zeros(len(queries), classes).scatter_add_(1, voters, torch.ones_like(voters))
        predicted.append(votes.argmax(1))
    return torch.cat(predicted)


def logistic_regression(
    x: Float[Tensor, "samples features"],
    labels: Int[Tensor, " samples"],
    max_iterations: int = 1000,
    tolerance: float = 1e-4,
) -> tuple[Float[Tensor, "classes features"], Float[Tensor, " classes"]]:
    """The minimiser of the mean cross-entropy plus ``|weights|**2 / (2 N)``: scikit-learn's C = 1.

    Of two classes the penalty counts twice, which is that of one weight vector for their difference. Full-batch L-BFGS
    from zero, in float64 by chunks, until no entry of the gradient exceeds ``tolerance``. Labels are classes from 0.

    >>> x, labels = torch.tensor([[-1.0], [1.0]]), torch.tensor([0, 1])
    >>> weights, bias = logistic_regression(x, labels, tolerance=1e-9)
    >>> residual = torch.sigmoid(-2 * weights[1]) - weights[1]  # the derivative, which is 0 at the minimum
    >>> bool(residual.abs() < 1e-6), bias.abs().max().item() < 1e-6
    (True, True)
    """
    classes, size = int(labels.max()) + 1, len(x)
    weights = torch.zeros(classes, x.shape[1], dtype=torch.float64, device=x.device, requires_grad=True)
    bias = torch.zeros(classes, dtype=torch.float64, device=x.device, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weights, bias],
        max_iter=max_iterations,
        max_eval=2 * max_iterations,
        tolerance_grad=tolerance,
        tolerance_change=0.0,
        history_size=10,
        line_search_fn="strong_wolfe",
    )

    steps = progress(range(2 * max_iterations), "linear probe", "step")

    def loss() -> float:
        next(steps, None)
        optimizer.zero_grad()
        total = weights.square().sum() / (size if classes == 2 else 2 * size)
        total.backward()  # type: ignore[no-untyped-call]
        value = float(total.detach())
        for part, names in zip(torch.split(x, CHUNK), torch.split(labels, CHUNK), strict=True):
            term = F.cross_entropy(F.linear(part.double(), weights, bias), names, reduction="sum") / size
            term.backward()  # type: ignore[no-untyped-call]
            value += float(term.detach())
        return value

    with torch.inference_mode(False), torch.enable_grad():
        optimizer.step(loss)  # type: ignore[no-untyped-call]
    steps.close()
    return weights.detach(), bias.detach()
