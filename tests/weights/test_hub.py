"""Weights from a hub: a server on this machine answers as the hub does, and one that is gone is one line."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from safetensors.torch import load_file

NAME, COMMIT = "me/tiny-vit", "0" * 39 + "1"
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


class Hub(ThreadingHTTPServer):
    """Serves the files of one model as the hub does; ``asked`` lists the requests."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.folder, self.asked = folder, list[str]()


class Answer(BaseHTTPRequestHandler):
    """One request to a `Hub`."""

    server: Hub

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self.server.asked.append(f"{self.command} {path}")
        file = self.server.folder / path.rpartition("/")[2]
        headers = {"X-Repo-Commit": COMMIT}
        if path == "/close":
            self.server.socket.close()  # before the answer: whoever has it finds nobody here
            Thread(target=self.server.shutdown).start()
            body = b""
        elif path.startswith(f"/api/models/{NAME}"):
            names = [{"rfilename": each.name} for each in self.server.folder.iterdir()]
            body = json.dumps({"id": NAME, "sha": COMMIT, "siblings": names}).encode()
        elif path.startswith((f"/{NAME}/resolve/main/", f"/{NAME}/resolve/{COMMIT}/")) and file.is_file():
            body = file.read_bytes()
            headers["ETag"] = f'"{hashlib.sha256(body).hexdigest()}"'
        else:
            headers["X-Error-Code"] = "EntryNotFound" if NAME in path else "RepoNotFound"
            body = None
        self.send_response(200 if body is not None else 404)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body or b"")))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body or b"")

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    config = transformers.ViTConfig(**sizes, image_size=8, patch_size=4)
    transformers.ViTModel(config, add_pooling_layer=False).save_pretrained(tmp_path / "model")
    server = Hub(tmp_path / "model")
    Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_weights_come_from_a_hub(hub: Hub, tmp_path: Path) -> None:
    endpoint = f"http://127.0.0.1:{hub.server_port}"
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "TRANSFORMERS_"))}
    paths = os.pathsep.join(filter(None, sys.path))
    environment |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "cache"), "PYTHONPATH": paths}
    command = [sys.executable, "-c", CHILD, endpoint]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    total, *lines = done.stdout.splitlines()
    state = load_file(hub.folder / "model.safetensors")
    kernel = next(tensor for name, tensor in state.items() if name.endswith("patch_embeddings.projection.weight"))
    assert float(total) == pytest.approx(float(kernel.double().sum()), abs=1e-9)
    assert {f"GET /{NAME}/resolve/{at}/model.safetensors" for at in ("main", COMMIT)} & set(hub.asked)
    assert len(lines) == 2 and all("check the name, and the network" in line for line in lines), lines
    assert lines[0].startswith("hf:me/another cannot be made: ") and lines[1].startswith("hf:me/third cannot be made: ")
