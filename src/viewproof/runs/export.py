"""A finished run's encoder for another library, in a folder with its model card."""

import glob
import os
import platform
import secrets
import shutil
from collections.abc import Callable
from contextlib import ExitStack, suppress
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from viewproof import __version__
from viewproof.errors import InvalidArgument
from viewproof.expressions import parse_rule
from viewproof.masks import Rule
from viewproof.models import Backbone
from viewproof.runs import verdicts
from viewproof.runs.config import PretrainConfig
from viewproof.runs.encoder import RunEncoder, load_encoder
from viewproof.runs.folder import EVALUATION, read_config, read_json
from viewproof.runs.guarded import locked
from viewproof.runs.verdicts import certificate, theorem_verdicts
from viewproof.weights.layout import BOUND, difference, probe_images
from viewproof.weights.sources import need, shown
from viewproof.weights.targets import TARGETS, features_in_a_fresh_process

LICENCE = "other"
NEEDS = {
    "transformers": ("transformers",),
    "timm": ("timm",),
    "torch": (),
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
}


def export(
    folder: Path,
    to: str,
    target: Path,
    licence: str = LICENCE,
    say: Callable[[str], None] = print,
    *,
    allow_import: bool = False,
) -> dict[str, Any]:
    """Write a run's encoder for a library into the new folder ``target``; return what was measured.

    ``to`` is one of `TARGETS`. What the card's lines give in a fresh process must be this encoder's features up to
    `BOUND` of the largest; only then the folder takes its name. A target that exists, a missing package, an encoder
    that the library cannot hold, and a larger difference raise `InvalidArgument`.
    """
    if to not in TARGETS:
        raise InvalidArgument(f"to={to!r} must be one of {', '.join(TARGETS)}")
    if target.exists() or target.is_symlink():
        raise InvalidArgument(f"out={target.name!r} exists; choose another folder, nothing is overwritten")
    if not target.absolute().parent.is_dir():
        raise InvalidArgument(f"out={target.name!r} lies in no folder; make {str(target.parent)!r} first")
    for package in NEEDS[to]:
        need(package, f"to={to!r}")
    loaded, config = load_encoder(folder), read_config(folder)
    if config.method == "mlm":
        raise InvalidArgument("method='mlm' reads bytes, and exports are of image encoders; use load_encoder")
    if config.features == "grid" and to != "torch":
        raise InvalidArgument(f"to={to!r} has no features='grid'; pass to='torch'")
    rule = None if config.mask is None else parse_rule(config.mask, allow_import=allow_import)
    clear_killed(target)
    aside, holding = target.absolute().parent / f".{target.name}.{secrets.token_hex(8)}.part", ExitStack()
    try:
        aside.mkdir()
        with suppress(InvalidArgument):  # of a file system without locks
            holding.enter_context(locked(aside))
        lines = TARGETS[to](loaded.encoder, aside, loaded.facts)
        say("loading it in a fresh process, and comparing features")
        x = probe_images(tuple(loaded.facts["sample_shape"]))
        with torch.inference_mode():
            gap = difference(features_in_a_fresh_process(lines, aside, x), loaded.encode(x))
        if gap > BOUND:
            raise InvalidArgument(
                f"to={to!r}: the exported features differ by {gap:.1e} of the largest, more than {BOUND:g}; nothing is "
                "written, export --to torch"
            )
        say(f"{to}: features in a fresh process differ by {gap:.1e} of the largest (bound {BOUND:g})")
        (aside / "README.md").write_text(card(folder, config, rule, loaded, to, lines, gap, licence), encoding="utf-8")
        for path in aside.iterdir():
            path.chmod((aside / "README.md").stat().st_mode)  # safetensors writes for its user alone
            with path.open("rb") as file:
                os.fsync(file.fileno())
        # A folder that appeared meanwhile is never replaced, unless it is empty.
        aside.rename(target)
    except BaseException as error:
        with suppress(OSError):
            shutil.rmtree(aside)
        if isinstance(error, OSError | SafetensorError):
            reason = error.strerror if isinstance(error, OSError) else error  # safetensors has an error of its own
            raise InvalidArgument(f"out={target.name!r} cannot be written: {reason}; choose another folder") from error
        raise
    finally:
        holding.close()
    say(f"written to {target}")
    return {"to": to, "difference": gap, "bound": BOUND}


def clear_killed(target: Path) -> None:
    """Remove what killed exports to ``target`` left beside it: no process holds it, and the next has another name."""
    if find_spec("fcntl") is None:  # `locked` holds nothing there
        return
    for left in target.absolute().parent.glob(f".{glob.escape(target.name)}.{'[0-9a-f]' * 16}.part"):
        with suppress(InvalidArgument, OSError), locked(left):
            shutil.rmtree(left)


