"""AutoAugment with the policy found on ImageNet (arXiv 1805.09501, table 9), and RandAugment (1909.13719), inside jit.

AutoAugment: one draw per image, a sub-policy of two operations, each done with its probability. RandAugment: some
operations per image, each any of fourteen, all of one magnitude.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

# The operations of AutoAugment as PIL does them, inside jit, each image of a batch with its own.
#
# Under a batched jit every branch would be computed for every image, so the fourteen operations are brought down to
# three passes over the pixels, each of which leaves the images it is not meant for as they are:
#
#   warp    shear, translate, rotate: one affine map of the pixel grid, nearest neighbor;
#   look-up posterize, solarize, invert, autocontrast, equalize, brightness, contrast: functions of one uint8 value, so
#           a table of 256 entries per channel, whichever the operation;
#   blend   color, sharpness: between the image and its gray or smoothed version.
#
# Values are whole numbers 0..255 in float32, with PIL's rounding, so that a view is what PIL makes of a uint8 image.


OPERATIONS = (
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
    "rotate",
    "posterize",
    "solarize",
    "invert",
    "autocontrast",
    "equalize",
    "brightness",
    "contrast",
    "color",
    "sharpness",
)

# Fill color for pixels from outside the image, as in the authors' experiments (torchvision: black).
FILL = 128.0

NOTHING = -1  # in place of an operation: leave the image as it is

_WARPS = ("shear_x", "shear_y", "translate_x", "translate_y", "rotate")
_TABLES = ("posterize", "solarize", "invert", "autocontrast", "equalize", "brightness", "contrast")


def apply_operation(
    images: jax.Array, operation: jax.Array, value: jax.Array, used: frozenset | set = frozenset(OPERATIONS)
) -> jax.Array:
    """Does one operation to each image.

    Args:
      images: float32 [B, 3, H, W], whole numbers 0..255.
      operation: int [B], index into OPERATIONS, or NOTHING.
      value: float32 [B]. Shear: slope, translate: pixels of W or H as a share of it, rotate: degrees anticlockwise,
        posterize: bits kept, solarize: threshold, brightness, contrast, color, sharpness: factor (1 = unchanged).
        Not used by the others.
      used: names that can occur in `operation`; passes that none of them needs are left out.

    Returns:
      float32 [B, 3, H, W], whole numbers 0..255.
    """
    is_op = {name: operation == index for index, name in enumerate(OPERATIONS)}
    # The barriers keep the compiler from merging a pass into each of its readers, which would compute it many times.
    if used & set(_WARPS):
        images = jax.lax.optimization_barrier(_warp(images, is_op, value))
    if used & set(_TABLES):
        images = jax.lax.optimization_barrier(_look_up(images, is_op, value, used))
    for name, other in (("color", _gray), ("sharpness", _smooth)):
        if name in used:
            blended = _blend(other(images), images, value[:, None, None, None])
            images = jnp.where(is_op[name][:, None, None, None], blended, images)
    return jax.lax.optimization_barrier(images)


def _warp(images: jax.Array, is_op: dict, value: jax.Array) -> jax.Array:
    """The pixel at p becomes the one at A p + t of the input: nearest neighbor, FILL where there is none. Images that
    are not meant have A = 1, t = 0."""
    batch, channels, height, width = images.shape
    angle = jnp.where(is_op["rotate"], value, 0.0) * (math.pi / 180)
    cosine, sine = jnp.cos(angle), jnp.sin(angle)
    middle_x, middle_y = width / 2, height / 2
    # Rotation is about the middle of the image (no shift at angle 0). Translations are by whole pixels.
    shift_x = jnp.where(is_op["translate_x"], jnp.trunc(value * width), middle_x - cosine * middle_x + sine * middle_y)
    shift_y = jnp.where(is_op["translate_y"], jnp.trunc(value * height), middle_y - sine * middle_x - cosine * middle_y)
    to_x = jnp.stack([cosine, jnp.where(is_op["shear_x"], value, -sine), shift_x], axis=1)
    to_y = jnp.stack([jnp.where(is_op["shear_y"], value, sine), cosine, shift_y], axis=1)
    rows, columns = np.mgrid[:height, :width].reshape(2, -1).astype(np.float32)
    grid = np.stack([columns + 0.5, rows + 0.5, np.ones_like(rows)])
    place = jnp.floor(jnp.matmul(jnp.stack([to_x, to_y], axis=1), grid, precision="highest"))
    from_x, from_y = place[:, 0].astype(jnp.int32), place[:, 1].astype(jnp.int32)
    inside = (from_x >= 0) & (from_x < width) & (from_y >= 0) & (from_y < height)
    # One more pixel after the last holds the color of the outside.
    index = jnp.where(inside, from_y * width + from_x, height * width)[:, None, :]
    pixels = jnp.pad(images.reshape(batch, channels, -1), ((0, 0), (0, 0), (0, 1)), constant_values=FILL)
    return jnp.take_along_axis(pixels, index, axis=2, mode="promise_in_bounds").reshape(images.shape)


def _look_up(images: jax.Array, is_op: dict, value: jax.Array, used: frozenset | set) -> jax.Array:
    """One table of 256 entries per image and channel, then one look-up."""
    batch, channels, height, width = images.shape
    pixels = images.reshape(batch, channels, height * width)
    levels = np.arange(256, dtype=np.float32)
    setting = value[:, None, None]
    step = jnp.exp2(8.0 - jnp.clip(setting, 0.0, 8.0))  # finite for the values of other operations too
    tables = {
        "posterize": lambda: jnp.floor(levels / step) * step,
        "solarize": lambda: jnp.where(levels < setting, levels, 255.0 - levels),
        "invert": lambda: jnp.broadcast_to(255.0 - levels, (1, 1, 256)),
        "autocontrast": lambda: _autocontrast_table(pixels),
        "equalize": lambda: _equalize_table(_histogram(pixels)),
        "brightness": lambda: _blend(0.0, levels, setting),
        "contrast": lambda: _blend(jnp.floor(_gray(images).mean(axis=(1, 2, 3)) + 0.5)[:, None, None], levels, setting),
    }
    names = [name for name in _TABLES if name in used]
    chosen = [is_op[name] for name in names]
    others = ~jnp.stack(chosen).any(axis=0)
    candidates = [jnp.broadcast_to(tables[name](), (batch, channels, 256)) for name in names]
    candidates.append(jnp.broadcast_to(levels, (batch, channels, 256)))
    # Chosen by a product with a one-hot vector, which is exact (whole numbers below 256 in any float type): a chain of
    # selections would be merged into the look-up and computed for every pixel, not for every entry.
    one_hot = jnp.stack([*chosen, others], axis=1)[:, None].astype(jnp.float32)
    table = jnp.matmul(one_hot, jnp.stack(candidates, axis=1).reshape(batch, len(candidates), channels * 256))
    return _read(table.reshape(batch, channels, 256), pixels).reshape(images.shape)


def _autocontrast_table(pixels: jax.Array) -> jax.Array:
    """Stretches the values of each channel to 0..255; a channel of one value stays. [B, C, P] -> [B, C, 256]."""
    levels = np.arange(256)
    low, high = (of(axis=2, keepdims=True).astype(jnp.int32) for of in (pixels.min, pixels.max))
    stretched = (levels - low) * 255 // jnp.maximum(high - low, 1)
    bits, place = map(jnp.asarray, _one_level_lower())
    lower = bits[place[low[..., 0], high[..., 0]]][..., None] >> np.arange(7, -1, -1, dtype=np.uint8) & 1
    stretched = jnp.clip(stretched - lower.reshape(*low.shape[:2], 256), 0, 255)
    return jnp.where(high > low, stretched, levels).astype(jnp.float32)


@functools.cache
def _one_level_lower() -> tuple[np.ndarray, np.ndarray]:
    """Where PIL's autocontrast is one level below (v - low) 255 / (high - low), which is whole there.

    PIL takes int(v * scale + offset) in float64, and the sum may come out just below.

    Returns (bits uint8 [m, 32] of the values v; int16 [256, 256], which of those rows is that of (low, high)).
    """
    values, place, rows = np.arange(256), np.zeros((256, 256), np.int16), {bytes(32): 0}
    for low in range(255):
        high = np.arange(low + 1, 256)[:, None]
        scale = 255.0 / (high - low)
        in_pil = np.floor(values * scale + -low * scale)
        lower = (in_pil < (values - low) * 255 // (high - low)) & (values >= low) & (values <= high)
        for at, row in zip(high[:, 0], np.packbits(lower, axis=1), strict=True):
            place[low, at] = rows.setdefault(row.tobytes(), len(rows))
    return np.frombuffer(b"".join(rows), np.uint8).reshape(-1, 32), place


def _equalize_table(counts: jax.Array) -> jax.Array:
    """PIL's equalization: counts [B, C, 256] of every value -> table [B, C, 256]."""
    levels = np.arange(256, dtype=np.float32)
    last = jnp.max(jnp.where(counts > 0, levels, 0.0), axis=2, keepdims=True)
    in_last = (counts * (levels == last)).sum(axis=2, keepdims=True)
    step = jnp.floor((counts.sum(axis=2, keepdims=True) - in_last) / 255.0)
    # Pixels below each value. Whole numbers below 2**24: exact in float32.
    below = jnp.matmul(counts, np.triu(np.ones((256, 256), np.float32), 1), precision="highest")
    table = jnp.clip(jnp.floor((jnp.floor(step / 2.0) + below) / jnp.maximum(step, 1.0)), 0.0, 255.0)
    return jnp.where(step > 0, table, levels)


