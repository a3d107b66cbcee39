"""From the name or path that a user types to a data set."""

import difflib
from collections.abc import Sequence
from pathlib import Path

from viewproof.data.arrays import load_npy, load_npz
from viewproof.data.checks import check_fraction, check_image_size
from viewproof.data.dataset import Dataset, with_statistics
from viewproof.data.fetch import cifar_folder, fashion_folder
from viewproof.data.folder import load_folder
from viewproof.data.images import MAX_PIXELS, check_max_pixels
from viewproof.data.named import load_cifar10, load_digits, load_fashion_mnist, load_photos
from viewproof.data.text import load_text
from viewproof.errors import InvalidArgument

DATASETS = {
    "digits": "1,797 grey digits, 1x8x8 (scikit-learn)",
    "photos": "crops of seven colour photographs, 3x32x32 (scikit-image)",
    "fashion-mnist": "70,000 grey clothes, 1x28x28 (Debian's dataset-fashion-mnist, fashion-mnist:FOLDER, or fetched)",
    "cifar-10": "60,000 colour images, 3x32x32 (cifar-10:FOLDER with the binary version, or fetched)",
}
"""Named data sets and what they are; `load_dataset` also takes files, folders, ``hf:`` and ``wds:``."""


IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and deviation of ImageNet's channels, as torchvision's transforms give them."""


def load_dataset(
    name_or_path: str | Path,
    *,
    test_fraction: float = 0.1,
    size: tuple[int, int] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    skip_unreadable: bool = False,
    max_pixels: int = MAX_PIXELS,
    image_column: str | None = None,
    label_column: str | None = None,
) -> Dataset:
    """The data set of that name, file or folder.

    Files are ``.npy``, ``.npz`` and ``.txt``, folders hold images or recordings. Names win over paths: write
    ``./digits`` for a folder called so. ``fashion-mnist:FOLDER`` and ``cifar-10:FOLDER`` say where the files are;
    without a folder they are looked for, then fetched. Arrays are ``[N, *shape]``, images channels first.
    ``test_fraction``, strictly between 0 and 1, sets the part held out of sources without a test part of their own,
    always the same samples. ``size=(H, W)`` in pixels is the crop of ``photos`` (32x32 unless given) and what images in
    files are resized to. ``mean`` and ``std``, one number or one a channel, are given instead of measured; of integer
    values they are shares of the dtype's largest (`IMAGENET`). ``skip_unreadable`` leaves out files that cannot be
    read, and ``max_pixels`` bounds what an image may decode to. ``image_column`` and ``label_column`` are of Hugging
    Face data sets. Unknown names, missing or damaged files, NaN or infinite values and arguments outside these ranges
    raise `InvalidArgument`.

    >>> data = load_dataset("digits")
    >>> data.sample_shape, len(data.train), len(data.test), data.classes
    ((1, 8, 8), 1617, 180, 10)
    >>> load_dataset("digit")
    Traceback (most recent call last):
    viewproof.errors.InvalidArgument: unknown data set 'digit': no such name, array file or folder; did you mean \
'digits'? pass digits, photos, fashion-mnist, cifar-10, FILE.npy, FILE.npz, a FOLDER of images, hf:NAME or wds:SHARDS
    """
    text = str(name_or_path)
    name, _, folder = text.partition(":")
    if not text.strip():
        raise InvalidArgument(f"data set {text!r} names no data; pass a name, a file or a folder ('.' for this one)")
    try:
        path = Path(text).expanduser()
        path.exists()
    except (OSError, RuntimeError) as error:  # a name that is too long, a folder that may not be read, no such home
        reason = getattr(error, "strerror", None) or error
        raise InvalidArgument(f"data set {text[:80]!r} cannot be looked for ({reason}); pass another path") from error
    check_fraction(test_fraction)
    check_max_pixels(max_pixels)
    if size is not None:
        if text != "photos" and (name in DATASETS or path.is_file()):
            raise InvalidArgument(f"size={size} does not apply to {text!r}; it does to 'photos' and folders of images")
        size = check_image_size(size, max_pixels)
    if (mean is None) != (std is None):
        raise InvalidArgument("mean and std standardise together; pass both mean and std, or neither")
    statistics = None if mean is None or std is None else (tuple(mean), tuple(std))
    if (image_column or label_column) and name != "hf":
        raise InvalidArgument("image_column and label_column are of hf: data sets; leave them out")
    if name == "hf":
        from viewproof.data.hugging_face import load_hugging_face

        return load_hugging_face(folder, test_fraction, size, max_pixels, statistics, image_column, label_column)
    if name == "wds":
        from viewproof.data.shards import load_shards

        return load_shards(folder, test_fraction, size, max_pixels, statistics)
    if path.is_dir() and name not in DATASETS:
        return load_folder(path, test_fraction, size, skip_unreadable, max_pixels, statistics)
    if name in ("digits", "photos") and folder:
        raise InvalidArgument(f"data set {name!r} takes no folder; pass {name!r}")
    if name == "fashion-mnist":
        data = load_fashion_mnist(Path(folder).expanduser() if folder else fashion_folder())
    elif name == "cifar-10":
        data = load_cifar10(Path(folder).expanduser() if folder else cifar_folder())
    elif name == "digits":
        data = load_digits(test_fraction)
    elif name == "photos":
        data = load_photos(test_fraction, size or (32, 32))
    elif path.is_file() and path.suffix.lower() == ".txt":
        data = load_text(path, test_fraction)
    elif path.is_file() and path.suffix.lower() in (".npy", ".npz"):
        data = (load_npy if path.suffix.lower() == ".npy" else load_npz)(path, test_fraction)
    else:
        close = difflib.get_close_matches(name, DATASETS, n=1, cutoff=0.4)
        if path.is_file() and (kind := {".parquet": "hf", ".tar": "wds"}.get(path.suffix.lower())):
            raise InvalidArgument(f"data set {text!r} is read under another name; pass {f'{kind}:{text}'!r}")
        hint = f"did you mean {close[0]!r}? " if close and not path.suffix and not path.exists() else ""
        what = "a file of another kind" if path.is_file() else "no such name, array file or folder"
        raise InvalidArgument(
            f"unknown data set {text!r}: {what}; {hint}pass digits, photos, fashion-mnist,"
            " cifar-10, FILE.npy, FILE.npz, a FOLDER of images, hf:NAME or wds:SHARDS"
        )
    return data if statistics is None else with_statistics(data, statistics)
