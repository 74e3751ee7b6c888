"""Online probe: a linear classifier of the labels that is trained along, on the features of every step.

No gradient of it reaches the encoder, and its weights are kept in the memory of the train state, outside of what the
optimiser updates, clips and reports: the encoder learns the same with and without it. Its accuracy on a batch, taken
before the batch changes it, says while the run goes on whether the features get better; it is no result to report, as
features move under the probe and views are augmented (tools.evaluate measures those).
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from xsample_jax.rows import products

PROBE = "online_probe/"
RATE, MOMENTUM = 0.1, 0.9


def init_online_probe(features: int, classes: int) -> dict[str, jax.Array]:
    """The memory of a probe on features [., features] before the first step."""
    shapes = {"weights": (features, classes), "bias": (classes,)}
    return {
        f"{PROBE}{name}{kind}": jnp.zeros(shape, jnp.float32)
        for name, shape in shapes.items()
        for kind in ("", "_speed")
    }


def train_online_probe(
    memory: Mapping[str, jax.Array], features: jax.Array, labels: jax.Array
) -> tuple[dict[str, jax.Array], jax.Array]:
    """One step of SGD with momentum on the cross-entropy of a batch.

    Args:
      memory: of which the entries of the probe are read.
      features: [B * V, F], row = image * V + view; standardised over the batch here.
      labels: int [B], -1 where an image has none (its rows are left out).

    Returns:
      (the new entries of the probe, its accuracy on the rows before this step).
    """
    x = jax.lax.stop_gradient(features).astype(jnp.float32)
    x = (x - x.mean(axis=0)) / jnp.sqrt(x.var(axis=0) + 1e-5)
    labels = jnp.repeat(labels, len(x) // len(labels))
    logits = products(x, memory[PROBE + "weights"].T) + memory[PROBE + "bias"]
    share = (labels >= 0) / jnp.maximum(jnp.sum(labels >= 0), 1)
    accuracy = jnp.sum(share * (jnp.argmax(logits, axis=-1) == labels))
    # Gradient of the mean cross-entropy with respect to the logits; one_hot(-1) is a row of zeros.
    error = (jax.nn.softmax(logits) - jax.nn.one_hot(labels, logits.shape[1])) * share[:, None]
    gradient = {"weights": products(x.T, error.T), "bias": error.sum(axis=0)}
    new = {}
    for name, slope in gradient.items():
        speed = MOMENTUM * memory[f"{PROBE}{name}_speed"] + slope
        new |= {f"{PROBE}{name}_speed": speed, PROBE + name: memory[PROBE + name] - RATE * speed}
    return new, accuracy
