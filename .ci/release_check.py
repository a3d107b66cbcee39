"""Builds wheel and sdist, installs the wheel with each extra alone and runs what it brings.

    python .ci/release_check.py [--torch REQUIREMENT ...] [--python EXECUTABLE ...] [--pyright]

For every Python there is one environment with the core alone; every extra gets an environment of its own that sees
the core's packages, so that torch is installed once.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LONGEST_IMPORT = 0.2
"""Seconds that importing the core may take beyond torch and numpy."""

CORE = """
import torch, viewproof as vp
images = torch.rand(8, 3, 32, 32)
sample = vp.image_patch_mae_sample(images, patch_h=4, patch_w=4, period=4, offset=1)
model = vp.ViTReconstructor((3, 32, 32), patch_size=(4, 4))
vp.masked_mse(model(sample.x), sample).backward()
report = vp.certify_view(lambda x: vp.image_patch_mae_sample(x, 4, 4, 4, 1), images[:2])
assert report.verdict() == "PROVED", report
assert not any(m.startswith(("pytorch_lightning", "z3", "sklearn", "cyclopts")) for m in __import__("sys").modules)
"""
PROVE = """
from viewproof.theorems.report import run
raise SystemExit(run("vector_mae_mask_hidden*", None, None, processes=1, solver="z3"))
"""
VIEW = "import viewproof as vp\n\ndef view(x):\n    return vp.image_patch_mae_sample(x, 4, 4, 4, 1)\n"


def run(*command: str | Path, cwd: Path | None = None, code: int = 0) -> str:
    """The output of a command that runs without this repository on its path; ends on another code."""
    print("+", *command, flush=True)
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
    done = subprocess.run([*map(str, command)], cwd=cwd, env=environment, capture_output=True, text=True)
    if done.returncode != code:
        raise SystemExit(f"exit code {done.returncode}, not {code}\n{done.stdout}\n{done.stderr}")
    return done.stdout + done.stderr


def starts(python: str) -> bool:
    """Whether there is such an interpreter: a version manager's name for one may lead to none."""
    if shutil.which(python) is None:
        return False
    return not subprocess.run([python, "-c", ""], stderr=subprocess.DEVNULL).returncode


def site_packages(environment: Path) -> Path:
    """The folder of an environment's packages."""
    return next(environment.glob("lib/python3.*/site-packages"))


def check_python(python: str, wheel: Path, torch: str, folder: Path, pyright: bool) -> None:
    """Install and run everything with one interpreter."""
    core = folder / "core"
    run(python, "-m", "venv", core)
    run(core / "bin/pip", "install", "-q", wheel, *([torch] if torch else []), cwd=folder)
    print(run(core / "bin/python", "-c", "import torch, sys; print(sys.version, torch.__version__)", cwd=folder))
    run(core / "bin/python", "-c", CORE, cwd=folder)
    lacks = run(core / "bin/viewproof", "--help", cwd=folder, code=2)
    assert lacks.startswith("viewproof: cyclopts is not installed; pip install 'viewproof[all]'"), lacks
    seconds = sorted(import_seconds(core / "bin/python", folder) for _ in range(3))[1]
    print(f"import beyond torch and numpy: {seconds:.3f} s of CPU")
    assert seconds < LONGEST_IMPORT

    (folder / "user_view.py").write_text(VIEW)
    for extra in ("train", "prove", "all"):
        environment = folder / extra
        run(python, "-m", "venv", environment)
        (site_packages(environment) / "core.pth").write_text(f"{site_packages(core)}\n")
        run(environment / "bin/pip", "install", "-q", f"{wheel}[{extra}]", cwd=folder)
        # The wheel is there by way of the core: its command and its plugin are wanted in this environment too.
        run(environment / "bin/pip", "install", "-q", "--no-deps", "--force-reinstall", wheel, cwd=folder)
        viewproof = environment / "bin/viewproof"
        if extra in ("prove", "all"):
            run(environment / "bin/python", "-c", PROVE, cwd=folder)
        if extra in ("train", "all"):
            print(run(viewproof, "doctor", "--env", cwd=folder))
            run(viewproof, "certify", "user_view:view", "--shape", "2,3,8,8", cwd=folder)
        if extra == "all":
            run(viewproof, "watch", ROOT / "examples/mae.py", cwd=folder)
            run(viewproof, "watch", ROOT / "examples/mae.py", "--bug", cwd=folder, code=1)
        if extra == "train":
            small = ["--epochs", "1", "--dim", "16", "--depth", "1", "--heads", "2", "--decoder-dim", "8"]
            small += ["--decoder-depth", "1", "--decoder-heads", "2", "--out", folder / "run"]
            run(viewproof, "pretrain", "digits", *small, cwd=folder)
            run(viewproof, "doctor", folder / "run", cwd=folder)

    types = folder / "types"
    run(python, "-m", "venv", types)
    (site_packages(types) / "core.pth").write_text(f"{site_packages(core)}\n")
    run(types / "bin/pip", "install", "-q", "mypy", "pytest", *(["pyright"] if pyright else []), cwd=folder)
    shutil.copy(ROOT / "examples/typed.py", folder)
    # mypy asks the interpreter for its packages, pyright looks for them: the core's environment has them all.
    run(types / "bin/mypy", "--strict", "--python-executable", core / "bin/python", "typed.py", cwd=folder)
    if pyright:
        run(types / "bin/pyright", "--pythonpath", core / "bin/python", "typed.py", cwd=folder)


def import_seconds(python: Path, folder: Path) -> float:
    """Seconds of CPU that importing the core takes after torch and numpy, in a fresh process."""
    code = "import numpy, torch, time; start = time.process_time(); import viewproof; viewproof.masked_mse"
    return float(run(python, "-c", f"{code}; print(time.process_time() - start)", cwd=folder))


def main() -> None:
    """Build, then check with every Python."""
    parser = argparse.ArgumentParser()
    parser.add_argument(
        "--torch", action="append", help="a requirement such as torch==2.9.0; more than one may be given"
    )
    parser.add_argument(
        "--python", action="append", help="an interpreter; those of 3.11 to 3.13 that are here by default"
    )
    parser.add_argument(
        "--pyright", action="store_true", help="check the typed example with pyright as well as with mypy"
    )
    options = parser.parse_args()
    pythons = options.python or [p for n in (11, 12, 13) if starts(p := f"python3.{n}")] or [sys.executable]
    shutil.rmtree(ROOT / "dist", ignore_errors=True)
    run(sys.executable, "-m", "build", "--outdir", ROOT / "dist", ROOT)
    (wheel,) = (ROOT / "dist").glob("*.whl")
    for python in pythons:
        for torch in options.torch or [""]:
            with tempfile.TemporaryDirectory() as folder:
                check_python(python, wheel, torch, Path(folder), options.pyright)
    print(f"checked with {', '.join(pythons)}: {', '.join(path.name for path in (ROOT / 'dist').iterdir())}")


if __name__ == "__main__":
    main()
