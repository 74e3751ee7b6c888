"""Texts packed into rows: nothing lost, nothing mixed, little padding."""

import numpy as np
import pytest

from xsample_jax.captions.encoders import batch_rows, pack, segments_per_row
from xsample_jax.captions.sentence_model import WIDTHS


def texts_like_captions(count: int, seed: int = 0) -> list[list[int]]:
    random = np.random.RandomState(seed)
    lengths = np.clip(random.lognormal(2.6, 0.5, count).astype(int) + 2, 2, 512)
    return [random.randint(5, 1000, length).tolist() for length in lengths]


def unpacked(batches) -> dict[int, list[int]]:
    found = {}
    for batch in batches:
        for text, (row, segment) in zip(batch.texts, batch.places):
            assert text not in found
            found[int(text)] = batch.tokens[row][batch.segments[row] == segment + 1].tolist()
    return found


@pytest.mark.parametrize(("count", "budget", "multiple"), [(1, 1024, 1), (300, 1024, 1), (500, 4096, 8), (40, 64, 8)])
def test_every_text_comes_back_whole(count, budget, multiple):
    texts = [*texts_like_captions(count), [7] * 2, [8] * 64, [9] * 65, [6] * 512, []]
    batches = list(pack(texts, budget, multiple, padding=1))
    assert unpacked(batches) == dict(enumerate(texts))
    for batch in batches:
        rows, width = batch.tokens.shape
        assert width in WIDTHS
        assert rows % multiple == 0
        assert rows * width <= max(budget, multiple * width)
        assert batch.segments.max() <= segments_per_row(width)
        assert (batch.tokens[batch.segments == 0] == 1).all()


def test_little_padding():
    batches = list(pack(texts_like_captions(3000), 2048))
    computed = sum(batch.segments.size for batch in batches)
    assert computed / sum((batch.segments > 0).sum() for batch in batches) < 1.06


def test_few_shapes_however_many_texts():
    shapes = {b.tokens.shape for count in range(1, 400, 7) for b in pack(texts_like_captions(count), 128 * 64, 4)}
    assert len(shapes) < 40
    assert batch_rows(65, 64, 1) * 2 < 65 * 1.2  # two like batches, not a full one and a nearly empty one
    assert batch_rows(1000, 64, 8) == 64


def test_equal_input_gives_equal_batches():
    texts = texts_like_captions(200)
    for one, other in zip(pack(texts, 1024), pack(texts, 1024), strict=True):
        np.testing.assert_array_equal(one.tokens, other.tokens)
        np.testing.assert_array_equal(one.texts, other.texts)
