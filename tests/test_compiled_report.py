import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from xsample_jax.reports.dry_run import collectives, compiled_report, describe
from xsample_jax.sharding import make_mesh

HLO = """
  %ar = f32[128,4]{1,0} all-reduce(f32[128,4]{1,0} %x), replica_groups={}
  %ag = (bf16[8,16]{1,0}, bf16[64,16]{1,0}) all-gather-start(bf16[8,16]{1,0} %y), dimensions={0}
  %agd = bf16[64,16]{1,0} all-gather-done((bf16[8,16]{1,0}, bf16[64,16]{1,0}) %ag)
  %two = (f32[10]{0}, f32[20]{0}) all-reduce(f32[10]{0} %a, f32[20]{0} %b), to_apply=%add
"""


def test_collectives_are_counted_once_with_their_bytes():
    found = {(c.op, c.dtype): (c.count, c.bytes) for c in collectives(HLO)}
    assert found == {("all-reduce", "f32"): (2, 128 * 4 * 4 + 30 * 4), ("all-gather", "bf16"): (1, 64 * 16 * 2)}


COMBINED = """
  %ags = ((u16[8,4]{1,0}, s8[4,9]{1,0}), (u16[64,4]{1,0}, s8[32,9]{1,0})) all-gather-start(%z, %c), dimensions={0}
  %agd = (u16[64,4]{1,0}, s8[32,9]{1,0}) all-gather-done(%ags)
  %ars = (bf16[10]{0}, f32[20]{0}) all-reduce-start(%a, %b), to_apply=%add
"""


def test_combined_collectives_are_counted_by_their_types():
    """As the GPU compiler writes them: the operands of a combined start are a tuple of their own."""
    found = {(c.op, c.dtype): (c.count, c.bytes) for c in collectives(COMBINED)}
    gathered = {("all-gather", "u16"): (1, 64 * 4 * 2), ("all-gather", "s8"): (1, 32 * 9)}
    assert found == gathered | {("all-reduce", "bf16"): (1, 20), ("all-reduce", "f32"): (1, 80)}


def test_report_of_a_real_program():
    mesh = make_mesh(ConfigDict({"data": 8, "fsdp": 1, "tensor": 1}), 8)
    rows = jax.ShapeDtypeStruct((64, 32), jnp.float32, sharding=NamedSharding(mesh, PartitionSpec("data")))
    compiled = jax.jit(lambda x: (x @ x.T).sum()).lower(rows).compile()
    report = compiled_report(compiled)
    assert report.arguments == 64 * 32 * 4 // 8
    assert report.flops == pytest.approx(2 * 64 * 64 * 32 / 8, rel=0.1)
    assert {c.op for c in report.collectives} >= {"all-reduce"}
    assert "all-gather" in describe(report, "device") or "all-reduce" in describe(report, "device")