def card(
    folder: Path,
    config: PretrainConfig,
    rule: Rule | None,
    loaded: RunEncoder,
    to: str,
    lines: str,
    gap: float,
    licence: str,
) -> str:
    """The model card: what the encoder is, how it was trained, what was checked, how good it is, how to load it."""
    shape = tuple(loaded.facts["sample_shape"])
    backbone = isinstance(loaded.encoder, Backbone)
    named = config.model if backbone else config.backbone
    network = shown(named) if named else type(loaded.encoder).__name__
    sizes = {"patch": config.patch_size, "width": config.dim, "depth": config.depth, "heads": config.heads}
    library = {"onnx": "onnx", "torch": "pytorch"}.get(to, to)
    settings = {
        "data": shown(config.data), "samples": " x ".join(map(str, shape)), "method": config.method,
        "mask": config.mask or "none: nothing is hidden",
        "augmentation": config.augment, "network": network,
        "initial weights": shown(config.init) if config.init else "random",
        **({} if backbone else sizes), "features": config.features or "mean", "epochs": config.epochs,
        "steps": config.steps,
        "batch": config.batch_size, "learning rate": config.learning_rate, "weight decay": config.weight_decay,
        "seed": config.seed,
    }  # fmt: skip
    text = ["---", f"license: {licence}", f"library_name: {library}", "tags: [self-supervised]", "---", ""]
    text += [f"# {folder.absolute().name}", "", f"An encoder trained by viewproof, exported for {to}.", ""]
    text += ["## Load", "", "```python", lines.strip(), "```", ""]
    text += [
        "`folder` is the path of this folder, and `x` are standardised samples, `(values - mean) / std` in the data's "
        "units, with", "",
        f"- mean {_short_list(loaded.facts['mean'])}", f"- std {_short_list(loaded.facts['std'])}", "",
        f"These lines were run in a fresh process when the folder was written: features of 4 standard normal samples "
        f"differed from the trained encoder's by {gap:.1e} of the largest feature; the bound is {BOUND:g}.", "",
    ]  # fmt: skip
    text += ["## Training", "", "| setting | value |", "|---|---|"]
    text += [f"| {name} | {_cell(value)} |" for name, value in settings.items() if value is not None]
    text += ["", "## Checks", ""]
    rows = certificate(rule, shape)
    if rows:
        text += [f"The view of two samples, certified when this folder was written (`{config.mask}`):", ""]
        text += [*_table(rows), "", "Theorems about masks and the masked loss, for all sizes and values:", ""]
        text += _table(theorem_verdicts(verdicts.THEOREMS))
    else:
        text += ["This method hides nothing; there is no view to certify."]
    text += ["", "No claim is made that these features suit any task.", "", "## Evaluation", ""]
    result = read_json(folder / EVALUATION)
    if accuracy := result.get("accuracy"):
        text += ["Accuracy on held-out samples:", "", "| encoder | k-NN | linear |", "|---|---|---|"]
        text += [f"| {name} | {100 * s['knn']:.1f} % | {100 * s['linear']:.1f} % |" for name, s in accuracy.items()]
        text += [""]
    if errors := result.get("hidden_error"):
        text += ["Mean squared error on hidden values of held-out samples, in training standard deviations:", ""]
        text += [
            "| prediction | error |",
            "|---|---|",
            *(f"| {name} | {error:.4f} |" for name, error in errors.items()),
        ]
    if not result:
        text += ["Not evaluated."]
    text += ["", "## Versions", "", f"viewproof {__version__}, Python {platform.python_version()}, {_versions(to)}", ""]
    text += [
        "## Licence",
        "",
        f"`{licence}`: that of the data and of the initial weights decide; fill in the field above.",
        "",
    ]
    return "\n".join(text)


def _versions(to: str) -> str:
    found = []
    for package in ("torch", *NEEDS[to]):
        with suppress(PackageNotFoundError):
            found.append(f"{package} {version(package)}")
    return ", ".join(found)


def _short_list(nested: Any) -> str:
    """Nested lists of numbers, rounded, the first ten."""
    tensor = torch.tensor(nested).flatten()
    words = ", ".join(f"{number:.4g}" for number in tensor[:10].tolist())
    return f"[{words}]" if len(tensor) <= 10 else f"[{words}, ...] ({len(tensor)} values; see encoder.json of the run)"


def _cell(value: Any) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")


def _table(rows: list[dict[str, str]]) -> list[str]:
    head = ["| check | verdict | scope | claim |", "|---|---|---|---|"]
    return head + [f"| {r['check']} | {r['verdict']} | {_cell(r['scope'])} | {_cell(r['claim'])} |" for r in rows]
