"""The update rule: schedules of learning rate and weight decay, and optimizers from optax."""

import dataclasses
import math
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import optax
from optax import contrib

from xsample_jax.errors import ConfigError, lookup
from xsample_jax.models.param_groups import ParamGroups, name_of, scale_by_group

Schedule = Callable[[jax.Array | int], jax.Array]

SCHEDULES = ("cosine", "linear", "constant", "rsqrt", "wsd")
COOLED = ("rsqrt", "wsd")  # schedules that end with optimizer.cooldown
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
      or nested; with optimizer.sam its update also takes `grad_fn`, a function of (parameters, 0) -> gradient;
      `schedule(step)` is the float32 rate of the update number `step` (from 0), for logging.

    Raises:
      ConfigError: `steps` < 1 or an unknown optimizer.
    """
    schedule = make_schedule(config, steps)
    build = lookup(OPTIMIZERS, config.optimizer.name, "optimizer.name")
    groups = ParamGroups.of(config.optimizer)
    recipe = Recipe(config.optimizer, schedule, make_decay_schedule(config, steps), config.precision.moments, groups)
    transformation = build(recipe)
    if config.optimizer.clip_norm is not None:
        transformation = optax.chain(optax.clip_by_global_norm(config.optimizer.clip_norm), transformation)
    if groups.freezes:  # outside of it all: what is frozen has no state, and no part in the norm that is clipped
        parts = {"trained": transformation, "frozen": optax.set_to_zero()}
        transformation = optax.partition(parts, groups.labels)
    if config.optimizer.sam:  # outside of all: what is clipped, and what moves, is the gradient at the other place
        ascent = optax.normalize_by_update_norm(-config.optimizer.sam)  # contrib.sam takes a descent and turns it
        transformation = contrib.sam(transformation, ascent, opaque_mode=True)
    return transformation, schedule


def peak_learning_rate(config) -> float:
    """The highest rate of the schedule: the base rate times 1, batch_size / 256, or sqrt(batch_size).

    Linear is the rule of arXiv 1706.02677; sqrt that of SimCLR (arXiv 2002.05709, appendix B.1: 0.075 * sqrt(batch)).
    """
    factors = {"none": 1.0, "linear": config.batch_size / 256, "sqrt": math.sqrt(config.batch_size)}
    return config.optimizer.learning_rate * factors[config.optimizer.lr_scaling]


def make_schedule(config, steps: int) -> Schedule:
    """Returns the learning rate as a function of the update number t = 0 .. steps - 1 (python int or traced array).

    With W warm-up updates: peak * (t + 1) / W while t < W, so that the first update already moves; W is
    `warmup * steps` rounded, and short runs keep at least one update after it. Then, with the share p of the updates
    after it that are done and f = final_rate, the peak times

        cosine    f + (1 - f) (1 + cos(pi p)) / 2                     (SGDR without restarts, arXiv 1608.03983)
        linear    1 - (1 - f) p
        constant  1
        rsqrt     sqrt(W / (t + 1))                                   (arXiv 1706.03762, section 5.3)
        wsd       1                                                   (warm-up, stable, decay; arXiv 2404.06395)

    The last two end with `cooldown * steps` updates on a straight line to f, or to where they are if that is lower.
    Every value at t = steps, after the last update, is the end of the line.
    """
    if steps < 1:
        raise ConfigError("steps", steps, "at least one step", "Set --config.steps or more epochs.")
    optimizer, peak = config.optimizer, peak_learning_rate(config)
    warmup = min(round(optimizer.warmup * steps), steps - 1)
    name, final = optimizer.schedule, optimizer.final_rate
    cooldown = min(round(optimizer.cooldown * steps), steps - warmup) if name in COOLED else 0

    def before_cooldown(step, progress):
        if name == "cosine":
            return final + (1 - final) * (0.5 * (1 + jnp.cos(jnp.pi * progress)))
        if name == "linear":
            return 1 - (1 - final) * progress
        if name == "rsqrt":
            return jnp.sqrt(max(warmup, 1) / jnp.maximum(step + 1, max(warmup, 1)))
        return jnp.ones_like(step)

    def schedule(step):
        step = jnp.asarray(step, jnp.float32)
        rising = (step + 1) / max(warmup, 1)
        progress = jnp.clip((step - warmup) / (steps - warmup), 0, 1)
        after = before_cooldown(step, progress)
        if cooldown:
            start = before_cooldown(jnp.float32(steps - cooldown), progress)
            share = jnp.clip((step - (steps - cooldown)) / cooldown, 0, 1)
            after = jnp.where(share > 0, start + (jnp.minimum(final, start) - start) * share, after)
        return peak * jnp.where(step < warmup, rising, after)

    return schedule


def make_decay_schedule(config, steps: int) -> float | Schedule:
    """The weight decay, or where final_weight_decay is set a function of the update number.

    Half a cosine from weight_decay at t = 0 to final_weight_decay at t = steps (DINO, arXiv 2104.14294, section 3.2).
    """
    first, last = config.optimizer.weight_decay, config.optimizer.final_weight_decay
    if last is None:
        return first

    def decay(step):
        progress = jnp.clip(jnp.asarray(step, jnp.float32) / steps, 0, 1)
        return last + (first - last) * 0.5 * (1 + jnp.cos(jnp.pi * progress))

    return decay


def rescale_parameters(parameters) -> object:
    """Returns a tree of bool: which parameters are decayed, and by LARS rescaled.

    Matrices and convolution kernels are; biases, normalization scales and shifts, everything else of one dimension or
    less, positions, class tokens and a learned temperature are not (after SimCLR and MoCo v3).
    """

    def is_rescaled(path, leaf) -> bool:
        names = {name for entry in path for name in str(getattr(entry, "key", entry)).split("/")}
        return leaf.ndim > 1 and not names & EXCLUDED_NAMES

    return jax.tree_util.tree_map_with_path(is_rescaled, parameters)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What an optimizer is built of.

    Attributes:
      optimizer: the section of the config.
      schedule: learning rate of an update; decay: weight decay, a number or a function of the update.
      moments: type of momentum and first moments.
      groups: factors of rate and decay of single parameters.
    """

    optimizer: object
    schedule: Schedule
    decay: float | Schedule
    moments: str
    groups: ParamGroups

    def decayed(self) -> optax.GradientTransformation:
        """Adds weight_decay * parameter to the update, where a parameter is decayed."""
        parts = [self._decayed_by(factor) for factor in self.groups.decay_factors]
        return parts[0] if len(parts) == 1 else optax.chain(*parts)

    def _decayed_by(self, factor: float) -> optax.GradientTransformation:
        decay = self.decay
        by = (lambda step: factor * decay(step)) if callable(decay) else factor * decay
        if self.groups.decay_factors == (1.0,):
            return optax.add_decayed_weights(by, mask=rescale_parameters)

        def mask(parameters):
            own = lambda path, yes: yes and self.groups.decay(name_of(path)) == factor  # noqa: E731
            return jax.tree_util.tree_map_with_path(own, rescale_parameters(parameters))

        return optax.add_decayed_weights(by, mask=mask)

    def rated(self) -> optax.GradientTransformation:
        """Multiplies by the negative learning rate, and by the factor of the parameter."""
        rate = optax.scale_by_learning_rate(self.schedule)
        return optax.chain(rate, scale_by_group(self.groups)) if self.groups.rates else rate

    def adam(self, eps: float = 1e-8) -> optax.GradientTransformation:
        return optax.scale_by_adam(self.optimizer.b1, self.optimizer.b2, eps, mu_dtype=self.moments)


