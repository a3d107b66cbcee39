"""The most memory that a process and all that it forks had at once.

`python benchmarks/memory.py PID` looks from outside, 50 times a second, until its input ends. It adds proportional set
sizes, in which shared pages count once. Looks between which a fork began or ended are left out: they would count pages
twice. Pages that the system keeps of files, and that no process has mapped, are not counted.
"""

import os
import select
import sys
from pathlib import Path


def processes(pid: int) -> list[int]:
    """The process and what it forked, itself first; this one is left out."""
    children = [c for path in Path(f"/proc/{pid}/task").glob("*/children") for c in path.read_text().split()]
    return [pid, *(p for c in map(int, children) if c != os.getpid() for p in processes(c))]


def size(pid: int) -> int:
    """Bytes of one process."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def main(pid: int) -> int:
    """The most bytes in any look."""
    most = 0
    while not select.select([sys.stdin], [], [], 0.02)[0]:
        try:
            own, every = size(pid), processes(pid)
            total, again = sum(map(size, every[1:])), size(pid)
            if processes(pid) == every and abs(own - again) < 0.01 * own:
                most = max(most, total + again)
        except OSError:
            continue
    return most


if __name__ == "__main__":
    print(main(int(sys.argv[1])))