def _histogram(pixels: jax.Array) -> jax.Array:
    """[B, C, P] whole numbers 0..255 -> float32 [B, C, 256]: how often each occurs."""
    return jax.lax.platform_dependent(pixels, tpu=_count_by_products, default=_count_by_scatter)


def _read(table: jax.Array, pixels: jax.Array) -> jax.Array:
    """table [B, C, 256], pixels [B, C, P] whole numbers 0..255 -> float32 [B, C, P]: the entry of each pixel."""
    return jax.lax.platform_dependent(table, pixels, tpu=_read_by_products, default=_read_by_gather)


def _count_by_scatter(pixels: jax.Array) -> jax.Array:
    def count(line):
        return jnp.zeros(256).at[line].add(1.0, mode="promise_in_bounds")

    return jax.vmap(jax.vmap(count))(pixels.astype(jnp.int32))


def _count_by_products(pixels: jax.Array) -> jax.Array:
    """The same without a scatter, which is serial on TPU: a value is 16 * high + low, and counting the pairs
    (high, low) is a product of two one-hot matrices. Exact in any float type, as its sums are float32."""
    high, low = _digits(pixels)
    counts = jnp.einsum("bchp,bclp->bchl", high, low, preferred_element_type=jnp.float32)
    return counts.reshape(*pixels.shape[:2], 256)


