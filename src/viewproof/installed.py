"""What is installed beside viewproof: the extras, what each brings, and what of it is missing."""

import platform
import re
from importlib.metadata import PackageNotFoundError, requires, version

from viewproof import __version__

BRINGS = {
    "core": "masks, samples, losses, models, watch, certify",
    "train": "the command line; pretrain, evaluate, report, pictures",
    "data": "hf: and wds: sources, recordings, downloads",
    "parquet": "evaluate --export FILE.parquet",
    "prove": "prove; certify for all sizes",
    "cvc5": "prove --solver cvc5 or both",
}
"""What a person gets from each extra; "core" is installed always."""


def environment_lines() -> list[str]:
    """The lines of ``viewproof doctor --env``: versions, devices, and one line for each extra.

    >>> [line.split()[0] for line in environment_lines()][:4]
    ['viewproof', 'devices', 'core', 'train']
    """
    import torch

    devices = [f"cuda: {torch.cuda.get_device_name(i)}" for i in range(torch.cuda.device_count())]
    devices += ["mps"] if torch.backends.mps.is_available() else []
    lines = [
        f"viewproof {__version__}, Python {platform.python_version()}, {platform.system()} {platform.machine()}",
        f"devices   cpu ({torch.get_num_threads()} threads){''.join(f', {device}' for device in devices)}",
    ]
    packages = extras(requires("viewproof") or [])
    for extra, brings in BRINGS.items():
        versions = {name: installed_version(name) for name in packages.get(extra, ())}
        missing = [name for name, number in versions.items() if not number]
        if missing:
            state = f"missing {', '.join(missing)}: pip install 'viewproof[{extra}]'"
        else:
            state = ", ".join(f"{name} {number}" for name, number in versions.items()) or "not of this installation"
        lines.append(f"{extra:<9} {brings}  [{state}]")
    return lines


def extras(requirements: list[str]) -> dict[str, list[str]]:
    """The packages by the extra that asks for them, from a distribution's requirements.

    >>> extras(["torch>=2.9", "z3-solver>=4.13; extra == 'prove'", "viewproof[prove]; extra == 'cvc5'"])
    {'core': ['torch'], 'prove': ['z3-solver']}
    """
    packages: dict[str, list[str]] = {}
    for requirement in requirements:
        name = re.match(r"[\w.-]+", requirement)
        extra = re.search(r"extra\s*==\s*['\"]([\w-]+)", requirement)
        if name is not None and name[0] != "viewproof":
            packages.setdefault(extra[1] if extra else "core", []).append(name[0])
    return packages


def installed_version(name: str) -> str:
    """The version of an installed distribution, or ``""``."""
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
