"""Terms that look at embeddings rather than at pairs of the graph: feature correlations, alignment, uniformity.

Every term is `f(x [A, D], y [A, D], **options) -> scalar`; the rows of x and y belong to the same images.
A term that reads side information gets that of x after them, and then that of y where it reads some of keys; one with
a table then that block, and one that draws random numbers then a key: `f(x, y, side, table, key, **options)`.
"""

import jax
import jax.numpy as jnp

from xsample_jax.graphs.targets import MASKED
from xsample_jax.models.heads import products, squared_distances, unit_rows
from xsample_jax.objectives.cluster_centers import self_training
from xsample_jax.objectives.episodes import SETS, icnn, proto_triplet, prototypical
from xsample_jax.objectives.generative import captioning, latent_code, reconstruction
from xsample_jax.objectives.logits import prompt_consistency
from xsample_jax.objectives.pair_network import adaptive_contrast, adaptive_correlation, learned_negatives
from xsample_jax.registry import Slot

HIGHEST = jax.lax.Precision.HIGHEST


def align(x: jax.Array, y: jax.Array, *, power: float = 2.0) -> jax.Array:
    """mean |x_i - y_i|^power (Wang and Isola, arXiv 2005.10242)."""
    return jnp.mean(jnp.sum((x - y) ** 2, axis=-1) ** (power / 2))


def uniform(x: jax.Array, y: jax.Array, *, t: float = 2.0) -> jax.Array:
    """log of the mean over pairs i != k of exp(-t |x_i - x_k|^2) (Wang and Isola); y is not read."""
    del y
    return _log_mean_kernel(x, x, t)


def cross_uniform(x: jax.Array, y: jax.Array, *, t: float = 2.0) -> jax.Array:
    """The same between modalities, over pairs i != k of different samples (arXiv 2405.18570)."""
    return _log_mean_kernel(x, y, t)


def barlow_twins(x: jax.Array, y: jax.Array, *, off_diagonal: float = 5e-3, standardize: bool = True) -> jax.Array:
    """Cross-correlation of standardized features to the identity (arXiv 2103.03230, eq. 1).

    standardize: False for outputs of a head that are standardized already (BarLIP).
    """
    x, y = (_standardized(z) if standardize else z for z in (x, y))
    correlation = jnp.matmul(x.T, y, precision=HIGHEST) / len(x)
    diagonal = jnp.diagonal(correlation)
    return jnp.sum((diagonal - 1) ** 2) + off_diagonal * (jnp.sum(correlation**2) - jnp.sum(diagonal**2))


def vicreg(
    x: jax.Array,
    y: jax.Array,
    *,
    invariance: float = 25.0,
    variance: float = 25.0,
    covariance: float = 1.0,
    unit_rows: bool = False,
) -> jax.Array:
    """Invariance, hinge on the standard deviation, off-diagonal covariance (arXiv 2105.04906, eq. 6).

    The hinge asks every dimension for a standard deviation of 1, which rows of length one cannot have: with
    `unit_rows` they are first scaled to the length sqrt(D), where rows in all directions have just that.
    """
    if unit_rows:
        x, y = (z * jnp.sqrt(z.shape[-1]) for z in (x, y))
    hinge = 0.5 * sum(jnp.mean(jax.nn.relu(1 - jnp.sqrt(jnp.var(z, axis=0, ddof=1) + 1e-4))) for z in (x, y))
    off = sum(_off_diagonal_covariance(z) for z in (x, y))
    return invariance * jnp.mean((x - y) ** 2) + variance * hinge + covariance * off


def spectral(x: jax.Array, y: jax.Array) -> jax.Array:
    """-2 mean <x_i, y_i> + mean over i != k of <x_i, y_k>^2 (arXiv 2106.04156, eq. 6)."""
    similarity = products(x, y)
    diagonal = jnp.diagonal(similarity)
    count = len(x)
    return -2 * jnp.mean(diagonal) + (jnp.sum(similarity**2) - jnp.sum(diagonal**2)) / (count * (count - 1))


def cyclic(x: jax.Array, y: jax.Array, *, in_modal: float = 0.25, cross_modal: float = 0.25) -> jax.Array:
    """CyCLIP's consistency (arXiv 2205.14459, eqs. 3, 4): x.x' against y.y', and x.y' against y.x', squared.

    Multiplied by the batch size as in the published code (a sum over keys, a mean over anchors). `in_modal` and
    `cross_modal` weight the two parts; divide x and y by sqrt(tau) for its logits.
    """
    xx, yy, xy = (products(a, b) for a, b in ((x, x), (y, y), (x, y)))
    return len(x) * (in_modal * jnp.mean((xx - yy) ** 2) + cross_modal * jnp.mean((xy - xy.T) ** 2))


