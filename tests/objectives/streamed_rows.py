"""The streaming losses from separate arrays and options: what the tests vary, by its name in Target and Streaming."""

import dataclasses

import jax
import jax.numpy as jnp

from tests.tiny import tiny_config
from xsample_jax.graphs.sources import SOURCES
from xsample_jax.objectives.streaming import loss
from xsample_jax.objectives.streaming.loss import Streaming, Target
from xsample_jax.objectives.streaming.tiles import Rows
from xsample_jax.sharding import batch_sharding, make_mesh

OF_TARGET = {field.name for field in dataclasses.fields(Target)}


def _split(options: dict) -> tuple[Target, Streaming]:
    of_target = {name: value for name, value in options.items() if name in OF_TARGET}
    return Target(**of_target), Streaming(**{name: options[name] for name in options.keys() - OF_TARGET})


def streaming_rows(z, y, u, v, *, temperature, views=1, key_views=1, **options):
    """z [A, D], y [K, D] or None; u, v: their side information per image; options: fields of Target and Streaming."""
    keys = None if y is None else Rows(y, v, key_views)
    target, how = _split(options)
    return loss.streaming_rows(Rows(z, u, views), keys, target, temperature, how)


def class_table_rows(z, label, similarity, *, temperature, views=1, **options):
    """z [B * views, D], label int [B], similarity [C, C]."""
    target, how = _split({"source": loss.uniform, **options})
    return loss.class_table_rows(Rows(z, {"label": label}, views), similarity, target, temperature, how)


def lowered_loss(devices, images, **options):
    """X-CLR's loss of two views of so many images and its gradient, split over devices that may not be here."""
    mesh = make_mesh(tiny_config().mesh, images, devices)

    def loss(z, side):
        form = {"source": SOURCES["caption"], "normalizer": "softmax", "temperature": 0.1, "target_temperature": 0.1}
        return streaming_rows(z, None, side, None, views=2, mesh=mesh, **form, **options)["loss"].mean()

    split = batch_sharding(mesh)
    z = jax.ShapeDtypeStruct((2 * images, 128), jnp.float32, sharding=split)
    side = {
        "id": jax.ShapeDtypeStruct((images,), jnp.int32, sharding=split),
        "caption_embedding": jax.ShapeDtypeStruct((images, 768), jnp.float16, sharding=split),
    }
    return jax.jit(jax.value_and_grad(loss), out_shardings=(None, split)).lower(z, side)
