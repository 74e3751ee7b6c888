"""What the TPU compiler makes of the streaming loss: captions travel while the encoder works."""

import re

import jax
import jax.numpy as jnp
import pytest
from ml_collections import ConfigDict

from tests.objectives.streamed_rows import streaming_rows
from xsample_jax.graphs.sources import SOURCES
from xsample_jax.models.heads import unit_rows
from xsample_jax.sharding import batch_sharding, make_mesh, replicated
from xsample_jax.topology import topology_devices

IMAGES, WIDTH, LAYERS = 2048, 1024, 3


def test_captions_are_gathered_behind_the_encoder():
    """They are frozen, so their collective starts before the first layer and ends after the last."""
    pytest.importorskip("libtpu")
    mesh = make_mesh(ConfigDict({"data": -1, "fsdp": 1, "tensor": 1}), IMAGES, topology_devices("v5e:2x4"))

    def loss(layers, views, side):
        h = views
        for layer in layers:
            h = jax.nn.gelu(h @ layer)
        z = unit_rows(h[:, :128])
        form = {"source": SOURCES["caption"], "normalizer": "softmax", "temperature": 0.1, "target_temperature": 0.1}
        return streaming_rows(z, None, side, None, views=2, mesh=mesh, **form)["loss"].mean()

    def shape(dims, dtype, sharding):
        return jax.ShapeDtypeStruct(dims, dtype, sharding=sharding)

    split = batch_sharding(mesh)
    side = {"id": shape((IMAGES,), jnp.int32, split), "caption_embedding": shape((IMAGES, 768), jnp.float16, split)}
    layers = [shape((WIDTH, WIDTH), jnp.bfloat16, replicated(mesh))] * LAYERS
    views = shape((2 * IMAGES, WIDTH), jnp.bfloat16, split)
    program = jax.jit(jax.value_and_grad(loss)).lower(layers, views, side).compile().as_text()

    lines = program[program.index("\nENTRY") :].splitlines()  # in the order in which they are started

    def place(pattern):
        return [number for number, line in enumerate(lines) if re.search(pattern, line)]

    gathered = rf"u16\[{IMAGES},768\]"
    started, ended = (
        place(rf"%async-collective-start\S* = .*{gathered}"),
        place(rf"async-collective-done\S* = {gathered}"),
    )
    encoder = place(rf"fusion\S* = \(?bf16\[{2 * IMAGES // 8},{WIDTH}\].*jvp\(\).*dot_general")
    encoder = [line for line in encoder if line < place("while")[0]]
    assert len(started) == len(ended) == 1
    assert len(encoder) == LAYERS
    assert started[0] < encoder[0]
    assert encoder[-1] < ended[0]
