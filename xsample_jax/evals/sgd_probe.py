"""Linear probe by SGD, as self-supervised papers train it: momentum, a cosine schedule, the best of several rates.

SimCLR (arXiv 2002.05709, appendix B.6): 90 epochs, batch 4,096, momentum 0.9, rate 0.1 * batch / 256, no warm-up. Two
things are not as there: features are computed once, of the plain view, so nothing is augmented while the probe is
trained; and they are standardised first, in the place of a batch norm without scale (MAE, arXiv 2111.06377, A.1).
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax

from xsample_jax.evals.device_rows import everywhere, on_devices
from xsample_jax.evals.probe import LinearProbe, fit_standardiser, hold_out


@dataclasses.dataclass(frozen=True)
class SgdProtocol:
    """How to train. learning_rates: times batch_size / 256; the batch is at most the number of rows."""

    learning_rates: tuple[float, ...] = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
    epochs: int = 90
    batch_size: int = 4096
    momentum: float = 0.9
    weight_decay: float = 0.0


SIMCLR = SgdProtocol()


def order_of(seed: int, epoch: int, rows: int) -> jax.Array:
    """Order of the rows in an epoch, int32 [rows]; what does not fill a batch is left out of it."""
    return jax.random.permutation(jax.random.fold_in(jax.random.key(seed, impl="threefry2x32"), epoch), rows)


def _train(x, position, rates, rows: int, classes: int, batch: int, protocol: SgdProtocol, seed: int):
    """One probe per rate, all at once: x [N, F] (`rows` of them real) -> (W [R, F, K], b [R, K])."""
    per_epoch = rows // batch
    params = (jnp.zeros((len(rates), x.shape[1], classes)), jnp.zeros((len(rates), classes)))

    def loss(params, chosen):
        weights, bias = params
        logits = jnp.einsum("bf,rfk->rbk", x[chosen], weights, precision=jax.lax.Precision.HIGHEST) + bias[:, None]
        entropy = optax.softmax_cross_entropy_with_integer_labels(logits, position[chosen][None])
        return jnp.sum(jnp.mean(entropy, axis=1)) + 0.5 * protocol.weight_decay * jnp.sum(weights**2)

    def step(carry, chosen):
        params, speed, number = carry
        gradient = jax.grad(loss)(params, chosen)
        speed = jax.tree.map(lambda v, g: protocol.momentum * v + g, speed, gradient)
        scale = 0.5 * (1 + jnp.cos(jnp.pi * number / (per_epoch * protocol.epochs))) * rates
        params = jax.tree.map(lambda w, v: w - scale.reshape(-1, *[1] * (w.ndim - 1)) * v, params, speed)
        return (params, speed, number + 1), None

    def epoch(carry, number):
        order = order_of(seed, number, rows)[: per_epoch * batch].reshape(per_epoch, batch)
        return jax.lax.scan(step, carry, order)[0], None

    carry = (params, jax.tree.map(jnp.zeros_like, params), jnp.zeros(()))
    return jax.lax.scan(epoch, carry, jnp.arange(protocol.epochs))[0][0]


def sgd_path(
    features: np.ndarray,
    labels: np.ndarray,
    protocol: SgdProtocol = SIMCLR,
    seed: int = 0,
) -> list[LinearProbe]:
    """One probe per learning rate on features [n, F] with labels int [n], trained side by side in the same order."""
    classes, position = np.unique(labels, return_inverse=True)
    standardise = fit_standardiser(features)
    x = on_devices(standardise(features))
    batch = min(protocol.batch_size, len(labels))
    padded = np.zeros(len(x), np.int32)
    padded[: len(labels)] = position
    rates = np.asarray(protocol.learning_rates, np.float32) * batch / 256
    train = jax.jit(
        _train, static_argnames=("rows", "classes", "batch", "protocol", "seed"), out_shardings=everywhere(x)
    )
    weights, biases = train(x, padded, rates, len(labels), len(classes), batch, protocol, seed)
    return [
        LinearProbe(standardise, np.asarray(w), np.asarray(b), classes, protocol.weight_decay)
        for w, b in zip(np.asarray(weights), np.asarray(biases), strict=True)
    ]


def fit_sgd(
    features: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray | None = None,
    protocol: SgdProtocol = SIMCLR,
    share: float = 0.2,
    seed: int = 0,
) -> LinearProbe:
    """The probe whose learning rate is the most accurate on held-out training rows, trained again on all of them.

    groups: int [n], kept together when rows are held out. A tie goes to the smaller rate.
    """
    held = hold_out(np.arange(len(labels)) if groups is None else groups, share, seed)
    path = sgd_path(features[~held], labels[~held], protocol, seed)
    accuracy = [np.nan_to_num(np.mean(probe.predict(features[held]) == labels[held])) for probe in path]
    best = protocol.learning_rates[int(np.argmax(accuracy))]
    return sgd_path(features, labels, dataclasses.replace(protocol, learning_rates=(best,)), seed)[0]
