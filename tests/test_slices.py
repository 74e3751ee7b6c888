"""Train steps compiled for TPU slices by the TPU compiler: what a chip holds, and what travels between chips."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.objectives.streamed_rows import lowered_loss
from tests.tiny import tiny_config
from xsample_jax.config import load_config
from xsample_jax.errors import ConfigError
from xsample_jax.models import resnet, vit
from xsample_jax.objectives.bank import clusters_of, remember, renew_clusters
from xsample_jax.reports.dry_run import collective_arrays, compiled_report, dry_run, placeholder_setup
from xsample_jax.sharding import bytes_per_device, make_mesh
from xsample_jax.topology import topology_devices

ROOT = pathlib.Path(__file__).parent.parent

pytest.importorskip("libtpu")

PLAIN = {"augment__crop_scale": (), "augment__jitter": 0.0, "augment__gray": 0.0, "model__conv_impl": "conv"}
QUICK = {"exec_time_optimization_effort": -1.0}


@pytest.fixture(autouse=True)
def _one_block(monkeypatch):
    monkeypatch.setitem(resnet.LAYOUTS, 18, (resnet.BasicBlock, (1,)))
    monkeypatch.setitem(vit.VARIANTS, "ti", vit.Shape(192, 1, 3))


def compiled(config, topology):
    parts = placeholder_setup(config, topology_devices(topology))
    return parts, parts.train_step.lower(parts.abstract_state, parts.abstract_batch).compile(compiler_options=QUICK)


@pytest.mark.parametrize(
    ("topology", "config"),
    [
        ("v4:2x2x4", "baselines/simclr"),
        ("v5p:4x4x8", "baselines/clip"),
        ("v6e:16x16", "baselines/supcon"),
        ("tpu7x:2x2x1", "imagenet"),
        ("2xv5e:4x4", "quickstart"),
    ],
)
def test_the_step_compiles_for_every_generation(topology, config):
    """With the small encoder of the smoke variants; test_dry_run.py compiles cc12m for v5e, which differs from cc3m in
    its data alone."""
    changes = {f"augment.{name}": 0.0 for name in ("jitter", "gray", "blur")}
    changes |= {"augment.crop_scale": "()", "model.conv_impl": "conv", "precision.compute": "bfloat16"}
    changes |= {"batch_size": 4 * len(topology_devices(topology))}
    overrides = [f"--config.{name}={value}" for name, value in changes.items()]
    parts, program = compiled(load_config(str(ROOT / "configs" / f"{config}.py:smoke"), overrides), topology)
    found = collective_arrays(program.as_text())
    rows = 2 * parts.config.batch_size
    for op, dtype, shape in (array for arrays in found for array in arrays):
        assert sum(size in (rows, rows // 2) for size in shape) < 2, (op, dtype, shape)  # no N x N array travels
    # The gradients of all convolutions in one collective, in the type of the activations; a second one between slices.
    elements = sum(leaf.size for leaf in parts.abstract_state.params.values() if leaf.ndim == 4)
    sizes = [sum(np.prod(shape, dtype=int) for _, dtype, shape in arrays if dtype == "bf16") for arrays in found]
    assert 1 <= sum(size >= elements for size in sizes) <= (2 if topology.startswith("2x") else 1)
    assert sum(sizes) < 2.5 * sum(leaf.size for leaf in parts.abstract_state.params.values())  # and nothing else


def test_an_axis_may_take_a_part_of_a_dimension_of_the_slice():
    for topology in ("v5e:8x8", "2xv5e:8x8", "v5p:4x4x8"):
        devices = topology_devices(topology)
        config = tiny_config(batch_size=len(devices), mesh__fsdp=16, mesh__tensor=2)
        mesh = make_mesh(config.mesh, config.batch_size, devices)
        assert dict(mesh.shape) == {"data": len(devices) // 32, "fsdp": 16, "tensor": 2}
        assert {device.id for device in mesh.devices.flat} == {device.id for device in devices}


def test_slices_are_the_outermost_part_of_the_data_axis():
    config = tiny_config(batch_size=64, mesh__fsdp=4)
    mesh = make_mesh(config.mesh, config.batch_size, topology_devices("2xv5e:4x4"))
    assert dict(mesh.shape) == {"data": 8, "fsdp": 4, "tensor": 1}
    slices = [{device.slice_index for device in row.flat} for row in mesh.devices]
    assert slices == [{0}] * 4 + [{1}] * 4
    with pytest.raises(ConfigError, match=r"mesh\.data = 1: expected a multiple of the 2 slices"):
        make_mesh(tiny_config(mesh__fsdp=32).mesh, 64, topology_devices("2xv5e:4x4"))


def test_the_state_of_a_chip_falls_with_fsdp_and_travels_in_parts():
    vit = {"model__encoder": "vit_ti", "model__patch_size": 8, "batch_size": 128, **PLAIN}
    whole = placeholder_setup(tiny_config(**vit), topology_devices("v5e:2x4"))
    for topology, fsdp in (("v5e:2x4", 8), ("v5e:4x8", 32)):
        parts = placeholder_setup(tiny_config(mesh__fsdp=fsdp, **vit), topology_devices(topology))
        share = bytes_per_device(parts.abstract_state) / bytes_per_device(whole.abstract_state)
        assert share < 1.1 / fsdp + 0.02  # small parameters stay whole
    parts, program = compiled(tiny_config(mesh__fsdp=8, **vit), "v5e:2x4")
    report = compiled_report(program)
    state, batch = bytes_per_device(parts.abstract_state), bytes_per_device(parts.abstract_batch)
    assert report.arguments < 1.5 * (state + batch)
    whole_gradient = sum(leaf.size for leaf in parts.abstract_state.params.values())
    largest = max(np.prod(shape, dtype=int) for arrays in collective_arrays(program.as_text()) for *_, shape in arrays)
    assert largest < whole_gradient / 2  # layer by layer


def scratch_of_loss(topology, images, **options):
    program = lowered_loss(topology_devices(topology), images, **options).compile(compiler_options=QUICK)
    return program.memory_analysis().temp_size_in_bytes, collective_arrays(program.as_text())


def test_scratch_of_the_streaming_loss_falls_with_the_chips():
    images = 2**19  # a million rows: gathered they would take 1.3 GiB a chip
    few, _ = scratch_of_loss("v5e:2x4", images, collective="ring", block_size=512)
    many, _ = scratch_of_loss("v5e:8x8", images, collective="ring", block_size=512)
    assert many < few / 8 + 8 * 2**20


def test_a_bank_of_imagenet_falls_with_the_chips_and_stays_where_it_is():
    """1.28 M rows of 128 in bfloat16 and 1,000 clusters of them: of rows, only those of a batch travel."""
    config = tiny_config(
        objective__preset="cluster_dcl", objective__clusters__k=(1000,), objective__bank__dtype="bfloat16",
        model__head__dim=128, batch_size=512, **PLAIN,
    )  # fmt: skip
    few, many = (placeholder_setup(config, topology_devices(topology)) for topology in ("v5e:2x4", "v5e:8x8"))
    memory, clusters = few.abstract_state.memory, few.objective.clusters
    assert bytes_per_device(memory) == 1_282_048 * (2 * 128 + 4) // 8
    assert bytes_per_device(many.abstract_state.memory) == bytes_per_device(memory) // 8

    def step(memory, batch, z, step):
        memory = renew_clusters(clusters, memory, step, jax.random.key(0), few.mesh)
        return memory | remember(memory, batch, z, 0.5), clusters_of(memory, batch, clusters)

    of_batch = {"index": jax.ShapeDtypeStruct((512,), jnp.int32)}, jax.ShapeDtypeStruct((512, 128), jnp.float32)
    places = {name: leaf.sharding for name, leaf in memory.items()}
    program = jax.jit(step, out_shardings=(places, None), donate_argnums=0)
    lowered = program.lower(memory, *of_batch, jax.ShapeDtypeStruct((), jnp.int32))
    found = collective_arrays(lowered.compile(compiler_options=QUICK).as_text())
    sizes = [np.prod(shape, dtype=int) for arrays in found for *_, shape in arrays]
    assert 1000 * 130 in sizes  # sums of clusters
    assert max(sizes) == 1_282_048  # one number of every row, for the first centers


def test_embeddings_and_captions_travel_in_the_types_of_the_config():
    images = 4096
    _, found = scratch_of_loss("v5e:2x4", images, comm_dtype="bfloat16", caption_comm_dtype="int8")
    large = {(op, dtype, shape) for arrays in found for op, dtype, shape in arrays if np.prod(shape) > 4 * images}
    assert large == {("all-gather", "u16", (2 * images, 128)), ("all-gather", "s8", (images, 768))}


def test_a_step_that_does_not_fit_comes_with_advice():
    config = tiny_config(batch_size=2**22, **PLAIN)
    with pytest.raises(ConfigError, match=r"(?s)v5e:2x4.*memory.*precision\.compute.*model\.remat=block.*batch_size"):
        dry_run(config, topology="v5e:2x4")


@pytest.mark.usefixtures("linear_encoder")
def test_a_limit_on_the_memory_of_a_device_is_kept():
    with pytest.raises(ConfigError, match=r"mesh\.memory_limit = 0\.001.*GiB.*compute=bfloat16.*batch_size"):
        dry_run(tiny_config(mesh__memory_limit=0.001, **PLAIN), topology="v5e:2x4")
