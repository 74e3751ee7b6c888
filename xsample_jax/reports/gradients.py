"""What the gradient of an embedding looks like on one batch of a run: its weights and its direction (arXiv 2510.14824).

The gradient of a row z_i is sum_k w_ik y_k / tau: w says how strongly each key pulls or pushes, the keys say where to.
For the same logits both are computed for the softmax, w = p - T, and for the sigmoid, w = sigmoid(S) - T.
"""

from pathlib import Path

import jax
import numpy as np

from xsample_jax.augment.views import make_views
from xsample_jax.checkpoint_files import find_checkpoint
from xsample_jax.data.dataset import open_evaluated
from xsample_jax.data.sources import spread_places
from xsample_jax.evals.evaluate import load_model, read_config
from xsample_jax.objectives.learned_state import temperature_of

IMAGES = 256


def weights_and_directions(z: np.ndarray, keys: np.ndarray, tau: float, compete: bool) -> dict[str, np.ndarray]:
    """Numbers of every row of z [B, D] against keys [B, D] of which its own is the positive, float64 [B] each.

    Args:
      compete: the softmax over all keys; else a sigmoid of every pair.

    Returns:
      positive: 1 - p of the own key; negative: mean p of the others; top: the largest of them; norm: length of the
      gradient of the row's loss; cosine: of the step against that gradient with the positive key.
    """
    z, keys = np.asarray(z, np.float64), np.asarray(keys, np.float64)
    logits, own = z @ keys.T / tau, np.eye(len(z), dtype=bool)
    if compete:
        p = np.exp(logits - logits.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
    else:
        p = np.exp(-np.logaddexp(0, -logits))
    gradient = (p - own) @ keys / tau
    norm = np.linalg.norm(gradient, axis=1)
    others = np.where(own, 0.0, p)
    along = -np.sum(gradient * keys, axis=1) / np.maximum(norm * np.linalg.norm(keys, axis=1), 1e-300)
    return {
        "positive": 1 - p[own],
        "negative": others.sum(axis=1) / max(len(z) - 1, 1),
        "top": others.max(axis=1),
        "norm": norm,
        "cosine": along,
    }


def gradient_lines(run: str | Path) -> list[str]:
    """Lines of text about two random views of up to 256 images of eval.split, at the temperature of the run."""
    where = find_checkpoint(run)
    loaded = load_model(*where, read_config(*where))
    parts, state = loaded.parts, loaded.state.averaged()
    config = parts.config
    examples = open_evaluated(config, config.eval.split)
    some = [examples[int(place)] for place in spread_places(len(examples), IMAGES)]
    images, ids = (np.stack([example[name] for example in some]) for name in ("image", "id"))

    def embed(state, images, ids):
        views = make_views(images, ids, config.seed, 0, config.augment, 2)
        return parts.model.merge(state.params, state.statistics, training=False).embed(views)[1]

    z = np.asarray(jax.jit(embed)(state, images, ids))
    tau = float(temperature_of(parts.objective, state.params))
    of = f"two views of {len(some)} images of split {config.eval.split}, tau {tau:.4g}"
    lines = [f"gradient at step {loaded.step}: {of}"]
    for name, compete in (("softmax", True), ("sigmoid", False)):
        mean = {key: values.mean() for key, values in weights_and_directions(z[::2], z[1::2], tau, compete).items()}
        lines.append(
            f"  {name}: weight of the positive {mean['positive']:.3g}, of a negative {mean['negative']:.3g}, "
            f"of the largest {mean['top']:.3g}; cosine of the step with the positive {mean['cosine']:.3f}"
        )
    return lines
