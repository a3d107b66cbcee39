"""k-NN and linear probes of frozen features: scikit-learn, and torch on a GPU or for large sets."""

import math
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from viewproof.errors import InvalidArgument
from viewproof.evaluation.torch_probes import CHUNK, knn_predict, logistic_regression, standardizer
from viewproof.progress import progress

LARGEST_RAW, RAW_SIDE = 3 * 64 * 64, 32
"""Values of an image up to which probes take them as they are, and the side to which larger ones are averaged."""
LARGE = 10**8
"""Training samples times classes above which torch is chosen without a GPU: scikit-learn holds such a matrix."""


@dataclass(frozen=True)
class ProbeScores:
    """Accuracy on held-out samples, from 0 to 1."""

    knn: float
    linear: float


def encode_all(
    encode: Callable[[Tensor], Tensor], fetch: Callable[[Any], Tensor], indices: Any, batch_size: int = 512
) -> Any:
    """The features ``encode(fetch(indices))``, taken batch by batch: ``[len(indices), features]``.

    >>> encode_all(lambda x: x.flatten(1), lambda i: torch.ones(len(i), 2, 3), range(5), batch_size=2).shape
    (5, 6)
    """
    return encode_many([encode], fetch, indices, batch_size)[0]


def encode_many(
    encoders: Iterable[Callable[[Tensor], Tensor]], fetch: Callable[[Any], Tensor], indices: Any, batch_size: int = 512
) -> list[Any]:
    """The features that each encoder has of the same samples, which are fetched once; see `encode_all`."""
    encoders = list(encoders)
    features: list[list[Tensor]] = [[] for _ in encoders]
    with torch.inference_mode():
        chunks = torch.split(torch.as_tensor(np.asarray(indices), dtype=torch.int64), batch_size)
        for x in map(fetch, progress(chunks, "encoding")):
            for parts, encode in zip(features, encoders, strict=True):
                parts.append(encode(x).flatten(1).float().cpu())
        return [torch.cat(parts).numpy() for parts in features]


def raw_values(shape: tuple[int, ...]) -> dict[str, Callable[[Tensor], Tensor]]:
    """The baseline of probes, by its name: the values themselves; of large images, their means over 32 x 32 areas.

    Ten thousand images of 3 x 224 x 224 would be a matrix of 6 GB, and its probes would take longer than training.

    >>> [(name, f(torch.ones(2, 3, 64, 224)).shape) for name, f in raw_values((3, 64, 224)).items()]
    [('raw values, averaged to 32 x 32', torch.Size([2, 3072]))]
    """
    if len(shape) == 3 and math.prod(shape) > LARGEST_RAW:
        rows, columns = (min(RAW_SIDE, extent) for extent in shape[1:])
        pool = partial(adaptive_avg_pool2d, output_size=(rows, columns))
        return {f"raw values, averaged to {rows} x {columns}": lambda x: pool(x).flatten(1)}
    return {"raw values": partial(torch.flatten, start_dim=1)}


def probe_indices(size: int, count: int) -> Tensor:
    """The training samples that probes fit on: all ``size`` of them, or ``count`` drawn once and for all.

    >>> probe_indices(3, 10), len(probe_indices(10, 3))
    (tensor([0, 1, 2]), 3)
    """
    if size <= count:
        return torch.arange(size)
    return torch.randperm(size, generator=torch.Generator().manual_seed(0))[:count]


def predict_labels(
    train_features: Any,
    train_labels: Any,
    test_features: Any,
    neighbours: int = 20,
    engine: str | None = None,
    device: torch.device | str | None = None,
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Fit both probes on the standardised training features, and label the test features.

    The first labels are k-NN's, a vote among the ``neighbours`` nearest by Euclidean distance; the second the linear
    probe's, a logistic regression with an L2 penalty (C = 1), run to at most 1,000 iterations. ``engine`` is
    scikit-learn, and torch where a CUDA device is there or where training samples times classes exceed `LARGE`; both
    solve the same two problems. ``device`` is torch's. Labels of one class, features that are not finite, and features
    and labels that do not fit each other raise `InvalidArgument`.

    >>> x = np.array([[0.0], [0.1], [1.0], [1.1]])
    >>> [labels.tolist() for labels in predict_labels(x, [3, 3, 7, 7], x, neighbours=1, engine="torch")]
    [[3, 3, 7, 7], [3, 3, 7, 7]]
    """
    train, test, labels = np.asarray(train_features), np.asarray(test_features), np.asarray(train_labels)
    if train.ndim != 2 or test.ndim != 2 or train.shape[1] != test.shape[1] or labels.shape != train.shape[:1]:
        raise InvalidArgument(
            f"train_features {train.shape}, train_labels {labels.shape} and test_features {test.shape} must be [N, D], "
            "[N] and [M, D]"
        )
    if engine not in (None, "scikit-learn", "torch"):
        raise InvalidArgument(f"engine={engine!r} must be 'scikit-learn' or 'torch'; leave it out to have it chosen")
    if not (np.isfinite(train).all() and np.isfinite(test).all()):
        raise InvalidArgument("features must be finite; NaN or infinite ones tell nothing apart")
    names, classes = np.unique(labels, return_inverse=True)
    if len(names) < 2:
        raise InvalidArgument("train_labels must hold at least two classes; probes need something to tell apart")
    cuda = torch.cuda.is_available()
    torch_wins = cuda or len(train) * len(names) > LARGE
    neighbours = min(neighbours, len(train))
    if (engine or ("torch" if torch_wins else "scikit-learn")) == "torch":
        knn, linear = _with_torch(train, classes, test, neighbours, device or ("cuda" if cuda else "cpu"))
        return names[knn], names[linear]
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        knn, linear = (
            make_pipeline(StandardScaler(), classifier).fit(train, classes).predict(test)
            for classifier in (KNeighborsClassifier(neighbours), LogisticRegression(max_iter=1000))
        )
    return names[knn], names[linear]


def _with_torch(train: Any, classes: Any, test: Any, neighbours: int, device: torch.device | str) -> list[Any]:
    x, y, queries = (torch.as_tensor(array, device=device) for array in (train, classes, test))
    mean, std = standardizer(x)
    x, queries = ((part - mean.to(part.dtype)) / std.to(part.dtype) for part in (x.float(), queries.float()))
    weights, bias = logistic_regression(x, y)
    linear = torch.cat([(part.double() @ weights.T + bias).argmax(1) for part in torch.split(queries, CHUNK)])
    return [knn_predict(x, y, queries, neighbours).cpu().numpy(), linear.cpu().numpy()]


def probe(
    train_features: Any,
    train_labels: Any,
    test_features: Any,
    test_labels: Any,
    neighbours: int = 20,
    engine: str | None = None,
    device: torch.device | str | None = None,
) -> ProbeScores:
    """The share of the test samples that each probe labels right; see `predict_labels`.

    >>> x = np.array([[0.0], [0.1], [1.0], [1.1]])
    >>> probe(x, [0, 0, 1, 1], x, [0, 0, 1, 1], neighbours=1)
    ProbeScores(knn=1.0, linear=1.0)
    """
    expected = np.asarray(test_labels)
    if expected.shape != np.shape(test_features)[:1]:
        raise InvalidArgument(f"test_labels of shape {expected.shape} must be one a test sample; pass [M]")
    predicted = predict_labels(train_features, train_labels, test_features, neighbours, engine, device)
    return ProbeScores(*(float((labels == expected).mean()) for labels in predicted))
