"""Linear probe in closed form: ridge regression to one-hot targets, every L2 value from one eigendecomposition.

minimize over W, b:  1/n sum_i |onehot(y_i) - W' x_i - b|^2 + l2 |W|^2      x standardized with the training statistics
W(l2) = Q (diag(lambda) + l2)^-1 Q' X'Y / n,   X'X / n = Q diag(lambda) Q',   b = mean of the one-hot targets.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from xsample_jax.evals.features import everywhere, in_blocks, on_devices

RIDGE_L2_VALUES = tuple(10.0**power for power in (-4, -3, -2.5, -2, -1.5, -1, -0.5, 0, 1))
_CHUNK = 16384
_matmul = jax.jit(functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST))


@dataclasses.dataclass(frozen=True)
class Standardizer:
    """Per-feature shift and scale: x -> (x - mean) / scale; a constant feature becomes zero."""

    mean: np.ndarray
    scale: np.ndarray

    def __call__(self, features: np.ndarray) -> np.ndarray:
        result = np.empty(features.shape, np.float32)
        for start in range(0, len(features), _CHUNK):  # a copy of all rows in float64 would be too much
            rows = slice(start, start + _CHUNK)
            result[rows] = (features[rows] - self.mean) / self.scale
        return result


@dataclasses.dataclass(frozen=True)
class Spectrum:
    """Eigendecomposition of the second moments [F, F] of standardized training features."""

    standardize: Standardizer
    values: np.ndarray
    vectors: np.ndarray


@dataclasses.dataclass(frozen=True)
class LinearProbe:
    """A fitted probe: scores = standardize(x) @ weights [F, K] + bias [K]; column j is classes[j].

    Ridge scores estimate probabilities; those of `logistic.py` and `sgd_probe.py` are logits.
    """

    standardize: Standardizer
    weights: np.ndarray
    bias: np.ndarray
    classes: np.ndarray
    l2: float

    def scores(self, features: np.ndarray) -> np.ndarray:
        """Returns float32 [m, K]."""
        parts = [
            np.asarray(_matmul(self.standardize(features[start : start + _CHUNK]), self.weights))
            for start in range(0, len(features), _CHUNK)
        ]
        return np.concatenate(parts) + self.bias

    def predict(self, features: np.ndarray) -> np.ndarray:
        """Returns int [m], the class with the largest score."""
        return self.classes[self.scores(features).argmax(axis=1)]


def fit_standardizer(features: np.ndarray) -> Standardizer:
    """Mean and deviation of every feature over the rows [n, F]."""
    mean, squares = features.mean(axis=0, dtype=np.float64), 0.0
    for start in range(0, len(features), _CHUNK):
        squares += np.sum((features[start : start + _CHUNK] - mean) ** 2, axis=0)
    deviation = np.sqrt(squares / len(features))
    return Standardizer(mean, np.where(deviation > 1e-7 * max(deviation.max(), 1e-30), deviation, 1.0))


def spectrum(features: np.ndarray) -> Spectrum:
    """Standardizes features [n, F] and decomposes their second moments; products on the device, sums in float64."""
    standardize = fit_standardizer(features)
    moments = np.zeros((features.shape[1],) * 2)
    for start in range(0, len(features), _CHUNK):
        part = standardize(features[start : start + _CHUNK])
        moments += np.asarray(_matmul(part.T, part), np.float64)
    values, vectors = np.linalg.eigh(moments / len(features))
    return Spectrum(standardize, np.maximum(values, 0.0), vectors)


def ridge_path(
    of: Spectrum, features: np.ndarray, labels: np.ndarray, l2_values: Sequence[float] = RIDGE_L2_VALUES
) -> list[LinearProbe]:
    """Fits one probe per L2 value on the features [n, F] that `of` was computed from; labels int [n]."""
    classes, position = np.unique(labels, return_inverse=True)
    one_hot = lambda rows: np.eye(len(classes), dtype=np.float32)[position[rows]]  # noqa: E731
    bias = (np.bincount(position, minlength=len(classes)) / len(features)).astype(np.float32)
    weights = ridge_weights(of, features, one_hot, l2_values)
    return [LinearProbe(of.standardize, w, bias, classes, l2) for w, l2 in zip(weights, l2_values, strict=True)]


def ridge_weights(
    of: Spectrum, features: np.ndarray, targets: Callable[[slice], np.ndarray], l2_values: Sequence[float]
) -> list[np.ndarray]:
    """W(l2) float32 [F, K] for every L2 value. `targets` gives the rows [., K] of the targets for a slice of rows."""
    cross = 0.0
    for start in range(0, len(features), _CHUNK):
        rows = slice(start, start + _CHUNK)
        cross += np.asarray(_matmul(of.standardize(features[rows]).T, targets(rows)), np.float64)
    rotated = of.vectors.T @ (cross / len(features))
    return [(of.vectors @ (rotated / (of.values + l2)[:, None])).astype(np.float32) for l2 in l2_values]


def hold_out(groups: np.ndarray, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns bool [n] twice: rows to fit to, and all rows of a random `share` of the groups. No group is in both.

    A single group is split by rows all the same, and a single row is in both.
    """
    names, position = np.unique(groups, return_inverse=True)
    if len(groups) == 1:
        return np.ones(1, bool), np.ones(1, bool)
    if len(names) == 1:
        held = np.arange(len(groups)) % max(round(1 / share), 2) == 0
        return ~held, held
    count = max(1, round(share * len(names)))
    chosen = np.zeros(len(names), bool)
    chosen[np.random.default_rng(seed).permutation(len(names))[:count]] = True
    return ~chosen[position], chosen[position]


