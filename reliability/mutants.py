"""Changes one thing in the code at a time, and asks whether the tests notice.

    python reliability/mutants.py --sample 60 --seed 0

The changes are cosmic-ray's (other operators, constants, comparisons, removed decorators and returns). A mutant that no
test notices is a survivor: a missing test, or a change that changes nothing, which equivalent.toml then names with the
reason. The exit code is 1 if there is another survivor.
"""

import argparse
import importlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import tomllib
from itertools import islice, zip_longest
from pathlib import Path

ROOT = Path(__file__).parents[1]
MASKS = ["tests/masks/test_masks_finite.py", "tests/masks/test_masks_input.py", "tests/masks/test_masks_rules.py",
         "tests/masks/test_masks_patches.py", "tests/masks/test_masks_reference.py"]  # fmt: skip
RANDOM = ["tests/masks/random/test_random_rules.py", "tests/masks/random/test_random_bits.py"]
FLOW = ["tests/certify/flow/test_trace.py", "tests/certify/flow/test_dependence.py"]
ALGEBRA = ["tests/objectives/test_objectives_algebra.py", "tests/objectives/test_objectives_contracts.py"]
LOSSES = ["tests/objectives/test_losses_exact.py", "tests/objectives/test_losses_selection.py"]
WATCH = [f"tests/watch/test_watch_{part}.py" for part in ("engine", "terms", "tokens", "methods")]
# Each module beside the tests that are to notice its mutants: few and fast, and first those that stand closest.
TESTS = {
    "src/viewproof/masks/finite.py": [*MASKS, "tests/masks/test_masks_autograd.py"],
    "src/viewproof/masks/periodic.py": MASKS[::-1],
    "src/viewproof/masks/patches.py": [*MASKS[::-1], *RANDOM],
    "src/viewproof/masks/rule.py": [*MASKS[2:], *RANDOM],
    "src/viewproof/masks/sample.py": ["tests/objectives/test_losses_selection.py", *MASKS, "tests/test_views_input.py"],
    "src/viewproof/masks/random/blockwise.py": RANDOM,
    "src/viewproof/masks/random/blocks.py": RANDOM,
    "src/viewproof/masks/random/spans.py": RANDOM,
    "src/viewproof/masks/random/tokens.py": RANDOM,
    "src/viewproof/masks/random/draws.py": RANDOM,
    "src/viewproof/views.py": ["tests/test_views.py", "tests/test_views_input.py", "tests/test_views_normalization.py"],
    "src/viewproof/objectives/sums.py": ALGEBRA,
    "src/viewproof/objectives/contracts.py": ALGEBRA[::-1],
    "src/viewproof/objectives/guards.py": ALGEBRA,
    "src/viewproof/objectives/graph.py": ALGEBRA,
    "src/viewproof/objectives/rows.py": ["tests/losses/test_joint_exact.py", *ALGEBRA, *LOSSES],
    "src/viewproof/objectives/masked.py": LOSSES,
    "src/viewproof/certify/flow/rules.py": FLOW,
    "src/viewproof/certify/flow/moves.py": FLOW,
    "src/viewproof/certify/flow/storage.py": FLOW,
    "src/viewproof/certify/flow/label_rules.py": FLOW,
    "src/viewproof/watch/conclusions.py": WATCH,
    "src/viewproof/watch/examine.py": WATCH,
    "src/viewproof/watch/roles.py": WATCH,
}
# Mutants that tests once missed: (module, as it is, changed, the test that notices now).
ONCE_MISSED = [
    ("src/viewproof/objectives/masked.py", "if mu >= 1:", "if mu > 1:", "tests/objectives/test_losses_exact.py"),
    ("src/viewproof/masks/random/blockwise.py", "0 < pair[0]", "0 <= pair[0]", RANDOM[0]),
    ("src/viewproof/masks/random/spans.py", "    seed: int = 0", "    seed: int = 1", RANDOM[0]),
]
PRELOADED = ("numpy", "torch", "torch._dynamo", "pytest", "hypothesis.extra.numpy", "jaxtyping", "beartype.door")


def mutants_of(module: str) -> list[tuple[str, int]]:
    """Every mutant of a module: the operator, and which of its places is changed."""
    from cosmic_ray.ast import ast_nodes, get_ast
    from cosmic_ray.plugins import get_operator, operator_names

    text = (ROOT / module).read_text()
    nodes, lines, mutants = list(ast_nodes(get_ast(text))), text.splitlines(), []
    for name in sorted(operator_names()):
        # Those of variables take names of a project's own; a test of identity is one of equality nearly everywhere.
        if "Variable" in name or name.endswith(("Is_Eq", "IsNot_NotEq", "_Eq_Is", "NotEq_IsNot")):
            continue
        operator = get_operator(name)()
        places = [start for node in nodes for start, _ in operator.mutation_positions(node)]
        for occurrence, (line, _) in enumerate(places):
            # `int | None` in a signature fails on import, whatever the tests are.
            if not ("BinaryOperator_BitOr" in name and "None" in lines[line - 1]):
                mutants.append((name, occurrence))
    return mutants


