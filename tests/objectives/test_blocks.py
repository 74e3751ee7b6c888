"""Blocks: which rows a selection picks, what it knows of them, and what it says when there are none."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xsample_jax.errors import ConfigError
from xsample_jax.objectives.blocks import Rows, concatenate, image_block, key_block, other_view, select

RNG = np.random.default_rng(8)
B, V, D = 4, 3, 5
Z = RNG.normal(size=(B * V, D)).astype(np.float32)
TEXT = RNG.normal(size=(B, D)).astype(np.float32)
SIDE = {"id": jnp.asarray([7, 3, 9, 1]), "label": jnp.asarray([0, 1, 0, 2])}
BLOCKS = {
    "image": image_block(jnp.asarray(Z), SIDE, V, extra=jnp.arange(B * V)),
    "text": image_block(jnp.asarray(TEXT), SIDE, 1, B * V),
    "queue": key_block(jnp.asarray(RNG.normal(size=(6, D))), label=jnp.arange(6), filled=jnp.arange(6) < 2),
}


def test_rows_of_an_image_are_side_by_side_and_share_its_side_information():
    block = BLOCKS["image"]
    np.testing.assert_array_equal(block["id"], [7, 7, 7, 3, 3, 3, 9, 9, 9, 1, 1, 1])
    np.testing.assert_array_equal(block["view"], [0, 1, 2] * 4)
    np.testing.assert_array_equal(block["row"], np.arange(12))
    np.testing.assert_array_equal(BLOCKS["text"]["row"], [12, 13, 14, 15])
    assert block["filled"].all()


def test_the_embedding_is_the_row_without_gradient():
    def total(z):
        block = image_block(z, SIDE, V)
        return jnp.sum(block["z"] * block["embedding"])

    np.testing.assert_allclose(jax.grad(total)(jnp.asarray(Z)), Z)  # not 2 Z


def test_keys_belong_to_no_image():
    block = BLOCKS["queue"]
    assert set(np.unique(block["id"])) == set(np.unique(block["row"])) == {-1}
    np.testing.assert_array_equal(block["filled"], [True, True, False, False, False, False])


def test_other_view_is_the_next_one_and_the_first_after_the_last():
    got = np.asarray(other_view(jnp.asarray(Z), V))
    for image in range(B):
        for view in range(V):
            np.testing.assert_array_equal(got[image * V + view], Z[image * V + (view + 1) % V])
    gradient = jax.grad(lambda z: other_view(z, V).sum())(jnp.asarray(Z))
    np.testing.assert_array_equal(gradient, 0)


def test_select_one_view():
    picked = select(BLOCKS, Rows("image", 2), B)
    np.testing.assert_array_equal(picked["z"], Z[[2, 5, 8, 11]])
    np.testing.assert_array_equal(picked["extra"], [2, 5, 8, 11])
    np.testing.assert_array_equal(picked["id"], SIDE["id"])
    assert select(BLOCKS, Rows("image"), B)["z"].shape == (12, D)


def test_select_beside_puts_modalities_side_by_side():
    picked = select(BLOCKS, Rows("image", 1, beside=Rows("text")), B)
    np.testing.assert_array_equal(picked["z"], np.concatenate([Z[1::3], TEXT], axis=1))
    np.testing.assert_array_equal(picked["row"], -1)  # nobody's own row: the pair is another thing than either part
    np.testing.assert_array_equal(picked["id"], SIDE["id"])


def test_select_times_makes_all_products_and_knows_the_matching_ones():
    picked = select(BLOCKS, Rows("image", 0, times=Rows("text")), B)
    expected = np.stack([Z[3 * i] * TEXT[k] for i in range(B) for k in range(B)])
    np.testing.assert_allclose(picked["z"], expected, rtol=1e-6)
    ids = [int(SIDE["id"][i]) if i == k else -1 for i in range(B) for k in range(B)]
    np.testing.assert_array_equal(picked["id"], ids)


def test_concatenate_keeps_what_all_have_in_their_order():
    both = concatenate([BLOCKS["text"], BLOCKS["queue"]])
    np.testing.assert_array_equal(both["label"], [0, 1, 0, 2, 0, 1, 2, 3, 4, 5])
    np.testing.assert_array_equal(both["z"][:4], TEXT)
    assert "extra" not in concatenate([BLOCKS["image"], BLOCKS["text"]])
    assert {"z", "embedding", "row", "view", "id", "id_words", "filled", "label"} == set(both)
    assert concatenate([BLOCKS["text"]]) is BLOCKS["text"]


def test_what_is_not_there_is_said():
    with pytest.raises(ConfigError, match="one of image, queue, text"):
        select(BLOCKS, Rows("teacher"), B)
    with pytest.raises(ConfigError, match=r"rows\.view = 3: expected one of the 3 views"):
        select(BLOCKS, Rows("image", 3), B)
    with pytest.raises(ConfigError, match="one of the 1 views of text"):
        select(BLOCKS, Rows("text", 1), B)
