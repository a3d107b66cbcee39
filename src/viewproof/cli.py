"""The command line. Only light modules are imported here, so that ``--help`` appears at once."""

import gc
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from inspect import cleandoc
from json import loads
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, CycloptsError, Parameter
from cyclopts.config import Json
from cyclopts.exceptions import UnusedCliTokensError

from viewproof import __version__
from viewproof.errors import InvalidArgument
from viewproof.files import check_new
from viewproof.runs.config import Integer, OptionalInteger, PretrainConfig

INSTALL = "pip install 'viewproof[all]'"

# Plain text, see `in_paragraphs`: what rich needs for Markdown takes a tenth of a second to import.
app = App(
    name="viewproof",
    help="Self-supervised training whose objective is what you think it is.",
    help_format="plaintext",
    version=__version__,
)


def main(arguments: list[str] | None = None) -> int:
    """Run one command; return its exit code: 0, 2 for bad input, 130 when interrupted."""
    try:
        words = sys.argv[1:] if arguments is None else arguments
        if words[:1] == ["watch"]:
            words = ["watch", *script_apart(words[1:])]
        code: int | None = app(words, exit_on_error=False, print_error=False, result_action="return_value")
        return code or 0
    except KeyboardInterrupt:
        return 130
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("viewproof"):
            raise
        return complain(f"{error.name} is not installed; {INSTALL}")
    except UnusedCliTokensError as error:
        return complain(
            f"{(error.unused_tokens or [''])[0]!r} is an argument too many; --help names those that are taken"
        )
    except (CycloptsError, InvalidArgument) as error:
        return complain(str(error))
    except BrokenPipeError:
        raise
    except OSError as error:
        # A disk that is full or read-only, a file that vanished: the message names it, a traceback would not help.
        return complain(f"{error.filename}: {error.strerror}" if error.filename else str(error))


def complain(message: str) -> int:
    """One line on the error stream, exit code 2."""
    print("viewproof: " + " ".join(message.split()), file=sys.stderr)
    return 2


@app.command
def pretrain(
    run: Annotated[PretrainConfig | None, Parameter(name="*")] = None,
    *,
    config: Path | None = None,
    resume: Path | None = None,
    lr_find: bool = False,
    allow_import: bool = False,
) -> int:
    """Pre-train an encoder on DATA and write a run folder.

    The folder holds config.json, metrics.csv, model.safetensors, loss.png, evaluation.json, the last checkpoint and,
    for mae, reconstruction.png and patch-errors.png; the table at the end is measured on held-out samples.

    Args:
        config: a run's config.json, to repeat that run; flags override it
        resume: a stopped run's folder, to continue it from its last checkpoint; takes no other flag
        lr_find: first find the learning rate, by a range test of at most 100 steps on a copy of the model; a line says
            which, and the run's learning-rate.png shows it
        allow_import: import the module of a rule that a file names; one given as --mask needs no leave
    """
    if resume is not None and lr_find:
        return complain("--lr-find is for a new run; --resume continues one with the rate that it has")
    if resume is not None and run is not None:
        return complain("--resume continues a run as it was configured; pass no other flag with it")
    if resume is None and run is None:
        return complain("pretrain needs DATA (digits, photos, fashion-mnist, a file or a folder), --config or --resume")
    if run is None:
        return int(imported_training().resume(resume, allow_import=allow_import))
    if config is not None:
        # A stranger's file must not make us import a module, nor write where it says.
        named = loads(config.read_text())
        typed = {name: value for name, value in vars(run).items() if value != named.get(name)}
        run, allow_import = replace(run, out=typed.get("out")), allow_import or "mask" in typed
    else:
        allow_import = True
    with paused_collector():
        from viewproof.runs.reading import reading

    with reading(run) as data:
        return int(imported_training().pretrain(run, allow_import=allow_import, lr_find=lr_find, data=data))


def imported_training() -> Any:
    """The module that trains; what it needs takes seconds to import."""
    with paused_collector():
        from viewproof.runs import train
        from viewproof.training.trainer import silence_lightning

    silence_lightning()
    return train


