"""The streamed sigmoid loss against plain numpy, on one device and around meshes, and what it holds and sends."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.objectives.test_streaming_mesh import mesh_of, unit
from xsample_jax.graphs.sources import SOURCES
from xsample_jax.objectives.streaming.loss import Streaming, Target
from xsample_jax.objectives.streaming.sigmoid import streamed_sigmoid
from xsample_jax.objectives.streaming.tiles import Rows
from xsample_jax.objectives.terms import Term
from xsample_jax.reports.dry_run import collectives

IMAGES, VIEWS, WIDTH, TAU, BIAS = 24, 2, 16, 0.07, -1.5
LABELS = np.arange(IMAGES) // 5
SOFT = np.linspace(1, 0, 6)[np.abs(LABELS[:, None] - LABELS)]  # of images, from 1 on one label to 0


def soft(u, v):
    return jnp.asarray(SOFT)[u["id"][:, None], v["id"][None, :]]


def rows(seed, views):
    return unit(np.random.default_rng(seed).normal(size=(IMAGES * views, WIDTH)) + 0.5)


def expected(x, y, filled, mean):
    """(loss, d/dx, d/dy, d/dtau, d/db) of the mean over anchors in float64; y None: the rows themselves."""
    x, keys = x.astype(np.float64), (x if y is None else y).astype(np.float64)
    image, of = np.arange(len(x)) // (len(x) // IMAGES), np.arange(len(keys)) // (len(keys) // IMAGES)
    target = SOFT[image[:, None], of[None, :]]
    valid = filled[of][None, :] & np.ones_like(target, bool)
    if y is None:
        valid = valid & ~np.eye(len(x), dtype=bool)
    cosine = x @ keys.T
    s = cosine / TAU + BIAS
    pair = -target * np.log(1 / (1 + np.exp(-s))) - (1 - target) * np.log(1 / (1 + np.exp(s)))
    share = valid / (valid.sum(1, keepdims=True) if mean else 1) / len(x)
    slope = share * (1 / (1 + np.exp(-s)) - target)
    dx, dy = slope @ keys / TAU, slope.T @ x / TAU
    return (
        np.sum(share * pair),
        *((dx + dy, None) if y is None else (dx, dy)),
        -np.sum(slope * cosine) / TAU**2,
        slope.sum(),
    )


def streamed(x, y, filled, mean, **options):
    def loss(x, y, tau, bias, side):
        known = {"id": jnp.arange(IMAGES), "label": side["label"]}
        keys = None if y is None else Rows(y, known | {"filled": side["filled"]}, len(y) // IMAGES)
        target, how = Target(soft, "none"), Streaming(block_size=16, **options)
        return streamed_sigmoid(Rows(x, known, len(x) // IMAGES), keys, target, (tau, bias), how, mean)

    which = (0, 2, 3) if y is None else (0, 1, 2, 3)
    side = {"label": jnp.asarray(LABELS), "filled": jnp.asarray(filled)}
    (value, metrics), slopes = jax.jit(jax.value_and_grad(loss, which, has_aux=True))(x, y, TAU, BIAS, side)
    return jax.device_get((value, metrics, slopes))


@pytest.mark.parametrize(
    ("devices", "mean", "key_views"), [(1, False, 1), (1, True, 2), (1, True, 0), (4, False, 0), (8, True, 1)]
)
def test_value_and_gradients_are_those_of_numpy(devices, mean, key_views):
    """Of two towers of one or two views a key, some of which are not there, and of rows with themselves (0)."""
    x, y = rows(0, VIEWS), rows(1, key_views) if key_views else None
    filled = np.arange(IMAGES) % 4 > 0 if key_views else np.ones(IMAGES, bool)
    mesh = mesh_of(devices) if devices > 1 else None
    value, metrics, slopes = streamed(x, y, filled, mean, mesh=mesh)
    right, *gradients = expected(x, y, filled, mean)
    assert value == pytest.approx(right, rel=2e-6)
    for got, slope in zip(slopes, [one for one in gradients if one is not None], strict=True):
        np.testing.assert_allclose(got, slope, atol=2e-6 * np.abs(slope).max())
    assert metrics["rows_without_negative"] == 0
    assert 0 < metrics["own_view_mass"] < metrics["same_class_mass"] < 1


def test_logits_of_any_size_lose_no_digits():
    """With b = -40 and a far pair as the positive, whose softplus(40) a difference of logarithms would not hold."""
    x = np.eye(IMAGES, WIDTH, dtype=np.float32)[:, :WIDTH]
    x[WIDTH:] = x[: IMAGES - WIDTH]
    info = {"id": jnp.arange(IMAGES)}

    def loss(bias):
        target = Target(SOURCES["identity"], "none")
        return streamed_sigmoid(Rows(x, info, 1), Rows(-x, info, 1), target, (1.0, bias), Streaming(), False)[0]

    value, slope = jax.value_and_grad(loss)(-40.0)
    assert value == pytest.approx(41, rel=1e-6)
    assert slope == pytest.approx(-1, rel=1e-6)


def test_memory_is_linear_and_keys_go_around_with_their_gradient():
    mesh, images, width = mesh_of(8), 1024, 32
    rng = np.random.default_rng(0)
    x, y = (unit(rng.normal(size=(images, width))) for _ in range(2))

    def loss(x, y, bias, ids, mesh):
        side = {"id": ids}
        how = Streaming(block_size=64, mesh=mesh, comm_dtype="bfloat16")
        target = Target(SOURCES["identity"], "none")
        return streamed_sigmoid(Rows(x, side, 1), Rows(y, side, 1), target, (0.1, bias), how, False)[0]

    def program(mesh):
        compiled = jax.jit(jax.value_and_grad(loss, (0, 1, 2)), static_argnames="mesh")
        return compiled.lower(x, y, -10.0, jnp.arange(images), mesh=mesh).compile()

    assert program(None).memory_analysis().temp_size_in_bytes < images**2 * 4 / 2
    sent = {(c.op, c.dtype): c.bytes for c in collectives(program(mesh).as_text())}
    own = images // 8 * width
    gradient = sent[("collective-permute", "f32")]
    assert gradient == own * 4, "only the gradient travels in float32, once a hop"
    assert not any(op == "all-gather" for op, _ in sent)


def test_what_is_refused_is_a_sigmoid_of_whole_rows():
    from xsample_jax.graphs.targets import Graph
    from xsample_jax.objectives.streaming.terms import why_not

    assert why_not(Term(Graph("identity", "none"), link="sigmoid")) is None
    assert "needs whole rows" in why_not(Term(Graph("identity", "row_sum"), link="sigmoid"))
    assert why_not(Term(Graph("identity", "none"), link="sigmoid", negatives="other_images")) is not None


@pytest.mark.parametrize("missing", [False, True])
def test_a_row_meets_the_keys_of_its_group_of_devices(missing):
    """Its mean is over those, and the loss of the batch is that of its halves."""
    x, y, filled = rows(0, VIEWS), rows(1, 1), np.arange(IMAGES) % 4 > 0 if missing else np.ones(IMAGES, bool)
    value, _, slopes = streamed(x, y, filled, True, mesh=mesh_of(4), groups=2)
    half, found = IMAGES // 2, []
    for number in (0, 1):
        part = slice(number * half, (number + 1) * half)
        own = np.zeros(IMAGES, bool)
        own[part] = True
        whole = expected(x, y, filled & own, True)
        anchors = slice(number * half * VIEWS, (number + 1) * half * VIEWS)
        found.append((row_losses(x, y, filled & own)[anchors].mean() / 2, whole[1][anchors]))
    assert value == pytest.approx(sum(loss for loss, _ in found), rel=2e-6)
    gradient = np.concatenate([slope for _, slope in found])
    np.testing.assert_allclose(slopes[0], gradient, atol=2e-6 * np.abs(gradient).max())


def row_losses(x, y, filled):
    """The mean of every anchor over the keys that are filled, in float64."""
    target = SOFT[np.arange(len(x))[:, None] // VIEWS, np.arange(IMAGES)[None, :]]
    s = x.astype(np.float64) @ y.astype(np.float64).T / TAU + BIAS
    pair = -target * np.log(1 / (1 + np.exp(-s))) - (1 - target) * np.log(1 / (1 + np.exp(s)))
    return pair[:, filled].mean(1)
