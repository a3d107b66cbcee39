"""Every measured figure of docs/benchmarks.md, printed as it stands there."""

import os
import platform

import masking
import startup
import torch
import training_step


def main() -> None:
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}", end=" ")
    print(f"with {torch.get_num_threads()} threads, Python {platform.python_version()}; medians\n", flush=True)
    for benchmark in (startup, masking, training_step):
        print("\n".join([*benchmark.main(), ""]), flush=True)


if __name__ == "__main__":
    main()
