"""The streaming loss on meshes: same values on 1, 2 and 8 devices, and what travels between them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from tests.objectives.streamed_rows import streaming_rows
from xsample_jax.graphs.sources import SOURCES
from xsample_jax.reports.dry_run import collectives
from xsample_jax.sharding import batch_sharding, make_mesh

IMAGES, VIEWS, WIDTH, CAPTION_WIDTH = 24, 2, 16, 12


def mesh_of(devices, fsdp=1):
    return make_mesh(ConfigDict({"data": -1, "fsdp": fsdp, "tensor": 1}), 24, jax.devices()[:devices])


def unit(x):
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


def batch(images=IMAGES, width=WIDTH, caption_width=CAPTION_WIDTH, spread=1.0):
    rng = np.random.default_rng(0)
    side = {
        "id": np.arange(images, dtype=np.int32),
        "label": (np.arange(images) // 5).astype(np.int32),
        "caption_embedding": unit(rng.normal(size=(images, caption_width))).astype(np.float16),
    }
    z, y = unit(spread * rng.normal(size=(images * VIEWS, width)) + 1), unit(rng.normal(size=(images, width)))
    return {"z": z, "y": y, "side": side}


def loss_and_gradient(mesh, *, towers, source, normalizer, temperature, block_size=8, **distribution):
    def loss(z, y, tau, side):
        values = streaming_rows(
            z,
            y if towers else None,
            side,
            side if towers else None,
            source=source,
            normalizer=normalizer,
            temperature=tau,
            lowest_temperature=temperature,
            target_temperature=0.1,
            views=VIEWS,
            block_size=block_size,
            mesh=mesh,
            **distribution,
        )
        count = jnp.maximum(values["counted"].sum(), 1)
        return values["loss"].sum() / count, {name: value.mean() for name, value in values.items()}

    def program(arrays):
        return jax.value_and_grad(loss, (0, 1, 2), has_aux=True)(
            arrays["z"], arrays["y"], jnp.float32(temperature), arrays["side"]
        )

    return jax.jit(program)


def run(devices, fsdp=1, **options):
    mesh = mesh_of(devices, fsdp) if devices else None
    arrays = jax.device_put(batch(), batch_sharding(mesh)) if devices else batch()
    return jax.device_get(loss_and_gradient(mesh, **options)(arrays))


def one_way(u, v):
    """A graph that is not symmetric: the label of the anchor scales its similarities."""
    return SOURCES["caption"](u, v) / (1 + u["label"][:, None])


XCLR = {"towers": False, "source": SOURCES["caption"], "normalizer": "softmax", "temperature": 0.1}
CLIP = {"towers": True, "source": SOURCES["identity"], "normalizer": "row_sum", "temperature": 0.07}
CASES = {
    "xclr": XCLR,
    "supcon, low temperature": XCLR | {"source": SOURCES["label"], "normalizer": "row_sum", "temperature": 0.01},
    "two towers": CLIP | {"source": one_way, "normalizer": "softmax"},
}


@pytest.mark.parametrize("exchange", ["gather", "ring"])
@pytest.mark.parametrize(("case", "devices", "fsdp"), [("xclr", 2, 1), *((case, 8, 2) for case in CASES)])
def test_the_number_of_devices_does_not_matter(case, devices, fsdp, exchange):
    (value, metrics), gradient = run(0, **CASES[case])  # no mesh: the program of test_streaming.py
    (other_value, other_metrics), other_gradient = run(devices, fsdp, collective=exchange, **CASES[case])
    assert other_value == pytest.approx(float(value), rel=1e-6)
    for name in metrics:
        assert other_metrics[name] == pytest.approx(float(metrics[name]), rel=1e-6, abs=1e-6), name
    for expected, got in zip(gradient, other_gradient):
        np.testing.assert_allclose(got, expected, atol=1e-6 * np.abs(expected).max() / CASES[case]["temperature"])


def compiled(devices, images, width=128, caption_width=256, **options):
    mesh = mesh_of(devices, 2 if devices > 1 else 1)
    sharding = batch_sharding(mesh)
    shapes = {
        "z": ((images * VIEWS, width), jnp.float32),
        "y": ((images, width), jnp.float32),
        "side": {
            "id": ((images,), jnp.int32),
            "label": ((images,), jnp.int32),
            "caption_embedding": ((images, caption_width), jnp.float16),
        },
    }
    arrays = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(*x, sharding=sharding), shapes, is_leaf=lambda x: isinstance(x, tuple)
    )
    return loss_and_gradient(mesh, **{"block_size": 1024} | options).lower(arrays).compile()


def bytes_of(compiled_program):
    return {(c.op, c.dtype): c.bytes for c in collectives(compiled_program.as_text())}


@pytest.mark.parametrize("wire", ["float32", "bfloat16"])
def test_what_travels(wire):
    images, width, caption_width = 2048, 128, 256
    rows = images * VIEWS
    found = bytes_of(compiled(8, images, comm_dtype=wire, **XCLR))
    # Scalars of the mean are reduced, nothing else: no [N, D] gradient.
    assert {op for op, _ in found} == {"all-gather", "all-reduce"}
    assert sum(size for (op, _), size in found.items() if op == "all-reduce") < 100
    two_numbers, captions = 2 * 4 * rows, 2 * images * caption_width  # captions once per image, in float16
    if wire == "float32":
        assert found["all-gather", "f32"] == 4 * rows * width + two_numbers
        assert found["all-gather", "u16"] == captions
    else:
        assert found["all-gather", "f32"] == two_numbers
        assert found["all-gather", "u16"] == 2 * rows * width + captions


def test_what_travels_for_two_towers():
    images, width = 2048, 128
    found = bytes_of(compiled(8, images, **CLIP))
    assert {op for op, _ in found} == {"all-gather", "all-reduce"}
    assert sum(size for (op, _), size in found.items() if op == "all-reduce") < 100
    assert found["all-gather", "f32"] == 4 * width * images * (VIEWS + 1) + 2 * 4 * images * VIEWS
    assert ("all-gather", "u16") not in found  # identities need no captions


@pytest.mark.parametrize("wire", ["float16", "int8"])
def test_what_travels_around_the_ring(wire):
    """Embeddings and captions of one device's rows in each of two loops, nothing that is as long as all rows."""
    images, width, caption_width, devices = 2048, 128, 256, 8
    found = bytes_of(compiled(devices, images, collective="ring", caption_comm_dtype=wire, **XCLR))
    assert {op for op, _ in found} == {"collective-permute", "all-reduce"}
    assert sum(size for (op, _), size in found.items() if op == "all-reduce") < 100
    rows, own = images * VIEWS // devices, images // devices
    assert found["collective-permute", "f32"] == 2 * 4 * rows * width + 2 * 4 * rows  # and two numbers per row
    dtype, size = ("u16", 2) if wire == "float16" else ("s8", 1)
    assert found["collective-permute", dtype] == 2 * size * own * caption_width


