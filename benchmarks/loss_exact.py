"""How exact the streamed loss and its gradient are: errors against the dense loss in float64.

    python -m benchmarks.loss_exact [--rows 1024]

In float64, in float32, and with embeddings and captions rounded as they are when they travel between devices. Errors
are relative (of the loss: absolute where it is below 1). Limits for the rounded forms are what rounding the inputs
costs any implementation, with little to spare; the float32 gradient is also compared with that of the dense loss.
"""

import argparse
import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh

from benchmarks import loss_forms
from benchmarks.report import HEADER, Comparison, at_most, finish, less_is_better

# Form -> (type of the inputs, options of the streamed loss, {tau: largest relative error}).
FORMS = {
    "float64": (jnp.float64, {}, {0.1: 1e-9, 0.02: 1e-9}),
    "float32": (jnp.float32, {}, {0.1: 2e-6, 0.02: 2e-5}),
    "bfloat16 rows, float16 captions": (
        jnp.float32,
        {"comm_dtype": "bfloat16", "caption_comm_dtype": "float16"},
        {0.1: 3e-3, 0.02: 1e-2},
    ),
    "bfloat16 rows, int8 captions": (
        jnp.float32,
        {"comm_dtype": "bfloat16", "caption_comm_dtype": "int8"},
        {0.1: 3e-3, 0.02: 1e-2},
    ),
}


def errors(form, dtype, z, captions, expected) -> tuple[float, float]:
    """Errors of value and gradient."""
    value, gradient = jax.jit(jax.value_and_grad(form))(jnp.asarray(z, dtype), jnp.asarray(captions, dtype))
    right, slope = expected
    off = np.linalg.norm(np.asarray(gradient, np.float64) - slope) / np.linalg.norm(slope)
    return abs(float(value) - right) / max(abs(right), 1), float(off)


def compare(rows: int) -> list[Comparison]:
    z, captions = (x.astype(np.float64) for x in loss_forms.inputs(rows))
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    one = Mesh(np.array(jax.devices()[:1]), ("data",), axis_types=(AxisType.Auto,))
    found = []
    with jax.enable_x64(True):
        for tau in (0.1, 0.02):
            dense = jax.jit(jax.value_and_grad(functools.partial(loss_forms.naive, tau=tau)))
            expected = jax.device_get(dense(jnp.asarray(z), jnp.asarray(captions)))
            for name, (dtype, options, limits) in FORMS.items():
                mesh = {"mesh": one} if options else {}
                form = functools.partial(loss_forms.streaming, tau=tau, **options, **mesh)
                value, gradient = errors(form, dtype, z, captions, expected)
                found.append(at_most(f"loss_exact tau {tau}, {name}, loss", value, limits[tau]))
                found.append(at_most(f"loss_exact tau {tau}, {name}, gradient", gradient, limits[tau]))
                if name == "float32":
                    _, peer = errors(functools.partial(loss_forms.naive, tau=tau), dtype, z, captions, expected)
                    found.append(less_is_better(f"loss_exact tau {tau}, gradient, dense float32", gradient, peer, 0.7))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1024)
    rows = parser.parse_args().rows
    found = compare(rows)
    print(HEADER, " error against float64, and its limit")
    for comparison in found:
        print(comparison)
    return finish("loss_exact", found, unit="error", rows=rows)


if __name__ == "__main__":
    sys.exit(main())
