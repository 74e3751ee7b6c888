"""What people have in memory as the networks take it: one image or several, batches, modes of Pillow."""

import io

import numpy as np
import pytest
from PIL import Image

from xsample_jax.augment.ids import VECTOR_CHANNELS
from xsample_jax.data.given import in_order, listed_images, padded_batches, read_pixels
from xsample_jax.errors import DataError


class OfAnotherLibrary:
    """An array that is not NumPy's, as those of jax and torch."""

    def __init__(self, array):
        self.array = array

    def __array__(self, dtype=None, copy=None):
        return self.array


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("shape", [(40, 40), (40, 40, 1), (40, 40, 3), (40, 40, 4), (3, 40, 3)])
def test_one_image_is_one_in_any_library(shape):
    """faults C1: [h, w, 1], or an array of jax, was read as h images of one row each."""
    for images in (noise(*shape), OfAnotherLibrary(noise(*shape))):
        listed, one = listed_images(images, 3)
        assert one
        assert len(listed) == 1
        np.testing.assert_array_equal(
            read_pixels(listed[0], 0, 8)[..., 0], noise(*shape).reshape(*shape[:2], -1)[..., 0]
        )


def test_buffers_and_open_files_are_image_files(tmp_path):
    """faults C1: a buffer was read as numbers, and the first line of an open file was taken for an image."""
    content = png(Image.fromarray(noise(40, 50, 3)))
    (tmp_path / "a.png").write_bytes(content)
    read = io.BytesIO(content)
    read.seek(7)
    with (tmp_path / "a.png").open("rb") as opened:
        for given in (bytearray(content), memoryview(content), io.BytesIO(content), read, opened):
            assert [listed_images(images, 3)[1] for images in (given, [given])] == [True, False]
            for listed, _ in (listed_images(given, 3), listed_images([given], 3)):
                np.testing.assert_array_equal(read_pixels(listed[0], 0, 64), noise(40, 50, 3))
    view = memoryview(noise(40, 50, 3))
    listed, one = listed_images(view, 3)
    assert one
    np.testing.assert_array_equal(read_pixels(listed[0], 0, 8), noise(40, 50, 3))
    with pytest.raises(DataError, match=r"StringIO.*mode 'rb'"):
        read_pixels(io.StringIO("text"), 0, 8)


@pytest.mark.parametrize("shape", [(5, 40, 40), (5, 40, 40, 1), (5, 40, 40, 3), (0, 40, 40, 3)])
def test_several_images_are_several(shape):
    listed, one = listed_images(noise(*shape), 3)
    assert not one
    assert len(listed) == shape[0]
    assert all(read_pixels(image, 0, 8).shape == (40, 40, 3) for image in listed)


@pytest.mark.parametrize("first", [1, 3, 4])
def test_colors_first_are_not_gray_images(first):
    """faults C1: [3, h, w] came back as three rows, with no word."""
    with pytest.raises(DataError, match=rf"images = 'uint8 \[{first}, 40, 50\]'.*transpose\(1, 2, 0\).*list\(images\)"):
        listed_images(noise(first, 40, 50), 3)
    assert len(listed_images(list(noise(first, 40, 50)), 3)[0]) == first


def test_iterators_are_lists_and_what_has_no_order_is_named():
    """faults C1"""
    assert len(in_order((image for image in noise(5, 8, 8, 3)), "images", "images")) == 5
    for wrong in (None, 3, {"a": noise(8, 8, 3)}, {"a"}, np.uint8(3)):
        with pytest.raises(DataError, match=f"images = '{type(wrong).__name__.replace('uint8', 'ndarray')}'"):
            listed_images(wrong, 3)
    assert listed_images(np.zeros(7, np.float32), VECTOR_CHANNELS)[1]
    assert not listed_images(np.zeros((1, 7), np.float32), VECTOR_CHANNELS)[1]


@pytest.mark.parametrize("size", [0, -1, 2.5, None])
def test_batches_of_no_rows_are_refused(size):
    """faults C1: batch_size=-1 gave no rows at all."""
    for rows in (np.arange(3), np.arange(0)):
        with pytest.raises(DataError, match="batch_size"):
            list(padded_batches(rows, size, lambda part, start: part))


def test_batches_have_one_shape_and_all_rows():
    found = [(batch.tolist(), meant) for batch, meant in padded_batches(np.arange(5), 2, lambda part, start: part)]
    assert found == [([0, 1], 2), ([2, 3], 2), ([4, 4], 1)]


def test_an_open_image_is_what_its_file_is():
    """faults C1: Pillow's own conversion of 16 bits clips, so that nearly everything is white."""
    gradient = Image.fromarray((np.arange(24).reshape(4, 6) * 2700).astype(np.uint16))
    clear = Image.fromarray(noise(4, 6, 4))
    for image in (gradient, clear, clear.convert("P"), clear.convert("L"), Image.fromarray(noise(4, 6) > 99)):
        expected = read_pixels(png(image), 0, 4)
        for same in (image, Image.open(io.BytesIO(png(image)))):
            np.testing.assert_array_equal(read_pixels(same, 0, 4), expected)
    assert np.ptp(read_pixels(gradient, 0, 4)) > 200


@pytest.mark.parametrize("pixels", [np.linspace(0, 1, 24, dtype=np.float32), np.arange(24, dtype=np.int32) * 10**7])
def test_images_of_32_bits_are_refused_rather_than_blackened(pixels):
    """faults C1: their range is not known; 0 to 1 as bytes is black."""
    with pytest.raises(DataError, match="image 7 = '32 bits a pixel"):
        read_pixels(Image.fromarray(pixels.reshape(4, 6)), 7, 4)


def test_a_cut_file_that_was_opened_is_named():
    """faults C1: Pillow reads pixels late."""
    with pytest.raises(DataError, match="image 2 = "):
        read_pixels(Image.open(io.BytesIO(png(Image.fromarray(noise(64, 64, 3)))[:2000])), 2, 4)
