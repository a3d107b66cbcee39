"""Why timm's untrained encoder is ahead of ours in k-NN by areas: its first weights, exchanged for ours one by one.

python benchmarks/first_weights.py FOLDER [TRAIN TEST]   a folder of images of 10 classes, and how many of each part

Needs the peers' environment. Every line is k-NN and linear probe of the mean token, then of areas, in percent.
"""

import copy
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import peers
import results
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from viewproof.evaluation import probe
from viewproof.models.vit import sincos_positions
from viewproof.runs.folder import prepare
from viewproof.weights.layout import encoder_of


def main(folder: str, train: int = 6000, test: int = 1500) -> None:
    with tempfile.TemporaryDirectory() as out:
        run = prepare(results.untrained(results.Table(data=folder), 0), Path(out))
    data, draw = run.dataset, np.random.RandomState(0)
    sizes = {"train": train, "test": test}
    parts = {name: np.sort(draw.permutation(len(data.part(name)))[:count]) for name, count in sizes.items()}
    labels = {name: np.asarray(data.part(name).labels)[ids] for name, ids in parts.items()}

    def scores(tokens: Callable[[Tensor], Tensor]) -> str:
        def encode(name: str) -> NDArray[np.float32]:
            batches = [data.fetch(name, ids) for ids in np.array_split(parts[name], 12)]
            with torch.no_grad():
                return torch.cat([peers.pooled(tokens(x)) for x in batches]).numpy()

        x = {name: encode(name) for name in parts}
        found = []
        for columns in (np.s_[:, : peers.DIM], np.s_[:, peers.DIM :]):
            score = probe(x["train"][columns], labels["train"], x["test"][columns], labels["test"])
            found += [score.knn, score.linear]
        return " ".join(f"{100 * value:.1f}" for value in found)

    torch.manual_seed(0)
    size = data.sample_shape[-1]
    timm = peers.Encoder(size).eval()
    blocks = copy.deepcopy(timm)
    for layer in blocks.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
    positions, both = copy.deepcopy(timm), copy.deepcopy(blocks)
    for encoder in (positions, both):
        encoder.vit.pos_embed.data[0, 1:] = sincos_positions(size // peers.PATCH, size // peers.PATCH, peers.DIM)
    rows = {
        "ours": encoder_of(run.model.eval()),
        "timm's": timm,
        "timm's, our blocks' weights": blocks,
        "timm's, our positions": positions,
        "timm's, both": both,
    }
    for name, encoder in rows.items():
        print(f"{name:<30} {scores(encoder.tokens)}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