def mean_square(x: jax.Array, y: jax.Array, *, raw: bool = False) -> jax.Array:
    """mean over rows and dimensions of (x - y)^2: the attraction of arXiv 2011.02803; `raw`: of head outputs."""
    del raw  # read by the slot: which rows x and y are
    return jnp.mean((x - y) ** 2)


def square_sum(x: jax.Array, y: jax.Array) -> jax.Array:
    """sum over rows and dimensions of (x - y)^2: the distillation of DeGLA, which grows with the batch."""
    return jnp.sum((x - y) ** 2)


def sliced_wasserstein(x: jax.Array, y: jax.Array, key: jax.Array, *, prior: str = "sphere") -> jax.Array:
    """Squared distance of sorted projections of x and of samples of a prior (arXiv 2011.02803); y is not read.

    mean over rows and dimensions of (sort(x W) - sort(p W))^2, each column sorted over the batch: W a random
    orthogonal matrix [D, D], p [A, D] fresh samples, both drawn from `key`, the same on every device.

    Args:
      x: unit rows [A, D] for the prior "sphere" (uniform on the unit sphere), else head outputs as they are.
      prior: sphere, cube (uniform on [-1, 1]^D) or normal (standard Gaussian).
    """
    del y
    for_directions, for_samples = jax.random.split(key)
    directions = random_directions(for_directions, x.shape[1])
    samples = prior_samples(for_samples, x.shape, prior)
    if prior == "sphere":
        samples = unit_rows(samples)
    of_rows, of_prior = (jnp.sort(jnp.matmul(z, directions, precision=HIGHEST), axis=0) for z in (x, samples))
    return jnp.mean((of_rows - of_prior) ** 2)


def random_directions(key: jax.Array, width: int) -> jax.Array:
    """An orthogonal matrix [D, D], uniform among all (Haar measure)."""
    return jax.random.orthogonal(key, width)


def prior_samples(key: jax.Array, shape: tuple[int, ...], prior: str) -> jax.Array:
    """Samples [A, D] of a prior; for the sphere before they are scaled to unit length."""
    if prior == "cube":
        return jax.random.uniform(key, shape, minval=-1.0, maxval=1.0)
    return jax.random.normal(key, shape)


def near_kernel(x: jax.Array, y: jax.Array, *, near: float = 1.0, t: float = 2.0) -> jax.Array:
    """CACR's repulsion with an RBF cost (arXiv 2105.03746): log mean_i sum_{k != i} w_ik exp(-t |x_i - y_k|^2).

    w_ik is the softmax over k != i of -near |x_i - y_k|^2: near rows count more. Gradient flows through it.
    """
    distances, off = squared_distances(x, y), ~jnp.eye(len(x), dtype=bool)
    log_weight = jax.nn.log_softmax(jnp.where(off, -near * distances, MASKED), axis=-1)
    return jax.nn.logsumexp(log_weight - t * distances, b=off) - jnp.log(len(x))


def whitened_contrast(
    x: jax.Array, y: jax.Array, key: jax.Array, *, width: int = 4, temperature: float = 0.05, through: bool = True
) -> jax.Array:
    """InfoNCE of x against y after shuffled group whitening of each (WhitenedCSE, arXiv 2305.17746).

    Args:
      x, y: head outputs [A, D] of two copies of the same images, D a multiple of `width`.
      key: x and y each get an order of the channels of their own from it, the same on every device.
      width: channels of a group, at most A / 2. through: whether gradient flows through the whitening matrices; none
        does in the published code.
    """
    orders = channel_orders(key, x.shape[1])
    x, y = (unit_rows(whitened(z, order, width, through)) for z, order in zip((x, y), orders, strict=True))
    logits = products(x, y) / temperature
    return jnp.mean(jax.nn.logsumexp(logits, axis=1) - jnp.diagonal(logits))