def changed_text(module: str, operator: str, occurrence: int) -> tuple[int, str]:
    """The line at which a mutant differs, and its text."""
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator

    text = (ROOT / module).read_text()
    changed = mutate_code(text, get_operator(operator)(), occurrence)
    lines = zip(text.splitlines(), changed.splitlines(), strict=False)
    return next((n for n, (a, b) in enumerate(lines, 1) if a != b), 1), changed


def compiles(text: str) -> bool:
    """Whether a mutant is Python at all; one that is not would be noticed by whatever imports it."""
    try:
        compile(text, "mutant", "exec")
    except SyntaxError:
        return False
    return True


def noticed(module: str, changed: str, copy: Path, tests: list[str], seconds: float) -> bool:
    """Whether the tests fail on a mutant; one that hangs is noticed too.

    They run in a fork of this process, which has imported torch and pytest, and nothing of viewproof.
    """
    target = copy / module
    original = target.read_text()
    target.write_text(changed)
    pid = os.fork()
    if pid == 0:
        try:
            os.setsid()
            os.chdir(copy)
            silent = os.open(os.devnull, os.O_WRONLY)
            os.dup2(silent, 1)
            os.dup2(silent, 2)
            sys.path.insert(0, str(copy / "src"))
            sys.dont_write_bytecode = True
            os.environ["PYTHONPATH"] = str(copy / "src")
            import pytest

            # Not the options of pyproject.toml: shapes are not checked at run time, so that each test says it itself.
            options = ["-o", "addopts=", "-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
            os._exit(int(pytest.main([*options, *tests])))
        except BaseException:
            os._exit(1)
    try:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                return os.waitstatus_to_exitcode(status) != 0
            time.sleep(0.02)
        os.killpg(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        return True
    finally:
        target.write_text(original)


def main(sample: int, skip: int, seed: int, only: str, once_missed: bool) -> int:
    """Try a sample of the mutants, the same for the same seed; print survivors and the count."""
    for name in PRELOADED:
        importlib.import_module(name)
    if once_missed:
        texts = {module: (ROOT / module).read_text() for module, *_ in ONCE_MISSED}
        chosen = [(m, texts[m][: texts[m].index(old)].count("\n") + 1, texts[m].replace(old, new, 1), [test])
                  for m, old, new, test in ONCE_MISSED]  # fmt: skip
        total = len(chosen)
    else:
        every = {m: mutants_of(m) for m in TESTS if only in m}
        total, rng = sum(map(len, every.values())), random.Random(seed)
        # From each module in turn, so that a long one does not take the sample.
        turns = zip_longest(*([(m, *mutant) for mutant in rng.sample(found, len(found))] for m, found in every.items()))
        drawn = (mutant for turn in turns for mutant in turn if mutant is not None)
        changes = ((m, *changed_text(m, name, place), TESTS[m]) for m, name, place in drawn)
        chosen = list(islice((change for change in changes if compiles(change[2])), skip, sample))
    listed = tomllib.loads((ROOT / "reliability" / "equivalent.toml").read_text())["mutant"]
    equivalent = {(entry["module"], entry["line"]): entry["reason"] for entry in listed}
    survivors = 0
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        copy = Path(folder) / "copy"
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".git", ".venv*", "runs", "__pycache__", ".*_cache"))
        # What always fails notices nothing. A mutant hangs if its tests take five times as long as they take without.
        limits = {}
        for module, tests in {tuple(sorted(t)): (m, t) for m, _, _, t in chosen}.values():
            start = time.monotonic()
            failed = noticed(module, (copy / module).read_text(), copy, tests, seconds=1200)
            limits[tuple(sorted(tests))] = max(100, 5 * (time.monotonic() - start))
            if failed:
                print(f"the tests fail without a change: {' '.join(tests)}")
                return 1
        for n, (module, line, changed, tests) in enumerate(chosen, 1):
            now = changed.splitlines()[line - 1].strip()
            killed = noticed(module, changed, copy, tests, limits[tuple(sorted(tests))])
            reason = equivalent.get((module, now), "")
            survivors += not killed and not reason
            state = "noticed" if killed else f"equivalent: {reason}" if reason else "SURVIVED"
            print(f"{n}/{len(chosen)} {state:<9} {module}:{line}  {now}", flush=True)
    print(f"{len(chosen)} of {total} mutants, seed {seed}: {survivors} survived")
    return 1 if survivors else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Change one thing at a time; the tests must notice.")
    parser.add_argument("--sample", type=int, default=60)
    parser.add_argument("--skip", type=int, default=0, help="leave out the first ones of the sample")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="part of a module's path")
    parser.add_argument("--once-missed", action="store_true", help="those that tests missed before")
    words = parser.parse_args()
    sys.exit(main(words.sample, words.skip, words.seed, words.only, words.once_missed))
