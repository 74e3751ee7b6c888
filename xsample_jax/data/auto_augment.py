"""AutoAugment with the policy found on ImageNet (Cubuk et al. 2018, arXiv 1805.09501, table 9), inside jit.

One draw per image: a sub-policy of two operations (pil_operations.py), each done with its probability.
"""

import jax
import jax.numpy as jnp
import numpy as np

from xsample_jax.data.pil_operations import NOTHING, OPERATIONS, apply_operation

# (operation, probability, magnitude 0..9 or None), twice: the sub-policies of table 9, in its order.
POLICY = (
    (("posterize", 0.4, 8), ("rotate", 0.6, 9)),
    (("solarize", 0.6, 5), ("autocontrast", 0.6, None)),
    (("equalize", 0.8, None), ("equalize", 0.6, None)),
    (("posterize", 0.6, 7), ("posterize", 0.6, 6)),
    (("equalize", 0.4, None), ("solarize", 0.2, 4)),
    (("equalize", 0.4, None), ("rotate", 0.8, 8)),
    (("solarize", 0.6, 3), ("equalize", 0.6, None)),
    (("posterize", 0.8, 5), ("equalize", 1.0, None)),
    (("rotate", 0.2, 3), ("solarize", 0.6, 8)),
    (("equalize", 0.6, None), ("posterize", 0.4, 6)),
    (("rotate", 0.8, 8), ("colour", 0.4, 0)),
    (("rotate", 0.4, 9), ("equalize", 0.6, None)),
    (("equalize", 0.0, None), ("equalize", 0.8, None)),
    (("invert", 0.6, None), ("equalize", 1.0, None)),
    (("colour", 0.6, 4), ("contrast", 1.0, 8)),
    (("rotate", 0.8, 8), ("colour", 1.0, 2)),
    (("colour", 0.8, 8), ("solarize", 0.8, 7)),
    (("sharpness", 0.4, 7), ("invert", 0.6, None)),
    (("shear_x", 0.6, 5), ("equalize", 1.0, None)),
    (("colour", 0.4, 0), ("equalize", 0.6, None)),
    (("equalize", 0.4, None), ("solarize", 0.2, 4)),
    (("solarize", 0.6, 5), ("autocontrast", 0.6, None)),
    (("invert", 0.6, None), ("equalize", 1.0, None)),
    (("colour", 0.6, 4), ("contrast", 1.0, 8)),
    (("equalize", 0.8, None), ("equalize", 0.6, None)),
)

# Operations whose strength is applied with a random sign.
SIGNED = frozenset(
    ("shear_x", "shear_y", "translate_x", "translate_y", "rotate", "brightness", "contrast", "colour", "sharpness")
)

DRAWS = 5  # uniform numbers per image: sub-policy, two probabilities, two signs


def strength(operation: str, magnitude: int | None) -> float:
    """Returns what a magnitude 0..9 stands for, as torchvision maps it.

    Shear: slope 0..0.3. Translate: share of the side 0..150/331. Rotate: degrees 0..30. Posterize: bits kept 8..4.
    Solarize: threshold 255..0. Brightness, contrast, colour, sharpness: 0..0.9, added to or taken from the factor 1.
    """
    if magnitude is None:
        return 0.0
    share = magnitude / 9
    if operation == "posterize":
        return 8 - round(4 * share)
    if operation == "solarize":
        return 255 * (1 - share)
    widest = {"shear_x": 0.3, "shear_y": 0.3, "translate_x": 150 / 331, "translate_y": 150 / 331, "rotate": 30.0}
    return widest.get(operation, 0.9) * share


def auto_augment(images: jax.Array, draws: jax.Array) -> jax.Array:
    """Returns every image after its own random sub-policy.

    Args:
      images: float32 [B, 3, H, W], whole numbers 0..255.
      draws: float32 [B, DRAWS], uniform in [0, 1).

    Returns:
      float32 [B, 3, H, W], whole numbers 0..255.
    """
    chosen = jnp.minimum((draws[:, 0] * len(POLICY)).astype(jnp.int32), len(POLICY) - 1)
    used = {operation for sub_policy in POLICY for operation, _, _ in sub_policy}

    def do(images, place):
        (operations, strengths, probabilities), chance, sign = place
        values = jnp.where(sign < 0.5, strengths[chosen, 0], strengths[chosen, 1])
        skipped = chance >= probabilities[chosen]
        return apply_operation(images, jnp.where(skipped, NOTHING, operations[chosen]), values, used), None

    # A loop over the two places rather than two copies: a quarter of the train step's compile time is in here.
    columns = jax.tree.map(lambda *of_place: np.stack(of_place), _columns(0), _columns(1))
    return jax.lax.scan(do, images, (columns, draws[:, 1:3].T, draws[:, 3:5].T))[0]


def _columns(place: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns operation int32 [25], value float32 [25, 2] (with sign + and -) and probability float32 [25]."""
    operations, values, probabilities = [], [], []
    for sub_policy in POLICY:
        name, probability, magnitude = sub_policy[place]
        positive = strength(name, magnitude)
        negative = -positive if name in SIGNED else positive
        unchanged = 1.0 if name in ("brightness", "contrast", "colour", "sharpness") else 0.0
        operations.append(OPERATIONS.index(name))
        values.append((unchanged + positive, unchanged + negative))
        probabilities.append(probability)
    return np.array(operations, np.int32), np.array(values, np.float32), np.array(probabilities, np.float32)