def near_cells(x: jax.Array, y: jax.Array, of_x: dict, of_y: dict, *, at: float = 0.7) -> jax.Array:
    """PixPro: -2 times the mean cosine of cells that show nearly the same place, mean over images.

    Args:
      x, y: maps [A, h, w, D] of two crops of the same images.
      of_x, of_y: crop [A, 4]: x0, y0, x1, y1 in the image, x0 > x1 for a flipped one. at: cells are near where their
        centers are less than this share of the larger diagonal of a cell apart. An image without such cells gives 0.
    """
    (places, size), (others, other_size) = (
        _cell_places(side["crop"], z.shape[1:3]) for side, z in ((of_x, x), (of_y, y))
    )
    apart = jnp.linalg.norm(places[:, :, None] - others[:, None], axis=-1)
    near = apart < at * jnp.maximum(size, other_size)[:, None, None]
    q, k = (unit_rows(z.reshape(len(z), -1, z.shape[-1])) for z in (x, y))
    cosine = jnp.einsum("aid,ajd->aij", q, k, precision=HIGHEST)
    total = jnp.sum(jnp.where(near, cosine, 0.0), axis=(1, 2))
    return -2 * jnp.mean(total / (jnp.sum(near, axis=(1, 2)) + 1e-6))


def _cell_places(crop: jax.Array, grid: tuple[int, int]) -> tuple[jax.Array, jax.Array]:
    """(centers of the cells [A, h w, 2], y then x; their diagonal [A]) of crops x0, y0, x1, y1 [A, 4] with a grid."""
    rows, columns = grid
    high, wide = (crop[:, 3] - crop[:, 1]) / rows, (crop[:, 2] - crop[:, 0]) / columns
    y = crop[:, 1:2] + (jnp.arange(rows) + 0.5) * high[:, None]
    x = crop[:, 0:1] + (jnp.arange(columns) + 0.5) * wide[:, None]
    both = jnp.broadcast_arrays(y[:, :, None], x[:, None, :])
    return jnp.stack(both, axis=-1).reshape(len(crop), -1, 2), jnp.sqrt(high**2 + wide**2)


# SepCLR: what a set of interest has in common with a background, and what is its own, in two heads. The terms read
# is_target [A]: 1 in the set of interest, 0 in the background, -1 for neither.


def align_targets(x: jax.Array, y: jax.Array, side: dict) -> jax.Array:
    """mean over the images of interest of |x_i - y_i|^2; 0 where there are none."""
    return _mean_among(jnp.sum((x - y) ** 2, axis=-1), side["is_target"] == 1)


def vanish(x: jax.Array, y: jax.Array, side: dict) -> jax.Array:
    """mean over the images of the background of |x_i|^2: nothing of theirs is salient. y is not read."""
    del y
    return _mean_among(jnp.sum(x * x, axis=-1), side["is_target"] == 0)


def uniform_targets(x: jax.Array, y: jax.Array, side: dict, *, t: float = 1.0) -> jax.Array:
    """log of the mean over pairs i != k of exp(-t |x_i - x_k|^2), rows outside the set of interest at 0.

    y is not read.
    """
    del y
    x = _of_interest(x, side)
    off = ~jnp.eye(len(x), dtype=bool)
    return jax.nn.logsumexp(-t * squared_distances(x, x), b=off) - jnp.log(len(x) * (len(x) - 1))


def joint_entropy(x: jax.Array, y: jax.Array, side: dict, *, t: float = 1.0) -> jax.Array:
    """mean_i log mean_k exp(-t (|x_i - x_k|^2 + |y_i - y_k|^2)), k = i among them: the k-JEM of SepCLR.

    x: rows of the common head; y: of the salient head, at 0 outside the set of interest. It is low where
    rows of the two heads together are spread.
    """
    y = _of_interest(y, side)
    both = squared_distances(x, x) + squared_distances(y, y)
    return jnp.mean(jax.nn.logsumexp(-t * both, axis=1)) - jnp.log(len(x))


def _of_interest(x: jax.Array, side: dict) -> jax.Array:
    return jnp.where((side["is_target"] == 1)[:, None], x, 0.0)


def _mean_among(values: jax.Array, among: jax.Array) -> jax.Array:
    return jnp.sum(jnp.where(among, values, 0.0)) / jnp.maximum(jnp.sum(among), 1)