@contextmanager
def paused_collector() -> Iterator[None]:
    """Import without looking for garbage.

    Imports make a million objects and drop none, and the look would take a seventh of their time.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


@app.command
def evaluate(
    run: Path,
    *,
    fine_tune: OptionalInteger = None,
    labels: OptionalInteger = None,
    layer_decay: float = 1.0,
    seed: Integer = 0,
    export: Path | None = None,
    allow_import: bool = False,
) -> int:
    """Measure a finished run again on held-out samples, and draw what it reconstructs.

    With --fine-tune or --export only that is done.

    Args:
        run: the run folder
        fine_tune: train the encoder and a linear head for so many epochs, and the same from scratch; fine-tune.json
        labels: how many labelled training samples fine-tuning sees, drawn class-balanced; default: all
        layer_decay: of fine-tuning: each block's rate is this factor of the next one's, in (0, 1]; 1 for one rate
        seed: of the draw of these samples, their order and the head's first weights
        export: write the embeddings of all samples to this .npz or .parquet file; it must not exist
        allow_import: import the module of the rule that config.json names
    """
    from viewproof.evaluation.export import check_target
    from viewproof.runs.folder import load_run
    from viewproof.runs.guarded import locked
    from viewproof.runs.report import export_embeddings, fine_tune_report, report
    from viewproof.training.trainer import silence_lightning

    if fine_tune is None and labels is not None:
        return complain(f"labels={labels} is of fine-tuning; pass --fine-tune EPOCHS too")
    if fine_tune is not None and fine_tune < 1:
        return complain(f"fine_tune={fine_tune} must be positive: the epochs to train")
    if not 0 < layer_decay <= 1:
        return complain(f"layer_decay={layer_decay} must lie in (0, 1]; pass 1 for one rate")
    if not 0 <= seed < 2**32:
        return complain(f"seed={seed} must be from 0 to 2**32 - 1")
    if export is not None:
        check_target(export)
    silence_lightning()
    loaded = load_run(run, allow_import=allow_import)
    with locked(run):
        if fine_tune is not None:
            fine_tune_report(loaded, fine_tune, labels, seed, layer_decay)
        if export is not None:
            export_embeddings(loaded, export)
        if fine_tune is None and export is None:
            return report(loaded)
    return 0


@app.command(name="export")
def export_run(
    run: Path,
    out: Path,
    *,
    to: Literal["transformers", "timm", "torch", "onnx"],
    licence: str = "other",
    allow_import: bool = False,
) -> int:
    """Write the encoder of a finished run for another library, with a model card.

    The features are compared first.

    Args:
        run: the run folder
        out: the folder to write, which must not exist
        to: transformers (AutoModel), timm (create_model), torch (torch.export) or onnx (onnxruntime)
        licence: the card's licence field, for instance mit or cc-by-4.0
        allow_import: import the module of the rule that config.json names
    """
    from viewproof.runs.export import export
    from viewproof.training.trainer import silence_lightning

    silence_lightning()
    main_thread = threading.current_thread() is threading.main_thread()
    # A process that is asked to end removes what it has not finished; only the main thread may say so.
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM)) if main_thread else None
    try:
        export(run, to, out, licence, allow_import=allow_import)
    finally:
        if main_thread:
            signal.signal(signal.SIGTERM, before)
    return 0


@app.command
def doctor(run: Path | None = None, *, env: bool = False, allow_import: bool = False) -> int:
    """Say whether a run shows a bug, a collapse or too few steps, and what cannot be told.

    Exit 1 for a bug or a collapse. Read are the contracts of what it trains, certified on four samples, metrics.csv,
    the saved weights and evaluation.json; nothing is written.

    Args:
        run: the run folder, of a finished run or not
        env: show what is installed instead, and what each extra brings
        allow_import: import the module of the rule that config.json names
    """
    if env and run is None:
        from viewproof.installed import environment_lines

        print("\n".join(environment_lines()))
        return 0
    if env or run is None:
        return complain("doctor needs a run folder, or --env alone to show what is installed")
    from viewproof.runs.doctor import doctor as examine
    from viewproof.training.trainer import silence_lightning

    silence_lightning()
    return examine(run, allow_import=allow_import)


@app.command
def report(run: Path, *, allow_import: bool = False) -> int:
    """Write RUN/report.html again: scores, curves, pictures, mask and verdicts on one page.

    Args:
        run: the folder of a finished and evaluated run
        allow_import: import the module of the rule that config.json names
    """
    from viewproof.runs.folder import load_run
    from viewproof.runs.guarded import locked
    from viewproof.runs.page import PAGE, write_page

    if not (run / "evaluation.json").exists():
        raise InvalidArgument(f"{run} has no evaluation.json; evaluate it first: viewproof evaluate {run}")
    loaded = load_run(run, allow_import=allow_import)
    with locked(run):
        write_page(loaded)
    print(f"written to {run / PAGE}")
    return 0


@app.command
def masks(rule: str, shape: str, *, out: Path = Path("mask.png")) -> int:
    """Draw the mask of RULE over one sample of SHAPE, and print what it hides.

    Args:
        rule: in Python's words, for instance '~PatchMask(4, 4, period=4, offset=1)'
        shape: the sample's shape, for instance 3,32,32
        out: the picture to write; it must not exist
    """
    from viewproof import plots
    from viewproof.expressions import parse_rule
    from viewproof.masks.random.rule import one_for_all

    check_new(out=out)
    try:
        extents = tuple(int(extent) for extent in shape.split(","))
    except ValueError:
        raise InvalidArgument(f"shape={shape!r} must be extents with commas between them, such as 3,32,32") from None
    parsed = parse_rule(rule, allow_import=True)
    mask = one_for_all(parsed).mask(extents)
    plots.save_figure(plots.mask_figure(mask, f"{parsed!r} over {shape}"), out)
    total = mask.hidden.numel()
    print(f"{parsed!r} over {extents}: {mask.count} of {total} hidden ({mask.count / total:.1%}); drawn in {out}")
    return 0


@app.command
def prove(
    only: str | None = None,
    *,
    json: Path | None = None,
    show: str | None = None,
    solver: Literal["z3", "cvc5", "both"] = "z3",
) -> int:
    """Check every theorem and its mutants; exit 0 only if all are PROVED and all mutants REFUTED.

    Args:
        only: check the theorems whose names match this pattern, such as 'vector_*'
        json: write verdicts, scopes, times, versions and graph hashes to this file
        show: print one theorem: statement, hypotheses, captured graph, Z3 goals, mutants and their witnesses
        solver: which solver's word counts; with cvc5 or both every goal is checked by cvc5 too, which takes minutes
    """
    from viewproof.theorems.report import run

    return run(only, json, show, processes=min(4, os.cpu_count() or 1), solver=solver)


@app.command
def certify(
    target: str,
    *,
    shape: str,
    html: Path | None = None,
    json: Path | None = None,
    rule: str | None = None,
    strict: bool = False,
    allow: tuple[str, ...] = (),
    sarif: Path | None = None,
    format: Literal["text", "github"] = "text",
) -> int:
    """Certify the view or pipeline at TARGET; exit 0 only if all is PROVED, or VACUOUS with a reason.

    What is merely not robust, such as an overflow in float16, is shown and does not count unless --strict is given.

    Args:
        target: module:object, a view function, a Pipeline, or a function without arguments that returns a Pipeline;
            modules in the current folder are found
        shape: the batch to try it on, for instance 8,3,224,224; filled with standard normal numbers
        html: write the report as one page with pictures
        json: write the findings to this file
        rule: what a view must hide, for instance 'PatchMask(16, 16, period=4, offset=1)'
        strict: fail as well on what is not robust
        allow: 'NAME=REASON' waives a claim, or a contract such as C9; the report prints the reason
        sarif: write the open findings to this file, as SARIF 2.1.0 for code scanning
        format: github prints the open findings as annotations too, at the line that defines TARGET
    """
    from viewproof.certify import command
    from viewproof.expressions import parse_rule

    parsed = None if rule is None else parse_rule(rule, allow_import=True)
    return command.run(target, shape, html, json, parsed, strict, allow, sarif, format == "github")


# Its options that take a value; after them comes the script, and what follows that is the script's.
_VALUED = ("--picture", "--html", "--json", "--sarif", "--format", "--every", "--kept", "--allow")


def script_apart(words: list[str]) -> list[str]:
    """The words after ``watch`` with ``--`` before the script, so that all after it is the script's.

    >>> script_apart(["--picture", "a.png", "train.py", "--json", "x"])
    ['--picture', 'a.png', '--', 'train.py', '--json', 'x']
    >>> script_apart(["-m", "package.train", "--help"])
    ['--module', '--', 'package.train', '--help']
    """
    own, rest = [], list(words)
    while rest and rest[0].startswith("-") and rest[0] != "--":
        word = rest.pop(0)
        own.append("--module" if word == "-m" else word)
        if word in _VALUED and rest:
            own.append(rest.pop(0))
    return [*own, "--", *rest[rest[:1] == ["--"] :]] if rest else own


@app.command
def watch(
    *script: str,
    module: Annotated[bool, Parameter(name=["--module", "-m"])] = False,
    picture: Path | None = None,
    html: Path | None = None,
    json: Path | None = None,
    sarif: Path | None = None,
    format: Literal["text", "github"] = "text",
    strict: bool = False,
    keep_running: bool = False,
    every: Integer = 0,
    kept: str = "",
    local_negatives: bool = False,
    allow: tuple[str, ...] = (),
) -> int:
    """Run SCRIPT unchanged up to its second optimizer step, and say what the step trains on.

    Options stand before SCRIPT; what follows it are its own arguments. Exit code: 0 if nothing is open, 1 if something
    is REFUTED, 3 if something is UNKNOWN and nothing REFUTED, 2 for bad input or no step; with --keep-running the
    script's.

    Args:
        script: a file and its arguments, as after ``python``
        module: SCRIPT is a module's name, as after ``python -m``
        picture: draw the x-ray into this PNG file
        html: write picture, flow, findings and ledger as one page
        json: write the findings to this file
        sarif: write the open findings to this file, as SARIF 2.1.0 for code scanning
        format: github prints the open findings as annotations too, at the line of the first loss
        strict: fail as well on what is not robust
        keep_running: let the script run to its end; the report goes to the error stream
        every: with --keep-running, watch again after so many steps; 0 watches once
        kept: "mlm" declares that a tenth of the tokens asked for is left in the clear on purpose, as in BERT
        local_negatives: declare that on several ranks a contrastive loss takes its negatives of its own rank
        allow: 'NAME=REASON' waives a claim, or a contract such as C4; the report prints the reason
    """
    if not script:
        return complain("watch needs a script and its arguments, such as: viewproof watch train.py --epochs 1")
    check_new(picture=picture, html=html, json=json, sarif=sarif)
    from viewproof.watch.script import run
    from viewproof.watch.script_session import ScriptSession

    name = script[0] if module else Path(script[0]).name
    session = ScriptSession(
        name, picture, html, json, strict, keep_running, every, kept, sarif, format == "github",
        "" if module else script[0], local_negatives, allow,
    )  # fmt: skip
    return run(script, module, session)


@app.command
def zoo(*, steps: bool = False, json: Path | None = None) -> int:
    """Certify every known bug, its correct twin and false alarms; exit 0 only if all are as expected.

    Args:
        steps: watch bugs as whole training steps; exit 0 only if 9 of 10 are caught, without a false alarm
        json: write the verdicts to this file
    """
    check_new(json=json)
    if steps:
        from viewproof.bugzoo.steps.run import run_steps

        return run_steps(json=json)
    from viewproof.bugzoo.run import run

    return run(json=json)


@app.command
def completion(shell: Literal["bash", "zsh", "fish"]) -> int:
    """Print a script that completes this command's words: eval "$(viewproof completion bash)".

    Args:
        shell: bash or zsh, for eval in its start file; fish, for viewproof completion fish | source
    """
    print(app.generate_completion(shell=shell))
    return 0


def from_file(_app: App, _commands: tuple[str, ...], arguments: Any) -> None:
    """Fill what the command line does not set from the file that ``--config`` names."""
    for argument in arguments:
        if argument.name == "--config" and argument.tokens:
            path = argument.tokens[0].value
            try:
                source = Json(path, must_exist=True, use_commands_as_keys=False)
                source(_app, _commands, arguments)
            except (OSError, ValueError) as error:
                raise CycloptsError(f"--config {path}: {error}") from error


app["pretrain"].config = (from_file,)


def in_paragraphs(text: str | None) -> str:
    """A docstring with each paragraph in one line and without the marks of code.

    >>> in_paragraphs("Do ``this``\\nnow.\\n\\nArgs:\\n    a: one\\n        line")
    'Do this now.\\n\\nArgs:\\n    a: one line'
    """
    return re.sub(r"(?<=\S)\n( {8})?(?=\S)", " ", cleandoc(text or "")).replace("``", "")


for _function in (PretrainConfig, *(app[_name].default_command for _name in app if not _name.startswith("-"))):
    _function.__doc__ = in_paragraphs(_function.__doc__)
