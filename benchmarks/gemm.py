"""How many FLOPs this machine can do at all: its speed at one large product, which no loss and no step can beat."""

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.timing import Times, interleaved

SIDE = 1536


def seconds_per_flop(repeats: int = 3) -> Times:
    """Of a float32 product of square matrices, by each clock: the better of XLA's and numpy's (BLAS)."""
    x = np.random.default_rng(0).normal(size=(SIDE, SIDE)).astype(np.float32)
    program, on_device = jax.jit(jnp.matmul), jnp.asarray(x)
    forms = {"xla": lambda: jax.block_until_ready(program(on_device, on_device)), "blas": lambda: x @ x}
    for form in forms.values():
        form()
    found = interleaved(forms, repeats).values()
    return Times(*map(min, zip(*found))).scaled(1 / (2 * SIDE**3))
