"""Scratch memory of the X-CLR loss and its gradient, as compiled (nothing is run): tiles against full matrices.

python -m benchmarks.loss_memory [--rows 8192 16384 32768]
"""

import argparse
import sys

import jax

from benchmarks import loss_forms
from benchmarks.report import HEADER, at_most, finish, less_is_better

MIB = 2**20


def scratch(form, rows: int) -> float:
    """MiB beside inputs, loss and gradient."""
    compiled = jax.jit(jax.value_and_grad(form)).lower(*loss_forms.shapes(rows)).compile()
    return compiled.memory_analysis().temp_size_in_bytes / MIB


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[8192, 16384, 32768])
    sizes = sorted(parser.parse_args().rows)
    print(HEADER, " scratch, MiB")
    found, ours = [], {}
    for rows in sizes:
        ours[rows] = scratch(loss_forms.streaming, rows)
        peers = {"naive": scratch(loss_forms.naive, rows), "smart": scratch(loss_forms.one_target_per_image, rows)}
        found.append(at_most(f"loss_memory {rows} rows, limit 16 MiB", ours[rows], 16))
        # An N x N float32 matrix has N^2 / 2^18 MiB; a dense loss cannot do with fewer than three.
        found += [
            less_is_better(f"loss_memory {rows} rows, {name} dense", ours[rows], peer, rows**2 * 3 / 2**18 / 16)
            for name, peer in peers.items()
        ]
    found.append(
        at_most(f"loss_memory growth from {sizes[0]} to {sizes[-1]} rows", ours[sizes[-1]] / ours[sizes[0]], 1.2)
    )
    for comparison in found:
        print(comparison)
    finish("loss_memory", found, unit="MiB")
    return 0 if all(comparison.passed for comparison in found) else 1


if __name__ == "__main__":
    sys.exit(main())
