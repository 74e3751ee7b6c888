"""Bytes of the gradient's reduction in a data-parallel train step, read off the program that the TPU compiler makes.

    python -m benchmarks.grad_comm [--encoder resnet18] [--topology v5e:2x4]

Activations are bfloat16 (precision.compute), and so are the gradients that travel. The peer is plain data parallelism:
every parameter's gradient all-reduced in float32. XLA for CPU would not show it: it has no bfloat16 collectives and
leaves every array to its own reduction. Nothing is run.
"""

import argparse
import math
import os
import sys

from xsample_jax.topology import quiet_environment, topology_devices

quiet_environment(os.environ)  # before jax is imported

import jax  # noqa: E402

from benchmarks.report import HEADER, Comparison, at_most, finish, lacking, less_is_better  # noqa: E402
from xsample_jax.config import default_config, resolve  # noqa: E402
from xsample_jax.reports.dry_run import collective_arrays  # noqa: E402
from xsample_jax.setup import PLACEHOLDER_SPEC, RunSetup  # noqa: E402
from xsample_jax.sharding import make_mesh  # noqa: E402

BYTES = {"bf16": 2, "f16": 2, "f32": 4, "u16": 2}
SMALL = 0.01  # reductions of less than this share of the gradient are sums of batch norms and metrics
FUSED = 2  # reductions that the gradient may take


def config_of(encoder: str, compute: str, devices: int):
    config = default_config()
    config.steps, config.batch_size = 100, 8 * devices
    config.model.encoder, config.model.conv_impl = encoder, "conv"
    config.augment.size = config.data.image_size = 32
    config.precision.compute = compute
    return resolve(config)


def gradient_reductions(hlo: str, parameters: int) -> list[int]:
    """Bytes of every reduction that part of the gradient travels in; `parameters`: how many numbers it has."""
    found = []
    for arrays in collective_arrays(hlo):
        numbers = sum(math.prod(shape) for _, _, shape in arrays)
        if arrays[0][0] in ("all-reduce", "reduce-scatter") and numbers >= SMALL * parameters:
            found.append(sum(math.prod(shape) * BYTES[dtype] for _, dtype, shape in arrays))
    return found


def measure(encoder: str, compute: str, devices: list) -> tuple[list[int], int]:
    """(bytes of every reduction of the gradient, number of parameters)."""
    config = config_of(encoder, compute, len(devices))
    parts = RunSetup(config, PLACEHOLDER_SPEC, make_mesh(config.mesh, config.batch_size, devices))
    lowered = parts.train_step.lower(parts.abstract_state, parts.abstract_batch)
    # Without its search for a faster schedule, which takes minutes more.
    program = lowered.compile(compiler_options={"exec_time_optimization_effort": -1.0})
    parameters = sum(leaf.size for leaf in jax.tree.leaves(parts.abstract_state.params))
    return gradient_reductions(program.as_text(), parameters), parameters


def compare(encoder: str, topology: str) -> tuple[list[Comparison], dict]:
    reductions, parameters = measure(encoder, "bfloat16", topology_devices(topology))
    mib, plain = sum(reductions) / 2**20, parameters / 2**18
    found = [
        less_is_better("grad_comm MiB of the gradient in bfloat16", mib, plain, 2 / 1.05),
        at_most("grad_comm reductions that it takes", len(reductions), FUSED),
    ]
    return found, {"gradient_mib": mib, "plain_mib": plain}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--encoder", default="resnet18")
    parser.add_argument("--topology", default="v5e:2x4")
    given = parser.parse_args()
    missing = lacking("libtpu")
    found, facts = ([], {}) if missing else compare(given.encoder, given.topology)
    print(HEADER, f" gradient of {given.encoder} on {given.topology}, per device and step")
    for comparison in found:
        print(comparison)
    return finish("grad_comm", found, missing, unit="MiB", topology=given.topology, **facts)


if __name__ == "__main__":
    sys.exit(main())