def fit_probes(
    features: np.ndarray,
    targets: Mapping[str, np.ndarray],
    groups: np.ndarray,
    l2_values: Sequence[float] = RIDGE_L2_VALUES,
    share: float = 0.2,
    seed: int = 0,
) -> dict[str, LinearProbe]:
    """Fits one probe per target; its L2 is the best on held-out groups of the training rows, then all rows are used.

    Args:
      features: float [n, F]; targets: name -> int labels [n]; groups: int [n], e.g. the concept of every row, so that
        the choice of L2 rewards what carries over to unseen concepts.
      share: part of the groups held out for that choice; a tie goes to the larger L2.

    Two eigendecompositions in all, whatever the number of targets and of L2 values.
    """
    kept, held = hold_out(groups, share, seed)
    inner, full = spectrum(features[kept]), spectrum(features)
    probes = {}
    for name, labels in targets.items():
        path = ridge_path(inner, features[kept], labels[kept], l2_values)
        accuracy = [(np.mean(probe.predict(features[held]) == labels[held]), probe.l2) for probe in path]
        probes[name] = ridge_path(full, features, labels, [max(accuracy)[1]])[0]
    return probes


# Linear probe by multinomial logistic regression, fitted to all rows at once with L-BFGS.
#
# minimize over W, b:  1/n sum_i -log softmax(W' x_i + b)[y_i] + l2/2 |W|^2      x standardized, the bias is free
#
# This is scikit-learn's LogisticRegression with C = 1 / (l2 n) for three classes or more. For two it has one vector of
# weights in place of two that are each other's negative, and the same fit has C = 2 / (l2 n). It is also the probe of
# CLIP (arXiv 2103.00020, appendix A.3), whose strength is swept too and chosen on held-out training rows.


LOGISTIC_L2_VALUES = tuple(10.0**power for power in (0, -1, -2, -3, -4, -5, -6))
STEPS = 500  # of L-BFGS, at most
LOGITS = 2**28  # numbers, 1 GiB, that one block of rows may have over all devices
TOLERANCE = 1e-5  # largest entry of the gradient; less is below the noise of float32


