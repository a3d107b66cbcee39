"""Fine-tuning: an encoder and a linear head trained on a few labels."""

import copy
import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from torch import nn

from viewproof.data import Dataset, batches
from viewproof.data.dataset import take
from viewproof.errors import InvalidArgument
from viewproof.masks.finite import check_count
from viewproof.methods.supervised import Classifier, Supervised
from viewproof.training.callbacks import RunProgress
from viewproof.training.optimizers import BETAS

BATCH = 64
RATE = 1e-3


def class_balanced(labels: Any, count: int, seed: int = 0) -> NDArray[np.int64]:
    """Draw ``count`` labelled samples, equally many of each class up to one, as ascending indices.

    A function of the labels, the count and the seed: a larger count adds to the samples of a smaller one. Which classes
    get one more is drawn too; a class that has too few gives all, and the others the rest. Fewer samples than classes,
    and more than there are, raise `InvalidArgument`.

    >>> np.array([0, 0, 0, 1, 1, 2])[class_balanced([0, 0, 0, 1, 1, 2], 5)].tolist()
    [0, 0, 1, 1, 2]
    """
    labels = np.asarray(labels)
    classes, code = np.unique(labels, return_inverse=True)
    if check_count("labels", count, "leave fine-tuning out") > len(labels):
        raise InvalidArgument(f"labels={count} is more than the {len(labels)} labelled samples; pass at most that")
    if count < len(classes):
        raise InvalidArgument(f"labels={count} is fewer than the {len(classes)} classes; pass at least one a class")
    random = np.random.RandomState(seed)
    order, first = random.permutation(len(labels)), random.permutation(len(classes))
    turn = np.empty(len(labels), np.int64)
    for name in range(len(classes)):
        of_class = order[code[order] == name]
        turn[of_class] = np.arange(len(of_class))
    return np.sort(np.lexsort((first[code], turn))[:count])


class FineTuning(Supervised):
    """`Supervised` with one learning rate a block: ``layer_decay`` times the next one's."""

    layer_decay: float = 1.0

    def new_optimizer(self) -> torch.optim.Optimizer:
        """The base's optimizer, its groups split by block; with a decay of 1 as it is."""
        whole = super().new_optimizer()
        if self.layer_decay == 1:
            return whole
        encoder = self.model.encoder
        depth = len(getattr(encoder, "blocks", ()))
        layers = {}
        for name, parameter in self.model.named_parameters():
            part, _, rest = name.partition(".")
            before, _, number = rest.partition("blocks.")
            early = part == "encoder" and not rest.startswith("norm.")
            block = int(number.partition(".")[0]) + 1 if not before and number else 0
            layers[parameter] = block if early else depth + 1
        groups: list[dict[str, Any]] = []
        for group in whole.param_groups:
            for layer in range(depth + 2):
                parameters = [p for p in group["params"] if layers[p] == layer]
                rate = self.learning_rate * self.layer_decay ** (depth + 1 - layer)
                if parameters:
                    groups.append({"params": parameters, "weight_decay": group["weight_decay"], "lr": rate})
        return torch.optim.AdamW(groups, lr=self.learning_rate, betas=BETAS, fused=True)


def fine_tune(
    encoder: nn.Module, data: Dataset, chosen: NDArray[np.int64], epochs: int, seed: int = 0, layer_decay: float = 1.0
) -> float:
    """Train a copy of ``encoder`` and a linear head on ``chosen``; return the held-out accuracy.

    ``encoder`` has ``encode(x) -> [N, dim]``; ``chosen`` are indices of labelled training samples. Every weight that
    ``encode`` uses is trained, by AdamW at a rate of 1e-3 (a tenth of the steps linear warm-up, then a cosine to 0) in
    batches of 64; the order and the head's first weights are functions of ``seed``. The accuracy is taken once, after
    the last epoch: no held-out label chooses anything. With ``layer_decay`` below 1 each block's rate is that factor of
    the next one's (BEiT, arXiv 2106.08254), the head's is whole. Data without labels raise `InvalidArgument`.

    >>> from viewproof.data import load_dataset
    >>> from viewproof.models import VectorAutoencoder
    >>> data, encoder = load_dataset("digits"), VectorAutoencoder(64)
    >>> fine_tune(encoder, data, class_balanced(data.train.labels, 200), epochs=5) > 0.5
    True
    """
    check_labels(data)
    if check_count("epochs", epochs, "leave fine-tuning out") == 0:
        raise InvalidArgument("epochs=0 trains nothing; pass at least 1")
    labelled = replace(data, train=take(data.train, chosen))
    loader = batches(labelled, "train", min(BATCH, len(chosen)), seed=seed, drop_last=False)
    steps = epochs * len(loader)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        first = data.fetch("test", [0]).to(next(encoder.parameters()).device)
        dim = encoder.encode(first).shape[1]  # type: ignore[operator]
        model = Classifier(copy.deepcopy(encoder).requires_grad_(True), dim, data.classes or 0)
    module = FineTuning(
        model, labelled.train.labels, data.test.labels, learning_rate=RATE, warmup_steps=steps // 10, total_steps=steps
    )
    module.layer_decay = layer_decay
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*(does not have many workers|available but not used).*")
        trainer = pl.Trainer(
            max_epochs=epochs,
            devices=1,
            deterministic=True,
            logger=False,
            enable_checkpointing=False,
            callbacks=[RunProgress()],
            enable_model_summary=False,
        )
    trainer.fit(module, loader)
    module.eval()
    with torch.inference_mode():
        right = [
            (model(x.to(module.device)).argmax(1) == module.held_out[ids.to(module.device)]).sum()
            for x, ids in batches(data, "test", min(512, len(data.test)))
        ]
    return int(torch.stack(right).sum()) / len(data.test)


def check_labels(data: Dataset) -> None:
    """Refuse data without labels, or of one class."""
    if (data.classes or 0) < 2:
        raise InvalidArgument(f"fine-tuning needs labels of at least two classes, and {data.name} has none")
