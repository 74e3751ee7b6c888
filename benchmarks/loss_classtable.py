"""Class captions: the target side from a table of classes against the general form, which compares pairs of images.

    python -m benchmarks.loss_classtable [--rows 65536] [--timed_rows 4096] [--classes 1000]

FLOPs of products are counted in the traced programs, loops with their length; the target side is what is left when the
same loss to a uniform target (no products on that side) is taken off. Values and gradients are compared before timing.
"""

import argparse
import sys

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.loss_forms import TAU, VIEWS
from benchmarks.report import HEADER, Comparison, faster, finish, less_is_better
from benchmarks.timing import interleaved
from xsample_jax.graphs.sources import SOURCES
from xsample_jax.metrics.profiling import count_flops
from xsample_jax.models.heads import cosines
from xsample_jax.objectives.streaming.loss import Streaming, Target, class_table_rows, streaming_rows, uniform
from xsample_jax.objectives.streaming.tiles import Rows


def by_table(z, label, texts):
    anchors, target = Rows(z, {"label": label}, VIEWS), Target(uniform, "softmax", TAU)
    return class_table_rows(anchors, cosines(texts, texts), target, TAU, Streaming())["loss"].mean()


def by_pairs(z, label, texts):
    side = {"id": jnp.arange(len(label)), "label": label, "class_embedding": texts[label]}
    return _streamed(z, side, Target(SOURCES["class_text"], "softmax", TAU))


def without_a_target(z, label, texts):
    side = {"id": jnp.arange(len(label)), "label": label}
    return _streamed(z, side, Target(uniform, "row_sum"))


def _streamed(z, side, target):
    return streaming_rows(Rows(z, side, VIEWS), None, target, TAU, Streaming())["loss"].mean()


def inputs(rows: int, classes: int, width: int = 128, text_width: int = 768):
    """Unit rows z [N, D], labels [N / 2], texts of the classes [C, E] that share a common part, as captions do."""
    rng = np.random.default_rng(0)
    label = rng.integers(classes, size=rows // VIEWS).astype(np.int32)
    texts = rng.normal(size=(classes, text_width)) + rng.normal(size=text_width)
    z = np.repeat(rng.normal(size=(classes, width))[label], VIEWS, axis=0) + rng.normal(size=(rows, width))
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    return z.astype(np.float32), label, texts.astype(np.float32)


def target_flops(rows: int, classes: int) -> Comparison:
    """FLOPs of the products of the target side, forward and backward."""
    shapes = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in inputs(VIEWS, classes)[2:]]
    z = jax.ShapeDtypeStruct((rows, 128), jnp.float32)
    label = jax.ShapeDtypeStruct((rows // VIEWS,), jnp.int32)
    flops = [
        count_flops(jax.jit(jax.value_and_grad(form)).trace(z, label, *shapes).jaxpr)
        for form in (by_table, by_pairs, without_a_target)
    ]
    table, pairs, student = flops
    return less_is_better(f"loss_classtable FLOPs of the target, {rows} rows", table - student, pairs - student, 100.0)


def timed(rows: int, classes: int, repeats: int) -> Comparison:
    """Time of the whole loss and its gradient."""
    arguments = [jnp.asarray(x) for x in inputs(rows, classes)]
    programs = {
        name: jax.jit(jax.value_and_grad(form)).lower(*arguments).compile()
        for name, form in (("table", by_table), ("pairs", by_pairs))
    }
    (loss, gradient), (right, slope) = (jax.device_get(program(*arguments)) for program in programs.values())
    np.testing.assert_allclose(loss, right, rtol=1e-6)
    np.testing.assert_allclose(gradient, slope, atol=2e-6 * np.linalg.norm(slope))
    forms = {name: lambda p=program: jax.block_until_ready(p(*arguments)) for name, program in programs.items()}
    times = interleaved(forms, repeats)
    return faster(f"loss_classtable time of the loss, {rows} rows", times["table"], times["pairs"], 1.3)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=65_536, help="for the FLOPs: nothing of this size is run")
    parser.add_argument("--timed_rows", type=int, default=8192)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    print(HEADER, " FLOPs; CPU-seconds, forward and backward")
    found = [target_flops(given.rows, given.classes)]
    print(found[0], flush=True)
    found.append(timed(given.timed_rows, given.classes, given.repeats))
    print(found[1])
    return finish("loss_classtable", found, unit="FLOPs, CPU-seconds", classes=given.classes, repeats=given.repeats)


if __name__ == "__main__":
    sys.exit(main())
