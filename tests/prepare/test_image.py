"""Every kind of image that corpora hold has one outcome."""

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from tests.prepare.corpora import make_image
from xsample_jax.data.decode import decode_image
from xsample_jax.errors import DataError
from xsample_jax.prepare.job import ImageOptions, prepare_image


def opened(data):
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_small_upright_images_stay_byte_for_byte(kind, mode):
    data = make_image(1, kind=kind, mode=mode)
    assert prepare_image(data, ImageOptions(size=30)) == (data, [])
    assert prepare_image(data, ImageOptions(size=None)) == (data, [])


def test_large_ones_are_shrunk_to_the_short_side():
    data = make_image(2, width=800, height=500)
    result, changes = prepare_image(data, ImageOptions(size=64, quality=95))
    assert changes == ["shrunk", "elongated"]
    image = opened(result)
    assert (image.format, image.size) == ("JPEG", (102, 64))
    expected = opened(data).resize((102, 64), Image.Resampling.BOX)
    assert np.abs(np.asarray(image, int) - np.asarray(expected, int)).mean() < 4
    tall, _ = prepare_image(make_image(2, width=50, height=500), ImageOptions(size=20))
    assert opened(tall).size == (20, 200)


def test_quality():
    data = make_image(3, width=300, height=200)
    sizes = [len(prepare_image(data, ImageOptions(100, quality))[0]) for quality in (50, 80, 95)]
    assert sizes[0] < sizes[1] < sizes[2]


def test_turned_images_are_written_upright():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = make_image(4, width=40, height=20, exif=exif, quality=98)
    result, changes = prepare_image(data, ImageOptions(size=256))
    assert changes == ["turned", "elongated"]
    assert opened(result).size == (20, 40)
    assert opened(result).getexif().get(0x0112, 1) == 1
    expected = np.rot90(np.asarray(opened(data), int), -1)
    assert np.abs(np.asarray(opened(result), int) - expected).mean() < 4


def test_cmyk_becomes_rgb():
    result, changes = prepare_image(make_image(5, mode="CMYK"), ImageOptions())
    assert (changes, opened(result).mode) == (["cmyk"], "RGB")
    ink = io.BytesIO()
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(ink, "JPEG")
    np.testing.assert_allclose(
        np.asarray(opened(prepare_image(ink.getvalue(), ImageOptions())[0]))[8, 8], (255, 0, 0), atol=6
    )


def test_16_bit_gray_becomes_8_bit_without_loss_of_contrast():
    values = (np.arange(64 * 64, dtype=np.uint16) * 16).reshape(64, 64)
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "PNG")
    result, changes = prepare_image(buffer.getvalue(), ImageOptions())
    assert (changes, opened(result).format) == (["16_bit"], "PNG")
    np.testing.assert_array_equal(np.asarray(opened(result))[..., 0], values >> 8)


def test_palette_stays_or_is_shrunk_in_true_color():
    data = make_image(6, kind="PNG", mode="P")
    assert prepare_image(data, ImageOptions()) == (data, [])
    result, _ = prepare_image(data, ImageOptions(size=10))
    assert (opened(result).mode, min(opened(result).size)) == ("RGB", 10)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_of_an_animation_the_first_image_is_taken(kind):
    first, second = Image.new("RGB", (20, 20), (255, 0, 0)), Image.new("RGB", (20, 20), (0, 0, 255))
    buffer = io.BytesIO()
    first.save(buffer, kind, save_all=True, append_images=[second], duration=100)
    result, changes = prepare_image(buffer.getvalue(), ImageOptions())
    assert changes[0] == "animated"
    image = opened(result)
    assert not getattr(image, "is_animated", False)
    np.testing.assert_allclose(np.asarray(image.convert("RGB"))[10, 10], (255, 0, 0), atol=4)


def test_formats_that_records_do_not_hold_become_png_without_loss():
    for kind in ("BMP", "TIFF", "GIF", "PPM"):
        data = make_image(7, kind=kind)
        result, _ = prepare_image(data, ImageOptions())
        assert opened(result).format == "PNG"
        np.testing.assert_array_equal(np.asarray(opened(result)), np.asarray(opened(data).convert("RGB")))


