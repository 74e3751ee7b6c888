"""The student logits: how alike two embeddings are, divided by a temperature.

Every similarity is `f(x, y, u, v, **options) -> [A, K]`: x [A, D], y [K, D] unit rows with gradient; u, v their side
information. Row-specific keys (synthetic negatives) have y [A, K, D].
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from xsample_jax.models.heads import products, squared_distances, unit_rows
from xsample_jax.registry import Slot

HIGHEST = jax.lax.Precision.HIGHEST


def dot(x: jax.Array, y: jax.Array, u: dict, v: dict) -> jax.Array:
    """x_i . y_k: the cosine, for unit rows."""
    if y.ndim == 3:
        return jnp.einsum("ad,akd->ak", x, y, precision=HIGHEST)
    return products(x, y)


def negative_distance(x: jax.Array, y: jax.Array, u: dict, v: dict, *, power: float = 2.0) -> jax.Array:
    """-|x_i - y_k|^power."""
    square = jnp.sum((x[:, None] - y) ** 2, axis=-1) if y.ndim == 3 else squared_distances(x, y)
    if power == 2.0:
        return -square
    near = square < 1e-12  # the root has no finite slope at 0
    return -jnp.where(near, 0.0, jnp.where(near, 1.0, square) ** (power / 2))


def margin(x: jax.Array, y: jax.Array, u: dict, v: dict, *, of_positive: float = 0.0) -> jax.Array:
    """x_i . y_k, less `of_positive` on the pairs of one image (InterCLR: -0.5)."""
    same = (u["id"][:, None] == v["id"][None, :]) & (u["id"][:, None] >= 0)
    return products(x, y) - of_positive * same


def without_self(x: jax.Array, y: jax.Array, u: dict, v: dict) -> jax.Array:
    """x_i . y_k, 0 for a row with itself (PamC): such a pair counts, and has no gradient."""
    own = (u["row"][:, None] == v["row"][None, :]) & (u["row"][:, None] >= 0)
    return jnp.where(own, 0.0, products(x, y))


def prompted(x: jax.Array, y: jax.Array, u: dict, v: dict) -> jax.Array:
    """x_i . p_ik, p_ik = y_k + s_i scaled to length one: every image has a text of each class of its own (GOPro).

    side: prompt [A, D], s, what the image adds to all texts. No [A, K, D] is made.
    """
    s = u["prompt"]
    dots = products(x, y) + jnp.sum(x * s, axis=-1, keepdims=True)
    return dots * jax.lax.rsqrt(jnp.maximum(prompt_products(s, s, y), 1e-12))


def prompt_products(s: jax.Array, t: jax.Array, texts: jax.Array) -> jax.Array:
    """(c_k + s_i) . (c_k + t_i) of shifts s, t [A, D] and texts c [K, D], [A, K]."""
    own = jnp.sum(s * t, axis=-1, keepdims=True) + jnp.sum(texts * texts, axis=-1)[None, :]
    return own + products(s, texts) + products(t, texts)


def prompt_consistency(x: jax.Array, y: jax.Array, of_x: dict, of_y: dict, texts: dict) -> jax.Array:
    """GOPro's consistency: mean over images, classes and dimensions of (p_ik - p'_ik)^2, p of two views of an image.

    side: prompt [A, D] of each view; texts: the block of the classes' texts. x and y are not read.
    """
    del x, y
    s, t, z = of_x["prompt"], of_y["prompt"], texts["z"]
    lengths = jnp.maximum(prompt_products(s, s, z) * prompt_products(t, t, z), 1e-12)
    return jnp.mean(2 - 2 * prompt_products(s, t, z) * jax.lax.rsqrt(lengths)) / s.shape[-1]


def gated(x: jax.Array, y: jax.Array, u: dict, v: dict) -> jax.Array:
    """Cosine in the features that the anchor's gate lets through (SimLAP, arXiv 2410.18200); side: gate [A, D].

    The gate belongs to the pair of classes that the anchor is compared in; both ends pass it and are scaled again.
    """
    gate = u["gate"]
    left = unit_rows(x * gate)
    dots = jnp.matmul(left * gate, y.T, precision=HIGHEST)
    norms = jnp.matmul(gate**2, (y**2).T, precision=HIGHEST)
    return dots * jax.lax.rsqrt(jnp.maximum(norms, 1e-12))


def by_density(x: jax.Array, y: jax.Array, u: dict, v: dict) -> jax.Array:
    """x_i . y_k times the sharpness [K] of the key: centers of dense clusters have a lower temperature (ProtoNCE)."""
    return products(x, y) * v["sharpness"][None, :]


def volume(x: jax.Array, y: jax.Array, u: dict, v: dict) -> jax.Array:
    """-volume of the parallelepiped of the anchor and its key's several modalities (GRAM, arXiv 2412.11959, eq. 4).

    y [K, M * D]: M unit rows of one sample side by side (or x has them). Its square is the Gram determinant.
    """
    if x.shape[-1] > y.shape[-1]:
        return volume(y, x, v, u).T
    width = x.shape[-1]
    others = y.reshape(len(y), -1, width)
    modes = others.shape[1]
    with_anchor = jnp.einsum("ad,kmd->akm", x, others, precision=HIGHEST)
    among = jnp.einsum("kmd,knd->kmn", others, others, precision=HIGHEST)
    # Schur complement: det [[1, b'], [b, C]] = det C * (1 - b' C^-1 b).
    ridge = 1e-6 * jnp.eye(modes, dtype=among.dtype)
    solved = jnp.einsum("kmn,akn->akm", jnp.linalg.inv(among + ridge), with_anchor, precision=HIGHEST)
    square = jnp.linalg.det(among)[None] * (1 - jnp.sum(with_anchor * solved, axis=-1))
    return -jnp.sqrt(jnp.maximum(jnp.abs(square), 1e-12))


SIMILARITIES = {
    "dot": Slot(dot),
    "negative_distance": Slot(negative_distance, limits={"power": (0.1, 8)}),
    "margin": Slot(margin, reads=("id",)),
    "prompted": Slot(prompted, of_anchors=("prompt",), learns=("prompts",)),
    "without_self": Slot(without_self, reads=("row",)),
    "by_density": Slot(by_density, of_keys=("sharpness",), learns=("centers",)),
    "gated": Slot(gated, of_anchors=("gate",), learns=("gate",)),
    "volume": Slot(volume),
}


def all_products(first: jax.Array, second: jax.Array) -> jax.Array:
    """first_i * second_j for all pairs, [B, D] x [B, D] -> [B * B, D]: the keys of Symile (arXiv 2411.01053)."""
    return (first[:, None] * second[None, :]).reshape(-1, first.shape[-1])


# The temperature tau of the student logits: constant, learned, scheduled, per class, per anchor, or model-aware.
#
# A learned temperature is log(1/tau) among the parameters. As in CLIP, the parameter is clamped after every update,
# not the value that the loss reads: a parameter at its bound keeps its gradient and can come back.
#
# A rule turns the base temperature into what the logits are divided by: `f(given: TemperatureInputs, **options) ->
# scalar or [A, 1]`. No gradient flows through a rule, only through a learned base.


LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE = 0.01, 1.0  # CLIP clamps its logit scale at 100 = 1 / 0.01


def initial_log_scale(temperature: float) -> jax.Array:
    """The learnable parameter log(1/tau), a float32 scalar; a temperature out of bounds starts at its bound."""
    return clamped_log_scale(jnp.asarray(-jnp.log(temperature), jnp.float32))


def clamped_log_scale(log_scale: jax.Array) -> jax.Array:
    """The parameter within the bounds of tau, [0.01, 1]."""
    return jnp.clip(log_scale, -jnp.log(HIGHEST_TEMPERATURE), -jnp.log(LOWEST_TEMPERATURE))


def learned_temperature(log_scale: jax.Array) -> jax.Array:
    """tau from the parameter, in [0.01, 1] also for a parameter out of bounds (a weight file may bring one).

    The gradient in the parameter passes the bounds: the clamp belongs to the parameter (clamped_log_scale).
    """
    beyond = jax.lax.stop_gradient(clamped_log_scale(log_scale) - log_scale)
    return jnp.exp(-(log_scale + beyond))


class TemperatureInputs(NamedTuple):
    """What a temperature rule may depend on.

    base: the constant or learned tau, a scalar; u: side information of the anchors; similarity and target, [A, K];
    progress: share of the run that is over.
    """

    base: jax.Array | float
    u: dict
    similarity: jax.Array
    target: jax.Array
    progress: jax.Array | float


def base(given: TemperatureInputs):
    """The constant or learned temperature as it is."""
    return given.base


def schedule(given: TemperatureInputs, *, low: float = 0.1, periods: float = 4.0):
    """Between `low` and the base as a cosine with `periods` periods over the run (arXiv 2303.13664, eq. 6)."""
    return low + 0.5 * (given.base - low) * (1 + jnp.cos(2 * jnp.pi * periods * given.progress))


def per_class(given: TemperatureInputs):
    """base * class_temperature [A] of the anchor's class (SBCL gives dense classes a lower one, arXiv 2306.15925)."""
    return given.base * given.u["class_temperature"][:, None]