def _read_by_gather(table: jax.Array, pixels: jax.Array) -> jax.Array:
    return jnp.take_along_axis(table, pixels.astype(jnp.int32), axis=2, mode="promise_in_bounds")


def _read_by_products(table: jax.Array, pixels: jax.Array) -> jax.Array:
    """The same without a gather: one product picks the column of the table by the low digit, a sum the row. Exact:
    the entries are whole numbers below 256."""
    high, low = _digits(pixels)
    rows = jnp.einsum("bchl,bclp->bchp", table.reshape(*table.shape[:2], 16, 16), low)
    return (rows * high).sum(axis=2)


def _digits(pixels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """[B, C, P] -> one-hot of the high and of the low base-16 digit, each float32 [B, C, 16, P]."""
    high = jnp.floor(pixels / 16.0)
    digits = np.arange(16, dtype=np.float32)[:, None]
    return tuple((digit[:, :, None] == digits).astype(jnp.float32) for digit in (high, pixels - 16.0 * high))


def _gray(images: jax.Array) -> jax.Array:
    """[B, 3, H, W] -> [B, 1, H, W]: PIL's luma, in its fixed-point arithmetic."""
    red, green, blue = (images[:, k, None].astype(jnp.int32) for k in range(3))
    return ((red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16).astype(jnp.float32)


def _smooth(images: jax.Array) -> jax.Array:
    """PIL's SMOOTH filter: 3x3, weight 5 in the middle and 1 around; the border of the image stays as it is."""
    height, width = images.shape[2:]
    # Sums over neighbors as two banded products, exact in float32: shifted slices would each repeat the look-up that
    # made the image.
    over_x = jnp.matmul(images, _neighbors(width), precision="highest")
    around = jnp.einsum("ty,bcyx->bctx", _neighbors(height), over_x, precision="highest")
    smoothed = jnp.floor((around + 4.0 * images) / 13.0 + 0.5)
    return jnp.where(_border(height, width), images, smoothed)


def _neighbors(size: int) -> np.ndarray:
    place = np.arange(size)
    return (np.abs(place[:, None] - place) <= 1).astype(np.float32)


def _border(height: int, width: int) -> np.ndarray:
    border = np.ones((height, width), bool)
    border[1:-1, 1:-1] = False
    return border


def _blend(start: jax.Array | float, end: jax.Array | np.ndarray, factor: jax.Array) -> jax.Array:
    """start at factor 0, end at factor 1 and on along that line; cut off to 0..255 and rounded down, as PIL does."""
    return jnp.floor(jnp.clip(start + factor * (end - start), 0.0, 255.0))


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
    (("rotate", 0.8, 8), ("color", 0.4, 0)),
    (("rotate", 0.4, 9), ("equalize", 0.6, None)),
    (("equalize", 0.0, None), ("equalize", 0.8, None)),
    (("invert", 0.6, None), ("equalize", 1.0, None)),
    (("color", 0.6, 4), ("contrast", 1.0, 8)),
    (("rotate", 0.8, 8), ("color", 1.0, 2)),
    (("color", 0.8, 8), ("solarize", 0.8, 7)),
    (("sharpness", 0.4, 7), ("invert", 0.6, None)),
    (("shear_x", 0.6, 5), ("equalize", 1.0, None)),
    (("color", 0.4, 0), ("equalize", 0.6, None)),
    (("equalize", 0.4, None), ("solarize", 0.2, 4)),
    (("solarize", 0.6, 5), ("autocontrast", 0.6, None)),
    (("invert", 0.6, None), ("equalize", 1.0, None)),
    (("color", 0.6, 4), ("contrast", 1.0, 8)),
    (("equalize", 0.8, None), ("equalize", 0.6, None)),
)

# Operations whose strength is applied with a random sign.
SIGNED = frozenset(
    ("shear_x", "shear_y", "translate_x", "translate_y", "rotate", "brightness", "contrast", "color", "sharpness")
)

# Those that RandAugment draws from; NOTHING leaves the image as it is.
RANDOM_OPERATIONS = (NOTHING, *(name for name in OPERATIONS if name != "invert"))
MOST_RANDOM, MOST_MAGNITUDE = 4, 30  # operations on an image, and the scale of magnitudes (torchvision's 31 bins)

DRAWS = 5  # uniform numbers per image: sub-policy, two probabilities, two signs
RANDOM_DRAWS = 2 * MOST_RANDOM  # operations, signs


def strength(operation: str, magnitude: float | None) -> float:
    """Returns the value of a magnitude 0..9, as torchvision maps it.

    Shear: slope 0..0.3. Translate: share of the side 0..150/331. Rotate: degrees 0..30. Posterize: bits kept 8..4.
    Solarize: threshold 255..0. Brightness, contrast, color, sharpness: 0..0.9, added to or taken from the factor 1.
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


def rand_augment(images: jax.Array, draws: jax.Array, setting: tuple[int, int]) -> jax.Array:
    """Returns every image after random operations of one magnitude, each any of RANDOM_OPERATIONS, all as likely.

    Args:
      images: float32 [B, 3, H, W], whole numbers 0..255.
      draws: float32 [B, RANDOM_DRAWS], uniform in [0, 1).
      setting: (operations on an image, up to MOST_RANDOM; magnitude 0..MOST_MAGNITUDE), N and M of the paper. The
        largest is what magnitude 9 of AutoAugment is.

    Returns:
      float32 [B, 3, H, W], whole numbers 0..255.
    """
    count, magnitude = setting
    names = [name for name in RANDOM_OPERATIONS if name != NOTHING]
    rows = [_signed(name, 9 * magnitude / MOST_MAGNITUDE) for name in names]
    operations = jnp.array([NOTHING, *map(OPERATIONS.index, names)], jnp.int32)
    values = jnp.array([(0.0, 0.0), *rows], jnp.float32)

    def do(images, place):
        chance, sign = place
        chosen = jnp.minimum((chance * len(operations)).astype(jnp.int32), len(operations) - 1)
        value = jnp.where(sign < 0.5, values[chosen, 0], values[chosen, 1])
        return apply_operation(images, operations[chosen], value, set(names)), None

    places = draws[:, :count].T, draws[:, MOST_RANDOM : MOST_RANDOM + count].T
    return jax.lax.scan(do, images, places)[0]


def _signed(operation: str, magnitude: float | None) -> tuple[float, float]:
    """The values of an operation of this magnitude with sign + and -."""
    positive = strength(operation, magnitude)
    negative = -positive if operation in SIGNED else positive
    unchanged = 1.0 if operation in ("brightness", "contrast", "color", "sharpness") else 0.0
    return unchanged + positive, unchanged + negative


def _columns(place: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns operation int32 [25], value float32 [25, 2] (with sign + and -) and probability float32 [25]."""
    operations, values, probabilities = zip(
        *(
            (OPERATIONS.index(name), _signed(name, magnitude), chance)
            for name, chance, magnitude in (sub_policy[place] for sub_policy in POLICY)
        )
    )
    return np.array(operations, np.int32), np.array(values, np.float32), np.array(probabilities, np.float32)
