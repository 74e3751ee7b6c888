"""The forms in which other libraries keep the arrays of our ViT (models/vit.py, models/transformer.py).

Ours: patch kernel [rows * columns * 3, width], and one map qkv [width, heads * 3 * size] with query, key and value of a
head side by side.
"""

import math

from xsample_jax.weights.name_map import Form

# Theirs [1, tokens, width] and [1, 1, width].
POSITION = Form(lambda x: x[0], lambda x: (x[None],))
TOKEN = Form(lambda x: x[0, 0], lambda x: (x[None, None],))


def _side(patch) -> int:
    return math.isqrt(patch.shape[0] // 3)


# A torch convolution [width, 3, rows, columns].
PATCH = Form(
    lambda x: x.transpose(2, 3, 1, 0).reshape(-1, x.shape[0]),
    lambda x: (x.reshape(_side(x), _side(x), 3, -1).transpose(3, 2, 0, 1),),
)
# A flax convolution [rows, columns, 3, width].
PATCH_FLAX = Form(
    lambda x: x.reshape(-1, x.shape[-1]),
    lambda x: (x.reshape(_side(x), _side(x), 3, -1),),
)


def qkv_weight(heads: int) -> Form:
    """torch's [3 * width, width]: all queries, all keys, all values."""

    def to_ours(x):
        width = x.shape[1]
        return x.reshape(3, heads, -1, width).transpose(3, 1, 0, 2).reshape(width, -1)

    def to_theirs(x):
        width = x.shape[0]
        return (x.reshape(width, heads, 3, -1).transpose(2, 1, 3, 0).reshape(-1, width),)

    return Form(to_ours, to_theirs)


def qkv_bias(heads: int) -> Form:
    """torch's [3 * width]."""
    return Form(
        lambda x: x.reshape(3, heads, -1).transpose(1, 0, 2).reshape(-1),
        lambda x: (x.reshape(heads, 3, -1).transpose(1, 0, 2).reshape(-1),),
    )