def per_anchor(given: TemperatureInputs):
    """tau_i [A] of the anchor's image, kept between steps (iSogCLR, arXiv 2305.11965)."""
    return given.u["anchor_temperature"][:, None]


def of_head(given: TemperatureInputs):
    """The learned temperature of the anchor's named head, whose gradient flows; the base is not read."""
    return given.u["head_temperature"][:, None]


def model_aware(given: TemperatureInputs, *, alpha: float = 0.5, center: float = 0.0):
    """base (1 + alpha (A - center)), A the mean similarity of positives (MACL, arXiv 2207.07874, eq. 7)."""
    target, similarity = given.target, jax.lax.stop_gradient(given.similarity)
    aligned = jnp.sum(target * similarity) / jnp.maximum(jnp.sum(target), 1e-12)
    return given.base * (1 + alpha * (aligned - center))


TEMPERATURES = {
    "base": Slot(base),
    "schedule": Slot(schedule, limits={"low": (1e-3, None)}),
    "per_class": Slot(per_class, of_anchors=("class_temperature",)),
    "per_anchor": Slot(per_anchor, of_anchors=("anchor_temperature",), learns=("anchor_temperature",)),
    "of_head": Slot(of_head, of_anchors=("head_temperature",), learns=("heads",)),
    "model_aware": Slot(model_aware, limits={"alpha": (0, 0.99), "center": (-1, 1)}),
}
