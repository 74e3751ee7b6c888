"""Model FLOPs of a train step, for the utilisation of the chips (MFU; Chowdhery et al., arXiv 2204.02311, app. B).

They are read off the traced program, so that nothing is compiled for them and every platform gives the same number.
"""

import dataclasses
import math
from collections.abc import Iterator


def model_flops(parts) -> float:
    """FLOPs of the products and convolutions of one step over all devices, forward and backward.

    Work that is done twice to save memory does not count, so a config with rematerialisation or GradCache is traced
    once more without.
    """
    config = parts.config
    if config.model.remat != "none" or config.loss.grad_cache > 1:
        config = config.copy_and_resolve_references()
        with config.unlocked():
            config.model.remat, config.loss.grad_cache = "none", 1
        parts = dataclasses.replace(parts, config=config)
    return count_flops(parts.train_step.trace(parts.abstract_state, parts.abstract_batch).jaxpr)


def count_flops(jaxpr) -> float:
    """Two per multiplication and addition of every product and convolution in a jaxpr.

    Loops and kernels count with their length and grid (`while` loops, which have none, as one pass), of branches the
    longest one counts, and what runs under shard_map counts on each of its devices.
    """
    total = 0.0
    for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        name, params = equation.primitive.name, equation.params
        if name == "dot_general":
            (contracted, _), _ = params["dimension_numbers"]
            depth = math.prod(equation.invars[0].aval.shape[axis] for axis in contracted)
            total += 2 * math.prod(equation.outvars[0].aval.shape) * depth
        elif name == "conv_general_dilated":
            kernel = equation.invars[1].aval.shape
            depth = math.prod(kernel) / kernel[params["dimension_numbers"].rhs_spec[0]]
            # A dilated input (the gradient of a strided convolution) is mostly zeros, which nobody need multiply.
            total += 2 * math.prod(equation.outvars[0].aval.shape) * depth / math.prod(params["lhs_dilation"])
        elif name == "cond":
            total += max(count_flops(branch) for branch in params["branches"])
        else:
            total += _times(name, params) * sum(count_flops(inner) for inner in _jaxprs_in(params.values()))
    return total


def _times(name: str, params) -> int:
    """How often an operation runs what is inside it."""
    if name == "scan":
        return params["length"]
    if name == "shard_map":
        return params["mesh"].size
    return math.prod(params["grid_mapping"].grid) if name == "pallas_call" else 1


def _jaxprs_in(values) -> Iterator:
    for value in values:
        if isinstance(value, tuple | list):
            yield from _jaxprs_in(value)
        elif hasattr(value, "eqns") or hasattr(value, "jaxpr"):
            yield value