def norm_direction(x: jax.Array, y: jax.Array, side: dict, *, raw: bool = True) -> jax.Array:
    """ND (arXiv 2305.17007): mean of 1 - <x, c / |c|> / max(|x|, |t|), c the teacher's mean feature of the row's class.

    While a row is shorter than the teacher's t it gains by growing along c; a longer one only by turning. y is not
    read.

    Args:
      x: head outputs [A, F], of any length; raw: always true, as unit rows cannot grow.
      side: frozen_features [A, F], t; class_center [A, F], c; rows without a class (c = 0) are left out of the mean.
    """
    del y, raw
    center, teacher = side["class_center"], side["frozen_features"]
    known = jnp.any(center != 0, axis=-1)
    length = jnp.sqrt(jnp.maximum(jnp.sum(x * x, axis=-1), 1e-12))
    longest = jnp.maximum(length, jnp.linalg.norm(teacher, axis=-1))
    values = 1 - jnp.sum(x * unit_rows(center), axis=-1) / longest
    return jnp.sum(jnp.where(known, values, 0.0)) / jnp.maximum(jnp.sum(known), 1)


def past_positives(
    x: jax.Array, y: jax.Array, side: dict, *, temperature: float = 0.1, negatives: str = "student"
) -> jax.Array:
    """COCONUT's distillation on rehearsed images (arXiv 2310.02699; equation from memory, unchecked).

    -mean over rehearsed rows k, and over p of another image of the class, of log(e^(x_k.y_p / tau) / sum_i e^(x_k.v_i /
    tau)), v the student's rows x (NSPT) or the teacher's y (NTPT), i over the rows of all other images of the batch.

    Args:
      x: the student's rows [A, D]; y: those of the teacher of before the task, of the same images.
      side: id, label and part; rows of part 1 are rehearsed. A row without a positive is left out of the mean.
    """
    others = side["id"][:, None] != side["id"][None, :]
    positive = others & (side["label"][:, None] == side["label"][None, :]) & (side["label"][:, None] >= 0)
    attracted, repelled = (products(x, keys) / temperature for keys in (y, x if negatives == "student" else y))
    log_denominator = jax.nn.logsumexp(jnp.where(others, repelled, MASKED), axis=1)
    mean = jnp.sum(jnp.where(positive, attracted, 0.0), axis=1) / jnp.maximum(jnp.sum(positive, axis=1), 1)
    counted = jnp.any(positive, axis=1) & (side["part"] == 1)
    return jnp.sum(jnp.where(counted, log_denominator - mean, 0.0)) / jnp.maximum(jnp.sum(counted), 1)


def channel_orders(key: jax.Array, width: int) -> jax.Array:
    """Two random orders of `width` channels, [2, width]."""
    return jax.vmap(lambda one: jax.random.permutation(one, width))(jax.random.split(key))


def whitened(z: jax.Array, order: jax.Array, width: int, through: bool = True) -> jax.Array:
    """z [A, D] with channels in `order` cut into groups of `width`, every group whitened over the rows (ZCA).

    The covariance of every group (divided by A) becomes the identity; channels return to their places.
    """
    centered = (z - z.mean(axis=0))[:, order].reshape(len(z), -1, width)
    covariance = jnp.einsum("agi,agj->gij", centered, centered, precision=HIGHEST) / len(z)
    root = inverse_root(covariance)
    root = root if through else jax.lax.stop_gradient(root)
    rows = jnp.einsum("agi,gij->agj", centered, root, precision=HIGHEST).reshape(z.shape)
    return rows[:, jnp.argsort(order)]


def inverse_root(matrices: jax.Array) -> jax.Array:
    """A^(-1/2) of symmetric positive matrices [G, d, d], by Newton-Schulz iterations: products only, which have a
    gradient for equal eigenvalues too. A ridge of 1e-6 of the mean eigenvalue keeps a singular matrix finite."""
    width = matrices.shape[-1]
    one = jnp.eye(width, dtype=matrices.dtype)
    trace = jnp.trace(matrices, axis1=1, axis2=2)[:, None, None] + 1e-12
    near_one = (matrices + 1e-6 / width * trace * one) / (trace * (1 + 1e-6))

    def step(_, pair):
        root, inverse = pair
        turn = 1.5 * one - 0.5 * jnp.matmul(inverse, root, precision=HIGHEST)
        return jnp.matmul(root, turn, precision=HIGHEST), jnp.matmul(turn, inverse, precision=HIGHEST)

    _, inverse = jax.lax.fori_loop(0, 25, step, (near_one, jnp.broadcast_to(one, near_one.shape)))
    return inverse * jax.lax.rsqrt(trace)


def _log_mean_kernel(x: jax.Array, y: jax.Array, t: float) -> jax.Array:
    off = ~jnp.eye(len(x), dtype=bool)
    return jax.nn.logsumexp(-t * squared_distances(x, y), b=off) - jnp.log(len(x) * (len(x) - 1))


