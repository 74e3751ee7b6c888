"""The contact sheet: images land where they should, in the colors they have."""

import numpy as np
import pytest
from PIL import Image, ImageFont

from xsample_jax.config import default_config
from xsample_jax.errors import DataError
from xsample_jax.reports import contact_sheet as module
from xsample_jax.reports.contact_sheet import contact_sheet, unnormalize


def test_images_are_on_the_sheet_in_their_order(tmp_path):
    red = np.full((8, 8, 3), (255, 0, 0), np.uint8)
    blue = np.full((4, 4, 3), (0.0, 0.0, 1.7), np.float32)  # above 1: cut off
    clear = np.full((8, 8, 4), (0, 255, 0, 0), np.uint8)
    path = contact_sheet(
        [[red, blue], [clear, red]], ["one", "a long caption " * 40], tmp_path / "a" / "sheet.png", tile=40
    )
    sheet = np.asarray(Image.open(path).convert("RGB")).astype(int)
    for color, count in (((255, 0, 0), 2), ((0, 0, 255), 1)):
        assert (sheet == color).all(axis=-1).sum() == count * 40 * 40
    reds = np.argwhere((sheet == (255, 0, 0)).all(axis=-1))
    blues = np.argwhere((sheet == (0, 0, 255)).all(axis=-1))
    assert reds[:, 0].min() == blues[:, 0].min()  # the same row, blue to the right
    assert reds[reds[:, 0] == reds[0, 0], 1].max() < blues[:, 1].min()
    assert reds[-1, 1] > blues[0, 1]  # second row, second column
    assert not (sheet == (0, 255, 0)).all(axis=-1).any()  # a transparent color is not seen


@pytest.mark.parametrize("width", [0, 5, 100, 880])
def test_a_long_caption_is_cut_where_it_fits_after_few_measurements(width):
    font, text = ImageFont.load_default(13), "a caption of many words, " * 10
    measured = []

    class Counting:
        def getlength(self, text):
            measured.append(text)
            return font.getlength(text)

    cut = module._cut(text, Counting(), width)
    assert len(measured) < 12
    letters = [n for n in range(len(text)) if font.getlength(text[:n] + "…") <= width]
    assert cut == text[: max(letters, default=0)] + "…"
    assert module._cut("short", font, 100) == "short"


def test_unnormalize_undoes_the_normalization():
    config = default_config().augment
    image = np.random.default_rng(0).random((2, 4, 4, 3), dtype=np.float32)
    normalized = (image - np.array(config.mean)) / np.array(config.std)
    np.testing.assert_allclose(unnormalize(normalized, config), image, atol=1e-5)


def test_wrong_input_is_named(tmp_path):
    image = np.zeros((4, 4, 3), np.uint8)
    with pytest.raises(DataError, match="captions"):
        contact_sheet([[image]], [], tmp_path / "x.png")
    with pytest.raises(DataError, match="captions"):
        contact_sheet([], [], tmp_path / "x.png")
    with pytest.raises(DataError, match="image"):
        contact_sheet([[image[..., 0]]], ["one"], tmp_path / "x.png")