def _minimize(x, position, count, start, l2, limits: tuple[int, int, int]):
    """x [N, F] of which the first `count` rows are real, position int [N] -> (W [F, K], b [K]), from `start` on.

    limits: (most steps, devices, blocks). Logits are made for one of `blocks` parts of the rows at a time, and once
    more for the gradient: memory is bounded.
    """
    steps, devices, blocks = limits
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
    standardize = fit_standardizer(features)
    blocks = -(-len(features) * len(classes) // LOGITS)
    x = on_devices(standardize(features), blocks=blocks)
    position = np.zeros(len(x), np.int32)
    position[: len(labels)] = np.searchsorted(classes, labels)
    # Where the result of a fit is: the second one is no other program than the first.
    shapes = (features.shape[1], len(classes)), (len(classes),)
    params = tuple(jnp.zeros(shape, jnp.float32, device=everywhere(x)) for shape in shapes)
    limits = (STEPS, len(x.sharding.device_set), blocks)
    minimize = jax.jit(_minimize, static_argnames="limits", out_shardings=everywhere(x))
    probes = []
    for l2 in l2_values:
        params = minimize(x, position, len(labels), params, l2, limits)
        weights, bias = (np.asarray(leaf) for leaf in params)
        probes.append(LinearProbe(standardize, weights, bias, classes, l2))
    return probes


def fit_logistic(
    features: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray | None = None,
    l2_values: Sequence[float] = LOGISTIC_L2_VALUES,
    share: float = 0.2,
    seed: int = 0,
) -> LinearProbe:
    """The probe whose L2 is the most accurate on held-out training rows, refitted to all of them.

    Args:
      features: float [n, F]; labels: int [n].
      groups: int [n], kept together when rows are held out (default: every row for itself).
      share: part of the groups that is held out; a tie goes to the larger L2.
    """
    kept, held = hold_out(np.arange(len(labels)) if groups is None else groups, share, seed)
    path = logistic_path(features[kept], labels[kept], sorted(l2_values, reverse=True))
    accuracy = [(np.mean(probe.predict(features[held]) == labels[held]), probe.l2) for probe in path]
    return logistic_path(features, labels, [max(accuracy)[1]])[0]


# Gaussian naive Bayes: class means and one diagonal variance that all classes share, a linear classifier.
#
# log p(c | x) = log n_c / n - sum_f (x_f - mu_cf)^2 / (2 var_f) + const,   var_f = sum_c n_c / n var_cf + 1e-9
#
# The generative partner of logistic regression (Ng and Jordan 2001; arXiv 2302.02334). The square of x is the same for
# all classes, so scores are linear in x; two sums per class are all that is read of the data.

SMOOTHING = 1e-9  # added to the variances, in the units of the features


def class_sums(features: np.ndarray, position: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """(sums, sums of squares), float64 [classes, F], of features [n, F] by class; position int [n].

    Sums of two parts of the rows add up. Products are made on the device, of one part of the rows at a time.
    """
    found = np.zeros((2, classes, features.shape[1]))
    for start in range(0, len(features), _CHUNK):
        rows = np.asarray(features[start : start + _CHUNK], np.float32)
        one_hot = np.eye(classes, dtype=np.float32)[position[start : start + _CHUNK]].T
        for total, part in zip(found, (rows, rows * rows), strict=True):
            total += np.asarray(_matmul(one_hot, part), np.float64)
    return found[0], found[1]


def fit_naive_bayes(features: np.ndarray, labels: np.ndarray) -> LinearProbe:
    """Fits Gaussian naive Bayes with one variance for all classes to features [n, F] and labels int [n].

    Its scores are log posteriors up to one constant for each row.
    """
    classes, position, count = np.unique(labels, return_inverse=True, return_counts=True)
    standardize = fit_standardizer(features)  # squares of features with a large mean would lose all digits
    sums, squares = class_sums(standardize(features), position, len(classes))
    means, total = sums / count[:, None], len(labels)
    variance = (squares - count[:, None] * means**2).sum(axis=0) / total
    variance = np.maximum(variance, 0) + SMOOTHING / standardize.scale**2
    bias = np.log(count / total) - np.sum(means**2 / (2 * variance), axis=1)
    return LinearProbe(standardize, (means / variance).T.astype(np.float32), bias.astype(np.float32), classes, 0.0)


# Linear probe by SGD, as self-supervised papers train it: momentum, a cosine schedule, the best of several rates.
#
# SimCLR (arXiv 2002.05709, appendix B.6): 90 epochs, batch 4,096, momentum 0.9, rate 0.1 * batch / 256, no warm-up.
# Two differences: features are computed once, of the plain view, so nothing is augmented while the probe is trained;
# and they are standardized first, in place of a batch norm without scale (MAE, arXiv 2111.06377, A.1).


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


def _train(x, position, rates, sizes: tuple[int, int, int], protocol: SgdProtocol, seed: int):
    """One probe per rate, all at once: x [N, F] -> (W [R, F, K], b [R, K]).

    sizes: (rows of x that are real, classes K, rows of a batch).
    """
    rows, classes, batch = sizes
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
    standardize = fit_standardizer(features)
    x = on_devices(standardize(features))
    batch = min(protocol.batch_size, len(labels))
    padded = np.zeros(len(x), np.int32)
    padded[: len(labels)] = position
    rates = np.asarray(protocol.learning_rates, np.float32) * batch / 256
    train = jax.jit(_train, static_argnames=("sizes", "protocol", "seed"), out_shardings=everywhere(x))
    weights, biases = train(x, padded, rates, (len(labels), len(classes), batch), protocol, seed)
    return [
        LinearProbe(standardize, np.asarray(w), np.asarray(b), classes, protocol.weight_decay)
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
    kept, held = hold_out(np.arange(len(labels)) if groups is None else groups, share, seed)
    path = sgd_path(features[kept], labels[kept], protocol, seed)
    accuracy = [np.nan_to_num(np.mean(probe.predict(features[held]) == labels[held])) for probe in path]
    best = protocol.learning_rates[int(np.argmax(accuracy))]
    return sgd_path(features, labels, dataclasses.replace(protocol, learning_rates=(best,)), seed)[0]