def _sgd(recipe: Recipe) -> optax.GradientTransformation:
    """SGD with momentum; the decay is part of the gradient, and the rate is applied after the momentum, as in torch."""
    momentum = optax.trace(recipe.optimizer.momentum, accumulator_dtype=recipe.moments)
    return optax.chain(recipe.decayed(), momentum, recipe.rated())


def _lars(recipe: Recipe) -> optax.GradientTransformation:
    """LARS as in SimCLR: the rate is applied before the momentum, so momentum carries old rates through warm-up.

    The chain of optax.lars, written out because that has no type for the momentum.
    """
    trust_ratio = optax.scale_by_trust_ratio(trust_coefficient=LARS_TRUST_COEFFICIENT)
    return optax.chain(
        recipe.decayed(),
        optax.masked(trust_ratio, rescale_parameters),
        recipe.rated(),
        optax.trace(recipe.optimizer.momentum, accumulator_dtype=recipe.moments),
    )


def _lamb(recipe: Recipe) -> optax.GradientTransformation:
    """LAMB (arXiv 1904.00962): the step of AdamW times |parameter| / |step|; as in LARS, not for biases and scales."""
    trust_ratio = optax.masked(optax.scale_by_trust_ratio(), rescale_parameters)
    return optax.chain(recipe.adam(eps=1e-6), recipe.decayed(), trust_ratio, recipe.rated())


