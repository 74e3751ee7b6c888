"""The temperature tau of the student logits: constant, learned, scheduled, per class, per anchor, or model-aware.

A learned temperature is log(1/tau) among the parameters, clamped as in CLIP. A rule turns the base temperature into
what the logits are divided by: `f(base, u, similarity [A, K], target [A, K], progress, **options)` -> scalar or [A, 1],
with `progress` the share of the run that is over. No gradient flows through a rule, only through a learned base.
"""

import jax
import jax.numpy as jnp

LOWEST, HIGHEST = 0.01, 1.0  # CLIP clamps its logit scale at 100 = 1 / 0.01


def initial_log_scale(temperature: float) -> jax.Array:
    """The learnable parameter log(1/tau), a float32 scalar."""
    return jnp.asarray(-jnp.log(temperature), jnp.float32)


def learned_temperature(log_scale: jax.Array) -> jax.Array:
    """tau from the parameter, clamped to [0.01, 1]. The gradient stops at the bounds, as clamping does."""
    return jnp.exp(-jnp.clip(log_scale, -jnp.log(HIGHEST), -jnp.log(LOWEST)))


def base(base, u, similarity, target, progress):
    """The constant or learned temperature as it is."""
    return base


def schedule(base, u, similarity, target, progress, *, low: float = 0.1, periods: float = 4.0):
    """Between `low` and the base as a cosine with `periods` periods over the run (arXiv 2303.13664, eq. 6)."""
    return low + 0.5 * (base - low) * (1 + jnp.cos(2 * jnp.pi * periods * progress))


def per_class(base, u, similarity, target, progress):
    """base * class_temperature [A] of the anchor's class (SBCL gives dense classes a lower one, arXiv 2306.12714)."""
    return base * u["class_temperature"][:, None]


def per_anchor(base, u, similarity, target, progress):
    """tau_i [A] of the anchor's image, kept between steps (iSogCLR, arXiv 2305.11965)."""
    return u["anchor_temperature"][:, None]


def model_aware(base, u, similarity, target, progress, *, alpha: float = 0.5, centre: float = 0.0):
    """base (1 + alpha (A - centre)), A the mean similarity of positives (MACL, arXiv 2212.10888, eq. 7)."""
    aligned = jnp.sum(target * jax.lax.stop_gradient(similarity)) / jnp.maximum(jnp.sum(target), 1e-12)
    return base * (1 + alpha * (aligned - centre))


TEMPERATURES = {
    "base": base,
    "schedule": schedule,
    "per_class": per_class,
    "per_anchor": per_anchor,
    "model_aware": model_aware,
}
