"""Presets with synthetic keys on the inputs of their goldens, with the draws that the goldens have."""

from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from tests.objectives.golden_inputs import Z1, Z2, extra, images, preset_value
from xsample_jax.objectives import mixers

SUPREMIX = "SupReMix (mixed negatives, mixed positives, distance weights)"


def first_positive(key, similarity, positive, number):
    """The first positive of an anchor stands for all, as in the published code of Metrix."""
    return jnp.broadcast_to(jnp.argmax(positive, axis=1)[:, None], (len(positive), number))


def metrix(z=Z1, **changes):
    ratios = lambda key, places, a, b: jnp.full(places.shape, 0.3)  # noqa: E731
    with mock.patch.multiple(mixers, draw_positives=first_positive, draw_ratios=ratios):
        return preset_value("metrix", {"image": images(z)}, key=jax.random.key(0), **changes)


def given_ratios(key, places, a, b):
    """alpha_ik of the golden, whose rows are view by view; ours are image by image."""
    rows = np.arange(24).reshape(2, 12).T.reshape(-1)
    given = jnp.asarray(extra(SUPREMIX, "alpha")[np.ix_(rows, rows)])
    return jnp.take_along_axis(given, places, axis=1)


def supremix(first=Z1, second=Z2, **changes):
    target = extra(SUPREMIX, "target")[:, None]
    blocks = {"image": images(first, second, target=target)}
    with mock.patch.object(mixers, "draw_ratios", given_ratios):
        return preset_value("supremix", blocks, key=jax.random.key(0), **changes)
