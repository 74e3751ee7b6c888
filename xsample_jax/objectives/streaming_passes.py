"""The two passes of the streaming loss over all pairs of rows, by XLA's tiles or by kernels."""

import jax

from xsample_jax.objectives import streaming_gradients, streaming_sums
from xsample_jax.objectives.streaming_gradients import Coefficients
from xsample_jax.objectives.streaming_kernel import gradients_by_kernel, sums_by_kernel
from xsample_jax.objectives.streaming_sums import Sums
from xsample_jax.objectives.streaming_tiles import Form, Rows


def sums_over_keys(form: Form, anchors: Rows, keys: Rows, scale: jax.Array, triangle: bool, offset=0) -> Sums:
    """Sums over all keys of every anchor (streaming_sums.py)."""
    if form.cosine_of is not None:
        return sums_by_kernel(form, anchors, keys, scale, offset)
    return streaming_sums.sums_over_keys(form, anchors, keys, scale, triangle, offset)


def gradients(
    form: Form,
    anchors: Rows,
    keys: Rows,
    scale: jax.Array,
    row: Coefficients | None,
    column: Coefficients | None,
    **options,
) -> tuple[jax.Array, jax.Array | None]:
    """Gradients of the anchors, and of the keys where they are asked for (streaming_gradients.py)."""
    if form.cosine_of is not None:
        return gradients_by_kernel(form, anchors, keys, scale, row, column, options.get("offset", 0)), None
    return streaming_gradients.gradients(form, anchors, keys, scale, row, column, **options)
