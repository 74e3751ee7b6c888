"""Decoding: every kind of image that datasets contain, against pixels computed by hand."""

import io
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from xsample_jax.data import decode as scratch
from xsample_jax.data.decode import decode_image, decode_record, has_exif, open_image, resized
from xsample_jax.errors import DataError


def encode(image, kind="PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(height, width, channels=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def smooth(height, width):
    """An image that JPEG keeps almost unchanged: red grows to the right, green downwards, blue is flat."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([x * 255 // (width - 1), y * 255 // (height - 1), np.full_like(x, 90)], -1).astype(np.uint8)


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
@pytest.mark.parametrize("channels", [3, 4])
def test_lossless_image_of_the_right_size_is_untouched(kind, channels):
    pixels = noise(16, 16, channels)
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    result = decode_image(encode(Image.fromarray(pixels), kind, **options), 16, channels)
    np.testing.assert_array_equal(result, pixels)
    assert result.dtype == np.uint8
    result[0] = 0  # writable: the pipeline may reuse it


@pytest.mark.parametrize(("height", "width", "top", "left"), [(16, 21, 0, 2), (27, 16, 5, 0), (16, 20, 0, 2)])
def test_an_image_whose_short_side_is_right_is_cut_not_blurred(height, width, top, left):
    pixels = noise(height, width)
    result = decode_image(encode(Image.fromarray(pixels)), 16, 3)
    np.testing.assert_array_equal(result, pixels[top : top + 16, left : left + 16])


def test_alpha_is_255_where_there_is_none():
    pixels = noise(8, 8)
    result = decode_image(encode(Image.fromarray(pixels)), 8, 4)
    np.testing.assert_array_equal(result[..., :3], pixels)
    assert (result[..., 3] == 255).all()


def test_alpha_is_composited_on_white():
    pixels = noise(8, 8, 4).astype(np.float64)
    result = decode_image(encode(Image.fromarray(pixels.astype(np.uint8))), 8, 3)
    alpha = pixels[..., 3:] / 255
    np.testing.assert_allclose(result, pixels[..., :3] * alpha + 255 * (1 - alpha), atol=1)


def test_center_square_then_half_size():
    """40 x 16, side 8: the middle 16 columns, halved; tall images alike."""
    pixels = noise(16, 40)
    expected = resized(pixels[:, 12:28], 8, 8)
    np.testing.assert_array_equal(decode_image(encode(Image.fromarray(pixels)), 8, 3), expected)
    tall = decode_image(encode(Image.fromarray(pixels.transpose(1, 0, 2).copy())), 8, 3)
    np.testing.assert_allclose(tall.astype(int), expected.transpose(1, 0, 2), atol=1)


def test_reused_memory_never_reaches_a_result():
    first, second = (encode(Image.fromarray(smooth(*sides)), "JPEG") for sides in ((40, 40), (60, 50)))
    kept = [decode_image(data, size, 3) for data in (first, second) for size in (40, 24)]
    before = [pixels.copy() for pixels in kept]
    whole = open_image(first, 40)
    copied = whole.copy()
    for data in (second, first, second):
        decode_image(data, 33, 3)
    np.testing.assert_array_equal(whole, copied)
    for pixels, was in zip(kept, before):
        np.testing.assert_array_equal(pixels, was)


def test_an_image_larger_than_the_reused_memory(monkeypatch):
    data = encode(Image.fromarray(smooth(50, 60)), "JPEG")
    expected = decode_image(data, 32, 3)
    monkeypatch.setattr(scratch, "LARGEST", 1000)
    np.testing.assert_array_equal(decode_image(data, 32, 3), expected)


@pytest.mark.parametrize(("subsampling", "progressive"), [(0, False), (2, False), (2, True)])
def test_jpeg(subsampling, progressive):
    pixels = smooth(48, 48)
    data = encode(Image.fromarray(pixels), "JPEG", quality=95, subsampling=subsampling, progressive=progressive)
    np.testing.assert_allclose(decode_image(data, 48, 3).astype(int), pixels, atol=8)


def test_large_jpeg_shrunk_in_the_decoder_equals_the_slow_way():
    pixels = smooth(1000, 1400)
    data = encode(Image.fromarray(pixels), "JPEG", quality=95)
    slow = decode_image(encode(Image.open(io.BytesIO(data))), 64, 3)
    np.testing.assert_allclose(decode_image(data, 64, 3).astype(int), slow, atol=3)


def test_gray_jpeg():
    gray = smooth(24, 24)[..., 0]
    result = decode_image(encode(Image.fromarray(gray), "JPEG", quality=95), 24, 3)
    assert (np.ptp(result, axis=-1) == 0).all()
    np.testing.assert_allclose(result[..., 0].astype(int), gray, atol=6)


def test_cmyk_jpeg():
    cmyk = Image.new("CMYK", (16, 16), (0, 255, 255, 0))  # magenta + yellow ink = red
    np.testing.assert_allclose(decode_image(encode(cmyk, "JPEG", quality=95), 16, 3)[8, 8], (255, 0, 0), atol=6)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_exif_orientation(kind, orientation):
    """The stored image is the upright one with the camera's turn applied; decoding gives the upright one back."""
    upright = smooth(40, 40)
    upright[:20, :20] = (250, 250, 0)  # no symmetry
    turned = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright),
        7: np.rot90(upright, 2).transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 98, "subsampling": 0} if kind == "JPEG" else {"lossless": True} if kind == "WEBP" else {}
    data = encode(Image.fromarray(np.ascontiguousarray(turned)), kind, exif=exif, **options)
    error = np.abs(decode_image(data, 40, 3).astype(int) - upright)
    assert error.mean() < 2


