"""The streaming cross-entropy over a mesh: each device owns rows, sees the rows of all others, and reduces nothing.

The gradient of a row needs, of every other row, its embedding and two numbers: what that row adds to dL/ds as an anchor
(`Coefficients`). So the backward pass sends 8 bytes per row (12 with running maxima) where the derivative of a gather
would reduce-scatter an [N, D] gradient. Captions travel once per image, whatever the number of views.

Two ways to see the rows of the others:
  gather: all of them at once. They are kept for the backward pass: O(N) memory on every device.
  ring: the rows of one device after the other, passed on from neighbor to neighbor while they are used, and sent
    around once more for the backward pass. O(N / devices) memory, twice the bytes.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from xsample_jax.objectives.streaming import tiles as streaming_gradients
from xsample_jax.objectives.streaming import tiles as streaming_sums
from xsample_jax.objectives.streaming.tiles import Coefficients, Form, Rows, Sums, merged, no_sums

# The two passes of the streaming loss over all pairs of rows, by XLA's tiles or by kernels.


def sums_over_keys(form: Form, anchors: Rows, keys: Rows, scale: jax.Array, triangle: bool, offset=0) -> Sums:
    """Sums over all keys of every anchor (tiles.sums_over_keys)."""
    if form.cosine_of is not None:
        from xsample_jax.objectives.streaming.pallas import sums_by_kernel  # which loads the compiler of kernels

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
    """Gradients of the anchors, and of the keys where they are asked for (tiles.gradients)."""
    if form.cosine_of is not None:
        from xsample_jax.objectives.streaming.pallas import gradients_by_kernel

        return gradients_by_kernel(form, anchors, keys, scale, row, column, options.get("offset", 0)), None
    return streaming_gradients.gradients(form, anchors, keys, scale, row, column, **options)


class Part(NamedTuple):
    """What a device tells the others of its rows: embeddings, side information, and for the backward pass its share."""

    z: jax.Array
    info: dict[str, jax.Array]
    share: Coefficients | None = None


def sent(x: jax.Array, collective: Callable[[jax.Array], jax.Array]) -> jax.Array:
    """collective(x), with 16-bit floats as integers on the way.

    A compiler for a machine without 16-bit arithmetic widens them before the collective (XLA on CPU does).
    """
    dtype = x.dtype
    if not (jnp.issubdtype(dtype, jnp.floating) and dtype.itemsize == 2):
        return collective(x)
    return jax.lax.bitcast_convert_type(collective(jax.lax.bitcast_convert_type(x, jnp.uint16)), dtype)


def members(form: Form) -> list[list[int]]:
    """The numbers of the devices of every group, neighbors beside each other."""
    size = form.mesh.size // form.groups
    return [list(range(first, first + size)) for first in range(0, form.mesh.size, size)]


def whole(form: Form, x: jax.Array, axis: int = 0) -> jax.Array:
    """What all devices of the group have, one after the other; for use inside shard_map."""
    groups = None if form.groups == 1 else members(form)

    def collect(x):
        return jax.lax.all_gather(x, form.mesh.axis_names, axis=axis, tiled=True, axis_index_groups=groups)

    return sent(x, collect)


def gather(form: Form, part: Part) -> Part:
    """The parts of all devices of the group as one; for use inside shard_map."""
    z, info = jax.tree.map(lambda x: whole(form, x), (part.z, part.info))
    return Part(z, info, gather_shares(form, part.share))


def gather_shares(form: Form, share: Coefficients | None) -> Coefficients | None:
    return jax.tree.map(lambda x: whole(form, x, x.ndim - 1), share)  # images are the last axis


def around(form: Form, part: Any, visit: Callable[[Any, Any, jax.Array], tuple], start: Any) -> tuple:
    """result, part = visit(result, part, owner) for the part of every device of the group in turn, its own first.

    For use inside shard_map; returns the last result and the device's own part. What a visit leaves as it was is on its
    way to the next device meanwhile.
    """
    axes, devices = form.mesh.axis_names, form.mesh.size // form.groups
    first, own = _place(form)
    to_previous = [(group[i], group[(i - 1) % devices]) for group in members(form) for i in range(devices)]

    def hop(carry, number):
        result, visitor = visit(*carry, first + (own + number) % devices)
        following = jax.tree.map(lambda x: sent(x, lambda x: jax.lax.ppermute(x, axes, to_previous)), visitor)
        return (result, following), None

    return jax.lax.scan(hop, (start, part), jnp.arange(devices))[0]


def _place(form: Form) -> tuple[jax.Array | int, jax.Array]:
    """(the first device of this device's group, this device's place in it); for use inside shard_map."""
    number = jax.lax.axis_index(form.mesh.axis_names)
    if form.groups == 1:
        return 0, number
    size = form.mesh.size // form.groups
    return number // size * size, number % size


def sums_over_keys_of_mesh(form: Form, anchors: Rows, keys: Rows, scale: jax.Array) -> tuple[Sums, Part | None]:
    """Sums over all keys of every anchor, split like the anchors; and the keys, whole on every device if gathered."""
    axes = form.mesh.axis_names

    def local(z, u, y, v, scale):
        own = Rows(z, u, anchors.views)
        part = Part(z, u) if form.same else Part(y, v)

        def sums_over(part: Part, owner) -> Sums:
            visitors = Rows(part.z, part.info, keys.views)
            return sums_over_keys(form, own, visitors, scale, triangle=False, offset=offset_of(form, own, owner))

        if not form.ring:
            every = gather(form, part)
            return sums_over(every, _place(form)[0]), every
        with_label = "label" in u and "label" in part.info
        start = no_sums(form, own, with_label, scale.dtype)
        summed, _ = around(form, part, lambda sums, part, owner: (merged(sums, sums_over(part, owner)), part), start)
        return summed, None

    with_label = "label" in anchors.info and "label" in keys.info
    sums = jax.eval_shape(lambda: no_sums(form, anchors, with_label, scale.dtype))
    specs = (last_axis_split(sums, axes), _gathered_spec(form))
    return over_mesh(form, local, specs)(*arrays_of(form, anchors, keys), scale)


def gradients_of_mesh(
    form: Form, anchors: Rows, keys: Rows, scale: jax.Array, share: Coefficients, gathered: Part | None
) -> tuple[jax.Array, jax.Array | None]:
    """Gradients of the embeddings, split like them: of anchors, and of keys when those are other rows.

    share: of the anchors, split like them; gathered: the keys, as the forward pass returned them.
    """
    axes = form.mesh.axis_names

    def local(z, u, y, v, scale, share, gathered):
        own_anchors = Rows(z, u, anchors.views)

        def gradient(form, own, part, whole, row):
            """Of the embeddings in `own`, by all rows like those of `part`; `whole`: they are gathered already."""
            views = keys.views if own is own_anchors else anchors.views

            def by(part: Part, owner) -> jax.Array:
                visitors = Rows(part.z, part.info, views)
                offset = offset_of(form, own, owner)
                return gradients(form, own, visitors, scale, row, part.share, offset=offset)[0]

            if whole is not None:
                return by(whole, _place(form)[0])
            start = jnp.zeros(own.z.shape, scale.dtype)
            return around(form, part, lambda total, part, owner: (total + by(part, owner), part), start)[0]

        if form.same:
            whole = gathered and gathered._replace(share=gather_shares(form, share))
            return gradient(form, own_anchors, Part(z, u, share), whole, share), None
        part, swapped = Part(z, u, share), dataclasses.replace(form, swapped=True)
        d_anchors = gradient(form, own_anchors, Part(y, v), gathered, share)
        d_keys = gradient(swapped, Rows(y, v, keys.views), part, None if form.ring else gather(form, part), None)
        return d_anchors, d_keys

    split = PartitionSpec(axes)
    in_specs = (last_axis_split(share, axes), _gathered_spec(form))
    program = over_mesh(form, local, (split, split), in_specs)
    return program(*arrays_of(form, anchors, keys), scale, share, gathered)


def _gathered_spec(form: Form) -> PartitionSpec | None:
    """Of what the forward pass gathered: the same on all devices, or one for each group."""
    return None if form.ring else PartitionSpec() if form.groups == 1 else PartitionSpec(form.mesh.axis_names)


def last_axis_split(tree, axes: tuple[str, ...]):
    """PartitionSpecs of sums and coefficients: images are their last axis."""
    return jax.tree.map(lambda x: PartitionSpec(*[None] * (x.ndim - 1), axes), tree)


def offset_of(form: Form, own: Rows, owner: jax.Array | int) -> jax.Array:
    """The number of this device's first image, counted from the first image of the device `owner`."""
    return (jax.lax.axis_index(form.mesh.axis_names) - owner) * own.images


def arrays_of(form: Form, anchors: Rows, keys: Rows) -> tuple:
    return anchors.z, anchors.info, *((None, None) if form.same else (keys.z, keys.info))


def over_mesh(form: Form, local: Callable, out_specs, more_specs: tuple = ()) -> Callable:
    """shard_map of local(z, u, y, v, scale, ...): rows are split over all axes, the scale is whole."""
    split, whole = PartitionSpec(form.mesh.axis_names), PartitionSpec()
    in_specs = (*[split] * 4, whole, *more_specs)
    return jax.shard_map(local, mesh=form.mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)
