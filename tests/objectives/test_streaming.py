"""The streaming loss against the dense formula in float64 numpy, and its scratch memory as the compiler plans it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.objectives.streamed_rows import streaming_rows
from xsample_jax.graphs.sources import SOURCES

TEMPERATURES = (0.005, 0.02, 0.1, 1.0, 10.0)


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def similarity(name, u, v):
    """A graph source, pair by pair."""
    graph = np.zeros((len(u["id"]), len(v["id"])))
    for i in range(len(u["id"])):
        for k in range(len(v["id"])):
            same_image = u["id"][i] == v["id"][k]
            if name == "identity":
                graph[i, k] = same_image
            elif name == "label":
                graph[i, k] = same_image or (u["label"][i] >= 0 and u["label"][i] == v["label"][k])
            else:
                a, b = u["caption_embedding"][i], v["caption_embedding"][k]
                graph[i, k] = a @ b / np.sqrt(a @ a) / np.sqrt(b @ b)
    return graph


def reference(z, y, u, v, *, source, normalizer, tau, tau_s, row_weight):
    """Values of every row, and gradients of sum_i row_weight_i loss_i; u and v have one entry per row."""
    same = y is None
    y, v = (z, u) if same else (y, v)
    valid = ~np.eye(len(z), dtype=bool) if same else np.ones((len(z), len(y)), bool)
    g, s = similarity(source, u, v), z @ y.T / tau

    def distribution(x):
        top = np.where(valid, x, -np.inf).max(1, keepdims=True)
        e = np.where(valid, np.exp(np.where(valid, x - top, 0)), 0)
        return e / e.sum(1, keepdims=True), np.log(e.sum(1, keepdims=True)) + top

    if normalizer == "softmax":
        target = distribution(g / tau_s)[0]
    else:
        weight = np.where(valid, g, 0)
        target = weight / np.maximum(weight.sum(1, keepdims=True), 1e-300)
    p, log_sum = distribution(s)
    counted = target.sum(1) > 0
    d_logits = np.where(counted, row_weight, 0)[:, None] * (p - target)
    values = {
        "loss": np.where(counted, (target * (log_sum - s)).sum(1), 0),
        "target_entropy": -(target * np.log(np.where(target > 0, target, 1))).sum(1),
        "own_view_mass": (target * similarity("identity", u, v)).sum(1),
        "counted": counted,
    }
    if "label" in u and "label" in v:
        values["same_class_mass"] = (target * similarity("label", u, v)).sum(1)
    d_rows = (d_logits + d_logits.T) @ z / tau if same else d_logits @ y / tau
    return values, (d_rows, None if same else d_logits.T @ z / tau, -(d_logits * s).sum() / tau)


def repeated(side, views):
    return {name: np.repeat(value, views, axis=0) for name, value in side.items()}


def batch(seed=0, images=13, views=2, width=8):
    """Rows and side information of images; two images share a caption, two share their rows, two have no class."""
    rng = np.random.default_rng(seed)
    z, captions = unit(rng.normal(size=(images, views, width))), rng.normal(size=(images, 5))
    captions[3], z[7] = 2 * captions[2], z[6]
    label = np.array([0, 0, 0, 1, 1, 2, 3, 3, 4, -1, -1, 5, 5])[:images]
    return z.reshape(images * views, width), {"id": np.arange(images), "label": label, "caption_embedding": captions}


def ours(z, y, u, v, row_weight, **options):
    """A compiled program of tau: values of every row, and gradients of sum_i row_weight_i loss_i for z, y and tau."""

    def weighted(z, y, temperature):
        values = streaming_rows(z, y, u, v, temperature=temperature, **options)
        return jnp.sum(row_weight * values["loss"]), values

    arguments = (0, 2) if y is None else (0, 1, 2)

    # What is compared to 1e-9 needs no fast machine code, and takes half the time to compile without.
    @functools.partial(
        jax.jit, compiler_options={"xla_backend_optimization_level": 0} if z.dtype == "float64" else None
    )
    def program(z, y, temperature):
        (_, values), gradient = jax.value_and_grad(weighted, arguments, has_aux=True)(z, y, temperature)
        return values, gradient if y is not None else (gradient[0], None, gradient[1])

    return lambda t: program(z, y, jnp.asarray(t, z.dtype))


def assert_same(got, expected, tolerance):
    values, gradient = got
    expected_values, expected_gradient = expected
    assert set(values) == set(expected_values)
    for name, value in expected_values.items():
        scale = max(np.abs(value).max(), 1e-3)
        np.testing.assert_allclose(values[name], value, rtol=0, atol=tolerance * scale, err_msg=name)
    for name, one, other in zip(("z", "y", "temperature"), gradient, expected_gradient):
        if other is None:
            assert one is None
        else:
            scale = np.abs(other).max()
            np.testing.assert_allclose(one, other, rtol=0, atol=tolerance * scale, err_msg=f"gradient of {name}")


@pytest.mark.parametrize("tau_s", TEMPERATURES)
def test_xclr_equals_dense_float64_at_every_temperature(tau_s):
    z, side = batch()
    row_weight = np.random.default_rng(9).uniform(-1, 2, len(z))  # any cotangent, not just the mean's
    options = {"normalizer": "softmax", "row_weight": row_weight}
    with jax.enable_x64(True):
        common = {"source": SOURCES["caption"], "target_temperature": tau_s, "views": 2, "block_size": 9, **options}
        running = ours(jnp.asarray(z), None, side, None, **common)
        static = ours(jnp.asarray(z), None, side, None, lowest_temperature=0.1, **common) if tau_s == 0.1 else None
        for tau in TEMPERATURES:
            expected = reference(z, None, repeated(side, 2), None, source="caption", tau=tau, tau_s=tau_s, **options)
            for program in (running, static) if tau >= 0.1 and static else (running,):
                assert_same(program(tau), expected, 1e-9)


@pytest.mark.parametrize(("temperatures", "tau_s"), [((0.02, 0.1), 0.02), ((0.1, 1.0), 0.1)])
def test_float32(temperatures, tau_s):
    z, side = batch(4)
    z = z.astype(np.float32)
    side["caption_embedding"] = side["caption_embedding"].astype(np.float32)
    options = {"normalizer": "softmax", "row_weight": np.ones(len(z)) / len(z)}
    common = {"source": SOURCES["caption"], "target_temperature": tau_s, "views": 2, "block_size": 9, **options}
    program = ours(jnp.asarray(z), None, side, None, lowest_temperature=temperatures[0], **common)
    wide = repeated(side | {"caption_embedding": side["caption_embedding"].astype(np.float64)}, 2)
    for tau in temperatures:
        expected = reference(z.astype(np.float64), None, wide, None, source="caption", tau=tau, tau_s=tau_s, **options)
        assert_same(program(tau), expected, 2e-6)


@pytest.mark.parametrize(
    ("source", "normalizer", "views"), [("identity", "softmax", 3), ("identity", "row_sum", 1), ("label", "row_sum", 1)]
)
def test_other_graphs_and_rows_without_positives(source, normalizer, views):
    z, side = batch(1, views=views)
    options = {"normalizer": normalizer, "row_weight": np.ones(len(z)) / len(z)}
    with jax.enable_x64(True):
        common = {"source": SOURCES[source], "target_temperature": 0.05, "views": views, "block_size": 6, **options}
        got = ours(jnp.asarray(z), None, side, None, lowest_temperature=0.1, **common)(0.1)
    expected = reference(z, None, repeated(side, views), None, source=source, tau=0.1, tau_s=0.05, **options)
    assert_same(got, expected, 1e-9)
    if views == 1 and normalizer == "row_sum":
        assert not expected[0]["counted"].all()


@pytest.mark.parametrize(
    ("normalizer", "source", "temperature"),
    [("row_sum", "identity", 0.1), ("row_sum", "identity", 0.01), ("softmax", "caption", 0.1)],
)
def test_two_towers_of_different_numbers_of_rows(normalizer, source, temperature):
    z, side = batch(2)
    y, text_side = batch(3, images=11, views=1)
    text_side["id"] = text_side["id"] + 5  # the first images have no text here: rows without a positive
    options = {"normalizer": normalizer, "row_weight": np.random.default_rng(9).uniform(0, 1, len(z))}
    with jax.enable_x64(True):
        common = {"source": SOURCES[source], "target_temperature": temperature, "views": 2, "block_size": 8, **options}
        program = ours(jnp.asarray(z), jnp.asarray(y), side, text_side, lowest_temperature=temperature, **common)
        got = program(temperature)
    expected = reference(
        z, y, repeated(side, 2), text_side, source=source, tau=temperature, tau_s=temperature, **options
    )
    assert_same(got, expected, 1e-9)


@pytest.mark.parametrize("temperature", [0.1, 0.01])
def test_collapsed_embeddings_and_equal_captions(temperature):
    z, side = np.tile(unit(np.ones(8)), (12, 1)), {"id": np.arange(6), "caption_embedding": np.ones((6, 4))}
    got = ours(
        jnp.asarray(z, jnp.float32), None, side, None, np.ones(12) / 12, source=SOURCES["caption"],
        normalizer="softmax", target_temperature=temperature, lowest_temperature=temperature, views=2, block_size=4,
    )(temperature)  # fmt: skip
    np.testing.assert_allclose(got[0]["loss"], np.log(11), rtol=1e-5)
    np.testing.assert_allclose(got[0]["target_entropy"], np.log(11), rtol=1e-5)
    np.testing.assert_allclose(got[1][0], 0, atol=1e-5 / temperature)


def test_side_information_per_image_or_per_row_is_the_same():
    z, side = batch(5)
    options = {"source": SOURCES["caption"], "normalizer": "softmax", "temperature": 0.1, "target_temperature": 0.1}
    z, full = jnp.asarray(z), repeated(side, 2)
    per_image = jax.jit(lambda z: streaming_rows(z, None, side, None, views=2, block_size=8, **options))(z)
    per_row = jax.jit(lambda z: streaming_rows(z, None, full, None, views=1, block_size=26, **options))(z)
    for name, value in per_image.items():
        np.testing.assert_allclose(value, per_row[name], rtol=1e-5, err_msg=name)


def scratch(rows, width=128, caption_width=768, views=2):
    """Bytes of scratch memory of loss and gradient, as compiled; nothing is run."""
    side = {
        "id": jax.ShapeDtypeStruct((rows // views,), jnp.int32),
        "label": jax.ShapeDtypeStruct((rows // views,), jnp.int32),
        "caption_embedding": jax.ShapeDtypeStruct((rows // views, caption_width), jnp.float16),
    }

    def mean(z, side):
        return streaming_rows(
            z, None, side, None, source=SOURCES["caption"], normalizer="softmax",
            temperature=0.1, target_temperature=0.1, views=views,
        )["loss"].mean()  # fmt: skip

    z = jax.ShapeDtypeStruct((rows, width), jnp.float32)
    return jax.jit(jax.value_and_grad(mean)).lower(z, side).compile().memory_analysis().temp_size_in_bytes


def test_scratch_memory_does_not_grow_with_the_batch():
    small, odd, large = scratch(8192), scratch(8192 + 34), scratch(32768)
    assert max(small, odd, large) <= 16 * 2**20
    assert large <= 1.2 * small


def test_inputs_that_do_not_fit_are_refused():
    z, side = batch()
    options = {"source": SOURCES["caption"], "temperature": 0.1}
    with pytest.raises(ValueError, match="26 rows of 1 views, but 13 rows of 'id'"):
        streaming_rows(jnp.asarray(z), None, side, None, normalizer="softmax", **options)
    with pytest.raises(ValueError, match="softmax or row_sum"):
        streaming_rows(jnp.asarray(z), None, side, None, normalizer="sinkhorn", views=2, **options)


def test_keys_that_are_not_filled_take_no_part():
    z, side = batch(6)
    y, queue = batch(7, images=12, views=1)
    filled = np.arange(12) % 3 > 0
    options = {"source": SOURCES["caption"], "normalizer": "softmax", "views": 2, "row_weight": np.ones(26) / 26}
    u, v = ({"id": s["id"], "caption_embedding": s["caption_embedding"]} for s in (side, queue))
    kept = {name: value[filled] for name, value in v.items()}
    with jax.enable_x64(True):
        masked = ours(jnp.asarray(z), jnp.asarray(y), u, v | {"filled": filled}, block_size=8, **options)(0.1)
        without = ours(jnp.asarray(z), jnp.asarray(y[filled]), u, kept, block_size=8, **options)(0.1)
    for name, value in without[0].items():
        np.testing.assert_allclose(masked[0][name], value, rtol=1e-9, err_msg=name)
    np.testing.assert_allclose(masked[1][0], without[1][0], rtol=1e-9)
    np.testing.assert_allclose(masked[1][1][filled], without[1][1], rtol=1e-9)
    np.testing.assert_array_equal(masked[1][1][~filled], 0)