def test_16_bit_colors_become_8_bit():
    pixels = np.arange(8 * 8 * 3, dtype=np.uint16).reshape(8, 8, 3) * 300
    _, data = cv2.imencode(".png", pixels[..., ::-1])
    result, changes = prepare_image(data.tobytes(), ImageOptions())
    assert changes == ["16_bit"]
    np.testing.assert_array_equal(np.asarray(opened(result)), pixels >> 8)


def test_an_image_too_long_for_a_jpeg_is_broken_and_no_more():
    image = io.BytesIO()
    Image.new("RGB", (20, 70_000)).save(image, "PNG")
    with pytest.raises(DataError, match=r"19 x 66500 pixels.*sides that a JPEG can have"):
        prepare_image(image.getvalue(), ImageOptions(size=19))


def test_alpha_is_composited_on_white_only_where_the_image_is_written_anew():
    buffer = io.BytesIO()
    Image.new("RGBA", (40, 40), (0, 0, 0, 0)).save(buffer, "PNG")
    assert prepare_image(buffer.getvalue(), ImageOptions())[0] == buffer.getvalue()
    shrunk, _ = prepare_image(buffer.getvalue(), ImageOptions(size=20))
    assert (np.asarray(opened(shrunk)) == 255).all()


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_raw_pixels_are_what_decoding_gives(kind):
    data = make_image(8, width=70, height=50, kind=kind)
    result, _ = prepare_image(data, ImageOptions(size=32, raw=True))
    assert len(result) == 32 * 32 * 3 + len(b"P6\n32 32\n255\n")
    np.testing.assert_array_equal(decode_image(result, 32, 3), decode_image(data, 32, 3))


@pytest.mark.parametrize(
    "data", [b"", b"<html>", make_image(9)[:-200], make_image(9, kind="PNG")[:-30], b"GIF89a" + bytes(9)]
)
def test_broken_images_are_refused_whatever_their_size(data):
    for options in (ImageOptions(size=None), ImageOptions(size=8), ImageOptions(size=8, raw=True)):
        with pytest.raises(DataError):
            prepare_image(data, options)


@pytest.mark.parametrize("options", [{"size": 0}, {"quality": 0}, {"quality": 101}, {"raw": True, "size": None}])
def test_options_are_checked(options):
    with pytest.raises(DataError):
        ImageOptions(**options)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP"])
def test_damage_at_any_place_is_an_image_or_a_data_error(kind):
    good = make_image(1, kind=kind)
    rng = np.random.default_rng(0)
    for _ in range(150):
        data = bytearray(good)
        for place in rng.integers(0, min(len(data), 400), rng.integers(1, 8)):
            data[place] = rng.integers(256)
        try:
            result, _ = prepare_image(bytes(data[: rng.integers(len(data) // 2, len(data) + 1)]), ImageOptions(16))
        except DataError:
            continue
        assert decode_image(result, 16, 3).shape == (16, 16, 3)


def as_png(image):
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def test_images_of_one_color_are_counted():
    """faults C1: what comes out black is noted."""
    assert prepare_image(as_png(Image.new("RGB", (8, 8), (7, 7, 7))), ImageOptions())[1] == ["one_color"]
    dot = Image.new("RGB", (8, 8))
    dot.putpixel((7, 7), (0, 0, 1))
    assert prepare_image(as_png(dot), ImageOptions())[1] == []


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_images_that_use_few_of_16_bits_are_counted(kind):
    """faults C1: numbers of 12 bits stored in 16 came out black, without a word."""
    values = np.linspace(0, 4095, 64, dtype=np.uint16).reshape(8, 8)
    for factor, notes in ((1, ["16_bit", "dark_16_bit"]), (2, ["16_bit", "dark_16_bit"]), (16, ["16_bit"])):
        buffer = io.BytesIO()
        Image.fromarray(values * factor).save(buffer, kind)
        assert prepare_image(buffer.getvalue(), ImageOptions())[1] == notes
    assert prepare_image(as_png(Image.fromarray((values // 256).astype(np.uint8))), ImageOptions())[1] == []
