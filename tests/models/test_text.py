import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.models.filled import filled, run
from xsample_jax.errors import ConfigError
from xsample_jax.models.towers import LinearText, TextTower

ARGUMENTS = dict(vocab=12, width=16, layers=2, heads=2, length=12, out=5)
CAPTIONS = np.array([[1, 7, 5, 9, 2, 0, 0, 0], [1, 6, 2, 0, 0, 0, 0, 0]], np.int32)


@pytest.fixture
def tower():
    return filled(lambda: TextTower(**ARGUMENTS, rngs=nnx.Rngs(0)))


def test_shape_and_type(tower):
    result = run(tower, CAPTIONS)
    assert result.shape == (2, 5)
    assert result.dtype == jnp.float32


@pytest.mark.parametrize("length", [5, 12])
def test_padding_does_not_change_the_embedding(tower, length):
    padded = np.zeros((2, length), np.int32)
    padded[:, :5] = CAPTIONS[:, :5]
    np.testing.assert_allclose(run(tower, padded), run(tower, CAPTIONS), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(run(tower, CAPTIONS[1:, :3]), run(tower, CAPTIONS[1:]), rtol=1e-5, atol=1e-6)


def test_every_real_token_and_its_place_count(tower):
    plain = run(tower, CAPTIONS)[0]
    for place in (1, 2, 3):
        changed = CAPTIONS[:1].copy()
        changed[0, place] = 11
        assert np.abs(run(tower, changed)[0] - plain).max() > 1e-4, place
    swapped = CAPTIONS[:1].copy()
    swapped[0, [1, 3]] = swapped[0, [3, 1]]
    assert np.abs(run(tower, swapped)[0] - plain).max() > 1e-4


def test_the_end_token_is_pooled(tower):
    """With no layers between, the result is a function of the state at the end token alone."""
    tower.blocks = nnx.List([])
    state = np.asarray(tower.tokens.embedding[...])[2] + np.asarray(tower.position[...])[[4, 2]]
    normal = (state - state.mean(1, keepdims=True)) / np.sqrt(state.var(1, keepdims=True) + 1e-6)
    normal = normal * np.asarray(tower.norm.scale[...]) + np.asarray(tower.norm.bias[...])
    np.testing.assert_allclose(run(tower, CAPTIONS), normal @ np.asarray(tower.out.kernel[...]), rtol=1e-4, atol=1e-4)


def test_bfloat16_is_close_and_parameters_stay_float32():
    single = run(filled(lambda: TextTower(**ARGUMENTS, rngs=nnx.Rngs(0))), CAPTIONS)
    tower = filled(lambda: TextTower(**ARGUMENTS, dtype=jnp.bfloat16, rngs=nnx.Rngs(0)))
    result = run(tower, CAPTIONS)
    assert result.dtype == jnp.float32
    abstract = nnx.eval_shape(lambda: TextTower(**ARGUMENTS, dtype=jnp.bfloat16, rngs=nnx.Rngs(0)))
    assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(abstract))} == {jnp.dtype("float32")}
    assert 0 < np.abs(result - single).max() / np.abs(single).max() < 0.05


def test_linear_text_is_one_matrix():
    tower = LinearText(6, 4, rngs=nnx.Rngs(0))
    embeddings = np.random.default_rng(0).normal(size=(3, 6)).astype(np.float16)
    result = tower(embeddings)
    assert result.dtype == jnp.float32
    np.testing.assert_allclose(
        result, embeddings.astype(np.float64) @ np.asarray(tower.out.kernel[...]), rtol=1e-5, atol=1e-6
    )
    assert [path for path, _ in nnx.to_flat_state(nnx.state(tower))] == [("out", "kernel")]


def test_bad_sizes_are_config_errors(tower):
    with pytest.raises(ConfigError, match=r"model\.text\.heads"):
        TextTower(vocab=12, width=16, layers=1, heads=3, length=12, out=5, rngs=nnx.Rngs(0))
    with pytest.raises(ConfigError, match=r"model\.text\.length"):
        tower(np.ones((1, 13), np.int32))
