"""The streaming loss compiled for one chip of a TPU slice, on any machine: XLA's tiles against the Pallas kernels.

    python -m benchmarks.loss_tpu [--topology v5e:2x2 v6e:2x2] [--rows 8192 32768 131072]

Compiler estimates (benchmarks/tpu_cycles.py): for XLA the cycles of its cost model, which include a start-up of over a
thousand for every operation; for the kernels the instruction bundles of their machine code, or what six passes of the
matrix units take, whichever is more. 8,192 rows are compiled, more rows scaled by the number of tiles.
"""

import argparse
import functools
import os
import sys
import tempfile

from benchmarks import tpu_cycles
from xsample_jax.topology import quiet_environment

ROWS, TILE, VIEWS, WIDTH, CAPTIONS, PASSES = 8192, 1024, 2, 128, 768, 6


def floor(flops_per_cycle: float) -> float:
    """Cycles of the products of a tile pair in both passes, at six passes of the matrix unit per float32 product."""
    pairs = (TILE // VIEWS) ** 2
    return PASSES * 2 * pairs * (2 * CAPTIONS + 3 * VIEWS**2 * WIDTH) / flops_per_cycle


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--topology", nargs="+", default=["v5e:2x2", "v6e:2x2"])
    parser.add_argument("--rows", type=int, nargs="+", default=[8192, 32768, 131072])
    given = parser.parse_args()
    quiet_environment(os.environ)
    with tempfile.TemporaryDirectory() as dump:
        os.environ["LIBTPU_INIT_ARGS"] = tpu_cycles.dump_arguments(dump)
        import jax
        import numpy as np
        from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

        from benchmarks import loss_forms
        from benchmarks.report import HEADER, finish, less_is_better
        from xsample_jax.metrics.profiling import peak_flops
        from xsample_jax.topology import topology_devices

        found, cycles = [], {}
        for topology in given.topology:
            device = topology_devices(topology)[:1]
            clock = tpu_cycles.CLOCK[topology.split(":")[0]]
            mesh = Mesh(np.array(device), ("data",), axis_types=(AxisType.Auto,))
            shapes = loss_forms.shapes(ROWS, sharding=NamedSharding(mesh, PartitionSpec("data")))

            def compiled(tiles, mesh=mesh, shapes=shapes):
                options = {"kernel": tiles, "cosine_of": "caption_embedding", "block_size": TILE, "mesh": mesh}
                form = functools.partial(loss_forms.streaming, **options)
                return jax.jit(jax.value_and_grad(form)).lower(*shapes).compile()

            compiled("pallas")
            bundles = [tpu_cycles.bundles(dump, name) for name in ("xclr_sums", "xclr_gradient")]
            least = floor(peak_flops(device) / clock)
            kernel = max(sum(bundles), least)
            text = compiled("xla").as_text()
            outside = tpu_cycles.estimated_cycles(text, iterations=0)
            xla = tpu_cycles.estimated_cycles(text, iterations=1) - outside
            cycles[topology] = {"xla": xla, "outside": outside, "bundles": bundles, "matrix units": least}
            for rows in given.rows:
                count = rows // TILE
                # XLA makes each pair of tiles once for both of its sides, the kernels make all pairs.
                # What is done outside, once per row, is small and left out of both.
                ours, peer = count**2 * kernel / clock, count * (count + 1) / 2 * xla / clock
                found.append(less_is_better(f"loss_tpu {topology} {rows} rows, ms, XLA", 1e3 * ours, 1e3 * peer, 1.0))
        print(HEADER, " ms, compiler estimates")
        for comparison in found:
            print(comparison)
        finish("loss_tpu", found, unit="ms, compiler estimate", cycles_per_pair_of_tiles=cycles)
    return 0 if all(comparison.passed for comparison in found) else 1


if __name__ == "__main__":
    sys.exit(main())
