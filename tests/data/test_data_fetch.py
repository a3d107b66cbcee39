"""Named data sets fetched from a server on this machine: checked, cached, and one line without network."""

import gzip
import hashlib
import io
import tarfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from viewproof.data import fetch, load_dataset
from viewproof.errors import InvalidArgument

pytest.importorskip("pooch")


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        self.server.requests.append(self.path)


@pytest.fixture
def server(tmp_path):
    (tmp_path / "served").mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path / "served")))
    server.requests = []
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def remote(server, tmp_path, monkeypatch):
    """Serve files under the name of a data set, whose cache is a folder of this test."""

    def serve(name, files):
        for file, content in files.items():
            (tmp_path / "served" / file).write_bytes(content)
        checksums = {file: "md5:" + hashlib.md5(content).hexdigest() for file, content in files.items()}
        address = f"http://127.0.0.1:{server.server_address[1]}/"
        known = {"fashion-mnist": "FASHION_MNIST", "cifar-10": "CIFAR10"}[name]
        monkeypatch.setattr(fetch, known, fetch.Remote(name, address, checksums, getattr(fetch, known).remedy))
        monkeypatch.setattr(fetch, "DEBIAN", tmp_path / "no such folder")
        monkeypatch.setenv("VIEWPROOF_CACHE", str(tmp_path / "cache"))
        return tmp_path / "served"

    return serve


def idx(array):
    shape = b"".join(extent.to_bytes(4, "big") for extent in array.shape)
    return gzip.compress(bytes([0, 0, 8, array.ndim]) + shape + array.tobytes())


CLOTHES = {
    f"{part}-{kind}-ubyte.gz": idx(
        np.arange(n * (16 if rank == 3 else 1), dtype=np.uint8).reshape((n, 4, 4)[:rank]) % 10
    )
    for part, n in (("train", 6), ("t10k", 3))
    for kind, rank in (("images-idx3", 3), ("labels-idx1", 1))
}


def test_fashion_mnist_is_fetched_once(remote, server, capfd):
    remote("fashion-mnist", CLOTHES)
    for _ in range(2):
        data = load_dataset("fashion-mnist")
        assert (len(data.train), len(data.test), data.sample_shape) == (6, 3, (1, 4, 4))
    assert sorted(server.requests) == sorted(f"/{file}" for file in CLOTHES)
    assert "100%" in capfd.readouterr().err


def test_cifar_is_fetched_and_unpacked(remote, monkeypatch):
    records = np.zeros((10_000, 3073), np.uint8)
    records[:, 0] = np.arange(10_000) % 10
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz", compresslevel=1) as archive:
        for name in (*(f"data_batch_{k}.bin" for k in range(1, 6)), "test_batch.bin"):
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = records.nbytes
            archive.addfile(member, io.BytesIO(records.tobytes()))
    remote("cifar-10", {"cifar-10-binary.tar.gz": packed.getvalue()})
    folder = fetch.cifar_folder()
    assert len(list(folder.glob("*.bin"))) == 6 and (folder / "test_batch.bin").stat().st_size == records.nbytes


def test_another_content_is_refused_and_not_kept(remote, tmp_path):
    served = remote("fashion-mnist", CLOTHES)
    (served / "t10k-labels-idx1-ubyte.gz").write_bytes(b"something else")
    with pytest.raises(InvalidArgument, match=r"data set 'fashion-mnist' cannot be fetched .*hash"):
        load_dataset("fashion-mnist")
    assert not list((tmp_path / "cache").rglob("t10k-labels*"))


@pytest.mark.parametrize(
    ("name", "remedy"),
    [("fashion-mnist", "Debian's package dataset-fashion-mnist"), ("cifar-10", "pass 'cifar-10:FOLDER'")],
)
def test_without_network_one_line_says_what_to_do(name, remedy, remote, server):
    remote(name, {"cifar-10-binary.tar.gz": b""} if name == "cifar-10" else CLOTHES)
    server.shutdown()
    server.server_close()
    with pytest.raises(InvalidArgument, match=remedy) as error:
        load_dataset(name)
    assert len(str(error.value).splitlines()) == 1 and f"data set {name!r} cannot be fetched" in str(error.value)


def test_without_pooch_the_extra_is_named(remote, monkeypatch):
    remote("fashion-mnist", CLOTHES)
    monkeypatch.setitem(__import__("sys").modules, "pooch", None)
    with pytest.raises(InvalidArgument, match=r"needs pooch; pip install 'viewproof\[data\]'"):
        load_dataset("fashion-mnist")
