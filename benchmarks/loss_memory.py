"""Scratch memory of the X-CLR loss and its gradient, as compiled (nothing is run): tiles against full matrices.

On a mesh, per device: rows of all devices gathered, against one device's rows after the other (the ring).

python -m benchmarks.loss_memory [--rows 8192 16384 32768]
"""

import argparse
import functools
import os
import sys

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from benchmarks import loss_forms
from benchmarks.report import HEADER, at_most, finish, less_is_better

MIB = 2**20
DEVICES = (2, 8)


def scratch(form, rows: int, mesh: Mesh | None = None) -> float:
    """MiB beside inputs, loss and gradient, of a device."""
    sharding = mesh and NamedSharding(mesh, PartitionSpec("data"))
    program = jax.jit(jax.value_and_grad(form), out_shardings=mesh and (None, sharding))
    compiled = program.lower(*loss_forms.shapes(rows, sharding=sharding)).compile()
    return compiled.memory_analysis().temp_size_in_bytes / MIB


def on_a_mesh(exchange: str, rows: int, devices: int) -> float:
    mesh = Mesh(np.array(jax.devices()[:devices]), ("data",), axis_types=(AxisType.Auto,))
    # Small tiles, which are the same on any number of devices: what is left is what grows with the rows.
    form = functools.partial(loss_forms.streaming, mesh=mesh, collective=exchange, block_size=128)
    return scratch(form, rows, mesh)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[8192, 16384, 32768])
    sizes = sorted(parser.parse_args().rows)
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", max(DEVICES))
    print(HEADER, " scratch, MiB")
    found, ours, mib = [], {}, {}
    for rows in sizes:
        ours[rows] = scratch(loss_forms.streaming, rows)
        peers = {"naive": scratch(loss_forms.naive, rows), "smart": scratch(loss_forms.one_target_per_image, rows)}
        for name, value in {"ours": ours[rows], **{f"{name} dense": peer for name, peer in peers.items()}}.items():
            mib.setdefault(name, {})[rows] = value
        found.append(at_most(f"loss_memory {rows} rows, limit 16 MiB", ours[rows], 16))
        # An N x N float32 matrix has N^2 / 2^18 MiB; a dense loss cannot do with fewer than three.
        found += [
            less_is_better(f"loss_memory {rows} rows, {name} dense", ours[rows], peer, rows**2 * 3 / 2**18 / 16)
            for name, peer in peers.items()
        ]
    found.append(
        at_most(f"loss_memory growth from {sizes[0]} to {sizes[-1]} rows", ours[sizes[-1]] / ours[sizes[0]], 1.2)
    )
    few, many = (on_a_mesh("ring", sizes[-1], devices) for devices in DEVICES)
    found.append(
        less_is_better(
            f"ring, {sizes[-1]} rows, {DEVICES[1]} devices / {DEVICES[0]}", many, few, 0.8 * DEVICES[1] / DEVICES[0]
        )
    )
    gathered = on_a_mesh("gather", sizes[-1], DEVICES[1])
    found.append(less_is_better(f"{DEVICES[1]} devices, {sizes[-1]} rows, ring / gather", many, gathered, 2.0))
    for comparison in found:
        print(comparison)
    facts = {
        "mib": mib,
        "inputs": {rows: 4 * rows * (2 * 128 + 768 / loss_forms.VIEWS) / MIB for rows in sizes},
        "machine_mib": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / MIB,
    }
    return finish("loss_memory", found, unit="MiB", **facts)


if __name__ == "__main__":
    sys.exit(main())
