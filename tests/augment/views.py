"""Random images and their views, as the tests of augmentation make them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from xsample_jax.augment import views as augment
from xsample_jax.augment.views import eval_view
from xsample_jax.config import default_config

PLAIN = {"crop_scale": (), "flip": 0.0, "jitter": 0.0, "gray": 0.0, "blur": 0.0, "mean": (0.0,) * 3, "std": (1.0,) * 3}
CROP = {"crop_scale": (0.1, 0.9), "crop_ratio": (0.5, 2.0)}


def section(**changes):
    config = default_config().augment
    config.update(size=16, **changes)
    return config


def plain(**changes):
    return section(**{**PLAIN, **changes})


def some_images(batch=6, height=24, width=24, channels=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (batch, height, width, channels), dtype=np.uint8)


compiled = {}


def compiled_for(config, function):
    """Returns the jitted function of everything but its argument `config`; equal configs share one."""
    key = (function.__name__, config.to_json())
    if key not in compiled:
        compiled[key] = jax.jit(functools.partial(function, config=config))
    return compiled[key]


draw = jax.jit(augment.draw_numbers, static_argnums=3)


def views_of(images, config, ids=None, seed=0, step=0, views=2):
    """make_views in its two halves, so that the half that is slow to compile is compiled once for all configs."""
    ids = jnp.arange(len(images)) if ids is None else jnp.asarray(ids)
    numbers = draw(seed, jnp.int32(step), ids, views)
    return np.asarray(compiled_for(config, augment.views_from_numbers)(images, numbers))


def whole_view(images, config, ground=None):
    return np.asarray(compiled_for(config, eval_view)(images, background=ground))
