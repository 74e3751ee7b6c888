"""The graph cross-entropy with memory linear in the number of rows; equal to the dense one (cross_entropy.py).

    S_ik = z_i . y_k / tau                W_ik = exp(g_ik / tau_s) (softmax)  or  g_ik (row_sum),  g = source(u_i, v_k)
    loss_i = log sum_k e^{S_ik} - (sum_k W_ik S_ik) / (sum_k W_ik)         self pairs left out of every sum

Tiles of S and W are made, used and forgotten, in the forward and again in the backward pass; what is kept is the
inputs and a few numbers per row. Gradients of z, y and tau are exact; side information gets none.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from xsample_jax.objectives.streaming import mesh as streaming_mesh
from xsample_jax.objectives.streaming.mesh import gradients, sums_over_keys
from xsample_jax.objectives.streaming.tiles import Form, Rows, Sums, coefficients, images_of_tile, log_sums

# Bytes of embeddings and side information that every device may hold of all others before "auto" takes the ring.
LARGEST_GATHERED = 2**29

# Exponents in [-2 / tau, 0] and sums of them are normal float32 numbers above this temperature.
LOWEST_STATIC = 0.025


@dataclasses.dataclass(frozen=True)
class Target:
    """What should be similar, as a function of side information.

    Attributes:
      source: graph source (graphs/sources.py), a function of tiles of u and v that looks at pairs only, with
        bounds[0] <= g <= bounds[1]; with anchors that are the keys source(u, v) = source(v, u)^T. row_sum needs g >= 0.
      normalizer: "softmax" or "row_sum" (graphs/targets.py).
      target_temperature: tau_s of the softmax.
      cosine_of: entry of u and v of which the source is the cosine, if it is one: what the kernels can do.
    """

    source: Callable[[dict, dict], jax.Array]
    normalizer: str
    target_temperature: float = 1.0
    bounds: tuple[float, float] = (-1.0, 1.0)
    cosine_of: str | None = None


@dataclasses.dataclass(frozen=True)
class Streaming:
    """How a loss is computed.

    Attributes:
      impl: auto (streaming where it is possible), dense or streaming.
      block_size: rows of a tile.
      kernel: who computes the tiles: auto, pallas or xla.
      collective: how devices see each other's rows: gather, ring or auto (streaming/mesh.py).
      comm_dtype: type in which embeddings travel between devices: float32 or bfloat16.
      caption_comm_dtype: type in which frozen embeddings travel: float16, int8, or float32 (as they are).
      mesh: over whose axes rows are split; None for one device.
      lowest_temperature: what the base temperature cannot go below.
      class_embeddings: of the texts of all classes [classes, E], for graphs of class texts; None: they are compared by
        the pair, as captions are.
      groups: into which the devices of the mesh are divided; rows are compared within a group (M2-Encoder).
    """

    impl: str = "auto"
    block_size: int = 1024
    kernel: str = "xla"
    collective: str = "auto"
    comm_dtype: str = "float32"
    caption_comm_dtype: str = "float16"
    mesh: Mesh | None = None
    lowest_temperature: float | None = None
    class_embeddings: np.ndarray | None = None
    groups: int = 1

    def wants(self, reason: str | None) -> bool:
        """Whether a term is streamed; reason: why it cannot be (objective.find_unstreamable)."""
        return self.impl == "streaming" or (self.impl == "auto" and reason is None)


def streaming_rows(
    anchors: Rows, keys: Rows | None, target: Target, temperature: jax.Array | float, how: Streaming
) -> dict[str, jax.Array]:
    """Losses of every anchor and the numbers worth watching.

    Args:
      anchors: z [A, D], unit rows, row = image * views + view, and side information per image, [A / views, ...]. An
        entry "filled" (bool) that is False takes an image out, as anchor and as key.
      keys: z [K, D] with theirs; None when the anchors are the keys (then no row is its own key).
      temperature: tau, a float or a traced scalar; how.lowest_temperature is what a traced one cannot go below.
      how: with a mesh, what travels is rounded to its types, and the loss is that of rounded rows, on any number of
        devices. kernel = "pallas" is a ValueError where the kernels cannot do this loss; they are interpreted where
        the device is not a TPU. impl and class_embeddings are not read.

    Returns:
      dict of [A]: "loss" (differentiable in z, y and temperature; 0 where not counted), "target_entropy",
      "own_view_mass", "same_class_mass" (when both sides have labels) and bool "counted": the row has a positive.
    """
    if target.normalizer not in ("softmax", "row_sum"):
        raise ValueError(f"normalizer {target.normalizer!r}: expected softmax or row_sum")
    form, anchors, keys = prepare(anchors, keys, target, temperature, how)
    (z, u, _), (y, v, _) = anchors, keys or Rows(None, None, 1)
    dtype = jnp.result_type(jnp.float32, z if keys is None else jnp.result_type(z, y))
    return _rows(form, z, y, u, v, jnp.asarray(temperature, dtype))


def prepare(
    anchors: Rows, keys: Rows | None, target: Target, temperature: jax.Array | float, how: Streaming
) -> tuple[Form, Rows, Rows | None]:
    """(form, anchors, keys) of a loss: rows checked, and what they know rounded to what travels."""
    _check(anchors, "z and u")
    if keys is not None:
        _check(keys, "y and v")
    if how.mesh is not None:
        dtype = jnp.dtype(how.caption_comm_dtype)
        anchors, keys = (side and side._replace(info=_rounded_captions(side.info, dtype)) for side in (anchors, keys))
    return _form_of(anchors, keys, target, temperature, how), anchors, keys


def _form_of(anchors: Rows, keys: Rows | None, target: Target, temperature: jax.Array | float, how: Streaming) -> Form:
    """What the tiles are computed by: everything about a loss that is known before its arrays are."""
    lowest = how.lowest_temperature
    if lowest is None and isinstance(temperature, int | float):
        lowest = temperature
    softmax, (low, high) = target.normalizer == "softmax", target.bounds
    several = how.mesh is not None and how.mesh.size > 1
    wire = jnp.bfloat16 if how.comm_dtype == "bfloat16" else None
    form = Form(
        source=target.source,
        softmax=softmax,
        target_temperature=float(target.target_temperature),
        bound=float(high),
        same=keys is None,
        views=anchors.views,
        key_views=1 if keys is None else keys.views,
        tile=int(how.block_size),
        running_student=lowest is None or lowest <= LOWEST_STATIC,
        running_target=softmax and target.target_temperature <= LOWEST_STATIC * (high - low) / 2,
        mesh=how.mesh if several else None,
        groups=how.groups if several else 1,
        ring=several and _takes_ring(how.collective, keys or anchors, wire),
        wire=wire if how.mesh is not None else None,
    )
    return _with_kernels(form, how, target.cosine_of, anchors.info)


def _with_kernels(form: Form, how: Streaming, cosine_of: str | None, u: dict) -> Form:
    """The form with the kernels that `how` asks for."""
    if how.kernel not in ("auto", "pallas", "xla"):
        raise ValueError(f"kernel {how.kernel!r}: expected auto, pallas or xla")
    platform = jax.default_backend() if how.mesh is None else how.mesh.devices.flat[0].platform
    if how.kernel == "xla" or (how.kernel == "auto" and platform != "tpu"):
        return form
    images = len(next(iter(u.values()))) // (form.mesh.size if form.mesh else 1)
    reasons = {
        "its target is not the softmax of cosines of one embedding": not form.softmax or cosine_of is None,
        "its anchors are not its keys": not form.same,
        f"its temperatures are not known to stay above {LOWEST_STATIC}": form.running_student or form.running_target,
        "some images are taken out of it": "filled" in u,
        f"{images} images per device are not a multiple of 8, or do not fill tiles of a multiple of 128 images": (
            images_of_tile(images, form.tile // form.views) is None
        ),
    }
    why_not = [reason for reason, holds in reasons.items() if holds]
    if why_not and how.kernel == "pallas":
        raise ValueError(f"kernels cannot do this loss: {'; '.join(why_not)}; kernel=auto or xla can")
    return form if why_not else dataclasses.replace(form, cosine_of=cosine_of, interpret=platform != "tpu")


def _check(rows: Rows, names: str) -> None:
    count, views = len(rows.z), rows.views
    for name, value in rows.info.items():
        if value.shape[0] * views != count:
            raise ValueError(f"{names}: {count} rows of {views} views, but {value.shape[0]} rows of {name!r}")


def _takes_ring(collective: str, keys: Rows, wire) -> bool:
    if collective not in ("auto", "gather", "ring"):
        raise ValueError(f"collective {collective!r}: expected auto, gather or ring")
    sizes = [
        keys.z.size * jnp.dtype(wire or keys.z.dtype).itemsize,
        *(value.size * value.dtype.itemsize for value in keys.info.values()),
    ]
    return collective == "ring" or (collective == "auto" and sum(sizes) > LARGEST_GATHERED)


def _rounded_captions(side: dict, dtype) -> dict:
    """The side information with its frozen embeddings in `dtype`; in int8 the largest entry of a row becomes 127."""

    def rounded(value):
        if dtype != jnp.int8:
            return _rounded(value, dtype)
        value = value.astype(jnp.float32)
        largest = jnp.max(jnp.abs(value), axis=-1, keepdims=True)
        return jnp.round(value * (127 / jnp.where(largest > 0, largest, 1))).astype(jnp.int8)

    return {name: rounded(value) if name.endswith("_embedding") else value for name, value in side.items()}


def _rounded(value: jax.Array, dtype) -> jax.Array:
    wide = jnp.issubdtype(value.dtype, jnp.floating) and value.dtype.itemsize > jnp.dtype(dtype).itemsize
    return value.astype(dtype) if wide else value


def sides(form: Form, z, y, u, v) -> tuple[Rows, Rows]:
    """(anchors, keys), their embeddings rounded as they travel; the same twice where anchors are the keys."""
    if form.wire is not None:
        z, y = _rounded(z, form.wire), None if y is None else _rounded(y, form.wire)
    anchors = Rows(z, u, form.views)
    return anchors, anchors if form.same else Rows(y, v, form.key_views)


def _counted(sums: Sums) -> jax.Array:
    return (sums.target > 0) & (sums.student > 0)


def _finished(sums: Sums) -> dict[str, jax.Array]:
    log_student, log_target = log_sums(sums)
    counted = _counted(sums)
    total = jnp.where(sums.target > 0, sums.target, 1)
    values = {
        "loss": log_student - sums.cross / total,
        "target_entropy": log_target - sums.w_log_w / total,
        "own_view_mass": sums.own / total,
    }
    if sums.same_class is not None:
        values["same_class_mass"] = sums.same_class / total
    values = {name: jnp.where(counted, value, 0) for name, value in values.items()}
    return {name: value.T.reshape(-1) for name, value in (values | {"counted": counted}).items()}


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _rows(form, z, y, u, v, temperature):
    return _forward(form, z, y, u, v, temperature)[0]


def _forward(form, z, y, u, v, temperature):
    anchors, keys = sides(form, z, y, u, v)
    if form.mesh is None:
        sums = sums_over_keys(form, anchors, keys, 1 / temperature, triangle=form.same)
        gathered = None
    else:
        sums, gathered = streaming_mesh.sums_over_keys_of_mesh(form, anchors, keys, 1 / temperature)
    return _finished(sums), (z, y, u, v, temperature, sums, gathered)


def _backward(form, residuals, cotangents):
    z, y, u, v, temperature, sums, gathered = residuals
    anchors, keys = sides(form, z, y, u, v)
    cotangent = cotangents["loss"].astype(temperature.dtype).reshape(-1, form.views).T
    share = coefficients(form, sums, jnp.where(_counted(sums), cotangent, 0))
    if form.mesh is not None:
        dz, dy = streaming_mesh.gradients_of_mesh(form, anchors, keys, 1 / temperature, share, gathered)
    elif form.same:
        dz, dy = gradients(form, anchors, keys, 1 / temperature, share, share, triangle=True)
    else:
        dz, dy = gradients(form, anchors, keys, 1 / temperature, share, None, key_side=True)
    # The loss sees z and tau only through z / tau (twice z / sqrt(tau) when anchors are keys): Euler's identity.
    slope = -jnp.sum(anchors.z.astype(dz.dtype) * dz) / temperature / (2 if form.same else 1)
    return dz.astype(z.dtype), None if y is None else dy.astype(y.dtype), None, None, slope


_rows.defvjp(_forward, _backward)


# Graphs of classes: the target side from a C x C table, where the general form compares every pair of images.
#
# Cross-entropies of one student to two graphs differ by something linear in the logits,
#
#     loss_i(T) = loss_i(U) + sum_k (U_ik - T_ik) z_i . z_k / tau,
#
# and for U = 1 / (N - 1) and T_ik = T[class_i, class_k] both sums are products with class sums of embeddings:
# O(N D + C^2 D) in place of O(N^2 E). The loss to U comes from tiles, whose weights are then all one.


def uniform(u: dict, v: dict) -> jax.Array:
    """1 for every pair of images."""
    return jnp.ones((u["label"].shape[0], v["label"].shape[0]), jnp.float32)


def class_target(
    similarity: jax.Array, count: jax.Array, normalizer: str, target_temperature: float
) -> tuple[jax.Array, jax.Array]:
    """Target probability of one key of class c for an anchor of class y, [C, C], and how many such keys there are.

    similarity [C, C]; count [C]: rows of each class, the anchor among them. Classes whose rows have no positive get 0.
    """
    copies = jnp.maximum(count[None, :] - jnp.eye(len(count), dtype=count.dtype), 0)
    if normalizer == "softmax":
        logits = jnp.where(copies > 0, similarity / target_temperature, -jnp.inf)
        top = jnp.max(logits, axis=1, keepdims=True)
        weight = jnp.exp(logits - jnp.where(jnp.isfinite(top), top, 0))
    else:
        weight = jnp.where(copies > 0, similarity, 0)
    total = jnp.sum(copies * weight, axis=1, keepdims=True)
    return weight / jnp.where(total > 0, total, 1), copies


def class_table_rows(
    anchors: Rows, similarity: jax.Array, target: Target, temperature: jax.Array | float, how: Streaming
) -> dict[str, jax.Array]:
    """`streaming_rows` for anchors that are the keys and a graph of classes: source(u_i, u_k) = similarity[y_i, y_k].

    Args:
      anchors: z [B * views, D], unit rows, with the side information label, int [B]; images with -1 have no weight in
        any target and are not counted.
      similarity: [C, C], symmetric: cosines of class texts, or the unit matrix for SupCon.
      target: of which the normalizer and its temperature are read.

    Returns:
      what `streaming_rows` returns, images being told apart by their place in the batch.
    """
    z, label, views = anchors.z, anchors.info["label"], anchors.views
    dtype = jnp.result_type(jnp.float32, z)
    similarity = jax.lax.stop_gradient(similarity.astype(dtype))
    if how.mesh is not None and how.comm_dtype == "bfloat16":  # the rounded rows in both parts of the loss
        z = z + jax.lax.stop_gradient(z.astype(jnp.bfloat16).astype(z.dtype) - z)
    rows = streaming_rows(
        Rows(z, {"id": jnp.arange(len(label)), "label": label}, views),
        None,
        Target(uniform, "row_sum"),
        temperature,
        dataclasses.replace(how, kernel="xla"),
    )
    labels = jnp.repeat(label, views)
    known = labels >= 0
    labels = jnp.where(known, labels, 0)  # an index, whose rows are masked by `known`

    def class_sums(x):
        x = jnp.where(known.reshape(-1, *[1] * (x.ndim - 1)), x, 0)
        return jax.ops.segment_sum(x, labels, num_segments=len(similarity))

    count = class_sums(known.astype(dtype))
    weight, copies = class_target(similarity, count, target.normalizer, target.target_temperature)
    z = z.astype(dtype)

    def product(x, y):
        return jnp.matmul(x, y, precision=jax.lax.Precision.HIGHEST)

    own = jnp.diagonal(weight)[labels]  # on one key of the anchor's own class
    from_target = product(weight, class_sums(z))[labels] - own[:, None] * z
    from_uniform = (jnp.sum(z, axis=0) - z) / max(len(z) - 1, 1)
    linear = jnp.sum(z * (from_uniform - from_target), axis=1) / temperature
    counted = known & (jnp.sum(copies * weight, axis=1) > 0)[labels] & rows["counted"]
    entropy = -jnp.sum(copies * weight * jnp.log(jnp.where(weight > 0, weight, 1)), axis=1)
    values = {
        "loss": rows["loss"] + linear,
        "target_entropy": entropy[labels],
        "own_view_mass": (views - 1) * own,
        "same_class_mass": (jnp.diagonal(copies * weight))[labels],
    }
    return {name: jnp.where(counted, value, 0) for name, value in values.items()} | {"counted": counted}
