"""The graph cross-entropy with memory linear in the number of rows; equal to the dense one (cross_entropy.py).

    S_ik = z_i . y_k / tau                W_ik = exp(g_ik / tau_s) (softmax)  or  g_ik (row_sum),  g = source(u_i, v_k)
    loss_i = log sum_k e^{S_ik} - (sum_k W_ik S_ik) / (sum_k W_ik)         self pairs left out of every sum

Tiles of S and W are made, used and forgotten, in the forward and again in the backward pass; what is kept is the
inputs and a few numbers per row. Gradients of z, y and tau are exact; side information gets none.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from xsample_jax.objectives.streaming import mesh as streaming_mesh
from xsample_jax.objectives.streaming.mesh import gradients, sums_over_keys
from xsample_jax.objectives.streaming.pallas import images_of_tile
from xsample_jax.objectives.streaming.tiles import Form, Rows, Sums, coefficients, log_sums

# Bytes of embeddings and side information that every device may hold of all others before "auto" takes the ring.
LARGEST_GATHERED = 2**29

# Exponents in [-2 / tau, 0] and sums of them are normal float32 numbers above this temperature.
LOWEST_STATIC = 0.025


def streaming_rows(
    z: jax.Array,
    y: jax.Array | None,
    u: dict[str, jax.Array],
    v: dict[str, jax.Array] | None,
    *,
    source,
    normalizer: str,
    temperature: jax.Array | float,
    target_temperature: float = 1.0,
    views: int = 1,
    key_views: int = 1,
    bounds: tuple[float, float] = (-1.0, 1.0),
    lowest_temperature: float | None = None,
    tile: int = 1024,
    mesh=None,
    exchange: str = "auto",
    wire=None,
    caption_wire=jnp.float16,
    tiles: str = "xla",
    cosine_of: str | None = None,
) -> dict[str, jax.Array]:
    """Losses of every anchor and the numbers worth watching.

    Args:
      z: anchors [A, D], unit rows, row = image * views + view.
      y: keys [K, D], unit rows; None when the anchors are the keys (then v is None, and no row is its own key).
      u, v: side information (graphs/sources.py) per image: arrays [A / views, ...] and [K / key_views, ...].
        An entry "filled" (bool) that is False takes an image out, as anchor and as key.
      source: graph source, a function of tiles of u and v that looks at pairs only, bounds[0] <= g <= bounds[1];
        with anchors that are the keys source(u, v) = source(v, u)^T. row_sum needs g >= 0.
      normalizer: "softmax" or "row_sum" (graphs/targets.py).
      temperature: tau, a float or a traced scalar; lowest_temperature is what a traced one cannot go below.
      target_temperature: tau_s of the softmax.
      tile: rows of a tile: scratch memory is a few tile x tile arrays.
      mesh: a mesh over whose axes the rows of all arrays are split; None for one device.
      wire: type in which embeddings travel between the devices of the mesh, None for their own. The loss is then that
        of rounded rows, on any number of devices.
      exchange: how devices see each other's rows: "gather", "ring" (streaming_mesh.py), or "auto": the ring when what
        is gathered would be large.
      caption_wire: the type for the frozen embeddings in the side information ("..._embedding"): a float, or int8,
        which keeps directions only: for sources that are cosines.
      tiles: "xla"; "pallas": the kernels of streaming_kernel.py (interpreted where the device is no TPU), ValueError
        where they cannot; "auto": the kernels on a TPU where they can.
      cosine_of: entry of u and v of which the source is the cosine, if it is one: what the kernels can do.

    Returns:
      dict of [A]: "loss" (differentiable in z, y and temperature; 0 where not counted), "target_entropy",
      "own_view_mass", "same_class_mass" (when both sides have labels) and bool "counted": the row has a positive.
    """
    if normalizer not in ("softmax", "row_sum"):
        raise ValueError(f"normalizer {normalizer!r}: expected softmax or row_sum")
    if (y is None) != (v is None):
        raise ValueError("y and v must both be given, or both be None: then the anchors are the keys")
    same = y is None
    _check(z, u, views, "z and u")
    if not same:
        _check(y, v, key_views, "y and v")
    if lowest_temperature is None and isinstance(temperature, int | float):
        lowest_temperature = temperature
    softmax = normalizer == "softmax"
    several = mesh is not None and mesh.size > 1
    if mesh is not None and caption_wire is not None:
        u, v = (side and _rounded_captions(side, caption_wire) for side in (u, v))
    form = Form(
        source=source,
        softmax=softmax,
        target_temperature=float(target_temperature),
        bound=float(bounds[1]),
        same=same,
        views=views,
        key_views=key_views,
        tile=int(tile),
        running_student=lowest_temperature is None or lowest_temperature <= LOWEST_STATIC,
        running_target=softmax and target_temperature <= LOWEST_STATIC * (bounds[1] - bounds[0]) / 2,
        mesh=mesh if several else None,
        ring=several and _takes_ring(exchange, (z, u) if same else (y, v), wire),
        wire=wire if mesh is not None else None,
    )
    form = _with_kernels(form, tiles, cosine_of, u, mesh)
    dtype = jnp.result_type(jnp.float32, z if same else jnp.result_type(z, y))
    return _rows(form, z, y, u, v, jnp.asarray(temperature, dtype))


def _with_kernels(form: Form, tiles: str, cosine_of: str | None, u: dict, mesh) -> Form:
    """The form with the kernels that `tiles` asks for."""
    if tiles not in ("auto", "pallas", "xla"):
        raise ValueError(f"tiles {tiles!r}: expected auto, pallas or xla")
    platform = jax.default_backend() if mesh is None else mesh.devices.flat[0].platform
    if tiles == "xla" or (tiles == "auto" and platform != "tpu"):
        return form
    images = len(next(iter(u.values()))) // (form.mesh.size if form.mesh else 1)
    reasons = {
        "its target is not the softmax of cosines of one embedding": not form.softmax or cosine_of is None,
        "its anchors are not its keys": not form.same,
        f"its temperatures are not known to stay above {LOWEST_STATIC}": form.running_student or form.running_target,
        "some images are taken out of it": "filled" in u,
        f"{images} images a device are no multiple of 8, or do not fall into tiles of a multiple of 128 images": (
            images_of_tile(images, form.tile // form.views) is None
        ),
    }
    why_not = [reason for reason, holds in reasons.items() if holds]
    if why_not and tiles == "pallas":
        raise ValueError(f"kernels cannot do this loss: {'; '.join(why_not)}; tiles=auto or xla can")
    return form if why_not else dataclasses.replace(form, cosine_of=cosine_of, interpret=platform != "tpu")


def _check(z: jax.Array, side: dict, views: int, names: str) -> None:
    for name, value in side.items():
        if value.shape[0] * views != z.shape[0]:
            raise ValueError(f"{names}: {z.shape[0]} rows of {views} views, but {value.shape[0]} rows of {name!r}")


def _takes_ring(exchange: str, keys: tuple[jax.Array, dict], wire) -> bool:
    if exchange not in ("auto", "gather", "ring"):
        raise ValueError(f"exchange {exchange!r}: expected auto, gather or ring")
    z, info = keys
    sizes = [
        z.size * jnp.dtype(wire or z.dtype).itemsize,
        *(value.size * value.dtype.itemsize for value in info.values()),
    ]
    return exchange == "ring" or (exchange == "auto" and sum(sizes) > LARGEST_GATHERED)


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


def _sides(form: Form, z, y, u, v) -> tuple[Rows, Rows]:
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
    anchors, keys = _sides(form, z, y, u, v)
    if form.mesh is None:
        sums = sums_over_keys(form, anchors, keys, 1 / temperature, triangle=form.same)
        gathered = None
    else:
        sums, gathered = streaming_mesh.sums_over_keys_of_mesh(form, anchors, keys, 1 / temperature)
    return _finished(sums), (z, y, u, v, temperature, sums, gathered)


def _backward(form, residuals, cotangents):
    z, y, u, v, temperature, sums, gathered = residuals
    anchors, keys = _sides(form, z, y, u, v)
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
