"""What does not depend on the machine, held to its target at small sizes. Times never are."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh

from benchmarks import augment_jit, comm_bytes, decode, grad_comm, loss_classtable, loss_exact, loss_forms, loss_memory
from benchmarks.prepare_cpu import photograph
from xsample_jax.augment.views import make_views


def test_scratch_of_the_loss_does_not_grow_with_the_rows():
    form = functools.partial(loss_forms.streaming, block_size=256)
    few, many = (loss_memory.scratch(form, rows) for rows in (1024, 4096))
    assert many <= 1.2 * few
    assert loss_memory.scratch(loss_forms.naive, 4096) > 48 * many


def test_the_loss_receives_little():
    mesh = Mesh(np.array(jax.devices()), ("data",), axis_types=(AxisType.Auto,))
    how = {"comm_dtype": "bfloat16", "caption_comm_dtype": "int8", "block_size": 64}
    ours = functools.partial(loss_forms.streaming, mesh=mesh, **how)
    peer = functools.partial(comm_bytes.open_clip_like, mesh=mesh, per_row=True)
    assert comm_bytes.received(ours, mesh, 512) <= 0.2 * comm_bytes.received(peer, mesh, 512)


def test_the_loss_is_exact():
    found = loss_exact.compare(512)
    assert len(found) == 18
    assert not [str(one) for one in found if not one.passed]


def test_the_class_table_saves_a_hundredfold():
    assert loss_classtable.target_flops(65_536, 1000).passed
    assert not loss_classtable.target_flops(1024, 1000).passed  # there are more classes than images


def test_augmentation_stays_cheap():
    flops, moved = augment_jit.cost_of_a_view(2, 256, 224)
    assert 100e6 < flops <= augment_jit.FLOPS_PER_VIEW  # two resizes and a blur alone are above 100 MFLOP
    assert moved <= 1.1 * augment_jit.BYTES_PER_VIEW  # two images share what a view needs once


def test_the_count_is_that_of_one_view():
    augment = augment_jit.simclr_augmentation(32)
    shapes = jax.ShapeDtypeStruct((4, 40, 40, 3), jnp.uint8), jax.ShapeDtypeStruct((4,), jnp.int32)

    def flops(views):
        program = jax.jit(lambda image, ids: make_views(image, ids, 0, 0, augment, views))
        return program.lower(*shapes).compile().cost_analysis()["flops"]

    assert flops(2) < 1.5 * flops(1)  # a loop's body counts once: why the benchmark asks for one view


HLO = """
  %g = (f32[100,50]{1,0}, f32[300]{0}) all-reduce(f32[100,50]{1,0} %a, f32[300]{0} %b), to_apply=%add
  %h = bf16[100,47]{1,0} all-reduce(bf16[100,47]{1,0} %c), to_apply=%add
  %m = f32[4]{0} all-reduce(f32[4]{0} %d), to_apply=%add
  %z = f32[9000]{0} all-gather(f32[1125]{0} %e), dimensions={0}
"""


def test_reductions_of_the_gradient_are_told_from_those_of_metrics():
    assert grad_comm.gradient_reductions(HLO, 10_000) == [4 * 5300, 2 * 4700]


@pytest.mark.parametrize("what", decode.TARGETS)
def test_all_decoders_give_the_same_image(what):
    data = photograph(0, 120, 90)
    ways = decode.ways(opencv=False)[what]
    ours, pillow = (np.asarray(form(data), np.int16) for form in ways.values())
    assert ours.shape == pillow.shape
    assert np.abs(ours - pillow).mean() <= decode.NEAR[what]
    assert np.abs(ours - ours[::-1]).mean() > 10  # the image is none that anything would pass for
