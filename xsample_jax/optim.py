"""The update rule: learning-rate schedule, then LARS or AdamW from optax, with the usual exclusions."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from xsample_jax.errors import ConfigError, lookup

Schedule = Callable[[jax.Array | int], jax.Array]

LARS_TRUST_COEFFICIENT = 0.001  # LARS (arXiv 1708.03888), the value of the SimCLR and MoCo v3 implementations

# A parameter with one of these names in its path is neither decayed nor rescaled, whatever its number of dimensions.
EXCLUDED_NAMES = frozenset({"bias", "scale", "position", "class_token", "temperature", "log_scale"})


def make_optimizer(config, steps: int) -> tuple[optax.GradientTransformation, Schedule]:
    """Returns the optimizer and its learning-rate schedule.

    Args:
      config: the whole resolved config; `optimizer` and `batch_size` are read.
      steps: number of updates of the whole run, which the schedule is stretched over.

    Returns:
      (transformation, schedule): parameters and gradients are {path: float32 array}, flat (`encoder/stem/kernel`)
      or nested;
      `schedule(step)` is the float32 rate of the update number `step` (from 0), for logging.

    Raises:
      ConfigError: `steps` < 1 or an unknown optimizer.
    """
    schedule = make_schedule(config, steps)
    build = lookup(OPTIMIZERS, config.optimizer.name, "optimizer.name")
    transformation = build(config.optimizer, schedule, config.precision.moments)
    if config.optimizer.clip_norm is not None:
        transformation = optax.chain(optax.clip_by_global_norm(config.optimizer.clip_norm), transformation)
    return transformation, schedule


def peak_learning_rate(config) -> float:
    """The highest rate of the schedule: the base rate times 1, batch_size / 256, or sqrt(batch_size).

    Linear is the rule of arXiv 1706.02677; sqrt that of SimCLR (arXiv 2002.05709, appendix B.1: 0.075 * sqrt(batch)).
    """
    factors = {"none": 1.0, "linear": config.batch_size / 256, "sqrt": math.sqrt(config.batch_size)}
    return config.optimizer.learning_rate * factors[config.optimizer.lr_scaling]


def make_schedule(config, steps: int) -> Schedule:
    """Returns the learning rate as a function of the update number t = 0 .. steps - 1 (python int or traced array).

    With W warm-up updates: peak * (t + 1) / W while t < W, so that the first update already moves; then half a cosine
    that would reach zero at t = steps, or the peak throughout. W is `warmup * steps` rounded, and short runs keep at
    least one update after it.
    """
    if steps < 1:
        raise ConfigError("steps", steps, "at least one step", "Set --config.steps or more epochs.")
    peak = peak_learning_rate(config)
    warmup = min(round(config.optimizer.warmup * steps), steps - 1)
    cosine = config.optimizer.schedule == "cosine"

    def schedule(step):
        step = jnp.asarray(step, jnp.float32)
        rising = (step + 1) / max(warmup, 1)
        progress = jnp.clip((step - warmup) / (steps - warmup), 0, 1)
        after = 0.5 * (1 + jnp.cos(jnp.pi * progress)) if cosine else jnp.ones_like(step)
        return peak * jnp.where(step < warmup, rising, after)

    return schedule


def rescale_parameters(parameters) -> object:
    """Returns a tree of bool: which parameters are decayed, and by LARS rescaled.

    Matrices and convolution kernels are; biases, normalization scales and shifts, everything else of one dimension or
    less, positions, class tokens and a learned temperature are not (after SimCLR and MoCo v3).
    """

    def is_rescaled(path, leaf) -> bool:
        names = {name for entry in path for name in str(getattr(entry, "key", entry)).split("/")}
        return leaf.ndim > 1 and not names & EXCLUDED_NAMES

    return jax.tree_util.tree_map_with_path(is_rescaled, parameters)


def _lars(optimizer, schedule: Schedule, moments: str) -> optax.GradientTransformation:
    """LARS as in SimCLR: the rate is applied before the momentum, so momentum carries old rates through warm-up.

    The chain of optax.lars, written out because that has no type for the momentum.
    """
    trust_ratio = optax.scale_by_trust_ratio(trust_coefficient=LARS_TRUST_COEFFICIENT)
    return optax.chain(
        optax.add_decayed_weights(optimizer.weight_decay, mask=rescale_parameters),
        optax.masked(trust_ratio, rescale_parameters),
        optax.scale_by_learning_rate(schedule),
        optax.trace(optimizer.momentum, accumulator_dtype=moments),
    )


def _adamw(optimizer, schedule: Schedule, moments: str) -> optax.GradientTransformation:
    """AdamW (arXiv 1711.05101); the decay is multiplied by the learning rate."""
    return optax.adamw(
        schedule,
        b1=optimizer.b1,
        b2=optimizer.b2,
        weight_decay=optimizer.weight_decay,
        mask=rescale_parameters,
        mu_dtype=moments,
    )


OPTIMIZERS = {"lars": _lars, "adamw": _adamw}
