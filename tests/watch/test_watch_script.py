"""``viewproof watch SCRIPT`` as a user types it: the script runs as under ``python``, and its step is reported on."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
WATCH = [sys.executable, "-m", "viewproof", "watch"]


def run(*words, cwd, environment=ENVIRONMENT):
    return subprocess.run(
        [str(word) for word in words], cwd=cwd, env=environment, capture_output=True, text=True, timeout=300
    )


ABOUT_ITSELF = """
import os, pickle, sys
import beside
class Local: pass
main = sys.modules["__main__"]
print(sys.argv, __name__, __file__, os.getcwd(), sys.path[0], main.__dict__ is globals())
print(sorted({*globals()} - {"__annotations__"}))
print(type(pickle.loads(pickle.dumps(Local()))) is Local, "torch" in sys.modules, __spec__, repr(__package__))
sys.exit(3)
"""

ENDINGS = {
    "ends": "print('done')",
    "message": "import sys; sys.exit('a message')",
    "nothing": "raise SystemExit",
    "chained": "def f():\n  try:\n    1 / 0\n  except ZeroDivisionError as e:\n    raise ValueError('no') from e\nf()",
    "context": "try:\n  1 / 0\nexcept ZeroDivisionError:\n  {}['key']",
    "syntax": "def f(:",
    "library": "import json\njson.loads('{')",
    "handler": "import atexit; atexit.register(print, 'handler'); raise RuntimeError('last')",
    "hook": "import sys; sys.excepthook = lambda *error: print('mine', error[0]); raise RuntimeError",
}


@pytest.mark.parametrize("folder", [".", "inner"])
def test_a_script_finds_what_it_finds_under_python(tmp_path, folder):
    place = tmp_path / folder
    place.mkdir(exist_ok=True)
    (place / "beside.py").touch()
    (place / "train.py").write_text(ABOUT_ITSELF)
    words = [f"{folder}/train.py", "--json", "x", "--", "-m"]
    plain = run(sys.executable, *words, cwd=tmp_path)
    watched = run(*WATCH, "--keep-running", *words, cwd=tmp_path)
    assert plain.returncode == watched.returncode == 3
    assert plain.stdout == watched.stdout and plain.stderr == watched.stderr == ""


@pytest.mark.parametrize("name", ENDINGS)
def test_a_script_ends_as_under_python(tmp_path, name):
    (tmp_path / "train.py").write_text(ENDINGS[name])
    plain = run(sys.executable, "train.py", cwd=tmp_path)
    watched = run(*WATCH, "--keep-running", "train.py", cwd=tmp_path)
    assert (plain.returncode, plain.stdout) == (watched.returncode, watched.stdout)
    own = [line for line in watched.stderr.splitlines(keepends=True) if line.startswith("viewproof: ")]
    assert watched.stderr.replace("".join(own), "") == plain.stderr
    assert len(own) == (plain.returncode == 0) and "watch/script" not in watched.stderr


def test_a_module_runs_as_under_python(tmp_path):
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "beside.py").touch()
    text = ABOUT_ITSELF.replace("import beside", "from . import beside").replace("__spec__,", "__spec__.name,")
    (package / "train.py").write_text(text)
    (package / "broken.py").write_text("raise ValueError('no')")
    for words in (("package.train", "-m", "x"), ("package.broken",)):
        plain = run(sys.executable, "-m", *words, cwd=tmp_path)
        watched = run(*WATCH, "--keep-running", "-m", *words, cwd=tmp_path)
        assert (plain.returncode, plain.stdout) == (watched.returncode, watched.stdout), watched.stderr
    # Python itself shows the frames of runpy; here the user's file stands alone.
    assert watched.stderr.count("  File ") == 1 and "broken.py" in watched.stderr
    missing = run(*WATCH, "-m", "package.missing", cwd=tmp_path)
    assert missing.returncode == 2 and len(missing.stderr.splitlines()) == 1 and "package.missing" in missing.stderr


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ([], "needs a script"),
        (["missing.py"], "script='missing.py' must be a file"),
        (["--picture", "nowhere/xray.png", "train.py"], "must be in a folder that exists"),
        (["--every", "5", "train.py"], "goes with --keep-running"),
        (["--allow", "C4", "train.py"], "allow='C4' must be NAME=REASON"),
        (["train.py"], "ended before an optimizer of torch made a step"),
        (["empty.py"], "ended before an optimizer of torch made a step"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(tmp_path, words, part):
    (tmp_path / "train.py").write_text("import sys; assert sys.argv == ['train.py']")
    (tmp_path / "empty.py").touch()
    process = run(*WATCH, *words, cwd=tmp_path)
    assert process.returncode == 2 and process.stdout == ""
    assert len(process.stderr.splitlines()) == 1 and part in process.stderr


def test_an_interrupt_ends_the_process_as_under_python(tmp_path):
    (tmp_path / "train.py").write_text(
        "import atexit, time\natexit.register(print, 'handler')\nprint('ready', flush=True)\ntime.sleep(60)"
    )
    for command in ([sys.executable], [*WATCH, "--keep-running"], WATCH):
        process = subprocess.Popen(
            [*command, "train.py"], cwd=tmp_path, env=ENVIRONMENT, stdout=-1, stderr=-1, text=True
        )
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
        assert process.returncode == -signal.SIGINT and out == "handler\n"
        assert err.endswith("KeyboardInterrupt\n") and err.count("  File ") == 1


STEPS = """
import sys
import torch
from torch.optim.optimizer import _global_optimizer_post_hooks as hooks
from torch.utils.data import DataLoader
iterate = DataLoader.__iter__
torch.manual_seed(0)
model = torch.nn.Linear(4, 4)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
from torch.optim.optimizer import register_optimizer_step_post_hook
steps = []
register_optimizer_step_post_hook(lambda *arguments: steps.append(1))
def look():
    print(sum(p.sum().item() for p in model.parameters()), len(hooks), len(steps), DataLoader.__iter__.__qualname__)
