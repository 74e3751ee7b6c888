"""Model FLOPs: published numbers and arithmetic, whatever the devices, the memory knobs and the form of the loss."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import pallas as pl
from jax.sharding import PartitionSpec

from tests.tiny import tiny_config, tiny_parts
from xsample_jax.config import default_config, resolve
from xsample_jax.metrics.profiling import count_compilations, count_flops, model_flops
from xsample_jax.models import vit
from xsample_jax.sharding import make_mesh


def flops_of(function, *shapes):
    return count_flops(jax.make_jaxpr(function)(*(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes)))


def test_products_convolutions_loops_branches_and_devices():
    assert flops_of(lambda a, b: a @ b, (3, 4), (4, 5)) == 2 * 3 * 4 * 5
    assert flops_of(lambda a, b: jnp.einsum("bik,bkj->bij", a, b), (7, 3, 4), (7, 4, 5)) == 7 * 2 * 3 * 4 * 5

    def conv(x, kernel, stride=1):
        return jax.lax.conv_general_dilated(
            x, kernel, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    forward = 2 * (2 * 8 * 8 * 6) * (3 * 3 * 5)
    assert flops_of(conv, (2, 8, 8, 5), (3, 3, 5, 6)) == forward
    strided = flops_of(lambda x, k: jax.grad(lambda x: conv(x, k, 2).sum())(x), (2, 16, 16, 5), (3, 3, 5, 6))
    assert strided == 2 * forward  # forward and gradient of the images, each over 8 x 8 positions
    looped = flops_of(lambda a: jax.lax.fori_loop(0, 6, lambda i, x: x @ x, a), (3, 3))
    assert looped == 6 * 2 * 27
    kernel = pl.pallas_call(
        lambda x, y, out: out.__setitem__(..., x[...] @ y[...]),
        grid=(4, 3),
        in_specs=[pl.BlockSpec((8, 5), lambda i, j: (i, 0)), pl.BlockSpec((5, 16), lambda i, j: (0, j))],
        out_specs=pl.BlockSpec((8, 16), lambda i, j: (i, j)),
        out_shape=jax.ShapeDtypeStruct((32, 48), jnp.float32),
    )
    assert flops_of(kernel, (32, 5), (5, 48)) == 2 * 32 * 5 * 48
    branch = flops_of(lambda a: jax.lax.cond(a[0, 0] > 0, lambda x: x @ x @ x, lambda x: x @ x, a), (3, 3))
    assert branch == 2 * 27
    mesh = make_mesh(tiny_config().mesh, 16, jax.devices())
    mapped = jax.shard_map(
        lambda a: a @ a.T, mesh=mesh, in_specs=PartitionSpec("data"), out_specs=PartitionSpec("data")
    )
    assert flops_of(mapped, (16, 3)) == 8 * 2 * 2 * 2 * 3


def test_the_published_work_of_resnet50():
    """4.09 GMAC per image at 224 px (torchvision, without the classifier); backward takes twice that, the stem less."""
    config = default_config()
    config.steps, config.batch_size, config.model.conv_impl = 1, 8, "conv"
    config.augment.size = config.data.image_size = 224
    config.augment.update(jitter=0.0, crop_scale=())
    config.model.head.hidden, config.loss.impl = (), "dense"
    parts = tiny_parts(resolve(config), jax.devices()[:1])
    assert model_flops(parts) / (8 * 2) == pytest.approx(3 * 2 * 4.09e9, rel=0.03)


@pytest.mark.parametrize("devices", [1, 8])
def test_work_that_is_done_twice_does_not_count_and_nothing_is_compiled(devices, monkeypatch):
    monkeypatch.setitem(vit.VARIANTS, "ti", vit.Shape(64, 4, 2))
    count_compilations()
    before = count_compilations()

    def flops(**changes):
        config = tiny_config(
            model__encoder="vit_ti", model__head__batch_norm=False, batch_size=32, augment__crop_scale=(), **changes
        )
        return model_flops(tiny_parts(config, jax.devices()[:devices]))

    plain = flops()
    assert flops(model__remat="block") == plain
    assert flops(loss__grad_cache=4) == plain
    assert count_compilations() == before
    # 64 rows of 16 tokens, width 64: per weight and token 2 FLOPs forward, 4 backward; patches have no image gradient.
    rows, tokens, width = 64, 64 * 16, 64
    blocks = tokens * 4 * (6 * 12 * width**2 + 6 * 2 * 16 * width)
    patches = tokens * 4 * 192 * width
    head = rows * 6 * (width * 16 + 16 * 16)
    loss = rows * rows * (6 * 16 + 2 * 12)
    again = rows * rows * 2 * (16 + 12) if devices == 1 else 0  # how rows pull is of a second comparison, on one device
    assert plain == pytest.approx(blocks + patches + head + loss + again, rel=0.02)
    assert np.isfinite(plain)


def test_the_kernel_of_attention_on_tpus_is_no_more_work():
    pytest.importorskip("libtpu")
    from xsample_jax.topology import topology_devices

    config = tiny_config(model__encoder="vit_ti", model__head__batch_norm=False, precision__compute="bfloat16")
    on = [model_flops(tiny_parts(config, devices[:1])) for devices in (jax.devices(), topology_devices("v5e:2x2"))]
    assert on[0] == on[1]


def test_clusters_that_are_renewed_now_and_then_cost_a_step_no_more_than_those_of_a_file():
    def flops(**changes):
        config = tiny_config(objective__preset="pcl", model__encoder="mlp1", model__width=8, **changes)
        parts = tiny_parts(config, jax.devices()[:1])
        return model_flops(dataclasses.replace(parts, facts=dataclasses.replace(parts.facts, clusters=(2, 16))))

    assert flops(objective__clusters__k=(8, 16)) == pytest.approx(flops(), rel=0.01)