def _adamw(recipe: Recipe) -> optax.GradientTransformation:
    """AdamW (arXiv 1711.05101); the decay is multiplied by the learning rate."""
    return optax.chain(recipe.adam(), recipe.decayed(), recipe.rated())


def _lion(recipe: Recipe) -> optax.GradientTransformation:
    """Lion (arXiv 2302.06675): the sign of a mean of momentum (b2) and gradient, mixed by b1."""
    signs = optax.scale_by_lion(recipe.optimizer.b1, recipe.optimizer.b2, mu_dtype=recipe.moments)
    return optax.chain(signs, recipe.decayed(), recipe.rated())


def _adafactor(recipe: Recipe) -> optax.GradientTransformation:
    """Adafactor (arXiv 1804.04235) with a momentum of b1 and absolute rates, as for ViTs in arXiv 2106.04560.

    Second moments of matrices with two sides of at least 128 are kept as row and column means.
    """
    parts = [optax.scale_by_factored_rms(), optax.clip_by_block_rms(1.0)]
    if recipe.optimizer.b1:
        parts.append(optax.ema(recipe.optimizer.b1, debias=False, accumulator_dtype=recipe.moments))
    return optax.chain(*parts, recipe.decayed(), recipe.rated())


def _muon(recipe: Recipe) -> optax.GradientTransformation:
    """Muon: the momentum of a matrix, made orthogonal; everything else by Adam with Nesterov momentum.

    Its updates are scaled to the size of Adam's (0.2 per element, arXiv 2502.16982), so one rate serves both. A
    convolution is the matrix [height * width * in, out]. First layers and embeddings are Adam's.
    """

    def matrices(parameters):
        def numbers(path, leaf):
            *parents, name = name_of(path).split("/")
            if name != "kernel" or leaf.ndim < 2 or {"embedding", "stem"} & set(parents):
                return None
            return contrib.MuonDimensionNumbers(tuple(range(leaf.ndim - 1)), leaf.ndim - 1)

        return jax.tree_util.tree_map_with_path(numbers, parameters)

    optimizer = recipe.optimizer
    direction = contrib.muon(
        -1.0,  # its last factor is the negative rate: this leaves the direction
        beta=optimizer.momentum,
        adam_b1=optimizer.b1,
        adam_b2=optimizer.b2,
        mu_dtype=recipe.moments,
        muon_weight_dimension_numbers=matrices,
        consistent_rms=0.2,
    )
    return optax.chain(direction, recipe.decayed(), recipe.rated())


def _schedule_free_adamw(recipe: Recipe) -> optax.GradientTransformation:
    """AdamW without a schedule (arXiv 2405.15682): gradients at y, a mean x of the iterates z; see `averaged`."""
    optimizer = recipe.optimizer
    scaled = optax.scale_by_rms(optimizer.b2, eps=1e-8, eps_in_sqrt=False, bias_correction=True)
    steps = optax.chain(scaled, recipe.decayed(), recipe.rated())
    return contrib.schedule_free(steps, recipe.schedule, b1=optimizer.b1)


SCHEDULE_FREE = "schedule_free_adamw"


def averaged(opt_state, params: Mapping[str, jax.Array]) -> dict[str, jax.Array] | None:
    """The parameters x that schedule-free training is about, which evaluations look at; None for other optimizers.

    The parameters of the state are y = (1 - b1) z + b1 x, where gradients are taken. {path: float32 array}.
    """
    is_free = lambda part: isinstance(part, contrib.ScheduleFreeState)  # noqa: E731
    found = [part for part in jax.tree.leaves(opt_state, is_leaf=is_free) if is_free(part)]
    if not found:
        return None
    (state,) = found
    mean = lambda y, z: (y - (1 - state.b1) * z) / state.b1 if hasattr(z, "dtype") else y  # noqa: E731
    return {name: mean(value, state.z[name]) for name, value in params.items()}  # what is frozen has no z


OPTIMIZERS = {
    "sgd": _sgd,
    "lars": _lars,
    "lamb": _lamb,
    "adamw": _adamw,
    "lion": _lion,
    "adafactor": _adafactor,
    "muon": _muon,
    SCHEDULE_FREE: _schedule_free_adamw,
}
