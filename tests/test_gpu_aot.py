"""Train steps compiled for GPUs by the GPU compiler, without one: memory, types, library calls, what travels.

`make test-gpu-aot` installs the compiler; where it is missing, what compiles is skipped.
"""

import re

import numpy as np
import pytest

from tests.objectives.streamed_rows import lowered_loss
from tests.tiny import tiny_config
from xsample_jax.errors import ConfigError
from xsample_jax.reports.dry_run import collective_arrays, compiled_report, dry_run, placeholder_setup
from xsample_jax.sharding import bytes_per_device
from xsample_jax.topology import CARDS, compiler_options, gpu_memory, is_topology, topology_devices

pytestmark = pytest.mark.usefixtures("shallow_resnet18", "shallow_vit")

PLAIN = {
    "augment__crop_scale": (),
    "augment__jitter": 0.0,
    "augment__gray": 0.0,
    "precision__compute": "bfloat16",
}


@pytest.fixture
def gpu_compiler():
    pytest.importorskip("jax_cuda12_plugin")


def compiled(topology, **changes):
    devices = topology_devices(topology)
    parts = placeholder_setup(tiny_config(**PLAIN | changes), devices)
    lowered = parts.train_step.lower(parts.abstract_state, parts.abstract_batch)
    return parts, lowered.compile(compiler_options=compiler_options(devices))


def convolutions(text):
    """The types of the result and, by their definitions, of the operands of every call of cuDNN."""
    types = dict(re.findall(r"%(\S+) = \(?(\w+)\[", text))
    for result, operands in re.findall(r"= \((\w+)\[.*?custom-call\((.*?)\).*?__cudnn\$conv", text):
        yield result, *(types[name.strip().lstrip("%")] for name in operands.split(","))


def test_names_of_gpus():
    for name in ("h100x8", "a100x1", "4xh200x8", "b200x72", "v5e:4x4", "2xv5e:4x4"):
        assert is_topology(name), name
    for name in ("h100", "h100x0", "x100x8", "h100:8", "0xh100x8", "h100x8x4"):
        assert not is_topology(name), name
    with pytest.raises(ConfigError, match=r"--topology = 'rtx4090x1': expected one of a100, h100, h200, b200"):
        topology_devices("rtx4090x1")


def test_jax_takes_a_part_of_the_memory(monkeypatch):
    monkeypatch.delenv("XLA_PYTHON_CLIENT_MEM_FRACTION", raising=False)
    assert gpu_memory("2xh200x8") == (151397597184, 0.75)
    monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", ".92")
    assert gpu_memory("h100x1") == (84942979072, 0.92)
    assert gpu_memory("v5e:4x4") is None


@pytest.mark.usefixtures("gpu_compiler")
@pytest.mark.parametrize("card", CARDS)
def test_every_card_is_known_to_the_compiler(card):
    devices = topology_devices(f"2x{card}x4")
    assert len(devices) == 8
    assert {device.platform for device in devices} == {"gpu"}
    assert {device.device_kind for device in devices} == {CARDS[card].name}


@pytest.mark.slow
@pytest.mark.usefixtures("gpu_compiler")
@pytest.mark.parametrize("topology", ["h100x1", "h100x8"])
@pytest.mark.parametrize("encoder", ["resnet18", "vit_ti"])
def test_the_step_compiles_for_gpus(topology, encoder):
    parts, program = compiled(topology, model__encoder=encoder, model__patch_size=8, batch_size=64)
    text, report = program.as_text(), compiled_report(program)
    held = bytes_per_device(parts.abstract_state) + bytes_per_device(parts.abstract_batch)
    assert held <= report.arguments < 1.5 * held
    if encoder == "resnet18":
        found = list(convolutions(text))
        assert len(found) == sum(count for name, count in report.library_calls.items() if "conv" in name) >= 17
        assert {kind for one in found for kind in one} == {"bf16"}  # none in float32
    else:
        assert report.library_calls["cublas lt matmul"] >= 20
    arrays = [array for collective in collective_arrays(text) for array in collective]
    if topology == "h100x1":
        assert not arrays
        return
    rows = 2 * parts.config.batch_size
    for op, dtype, shape in arrays:
        assert sum(size in (rows, rows // 2) for size in shape) < 2, (op, dtype, shape)  # no N x N array travels
    # The gradients of all layers in one reduction, in the type of the activations.
    elements = sum(leaf.size for leaf in parts.abstract_state.params.values() if leaf.ndim == 4 or encoder == "vit_ti")
    reduced = [sum(np.prod(shape, dtype=int) for op, dtype, shape in one if dtype == "bf16") for one in
               collective_arrays(text)]  # fmt: skip
    assert sum(size > 0.9 * elements for size in reduced) == 1


def loss_program(topology, images, **options):
    devices = topology_devices(topology)
    return lowered_loss(devices, images, **options).compile(compiler_options=compiler_options(devices))


@pytest.mark.slow
@pytest.mark.usefixtures("gpu_compiler")
def test_the_streaming_loss_keeps_no_matrix_of_pairs():
    """65,536 rows: dense, float32 logits alone would take 17 GiB of one GPU, and 2 GiB of each of eight."""
    images = 2**15
    one, eight = (loss_program(topology, images) for topology in ("h100x1", "h100x8"))
    assert one.memory_analysis().temp_size_in_bytes < 2**30
    assert eight.memory_analysis().temp_size_in_bytes < 2**29
    for program in (one, eight):
        shapes = re.findall(r"\w+\[([\d,]+)\]", program.as_text())
        pairs = [shape for shape in set(shapes) if sum(int(size) >= images // 8 for size in shape.split(",")) > 1]
        assert pairs == []


@pytest.mark.slow
@pytest.mark.usefixtures("gpu_compiler")
def test_embeddings_and_captions_travel_in_the_types_of_the_config():
    images = 4096
    program = loss_program("h100x8", images, comm_dtype="bfloat16", caption_comm_dtype="int8")
    found = [array for arrays in collective_arrays(program.as_text()) for array in arrays]
    large = {(op, dtype, shape) for op, dtype, shape in found if np.prod(shape) > 4 * images}
    assert large == {("all-gather", "u16", (2 * images, 128)), ("all-gather", "s8", (images, 768))}


@pytest.mark.slow
@pytest.mark.usefixtures("gpu_compiler")
def test_a_dry_run_describes_gpus_and_refuses_what_they_cannot_hold(capsys, monkeypatch):
    config = tiny_config(**PLAIN, batch_size=64)
    report = dry_run(config, topology="4xh100x8")
    text = capsys.readouterr().out
    assert "GPUs 4xh100x8: 32 devices, NVIDIA H100 80GB HBM3" in text
    assert re.search(r"library calls: .*\d cudnn convForward", text)
    assert report.flops == 0
    assert "FLOPs per step" not in text  # not counted by this compiler
    monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.00001")
    with pytest.raises(
        ConfigError, match=r"mesh\.topology = '4xh100x8': expected GPUs that hold the .*jax takes 0% of"
    ):
        dry_run(config, topology="4xh100x8")
