"""From the name or path that a user types to a data set."""

import difflib
from pathlib import Path

from viewproof.data.arrays import load_npy, load_npz
from viewproof.data.checks import check_fraction, check_int
from viewproof.data.dataset import Dataset
from viewproof.data.folder import load_folder
from viewproof.data.named import DEBIAN, load_cifar10, load_digits, load_fashion_mnist, load_photos
from viewproof.errors import InvalidArgument

DATASETS = {
    "digits": "1,797 grey digits, 1x8x8 (scikit-learn)",
    "photos": "crops of seven colour photographs, 3x32x32 (scikit-image)",
    "fashion-mnist": "70,000 grey clothes, 1x28x28 (Debian's dataset-fashion-mnist, or fashion-mnist:FOLDER)",
    "cifar-10": "60,000 colour images, 3x32x32 (cifar-10:FOLDER with the binary version)",
}
"""Named data sets and what they are; `load_dataset` also takes FILE.npy, FILE.npz and a FOLDER of images."""


def load_dataset(
    name_or_path: str | Path, *, test_fraction: float = 0.1, size: tuple[int, int] | None = None
) -> Dataset:
    """The data set of that name, or that of a ``.npy`` or ``.npz`` file or a folder of images.

    Names win over paths: write ``./digits`` for a folder called so. ``fashion-mnist:FOLDER`` and ``cifar-10:FOLDER``
    say where the files are. Arrays are ``[N, *shape]``, images channels first. ``test_fraction``, strictly between 0
    and 1, sets the part held out of sources without a test part of their own, always the same samples. ``size=(H, W)``
    in pixels is the crop of ``photos`` (32x32 unless given) and what the images of a folder are resized to. Unknown
    names, missing or damaged files, NaN or infinite values and arguments outside these ranges raise `InvalidArgument`.

    >>> data = load_dataset("digits")
    >>> data.sample_shape, len(data.train), len(data.test), data.classes
    ((1, 8, 8), 1617, 180, 10)
    >>> load_dataset("digit")
    Traceback (most recent call last):
    viewproof.errors.InvalidArgument: unknown data set 'digit': no such name, array file or folder; did you mean \
'digits'? Pass digits, photos, fashion-mnist, cifar-10:FOLDER, FILE.npy, FILE.npz or a FOLDER of images
    """
    text = str(name_or_path)
    name, _, folder = text.partition(":")
    path = Path(text).expanduser()
    check_fraction(test_fraction)
    if size is not None:
        if text != "photos" and (name in DATASETS or path.is_file()):
            raise InvalidArgument(f"size={size} does not apply to {text!r}; it does to 'photos' and folders of images")
        if len(size) != 2:
            raise InvalidArgument(f"size={size} must be (H, W)")
        for axis, extent in enumerate(size):
            check_int(f"size[{axis}]", extent, 1)
    if name == "fashion-mnist":
        return load_fashion_mnist(Path(folder).expanduser() if folder else DEBIAN)
    if name == "cifar-10":
        if not folder:
            raise InvalidArgument("data set 'cifar-10' needs its files; pass 'cifar-10:FOLDER'")
        return load_cifar10(Path(folder).expanduser())
    if name in DATASETS:
        if folder:
            raise InvalidArgument(f"data set {name!r} takes no folder; pass {name!r}")
        return load_digits(test_fraction) if name == "digits" else load_photos(test_fraction, size or (32, 32))
    if path.is_dir():
        return load_folder(path, test_fraction, size)
    if path.is_file() and path.suffix in (".npy", ".npz"):
        return (load_npy if path.suffix == ".npy" else load_npz)(path, test_fraction)
    close = difflib.get_close_matches(name, DATASETS, n=1, cutoff=0.4)
    hint = f"did you mean {close[0]!r}? " if close and not path.suffix and not path.exists() else ""
    raise InvalidArgument(
        f"unknown data set {text!r}: no such name, array file or folder; {hint}Pass digits, photos, fashion-mnist,"
        " cifar-10:FOLDER, FILE.npy, FILE.npz or a FOLDER of images"
    )
