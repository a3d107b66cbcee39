"""The files of named data sets, fetched once: checksums, a cache and a progress bar by pooch."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from viewproof.data.checks import require
from viewproof.data.named import DEBIAN
from viewproof.errors import InvalidArgument


@dataclass(frozen=True)
class Remote:
    """Files below one address, each with its checksum, and what a user without network can do."""

    name: str
    address: str
    checksums: Mapping[str, str]
    remedy: str

    def fetch(self) -> Path:
        """The folder with the checked files; what is not there yet is fetched.

        It is viewproof's in the user's cache folder, or the one that the environment variable VIEWPROOF_CACHE names. No
        network, a wrong checksum and a full disk raise `InvalidArgument`; a file is whole or absent.
        """
        pooch = require("pooch", f"data set {self.name!r} without a folder", "pooch", "data")
        pooch.get_logger().setLevel("WARNING")
        cache = pooch.create(
            pooch.os_cache("viewproof") / self.name, self.address, registry=self.checksums, env="VIEWPROOF_CACHE"
        )
        cache.path = Path(cache.path) / self.name
        try:
            for file in self.checksums:
                download = pooch.HTTPDownloader(progressbar=True, timeout=30)
                processor = pooch.Untar(extract_dir=".") if file.endswith(".tar.gz") else None
                cache.fetch(file, processor=processor, downloader=download)
        except Exception as error:  # of requests, urllib3, tarfile and the disk
            reason = " ".join(str(error).split())[:120]
            raise InvalidArgument(
                f"data set {self.name!r} cannot be fetched from {self.address} ({type(error).__name__}: {reason});"
                f" {self.remedy}"
            ) from error
        return Path(cache.path)


FASHION_MNIST = Remote(
    "fashion-mnist",
    "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
    {
        "train-images-idx3-ubyte.gz": "md5:8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "train-labels-idx1-ubyte.gz": "md5:25c81989df183df01b3e8a0aad5dffbe",
        "t10k-images-idx3-ubyte.gz": "md5:bef4ecab320f06d8554ea6380940ec79",
        "t10k-labels-idx1-ubyte.gz": "md5:bb300cfdad3c16e7a12a480ee83cd310",
    },
    f"install Debian's package dataset-fashion-mnist, which puts it into {DEBIAN}, or pass 'fashion-mnist:FOLDER'",
)
CIFAR10 = Remote(
    "cifar-10",
    "https://www.cs.toronto.edu/~kriz/",
    {"cifar-10-binary.tar.gz": "md5:c32a1d4ab5d03f1284b67883e8d87530"},
    "pass 'cifar-10:FOLDER' with the unpacked binary version",
)


def fashion_folder() -> Path:
    """The folder of Fashion-MNIST's files: Debian's if it is installed, else the cache's."""
    return DEBIAN if DEBIAN.is_dir() else FASHION_MNIST.fetch()


def cifar_folder() -> Path:
    """The folder of CIFAR-10's binary files, in the cache."""
    return CIFAR10.fetch() / "cifar-10-batches-bin"
