"""The streaming cross-entropy over a mesh: each device owns rows, gathers embeddings and captions, reduces nothing.

The gradient of a row needs, of every other row, its embedding and two numbers: what that row adds to dL/ds as an anchor
(`Coefficients`). So the backward pass gathers 8 bytes per row (12 with running maxima) where the derivative of a gather
would reduce-scatter an [N, D] gradient. Captions travel once per image, whatever the number of views.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from xsample_jax.objectives.streaming_gradients import Coefficients, gradients
from xsample_jax.objectives.streaming_sums import Sums, no_sums, sums_over_keys
from xsample_jax.objectives.streaming_tiles import Form, Rows


def gather(x: jax.Array, axes: tuple[str, ...], axis: int = 0) -> jax.Array:
    """The whole of an array that is split along `axis` over the mesh axes; for use inside shard_map.

    16-bit floats travel as integers: a compiler for a machine without 16-bit arithmetic widens them before the
    collective (XLA on CPU does).
    """
    dtype = x.dtype
    short = jnp.issubdtype(dtype, jnp.floating) and dtype.itemsize == 2
    if short:
        x = jax.lax.bitcast_convert_type(x, jnp.uint16)
    x = jax.lax.all_gather(x, axes, axis=axis, tiled=True)
    return jax.lax.bitcast_convert_type(x, dtype) if short else x


def gather_rows(rows: Rows, axes: tuple[str, ...]) -> Rows:
    return Rows(gather(rows.z, axes), {name: gather(value, axes) for name, value in rows.info.items()}, rows.views)


def last_axis_split(tree, axes: tuple[str, ...]):
    """PartitionSpecs of sums and coefficients: images are their last axis."""
    return jax.tree.map(lambda x: PartitionSpec(*[None] * (x.ndim - 1), axes), tree)


def sums_over_keys_of_mesh(form: Form, anchors: Rows, keys: Rows, scale: jax.Array) -> tuple[Sums, tuple]:
    """Sums over all keys of every anchor, split like the anchors; and (y, v) of the keys, whole on every device."""
    axes, split, whole = form.mesh.axis_names, PartitionSpec(form.mesh.axis_names), PartitionSpec()

    def local(z, u, y, v, scale):
        own = Rows(z, u, anchors.views)
        every = gather_rows(own if form.same else Rows(y, v, keys.views), axes)
        sums = sums_over_keys(form, own, every, scale, triangle=False, offset=first_image(form, own))
        return sums, (every.z, every.info)

    with_label = "label" in anchors.info and "label" in keys.info
    sums = jax.eval_shape(lambda: no_sums(form, anchors, with_label, scale.dtype))
    return jax.shard_map(
        local,
        mesh=form.mesh,
        in_specs=(*[split] * 4, whole),
        out_specs=(last_axis_split(sums, axes), whole),
        check_vma=False,
    )(anchors.z, anchors.info, *((None, None) if form.same else (keys.z, keys.info)), scale)


def gradients_of_mesh(
    form: Form, anchors: Rows, keys: Rows, scale: jax.Array, share: Coefficients, gathered: tuple
) -> tuple[jax.Array, jax.Array | None]:
    """Gradients of the embeddings, split like them: of anchors, and of keys when those are other rows.

    share: of the anchors, split like them; gathered: the keys, as the forward pass returned them.
    """
    axes, split, whole = form.mesh.axis_names, PartitionSpec(form.mesh.axis_names), PartitionSpec()

    def local(z, u, y, v, scale, share, every_z, every_info):
        own, every = Rows(z, u, anchors.views), Rows(every_z, every_info, keys.views)
        shares = jax.tree.map(lambda x: gather(x, axes, x.ndim - 1), share)
        if form.same:
            return gradients(form, own, every, scale, share, shares, offset=first_image(form, own))[0], None
        d_anchors, _ = gradients(form, own, every, scale, share, None)
        swapped = dataclasses.replace(form, swapped=True)
        d_keys, _ = gradients(swapped, Rows(y, v, keys.views), gather_rows(own, axes), scale, None, shares)
        return d_anchors, d_keys

    return jax.shard_map(
        local,
        mesh=form.mesh,
        in_specs=(*[split] * 4, whole, last_axis_split(share, axes), whole, whole),
        out_specs=(split, split),
        check_vma=False,
    )(
        anchors.z,
        anchors.info,
        *((None, None) if form.same else (keys.z, keys.info)),
        scale,
        share,
        *gathered,
    )


def first_image(form: Form, own: Rows) -> jax.Array:
    """The number among all images of the first that this device owns."""
    return jax.lax.axis_index(form.mesh.axis_names) * own.images