import atexit
atexit.register(look)
for number, batch in enumerate(DataLoader(torch.rand(12, 4), batch_size=2, shuffle=True)):
    loss = (model(batch) - batch).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(number, loss.item())
    if number == int(sys.argv[1]):
        raise ValueError("broken")
"""


def test_training_is_bit_for_bit_the_same_and_no_hook_stays_after_an_error(tmp_path):
    last = 4
    (tmp_path / "train.py").write_text(STEPS)
    plain = run(sys.executable, "train.py", last, cwd=tmp_path)
    watched = run(*WATCH, "--keep-running", "--json", "out.json", "train.py", last, cwd=tmp_path)
    assert plain.returncode == watched.returncode == 1
    assert plain.stdout == watched.stdout and watched.stdout.endswith(f" 1 {last + 1} DataLoader.__iter__\n")
    assert watched.stderr.endswith(plain.stderr) and str(tmp_path) not in watched.stderr.removesuffix(plain.stderr)
    assert "\n  PROVED   C8  the step can be run again" in watched.stderr
    assert {f["contract"] for f in json.loads((tmp_path / "out.json").read_text())["findings"]} >= {"C1", "C8"}


@pytest.mark.parametrize(
    ("words", "code", "refuted"),
    [
        ("mae.py", 0, []),
        ("mae.py --bug", 1, ["C1"]),
        ("ijepa.py", 0, []),
        ("ijepa.py --bug", 1, ["C1"]),
        ("dino.py --bug", 1, ["C6"]),
        ("vicreg.py", 0, []),
        # BERT leaves some tokens in the clear, which waits for a declaration.
        ("bert.py", 3, []),
        ("bert.py --bug", 1, ["C1", "C4"]),
    ],
)
def test_what_the_report_says_of_an_example(watched, tmp_path, words, code, refuted):
    script, *arguments = words.split()
    if script == "bert.py":
        pytest.importorskip("transformers")
        pytest.importorskip("accelerate")
    process = watched(tmp_path, ROOT / "examples" / script, *arguments)
    contracts = [line.split()[1] for line in process.stdout.splitlines() if line.startswith("  REFUTED")]
    assert (process.returncode, contracts) == (code, refuted), process.stdout + process.stderr
    assert str(ROOT) not in process.stdout


METRIC = """
import torch
from torch import nn

model = nn.Linear(3, 3)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for x in torch.utils.data.DataLoader(torch.randn(8, 6), batch_size=4):
    out = model(x[:, :3])
    loss, spread = (out - x[:, 3:]).square().mean(), (1 - out.std(0)).relu().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(float(spread))
"""


@pytest.mark.parametrize(
    ("words", "code"),
    [([], 3), (["--local-negatives", "--allow", "C4=a metric"], 0), (["--allow", "C5=what the report has not"], 2)],
)
def test_what_is_declared_on_the_command_line(watched, tmp_path, words, code):
    (tmp_path / "train.py").write_text(METRIC)
    process = watched(tmp_path, *words, "train.py")
    assert process.returncode == code, process.stdout + process.stderr
    assert ("waived: a metric" in process.stdout) is (code == 0), process.stdout


BESIDE_A_GPU = """
import sys, torch
torch.cuda.device_count = lambda: 1
from viewproof.cli import main
sys.exit(main(["watch", *sys.argv[1:]]))
"""

FOR_A_GPU = """
import sys
import torch
torch.cuda.set_device(0)
model = torch.nn.Linear(8, 8).to(0)
weight = torch.ones(8, device="cuda")
optimizer = torch.optim.SGD(model.cuda().parameters(), lr=0.1)
for x in torch.utils.data.DataLoader(torch.randn(12, 8), 4, pin_memory=True):
    here, y, hidden = x.to(weight.device), x.cuda(), torch.arange(8, device=torch.device("cuda", 0)) % 2 == 0
    if "leak" not in sys.argv:
        here[:, hidden] = 0  # on a GPU a copy
    optimizer.zero_grad()
    ((model(here) - weight * y) * hidden).square().sum().backward()
    optimizer.step()
    torch.cuda.synchronize()
"""


@pytest.mark.parametrize("word", ["", "leak"])
def test_a_script_for_a_gpu_is_watched_on_the_cpu(tmp_path, word):
    (tmp_path / "train.py").write_text(FOR_A_GPU)
    done = run(sys.executable, "-c", BESIDE_A_GPU, "--json", "out.json", "train.py", word, cwd=tmp_path)
    assert done.returncode == bool(word), done.stderr
    findings = json.loads((tmp_path / "out.json").read_text())["findings"]
    assert all("this step, this batch, on the CPU in place of the GPU" in f["scope"] for f in findings)
    verdicts = {f["claim"]: f["verdict"] for f in findings}
    assert verdicts["no scored group of the source is seen"] == ("REFUTED" if word else "PROVED")
    assert verdicts["the step does not erase content of its batch"] == "PROVED"


@pytest.mark.parametrize("option", [[], ["--keep-running"]])
def test_a_script_that_cannot_do_without_its_gpu_is_told_what_can(tmp_path, option):
    (tmp_path / "train.py").write_text("import torch\ntorch.Generator('cuda')\n")
    hidden = {**ENVIRONMENT, "CUDA_VISIBLE_DEVICES": ""}
    done = run(sys.executable, "-c", BESIDE_A_GPU, *option, "train.py", cwd=tmp_path, environment=hidden)
    assert done.returncode == 1
    assert ("the CPU, its GPU hidden; a step that needs the GPU" in done.stderr) == (not option)