def test_scratch_memory_is_tiles_and_what_was_gathered():
    for images in (4096, 32768):
        temporaries = compiled(8, images, collective="gather", **XCLR).memory_analysis().temp_size_in_bytes
        gathered = images * (VIEWS * 128 * 4 + 256 * 2 + VIEWS * 2 * 4 + 2 * 4)
        assert temporaries <= 1.1 * gathered + 16 * 2**20


def test_scratch_memory_falls_with_the_number_of_devices_on_a_ring():
    """Of the same batch: what is not tiles, which are as large on any number of devices, is 1/n."""
    images, scratch = 32768, {}
    for devices in (2, 8):
        program = compiled(devices, images, collective="ring", block_size=64, **XCLR)
        scratch[devices] = program.memory_analysis().temp_size_in_bytes
    assert scratch[8] <= scratch[2] / 4 + 2**20
    own = images // 8 * (VIEWS * 128 * 4 + 256 * 2 + VIEWS * 2 * 4)  # a device's rows: its own, a visitor, the next
    assert scratch[8] <= 4 * own + 2**20


def test_auto_takes_the_ring_when_what_is_gathered_is_large():
    large, small = (1 << 19, 1 << 10)
    assert ("collective-permute", "f32") in bytes_of(compiled(8, large, **XCLR))
    assert ("collective-permute", "f32") not in bytes_of(compiled(8, small, **XCLR))


