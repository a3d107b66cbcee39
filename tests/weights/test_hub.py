"""Weights from a hub: a server on this machine answers as the hub does, and one that is gone is one line."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from local_hub import COMMIT, Hub
from safetensors.torch import load_file

NAME = "me/tiny-vit"
CHILD = """
import sys
from urllib.request import urlopen
from viewproof.errors import InvalidArgument
from viewproof.weights.backbones import make_encoder
from viewproof.weights.sources import read_source

print(read_source("hf:me/tiny-vit", "init").weights.kernel.double().sum().item())  # as --init reads it
make_encoder("transformers:me/tiny-vit", (3, 8, 8), pretrained=True)  # raises unless its tokens are the library's
for name in ("another", "third"):
    try:
        read_source("hf:me/" + name, "init")
    except InvalidArgument as error:
        print(error)
    if name == "another":
        urlopen(sys.argv[1] + "/close").close()
"""


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    config = transformers.ViTConfig(**sizes, image_size=8, patch_size=4)
    transformers.ViTModel(config, add_pooling_layer=False).save_pretrained(tmp_path / "model")
    with Hub("models", NAME, tmp_path / "model").running() as server:
        yield server


def test_weights_come_from_a_hub(hub: Hub, tmp_path: Path) -> None:
    environment, command = hub.environment(tmp_path / "cache"), [sys.executable, "-c", CHILD, hub.endpoint]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    total, *lines = done.stdout.splitlines()
    state = load_file(hub.folder / "model.safetensors")
    kernel = next(tensor for name, tensor in state.items() if name.endswith("patch_embeddings.projection.weight"))
    assert float(total) == pytest.approx(float(kernel.double().sum()), abs=1e-9)
    assert {f"GET /{NAME}/resolve/{at}/model.safetensors" for at in ("main", COMMIT)} & set(hub.asked)
    assert len(lines) == 2 and all("check the name, and the network" in line for line in lines), lines
    assert lines[0].startswith("hf:me/another cannot be made: ") and lines[1].startswith("hf:me/third cannot be made: ")
