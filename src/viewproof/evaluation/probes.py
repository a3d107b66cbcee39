"""k-NN and linear probes of frozen features (scikit-learn)."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from viewproof.errors import InvalidArgument


@dataclass(frozen=True)
class ProbeScores:
    """Accuracy on held-out samples, from 0 to 1."""

    knn: float
    linear: float


def encode_all(
    encode: Callable[[Tensor], Tensor], fetch: Callable[[Any], Tensor], indices: Any, batch_size: int = 512
) -> Any:
    """The features ``encode(fetch(indices))`` as an array ``[len(indices), features]``, batch by batch, no gradient.

    >>> encode_all(lambda x: x.flatten(1), lambda i: torch.ones(len(i), 2, 3), range(5), batch_size=2).shape
    (5, 6)
    """
    order = torch.as_tensor(np.asarray(indices), dtype=torch.int64)
    with torch.inference_mode():
        return torch.cat(
            [encode(fetch(part)).flatten(1).float().cpu() for part in torch.split(order, batch_size)]
        ).numpy()


def probe(
    train_features: Any, train_labels: Any, test_features: Any, test_labels: Any, neighbours: int = 20
) -> ProbeScores:
    """Fit both probes on the training features, standardised by their own statistics, and score the test features.

    k-NN votes among the ``neighbours`` nearest by Euclidean distance; the linear probe is a logistic regression with
    an L2 penalty (C = 1), run to at most 1,000 iterations.

    >>> x = np.array([[0.0], [0.1], [1.0], [1.1]])
    >>> probe(x, [0, 0, 1, 1], x, [0, 0, 1, 1], neighbours=1)
    ProbeScores(knn=1.0, linear=1.0)
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if len(np.unique(train_labels)) < 2:
        raise InvalidArgument("train_labels must hold at least two classes; probes need something to tell apart")
    scores = []
    for classifier in (
        KNeighborsClassifier(min(neighbours, len(train_features))), LogisticRegression(max_iter=1000)
    ):  # fmt: skip
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            fitted = make_pipeline(StandardScaler(), classifier).fit(train_features, train_labels)
        scores.append(float(fitted.score(test_features, test_labels)))
    return ProbeScores(*scores)
