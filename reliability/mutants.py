"""Changes one thing in the code at a time, and asks whether the tests notice.

    python reliability/mutants.py --sample 60 --seed 0

The changes are cosmic-ray's (other operators, constants, comparisons, removed decorators and returns). A mutant that no
test notices is a survivor: a missing test, or a change that changes nothing, which `EQUIVALENT` then names with the
reason. The exit code is 1 if there is another survivor.
"""

import argparse
import random
import shutil
import subprocess
import sys
import tempfile
from itertools import count
from pathlib import Path

ROOT = Path(__file__).parents[1]
# Each module beside the tests that are to notice its mutants.
TESTS = {
    "src/viewproof/masks/finite.py": ["tests/masks", "tests/test_fuzz.py"],
    "src/viewproof/masks/periodic.py": ["tests/masks"],
    "src/viewproof/masks/patches.py": ["tests/masks"],
    "src/viewproof/masks/sample.py": ["tests/masks", "tests/test_views_input.py"],
    "src/viewproof/masks/random/blockwise.py": ["tests/masks"],
    "src/viewproof/masks/random/draws.py": ["tests/masks"],
    "src/viewproof/views.py": ["tests/test_views.py", "tests/test_views_input.py", "tests/test_views_normalization.py"],
    "src/viewproof/objectives/sums.py": ["tests/objectives"],
    "src/viewproof/objectives/contracts.py": ["tests/objectives"],
    "src/viewproof/objectives/guards.py": ["tests/objectives"],
    "src/viewproof/objectives/graph.py": ["tests/objectives"],
    "src/viewproof/objectives/masked.py": ["tests/objectives"],
    "src/viewproof/objectives/rows.py": ["tests/objectives"],
    "src/viewproof/certify/flow/rules.py": ["tests/certify/flow"],
    "src/viewproof/certify/flow/moves.py": ["tests/certify/flow"],
    "src/viewproof/certify/flow/storage.py": ["tests/certify/flow"],
}
EQUIVALENT: dict[str, str] = {}
"""The line of a mutant, as the report prints it, with the reason for which nothing can notice it."""


def mutants_of(module: str) -> list[tuple[int, str]]:
    """Every mutant of a module: its line, and the module's text with the change."""
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator, operator_names

    text, found = (ROOT / module).read_text(), []
    for name in operator_names():
        if "Variable" in name:  # these take names of a project's own
            continue
        for occurrence in count():
            changed = mutate_code(text, get_operator(name)(), occurrence)
            if changed is None:
                break
            lines = zip(text.splitlines(), changed.splitlines(), strict=False)
            line, was = next(((n, a) for n, (a, b) in enumerate(lines, 1) if a != b), (0, ""))
            # `int | None` in a signature fails on import, whatever the tests are.
            if line and not ("BinaryOperator_BitOr" in name and "None" in was):
                found.append((line, changed))
    return found


def noticed(module: str, changed: str, copy: Path) -> bool:
    """Whether the tests of the module fail on its mutant; a mutant that hangs is noticed too."""
    target = copy / module
    original = target.read_text()
    target.write_text(changed)
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-n", "0", "-p", "no:cacheprovider", *TESTS[module]]
    environment = {"PYTHONPATH": str(copy / "src"), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    try:
        run = subprocess.run(command, cwd=copy, env=environment, capture_output=True, timeout=900)
        return run.returncode != 0
    except subprocess.TimeoutExpired:
        return True
    finally:
        target.write_text(original)


def main(sample: int, seed: int, only: str) -> int:
    """Try a sample of the mutants, the same for the same seed; print survivors and the count."""
    pool = [(m, *mutant) for m in TESTS if only in m for mutant in mutants_of(m)]
    chosen = random.Random(seed).sample(pool, min(sample, len(pool)))
    survivors = 0
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        copy = Path(folder) / "copy"
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".git", ".venv*", "runs", "__pycache__", ".*_cache"))
        for n, (module, line, changed) in enumerate(chosen, 1):
            now = changed.splitlines()[line - 1].strip()
            killed = noticed(module, changed, copy)
            reason = EQUIVALENT.get(now, "")
            survivors += not killed and not reason
            state = "noticed" if killed else f"equivalent: {reason}" if reason else "SURVIVED"
            print(f"{n}/{len(chosen)} {state:<9} {module}:{line}  {now}", flush=True)
    print(f"{len(chosen)} of {len(pool)} mutants, seed {seed}: {survivors} survived")
    return 1 if survivors else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Change one thing at a time; the tests must notice.")
    parser.add_argument("--sample", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="part of a module's path")
    words = parser.parse_args()
    sys.exit(main(words.sample, words.seed, words.only))