def test_exif_behind_a_large_color_profile():
    """Segments come in any order; EXIF may begin after the first 64 kB."""
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encode(Image.new("RGB", (30, 20)), "JPEG", exif=exif)
    place = data.index(b"\xff\xe1")
    filler = b"\xff\xe2\xff\xff" + bytes(65533)
    late = data[:place] + 2 * filler + data[place:]
    assert has_exif(data)
    assert has_exif(late)
    assert open_image(late, 20).shape == (30, 20, 3)
    assert not has_exif(encode(Image.new("RGB", (30, 20)), "JPEG", comment=b"Exif\0\0"))


@pytest.mark.parametrize("beside", [False, True])
def test_an_orientation_in_xmp_counts_with_exif_and_without(beside):
    exif = Image.Exif()
    exif[271] = "maker"
    data = encode(Image.new("RGB", (30, 20)), "JPEG", **({"exif": exif} if beside else {}))
    text = b'http://ns.adobe.com/xap/1.0/\0<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    segment = b"\xff\xe1" + struct.pack(">H", 2 + len(text)) + text
    assert open_image(data[:2] + segment + data[2:], 20).shape == (30, 20, 3)


def test_16_bit_gray_png():
    values = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000
    result = decode_image(encode(Image.fromarray(values)), 8, 3)
    np.testing.assert_array_equal(result, np.repeat((values >> 8)[..., None], 3, -1))


