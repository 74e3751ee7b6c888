"""data.caption: the first, one by its index, or the mean; and the error of a set that lacks it."""

import numpy as np
import pytest

from xsample_jax.data.captions import select_caption
from xsample_jax.errors import DataError


def test_select_caption():
    embeddings = np.array([[3, 4, 0, 0], [0, 0, 0, 2]], np.float16)
    record = {"id": 1, "captions": ["one", "two"], "caption_embeddings": embeddings}
    for which, caption, expected in [
        ("first", "one", [0.6, 0.8, 0, 0]),
        ("0", "one", [0.6, 0.8, 0, 0]),
        ("1", "two", [0, 0, 0, 1]),
        ("mean", None, np.array([0.6, 0.8, 0, 1]) / np.sqrt(2)),  # of unit rows: a long row does not outweigh
    ]:
        text, embedding = select_caption(record, which)
        assert text == caption
        assert embedding.dtype == np.float16
        np.testing.assert_allclose(embedding, expected, atol=5e-4)


def test_random_caption_follows_the_draw():
    record = {"id": 1, "captions": ["one", "two", "three"], "caption_embeddings": None}
    assert [select_caption(record, "random", draw=draw)[0] for draw in range(4)] == ["one", "two", "three", "one"]
    assert select_caption(record, "random") == ("one", None)
    assert select_caption({"id": 1, "captions": [], "caption_embeddings": None}, "random", draw=5) == (None, None)


def test_select_caption_of_a_set_that_lacks_it():
    bare = {"id": 1, "captions": [], "caption_embeddings": None}
    text_only = {"id": 1, "captions": ["one"], "caption_embeddings": None}
    assert select_caption(bare, "first") == (None, None)
    assert select_caption(text_only, "0") == ("one", None)
    assert select_caption(bare, "mean", needed=False) == (None, None)
    assert select_caption(bare, "1", needed=False) == (None, None)
    assert select_caption(text_only, "1", needed=False) == (None, None)
    assert select_caption(text_only, "0", needed=False) == ("one", None)
    with pytest.raises(DataError, match=r"set/manifest\.json.*tools\.embed"):
        select_caption(text_only, "mean", "set/manifest.json")
    with pytest.raises(DataError, match=r"1 captions.*set/manifest\.json.*data\.caption=first"):
        select_caption(text_only, "1", "set/manifest.json")
    opposite = {"id": 9, "captions": ["a", "b"], "caption_embeddings": np.array([[1, 0], [-1, 0]], np.float16)}
    with pytest.raises(DataError, match="id 9"):
        select_caption(opposite, "mean")