def test_captions_in_8_bits_keep_the_graph():
    expected, gradient = run(8, caption_comm_dtype="float16", **XCLR)
    got, other = run(8, caption_comm_dtype="int8", **XCLR)
    one_device, _ = run(1, caption_comm_dtype="int8", **XCLR)
    assert got[0] == pytest.approx(float(one_device[0]), rel=1e-6)  # rounded on any number of devices
    assert 0 < abs(got[0] - expected[0]) < 5e-3 * expected[0]
    error = np.linalg.norm(other[0] - gradient[0]) / np.linalg.norm(gradient[0])
    assert 1e-6 < error < 2e-2


def test_float32_side_information_is_rounded_on_any_number_of_devices():
    arrays = batch()
    arrays["side"]["caption_embedding"] = arrays["side"]["caption_embedding"].astype(np.float32) * 1.0001
    values = [
        float(loss_and_gradient(mesh_of(n), **XCLR)(jax.device_put(arrays, batch_sharding(mesh_of(n))))[0][0])
        for n in (1, 8)
    ]
    assert values[0] == pytest.approx(values[1], rel=1e-6)


def grouped_by_hand(groups, case):
    """The loss within each group of images by itself, on one device: the mean of independent losses."""
    arrays, values, slopes = batch(), [], []
    for images in np.split(np.arange(IMAGES), groups):
        rows = (images[:, None] * VIEWS + np.arange(VIEWS)).reshape(-1)
        part = {"z": arrays["z"][rows], "y": arrays["y"][images]}
        part["side"] = {name: value[images] for name, value in arrays["side"].items()}
        (value, _), slope = loss_and_gradient(None, **case)(part)
        values.append(float(value))
        slopes.append(slope)
    return np.mean(values), [np.concatenate([slope[which] for slope in slopes]) / groups for which in (0, 1)]


@pytest.mark.parametrize(
    ("case", "groups", "exchange"),
    [(CLIP, 2, "gather"), (CLIP, 8, "gather"), (CLIP, 4, "ring"), (XCLR, 4, "gather"), (XCLR, 2, "ring")],
)
def test_groups_of_devices_are_losses_of_their_own(case, groups, exchange):
    """M2-Encoder: the mean of independent losses, with its gradient in both towers."""
    (value, _), gradient = run(8, 2, collective=exchange, groups=groups, **case)
    expected, slopes = grouped_by_hand(groups, case)
    assert value == pytest.approx(expected, rel=1e-6)
    for got, wanted in zip(gradient[:2], slopes, strict=True):
        np.testing.assert_allclose(got, wanted, atol=2e-6 * max(np.abs(wanted).max(), 1e-6) / 0.07)


def test_what_travels_falls_with_the_number_of_groups():
    """The compiled collectives run within the groups: their results are a group's rows."""
    images, width = 2048, 128
    for groups in (1, 2, 4):
        found = bytes_of(compiled(8, images, groups=groups, **CLIP))
        assert {op for op, _ in found} == {"all-gather", "all-reduce"}
        expected = (4 * width * images * (VIEWS + 1) + 2 * 4 * images * VIEWS) // groups
        assert found["all-gather", "f32"] == expected
    ring = bytes_of(compiled(8, images, collective="ring", groups=4, **CLIP))
    assert {op for op, _ in ring} == {"collective-permute", "all-reduce"}
