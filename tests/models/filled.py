"""Random arrays by numpy, models filled with them, and compiled calls: jax would compile every draw and every layer."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx


def normal(seed, shape):
    """Standard normal numbers, float32."""
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def filled(make):
    """`make()` with every parameter drawn by numpy (no zero scale hides a branch); batch statistics at 0 and 1."""
    graph, state = nnx.split(nnx.eval_shape(make))
    generator = np.random.default_rng(0)

    def draw(path, leaf):
        name, shape = path[-1].key, leaf.shape
        if name in ("mean", "var"):
            return jnp.full(shape, float(name == "var"))
        noise = generator.normal(size=shape)
        if name == "scale":
            noise = 1 + 0.2 * noise
        else:
            noise = noise / np.sqrt(np.prod(shape[:-1])) if len(shape) > 1 else 0.1 * noise
        return jnp.asarray(noise, jnp.float32)

    nnx.replace_by_pure_dict(state, jax.tree_util.tree_map_with_path(draw, nnx.to_pure_dict(state)))
    return nnx.merge(graph, state)


def run(model, *inputs, call=lambda model, *inputs: model(*inputs)):
    """`call(model, *inputs)` under one jit; changes of the model (batch statistics) are not kept."""
    graph, state = nnx.split(model)
    return jax.jit(lambda state, *inputs: call(nnx.merge(graph, state, copy=True), *inputs))(state, *inputs)
