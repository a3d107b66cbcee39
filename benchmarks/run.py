"""Every measured figure of docs/benchmarks.md, printed as it stands there."""

import os
import platform

import attention
import certify_encoder
import certify_view
import contract_guard
import masking
import prove
import random_masks
import startup
import torch
import training_step
import watch


def main() -> None:
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}", end=" ")
    print(f"with {torch.get_num_threads()} threads, Python {platform.python_version()}; medians\n", flush=True)
    benchmarks = (
        startup,
        masking,
        random_masks,
        attention,
        training_step,
        certify_view,
        certify_encoder,
        contract_guard,
        watch,
        prove,
    )
    for benchmark in benchmarks:
        print("\n".join([*benchmark.main(), ""]), flush=True)


if __name__ == "__main__":
    main()
