"""Decoders: what a caption's logits depend on, its losses, greedy captions against a plain loop; images of latents."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.models.filled import filled, normal, run
from tests.quick import quick_jit
from xsample_jax.errors import ConfigError
from xsample_jax.models.decoder import CaptionDecoder, CrossAttention, ImageDecoder, greedy_captions
from xsample_jax.models.towers import TextTower

VOCAB, WIDTH, LENGTH, QUERIES = 12, 16, 8, 3
TOKENS = np.array([[1, 7, 5, 9, 2, 0, 0, 0], [1, 6, 2, 0, 0, 0, 0, 0]], np.int32)
CELLS = normal(1, (2, 5, 6))


class Both(nnx.Module):
    """A causal text tower and the decoder after it."""

    def __init__(self, causal=True):
        rngs = nnx.Rngs(0)
        self.text = TextTower(VOCAB, WIDTH, 1, 2, LENGTH, 4, causal=causal, rngs=rngs)
        self.decoder = CaptionDecoder(VOCAB, WIDTH, 1, 2, 6, QUERIES, rngs=rngs)

    def __call__(self, tokens, cells):
        """(logits [n, t, vocab], embedding [n, 4]) of captions, given the cells of maps."""
        states, image = self.text.states(tokens), self.decoder.pool(cells)[:, 1:]
        logits = self.decoder.logits(self.decoder.hidden(states, tokens, image))
        return logits, self.text.out(self.text.features_of(states, tokens))

    def losses(self, tokens, cells):
        return self.decoder.token_losses(self.text.states(tokens), tokens, self.decoder.pool(cells)[:, 1:])


@pytest.fixture(scope="module")
def model():
    """Calls of one model that are compiled once: (logits and embedding, losses)."""
    graph, state = nnx.split(filled(Both))
    merge = lambda: nnx.merge(graph, state)  # noqa: E731
    both = quick_jit(lambda tokens, cells: merge()(tokens, cells))
    return both, quick_jit(lambda tokens, cells: merge().losses(tokens, cells)), merge


def test_later_tokens_do_not_change_earlier_logits(model):
    plain = model[0](TOKENS, CELLS)[0]
    for place in (1, 2, 3):
        changed = TOKENS.copy()
        changed[0, place] = 11
        logits = model[0](changed, CELLS)[0]
        np.testing.assert_allclose(logits[0, :place], plain[0, :place], atol=1e-6)
        assert np.abs(logits[0, place] - plain[0, place]).max() > 1e-3
        np.testing.assert_allclose(logits[1], plain[1], atol=1e-6)
    both_ways = filled(lambda: Both(causal=False)).text  # the same parameters
    states = quick_jit(lambda tokens: (both_ways.states(tokens), model[2]().text.states(tokens)))(TOKENS)
    assert np.abs(states[0][0, 0] - states[1][0, 0]).max() > 1e-3


def test_logits_depend_on_the_image_and_the_embedding_on_the_text_alone(model):
    (logits, embedding), other = model[0](TOKENS, CELLS), CELLS[::-1]
    turned, same = model[0](TOKENS, other)
    assert np.abs(turned[0, :4] - logits[0, :4]).max() > 1e-3
    np.testing.assert_array_equal(embedding, same)
    shuffled = model[0](TOKENS, CELLS[:, ::-1])[0]  # cells are a set
    np.testing.assert_allclose(shuffled, logits, atol=1e-5)


def test_losses_are_the_cross_entropies_of_the_next_tokens_without_padding(model):
    logits, losses = np.asarray(model[0](TOKENS, CELLS)[0], np.float64), model[1](TOKENS, CELLS)
    assert losses.shape == (2, LENGTH - 1)
    for row in range(2):
        for place in range(LENGTH - 1):
            following = TOKENS[row, place + 1]
            expected = np.log(np.exp(logits[row, place]).sum()) - logits[row, place, following] if following else 0.0
            assert losses[row, place] == pytest.approx(expected, abs=1e-5)
    assert losses[0, 4:].tolist() == [0.0] * 3


def test_every_parameter_is_trained():
    graph, state = nnx.split(filled(Both))

    def loss(state):
        model = nnx.merge(graph, state)
        both = model.losses(TOKENS, CELLS).sum() + jnp.sum(model(TOKENS, CELLS)[1] ** 2)
        return both + jnp.sum(model.decoder.pool(CELLS)[:, 0] ** 2 * normal(3, (WIDTH,)))

    for path, slope in jax.tree_util.tree_flatten_with_path(quick_jit(jax.grad(loss))(state))[0]:
        key_bias = "key" in jax.tree_util.keystr(path) and "bias" in jax.tree_util.keystr(path)  # a softmax ignores it
        assert key_bias or np.abs(slope).max() > 1e-7, path


def test_greedy_captions_take_the_likeliest_token_and_end_in_time(model):
    def write(tokens, cells, length):
        both = model[2]()
        return greedy_captions(both.text, both.decoder, both.decoder.pool(cells)[:, 1:], length)

    cells = normal(4, (2, 5, 6)) * 3  # of the shapes of the other tests
    tokens, loss = jax.device_get(quick_jit(write, static_argnums=2)(TOKENS, cells, LENGTH))
    expected = np.zeros((2, LENGTH), np.int32)
    expected[:, 0] = 1
    for place in range(LENGTH - 1):
        logits = np.array(model[0](expected, cells)[0])[:, place]
        logits[:, :2] = -np.inf
        best = np.argmax(logits, axis=1) if place < LENGTH - 2 else np.full(2, 2)
        expected[:, place + 1] = np.where((expected == 2).any(axis=1), 0, best)
    np.testing.assert_array_equal(tokens, expected)
    assert (tokens == 2).sum(axis=1).tolist() == [1] * 2
    counts = np.sum(tokens[:, 1:] != 0, axis=1)
    sums = model[1](tokens, cells).sum(axis=1)
    np.testing.assert_allclose(loss, sums / counts, rtol=1e-4)


def test_attention_across_against_loops():
    module = filled(lambda: CrossAttention(4, 3, 2, dtype=jnp.float32, rngs=nnx.Rngs(0)))
    x, other = np.asarray(normal(1, (1, 2, 4)), np.float64), np.asarray(normal(2, (1, 5, 3)), np.float64)
    apply = lambda linear, rows: rows @ np.asarray(linear.kernel[...]) + np.asarray(linear.bias[...])  # noqa: E731
    query, key, value = apply(module.query, x[0]), apply(module.key, other[0]), apply(module.value, other[0])
    heads = []
    for head in (slice(0, 2), slice(2, 4)):
        logits = query[:, head] @ key[:, head].T / np.sqrt(2)
        weights = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        heads.append(weights @ value[:, head])
    expected = apply(module.out, np.concatenate(heads, axis=1))
    np.testing.assert_allclose(run(module, jnp.float32(x), jnp.float32(other))[0], expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(ConfigError, match=r"model\.text\.heads"):
        CrossAttention(5, 3, 2, dtype=jnp.float32, rngs=nnx.Rngs(0))


@pytest.mark.parametrize(("size", "stages"), [(6, 0), (8, 0), (14, 1), (30, 2)])
def test_shapes_of_images_and_their_stages(size, stages):
    make = lambda: ImageDecoder(5, (size, 4), 4, "conv", dtype=jnp.float32, rngs=nnx.Rngs(0))  # noqa: E731
    graph, state = nnx.split(nnx.eval_shape(make))
    assert len(nnx.merge(graph, state).convs) == stages
    shape = jax.eval_shape(lambda state, z: nnx.merge(graph, state)(z), state, jnp.zeros((3, 5)))
    assert (shape.shape, shape.dtype) == ((3, size, size, 4), jnp.float32)


def test_a_corner_of_the_first_map_makes_a_corner_of_the_image():
    decoder = filled(lambda: ImageDecoder(5, (16, 3), 4, "conv", dtype=jnp.float32, rngs=nnx.Rngs(0)))
    images = run(decoder, normal(0, (2, 5)))
    kernel = np.array(decoder.stem.kernel[...]).reshape(5, 8, 8, -1)
    kernel[:, 0, 1] += 1.0  # of the cell in the first row, second column
    decoder.stem.kernel = nnx.Param(jnp.asarray(kernel.reshape(5, -1)))
    rows, columns = np.nonzero(np.abs(run(decoder, normal(0, (2, 5))) - images).max(axis=(0, 3)) > 1e-6)
    assert (rows.max(), columns.min(), columns.max()) == (2, 1, 4)  # its four pixels, and one around by the convolution
