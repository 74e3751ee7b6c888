"""The Pallas kernels of the streaming loss: the values of XLA's tiles, and code for real TPUs."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from tests.objectives.streamed_rows import streaming_rows
from tests.objectives.test_streaming_mesh import CASES, XCLR, batch, loss_and_gradient
from xsample_jax.graphs.sources import SOURCES
from xsample_jax.objectives.streaming.tiles import images_of_tile
from xsample_jax.sharding import batch_sharding, make_mesh
from xsample_jax.topology import topology_devices

KERNELS = {"kernel": "pallas", "cosine_of": "caption_embedding"}


def run(devices, images, **options):
    mesh = make_mesh(ConfigDict({"data": -1, "fsdp": 1, "tensor": 1}), images, jax.devices()[:devices])
    arrays = batch(images)
    # Two labels, an image without one, and images that are the same: what the metrics tell apart.
    arrays["side"] |= {"label": np.r_[-1, np.arange(images - 1) % 2].astype(np.int32)}
    arrays["side"] |= {"id": np.r_[1, np.arange(1, images)].astype(np.int32)}
    arrays = jax.device_put(arrays, batch_sharding(mesh))
    return jax.device_get(loss_and_gradient(mesh, **(XCLR | options))(arrays))


@pytest.mark.parametrize(
    ("devices", "options"),
    [
        (1, {}),
        (2, {"collective": "gather"}),
        (2, {"collective": "ring", "comm_dtype": "bfloat16", "caption_comm_dtype": "int8"}),
    ],
    ids=["one device", "gathered", "ring of rounded rows"],
)
def test_equal_to_the_tiles_of_xla(devices, options):
    """256 images in tiles of 128: pairs of tiles on and beside the diagonal, on either device."""
    images = 256 * devices
    expected, expected_gradient = run(devices, images, block_size=64, **options)
    found, gradient = run(devices, images, block_size=256, **options, **KERNELS)
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-6)
    for name, value in expected[1].items():
        np.testing.assert_allclose(found[1][name], value, rtol=2e-6, err_msg=name)
    for mine, theirs in zip(gradient, expected_gradient):
        assert np.linalg.norm(mine - theirs) <= 3e-6 * np.linalg.norm(theirs)


def test_says_what_it_cannot_do():
    with pytest.raises(ValueError, match="not the softmax of cosines"):
        run(1, 16, kernel="pallas")
    with pytest.raises(ValueError, match=r"stay above 0\.025"):
        run(1, 16, temperature=0.01, **KERNELS)
    with pytest.raises(ValueError, match="anchors are not its keys"):
        run(1, 16, **CASES["two towers"], **KERNELS)
    with pytest.raises(ValueError, match="24 images per device"):
        run(1, 24, block_size=32, **KERNELS)
    with pytest.raises(ValueError, match="expected auto, pallas or xla"):
        run(1, 16, kernel="triton")


def test_images_of_a_tile():
    assert images_of_tile(64, 512) == 64
    assert images_of_tile(20, 512) is None
    assert images_of_tile(4096, 512) == 512
    assert images_of_tile(1280, 512) == 256
    assert images_of_tile(1000, 512) is None


@pytest.mark.parametrize(("topology", "tiles"), [("v5e:2x2", "auto"), ("v5e:2x2", "xla"), ("v6e:2x2", "auto")])
def test_compiles_for_tpus(topology, tiles):
    """auto takes the kernels there, and they fit the fast memory: too much of it would be an error."""
    pytest.importorskip("libtpu")
    mesh = make_mesh(ConfigDict({"data": -1, "fsdp": 1, "tensor": 1}), 1024, topology_devices(topology))

    def loss(z, side, tau):
        form = {"source": SOURCES["caption"], "normalizer": "softmax", "target_temperature": 0.1}
        form |= {"kernel": tiles, "cosine_of": "caption_embedding", "lowest_temperature": 0.03}
        return streaming_rows(z, None, side, None, temperature=tau, views=2, mesh=mesh, **form)["loss"].mean()

    def shape(dims, dtype):
        return jax.ShapeDtypeStruct(dims, dtype, sharding=batch_sharding(mesh))

    images = 256 * mesh.size
    side = {"id": shape((images,), jnp.int32), "caption_embedding": shape((images, 768), jnp.float16)}
    tau = jax.ShapeDtypeStruct((), jnp.float32)
    program = jax.jit(jax.grad(loss)).lower(shape((2 * images, 128), jnp.float32), side, tau).compile()
    kernels = set(re.findall(r"%(\w+)[.\d]* = .*custom_call_target=\"tpu_custom_call\"", program.as_text()))
    assert kernels == ({"xclr_sums", "xclr_gradient"} if tiles == "auto" else set())