def bare_png(values, bits: int, key=()) -> bytes:
    """A PNG of gray values [h, w] or colors [h, w, 3], as the specification has it; `key` is transparent."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    spread = values.reshape(len(values), -1)
    if bits == 16:
        rows = [row.astype(">u2").tobytes() for row in spread]
    else:
        ones = np.unpackbits(spread.astype(np.uint8)[..., None], axis=2)[..., 8 - bits :]
        rows = [np.packbits(row).tobytes() for row in ones]
    header = struct.pack(">IIBBBBB", *values.shape[1::-1], bits, 2 if values.ndim == 3 else 0, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    parts = [(b"IHDR", header), *[(b"tRNS", struct.pack(f">{len(key)}H", *key))] * bool(key), (b"IDAT", pixels)]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in [*parts, (b"IEND", b"")])


def test_16_bit_rgb_png():
    values = np.random.default_rng(0).integers(0, 65536, (8, 8, 3))
    np.testing.assert_allclose(decode_image(bare_png(values, 16), 8, 3), values / 257, atol=1)


@pytest.mark.parametrize(("bits", "colors"), [(1, 1), (2, 1), (4, 1), (8, 1), (16, 1), (8, 3), (16, 3)])
def test_the_transparent_color_of_a_png(bits, colors):
    """Of gray with 2, 4 and 16 bits and of colors with 16 it was lost; only equal pixels, to the last bit, have it."""
    most = 2**bits - 1
    values = np.random.default_rng(0).integers(0, most + 1, (8, 8, colors)).squeeze()
    values[0, 0], values[0, 1] = most, most - 1
    found = open_image(bare_png(values, bits, (most,) * colors), 8)
    np.testing.assert_array_equal(found[..., 3] == 0, (values.reshape(8, 8, -1) == most).all(2))
    np.testing.assert_allclose(found[..., 0], values.reshape(8, 8, -1)[..., 0] * (255 / most), atol=1)


@pytest.mark.parametrize("mode", ["L", "1"])
def test_gray_png(mode):
    gray = Image.fromarray(noise(8, 8)[..., 0]).convert(mode)
    expected = np.asarray(gray).astype(int) * (255 if mode == "1" else 1)
    np.testing.assert_array_equal(decode_image(encode(gray), 8, 4)[..., 1], expected)


def test_gray_with_alpha_png():
    pixels = noise(8, 8, 2)
    result = decode_image(encode(Image.fromarray(pixels, "LA")), 8, 4)
    np.testing.assert_array_equal(result, pixels[..., [0, 0, 0, 1]])


def test_palette_png_with_and_without_transparency():
    image = Image.new("P", (8, 8), 1)
    image.putpalette([255, 0, 0, 10, 20, 30])
    image.putpixel((0, 0), 0)
    plain = decode_image(encode(image), 8, 4)
    assert tuple(plain[0, 0]) == (255, 0, 0, 255)
    assert tuple(plain[5, 5]) == (10, 20, 30, 255)
    see_through = encode(image, transparency=1)
    assert decode_image(see_through, 8, 4)[5, 5, 3] == 0
    assert tuple(decode_image(see_through, 8, 3)[5, 5]) == (255, 255, 255)


# --- images that cannot be decoded ---

GOOD = {
    "PNG": encode(Image.fromarray(noise(32, 32))),
    "JPEG": encode(Image.fromarray(noise(32, 32)), "JPEG"),
    "WEBP": encode(Image.fromarray(noise(32, 32)), "WEBP", lossless=True),
}


@pytest.mark.parametrize("kind", list(GOOD))
@pytest.mark.parametrize("keep", [0.02, 0.3, 0.9])
def test_truncated(kind, keep):
    data = GOOD[kind]
    with pytest.raises(DataError, match=r"train-0:7 \(id 3\)"):
        decode_image(data[: int(len(data) * keep)], 16, 3, "train-0:7 (id 3)")


@pytest.mark.parametrize("data", [b"", b"\xff\xd8\xff", b"<svg/>", b"GIF89a" + bytes(50), bytes(1000)])
def test_not_an_image(data):
    with pytest.raises(DataError, match=r"image here = .*on_error=skip"):
        decode_image(data, 16, 3, "here")


def test_other_formats_are_refused():
    with pytest.raises(DataError, match="JPEG, PNG or WebP"):
        decode_image(encode(Image.fromarray(noise(8, 8)), "TIFF"), 8, 3)


def test_damaged_png():
    data = bytearray(GOOD["PNG"])
    data[len(data) // 2] ^= 0xFF
    with pytest.raises(DataError):
        decode_image(bytes(data), 16, 3)


def test_decompression_bomb_is_refused_from_its_header():
    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    body = b"IHDR" + header
    data = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))
    with pytest.raises(DataError):
        decode_image(data + GOOD["PNG"][33:], 16, 3)


def test_record_error_names_file_index_and_id():
    record = {"image": b"broken", "location": "train-00000-of-00001.arrayrecord:12", "id": 99}
    with pytest.raises(DataError, match=r"train-00000-of-00001\.arrayrecord:12 \(id 99\)"):
        decode_record(record, 8, 3)
    record["image"] = GOOD["PNG"]
    np.testing.assert_array_equal(decode_record(record, 32, 3), noise(32, 32))


def test_wrong_channels():
    with pytest.raises(DataError, match="3 or 4"):
        decode_image(GOOD["PNG"], 8, 1)


def test_threads_agree():
    data = list(GOOD.values()) * 20
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda item: decode_image(item, 20, 3), data))
    for item, result in zip(data, results):
        np.testing.assert_array_equal(result, decode_image(item, 20, 3))


TIFF = ("TIFF",)


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_tiff_is_turned_once(orientation):
    """faults C1: Pillow turns a TIFF in load(), so its tag is asked for after that."""
    image = Image.fromarray(noise(4, 6))
    found = open_image(encode(image, "TIFF", exif=turned(orientation)), 4, formats=TIFF)
    np.testing.assert_array_equal(found, open_image(encode(image, exif=turned(orientation)), 4))


@pytest.mark.parametrize("pixels", [np.linspace(0, 1, 24, dtype=np.float32), np.arange(24, dtype=np.int32) * 10**7])
def test_pixels_of_32_bits_are_refused_rather_than_blackened(pixels):
    """faults C1: their range is not known; 0 to 1 as bytes is black."""
    with pytest.raises(DataError, match="32 bits a pixel"):
        open_image(encode(Image.fromarray(pixels.reshape(4, 6)), "TIFF"), 4, formats=TIFF)


@pytest.mark.parametrize("bits", [8, 16])
def test_numbers_with_a_sign_are_refused(bits):
    """faults C1: half of the range was black."""
    with pytest.raises(DataError, match="numbers with a sign"):
        open_image(gray_tiff(np.zeros((4, 4)), bits, 1, "<", sign=2), 4, formats=TIFF)


def test_a_tiff_of_16_bits_keeps_its_contrast():
    """faults C1"""
    pixels = (np.arange(24).reshape(4, 6) * 2700).astype(np.uint16)
    found = open_image(encode(Image.fromarray(pixels), "TIFF"), 4, formats=TIFF)
    np.testing.assert_array_equal(found, np.repeat((pixels >> 8)[..., None], 3, -1))


def gray_tiff(pixels, bits: int, zero_is_black: int, order: str, sign: int = 1) -> bytes:
    """A bare TIFF of gray values [h, w], as the specification has it (TIFF 6.0, section 4)."""
    height, width = pixels.shape
    if bits < 16:  # whole bytes, the first pixel in the high bits
        ones = np.unpackbits(pixels.astype(np.uint8)[..., None], axis=2)[..., 8 - min(bits, 8) :]
        data = np.packbits(ones.reshape(height, -1), axis=1).tobytes()
    else:
        data = pixels.astype(f"{order}u2").tobytes()
    if bits == 12:
        high, low = pixels >> 4, pixels & 15
        pairs = [high[:, ::2], (low[:, ::2] << 4) | (high[:, 1::2] >> 4), pixels[:, 1::2] & 255]
        data = np.stack(pairs, 2).astype(np.uint8).tobytes()
    entries = {256: width, 257: height, 258: bits, 259: 1, 262: zero_is_black, 273: 8, 277: 1, 278: height}
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8 + len(data))
    table = [struct.pack(f"{order}HHIHH", tag, 3, 1, value, 0) for tag, value in entries.items()]
    table.append(struct.pack(f"{order}HHII", 279, 4, 1, len(data)))
    table.append(struct.pack(f"{order}HHIHH", 339, 3, 1, sign, 0))
    return head + data + struct.pack(f"{order}H", len(table)) + b"".join(table) + bytes(4)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize(
    ("bits", "zero_is_black"), [(bits, zero) for bits in (1, 2, 4, 8, 16) for zero in (0, 1)] + [(12, 1)]
)
def test_zero_is_white_or_black_as_a_tiff_says(bits, zero_is_black, order):
    """faults C1: of 16 bits with a white zero came the negative, or nothing; 12 bits were nearly black."""
    if (bits, order) == (12, ">"):
        pytest.skip("Pillow does not read it: it is refused")
    most = 2**bits - 1
    pixels = np.random.default_rng(0).integers(0, most + 1, (8, 8))
    pixels[0, :2] = 0, most
    shown = pixels if zero_is_black else most - pixels
    wanted = shown >> (bits - 8) if bits > 8 else shown * 255 // most
    found = open_image(gray_tiff(pixels, bits, zero_is_black, order), 4, formats=TIFF)
    np.testing.assert_array_equal(found, np.repeat(wanted[..., None], 3, -1))


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_with(kind: bytes, body: bytes, pixels) -> bytes:
    plain = encode(Image.fromarray(pixels))
    return plain[:33] + png_chunk(kind, body) + plain[33:]


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (b"zTXt", b"k\0\0" + zlib.compress(bytes(3_000_000))),
        (b"iTXt", b"k\0\1\0\0\0" + zlib.compress(bytes(3_000_000))),
        (b"iCCP", b"k\0\0" + zlib.compress(bytes(3_000_000))),
        (b"iCCP", b"k\0\0not zlib"),
        (b"eXIf", b"garbage"),
        (b"pHYs", b"1"),
        (b"tIME", b""),
    ],
)
def test_metadata_of_a_png_that_cannot_be_read_counts_as_none(kind, body):
    """faults C2: good pixels are kept whatever the text, profile or EXIF beside them."""
    pixels = noise(8, 8)
    np.testing.assert_array_equal(decode_image(png_with(kind, body, pixels), 8, 3), pixels)


def test_exif_is_read_beside_other_metadata_that_cannot_be():
    """faults C2"""
    plain = encode(Image.fromarray(noise(4, 6)), exif=turned(6))
    broken = plain[:33] + png_chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(3_000_000))) + plain[33:]
    np.testing.assert_array_equal(open_image(broken, 4), open_image(plain, 4))


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "PNG"])
@pytest.mark.parametrize("exif", [b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0", b"x"])
def test_broken_exif_counts_as_none(kind, exif):
    """faults C2"""
    image = Image.fromarray(smooth(16, 16))
    options = {"lossless": True} if kind == "WEBP" else {}
    found = decode_image(encode(image, kind, exif=exif, **options), 16, 3)
    np.testing.assert_array_equal(found, decode_image(encode(image, kind, **options), 16, 3))


def test_a_cmyk_jpeg_with_broken_segments_keeps_its_colors():
    """faults C2"""
    plain = encode(Image.fromarray(smooth(16, 16)).convert("CMYK"), "JPEG")
    broken = plain[:2] + b"\xff\xed\x00\x20Photoshop 3.0\x008BIM" + bytes(9) + b"\xff\xe2\x00\x08MPF\0xx" + plain[2:]
    np.testing.assert_array_equal(decode_image(broken, 16, 3), decode_image(plain, 16, 3))


@pytest.mark.parametrize(("height", "width"), [(8, 32), (32, 8), (7, 20)])
@pytest.mark.parametrize("channels", [3, 4])
def test_padding_keeps_what_the_center_square_leaves_out(height, width, channels):
    """faults C11: a subject at the border of a wide image is still there; the bars are gray, or transparent."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:2, :2], pixels[-2:, -2:] = (255, 0, 0), (0, 255, 0)
    data = encode(Image.fromarray(pixels))
    cropped, padded = (decode_image(data, 32, channels, fit=fit) for fit in ("crop", "pad"))
    assert not (cropped[..., 0] > 200).any() or height == width
    assert (padded[..., 0] > 200).any()
    assert (padded[..., 1] > 200).any()
    assert padded.shape == (32, 32, channels)
    corner = padded[0, -1] if width > height else padded[-1, 0]
    assert corner.tolist() == [128] * 3 + [0] * (channels - 3)
    square = decode_image(encode(Image.fromarray(noise(32, 32))), 32, channels, fit="pad")
    np.testing.assert_array_equal(square, decode_image(encode(Image.fromarray(noise(32, 32))), 32, channels))