def _standardized(x: jax.Array) -> jax.Array:
    return (x - x.mean(axis=0)) * jax.lax.rsqrt(jnp.var(x, axis=0) + 1e-5)


def _off_diagonal_covariance(x: jax.Array) -> jax.Array:
    centered = x - x.mean(axis=0)
    covariance = jnp.matmul(centered.T, centered, precision=HIGHEST) / (len(x) - 1)
    return (jnp.sum(covariance**2) - jnp.sum(jnp.diagonal(covariance) ** 2)) / x.shape[-1]


FEATURE_TERMS = {
    "align": Slot(align, limits={"power": (1, None)}),
    "uniform": Slot(uniform),
    "cross_uniform": Slot(cross_uniform),
    "barlow_twins": Slot(barlow_twins),
    "vicreg": Slot(vicreg),
    "spectral": Slot(spectral),
    "cyclic": Slot(cyclic),
    "near_kernel": Slot(near_kernel, limits={"near": (0, 1e3), "t": (0, 1e3)}),
    "whitened_contrast": Slot(
        whitened_contrast,
        raw=True,
        draws=True,
        limits={"width": (1, 2**16), "temperature": (1e-3, 1e3)},
    ),
    "norm_direction": Slot(
        norm_direction, of_anchors=("frozen_features", "class_center"), learns=("frozen",), raw=True
    ),
    "past_positives": Slot(
        past_positives,
        of_anchors=("id", "label", "part"),
        plan="data.tasks",
        limits={"temperature": (1e-3, 1e3), "negatives": ("student", "teacher")},
    ),
    "prototypical": Slot(prototypical, of_anchors=("label", "part"), raw=True, plan="data.episodes"),
    "proto_triplet": Slot(
        proto_triplet, of_anchors=("label", "part"), raw=True, plan="data.episodes", limits={"margin": (0, 1e3)}
    ),
    "icnn": Slot(
        icnn,
        of_anchors=("label", "part"),
        raw=True,
        plan="data.episodes",
        limits={"rows": SETS, "k": (1, 2**12)},
    ),
    "near_cells": Slot(
        near_cells, of_anchors=("crop",), of_keys=("crop",), learns=("cells",), maps=True, limits={"at": (1e-3, 100)}
    ),
    "align_targets": Slot(align_targets, of_anchors=("is_target",)),
    "uniform_targets": Slot(uniform_targets, of_anchors=("is_target",), limits={"t": (0, 1e3)}),
    "vanish": Slot(vanish, of_anchors=("is_target",)),
    "joint_entropy": Slot(joint_entropy, of_anchors=("is_target",), limits={"t": (0, 1e3)}),
    "adaptive_contrast": Slot(
        adaptive_contrast,
        of_anchors=("pair_first", "pair_out"),
        of_keys=("pair_second",),
        learns=("pair_network",),
        limits={"beta": (0, 1e3), "coldest": (1e-6, 1e3), "warmest": (1e-6, 1e3)},
    ),
    "adaptive_correlation": Slot(
        adaptive_correlation,
        of_anchors=("pair_channel",),
        learns=("pair_network",),
        limits={"off_diagonal": (0, 1e3), "beta": (0, 1e3), "coldest": (1e-6, 1)},
    ),
    "learned_negatives": Slot(
        learned_negatives,
        of_anchors=("pair_first", "pair_out"),
        of_keys=("pair_second",),
        learns=("pair_network",),
        limits={"temperature": (1e-2, 1e2), "floor": (1e-9, 0.5)},
    ),
    "captioning": Slot(captioning, of_anchors=("token_loss", "token_count"), learns=("decoder",)),
    "latent_code": Slot(latent_code, of_anchors=("latent",), learns=("log_variance",)),
    "reconstruction": Slot(reconstruction, of_anchors=("reconstruction",), learns=("log_variance",)),
    "square_sum": Slot(square_sum),
    "prompt_consistency": Slot(
        prompt_consistency,
        of_anchors=("prompt",),
        of_keys=("prompt",),
        learns=("prompts", "class_texts"),
        table="class_texts",
    ),
    "self_training": Slot(self_training, learns=("prototypes",), table="prototypes"),
    "mean_square": Slot(mean_square, chosen=lambda raw=False: {"raw": raw}),
    "sliced_wasserstein": Slot(
        sliced_wasserstein,
        draws=True,
        limits={"prior": ("sphere", "cube", "normal")},
        chosen=lambda prior="sphere": {"raw": prior != "sphere"},
    ),
}
