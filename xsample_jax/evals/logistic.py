"""Linear probe by multinomial logistic regression, fitted to all rows at once with L-BFGS.

minimise over W, b:  1/n sum_i -log softmax(W' x_i + b)[y_i] + l2/2 |W|^2      x standardised, the bias is free

This is scikit-learn's LogisticRegression with C = 1 / (l2 n), and the probe of CLIP (arXiv 2103.00020, appendix A.3),
whose strength is swept too and chosen on held-out training rows.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from xsample_jax.evals.device_rows import everywhere, in_blocks, on_devices
from xsample_jax.evals.probe import LinearProbe, fit_standardiser, hold_out

L2_VALUES = tuple(10.0**power for power in (0, -1, -2, -3, -4, -5, -6))
STEPS = 500  # of L-BFGS, at most
LOGITS = 2**28  # numbers, 1 GiB, that one block of rows may have over all devices
TOLERANCE = 1e-5  # largest entry of the gradient; less is below the noise of float32


def _minimise(x, position, count, start, l2, steps: int, devices: int, blocks: int):
    """x [N, F] of which the first `count` rows are real, position int [N] -> (W [F, K], b [K]), from `start` on.

    Logits are made for one of `blocks` parts of the rows at a time, and once more for the gradient: memory is bounded.
    """
    weight = (jnp.arange(len(x)) < count) / count
    parts = tuple(in_blocks(rows, devices, blocks) for rows in (x, position, weight))

    def loss(params):
        weights, bias = params

        @jax.checkpoint
        def add(total, part):
            x, position, weight = part
            logits = jnp.matmul(x, weights, precision=jax.lax.Precision.HIGHEST) + bias
            return total + jnp.sum(weight * optax.softmax_cross_entropy_with_integer_labels(logits, position)), None

        total, _ = jax.lax.scan(add, jnp.zeros(()), parts)
        return total + 0.5 * l2 * jnp.sum(weights**2)

    solver = optax.lbfgs(memory_size=10)
    value_and_grad = optax.value_and_grad_from_state(loss)

    def unfinished(carry):
        _, _, step, slope = carry
        return (step < steps) & (slope > TOLERANCE)

    def step(carry):
        params, state, number, _ = carry
        value, gradient = value_and_grad(params, state=state)
        updates, state = solver.update(gradient, state, params, value=value, grad=gradient, value_fn=loss)
        params = optax.apply_updates(params, updates)
        slope = optax.tree.norm(optax.tree.get(state, "grad"), ord=jnp.inf)
        return params, state, number + 1, slope

    carry = (start, solver.init(start), jnp.zeros((), jnp.int32), jnp.array(jnp.inf))
    return jax.lax.while_loop(unfinished, step, carry)[0]


def logistic_path(
    features: np.ndarray, labels: np.ndarray, l2_values: Sequence[float], classes: np.ndarray | None = None
) -> list[LinearProbe]:
    """Fits one probe per L2 value, in the order given, each starting from the one before: strong values first.

    Args:
      features: float [n, F]; labels: int [n]; classes: the columns of the probes (default: those in labels).
    """
    classes = np.unique(labels) if classes is None else classes
    standardise = fit_standardiser(features)
    blocks = -(-len(features) * len(classes) // LOGITS)
    x = on_devices(standardise(features), blocks=blocks)
    position = np.zeros(len(x), np.int32)
    position[: len(labels)] = np.searchsorted(classes, labels)
    params = (np.zeros((features.shape[1], len(classes)), np.float32), np.zeros(len(classes), np.float32))
    static = {"steps": STEPS, "devices": len(x.sharding.device_set), "blocks": blocks}
    minimise = jax.jit(_minimise, static_argnames=tuple(static), out_shardings=everywhere(x))
    probes = []
    for l2 in l2_values:
        params = minimise(x, position, len(labels), params, l2, **static)
        weights, bias = (np.asarray(leaf) for leaf in params)
        probes.append(LinearProbe(standardise, weights, bias, classes, l2))
    return probes


def fit_logistic(
    features: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray | None = None,
    l2_values: Sequence[float] = L2_VALUES,
    share: float = 0.2,
    seed: int = 0,
) -> LinearProbe:
    """The probe whose L2 is the most accurate on held-out training rows, refitted to all of them.

    Args:
      features: float [n, F]; labels: int [n].
      groups: int [n], kept together when rows are held out (default: every row for itself).
      share: part of the groups that is held out; a tie goes to the larger L2.
    """
    held = hold_out(np.arange(len(labels)) if groups is None else groups, share, seed)
    path = logistic_path(features[~held], labels[~held], sorted(l2_values, reverse=True))
    accuracy = [(np.mean(probe.predict(features[held]) == labels[held]), probe.l2) for probe in path]
    return logistic_path(features, labels, [max(accuracy)[1]])[0]
