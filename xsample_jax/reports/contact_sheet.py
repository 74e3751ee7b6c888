"""A sheet of images and the views made of them, to check the augmentation by eye.

`python -m xsample_jax.reports.contact_sheet docs/augmentation.png` draws the sheet of docs/augmentation.md.
"""

import argparse
import bisect
import os
import pathlib
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from xsample_jax.errors import DataError
from xsample_jax.reports.style import write_png

_GAP = 6
_FONT = 13
_LINE = 16
_INK, _PAPER = (30, 30, 30), (255, 255, 255)


def contact_sheet(
    rows: Sequence[Sequence[np.ndarray]],
    captions: Sequence[str],
    path: str | os.PathLike,
    titles: Sequence[str] = (),
    tile: int = 96,
    width: int = 0,
) -> pathlib.Path:
    """Writes a PNG with one row per image: its source, its views, and its caption above them.

    Args:
      rows: per image the images from left to right; each [H, W, 3] or [H, W, 4] (shown on a checkerboard), uint8,
        or float in 0..1 (see `unnormalize`; what is outside is cut off). Sizes may differ; grown without smoothing.
      captions: one line per row; cut with an ellipsis when too long.
      path: file to write; missing folders are made.
      titles: of the columns.
      tile: side in pixels at which each image is shown.
      width: of the sheet in pixels, at least; more than the images need gives captions room.

    Returns:
      The path.

    Raises:
      DataError: no rows, or not as many captions as rows, or an image of another shape.
    """
    if not rows or len(captions) != len(rows):
        raise DataError("captions", len(captions), f"one for each of the {len(rows)} rows, and at least one row", "")
    columns = max(len(row) for row in rows)
    width = max(width, _GAP + columns * (tile + _GAP))
    header = _LINE + _GAP if titles else 0
    row_height = _LINE + tile + _GAP
    sheet = Image.new("RGB", (width, _GAP + header + len(rows) * row_height), _PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(_FONT)
    for column, title in enumerate(titles):
        draw.text((_GAP + column * (tile + _GAP), _GAP), _cut(title, font, tile), _INK, font)
    for index, (images, caption) in enumerate(zip(rows, captions)):
        top = _GAP + header + index * row_height
        draw.text((_GAP, top), _cut(caption, font, width - 2 * _GAP), _INK, font)
        for column, image in enumerate(images):
            sheet.paste(_as_tile(image, tile), (_GAP + column * (tile + _GAP), top + _LINE))
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_png(path, sheet)
    return path


def gallery_sheet(
    images: Sequence[np.ndarray],
    captions: Sequence[str],
    path: str | os.PathLike,
    tile: int = 192,
    across: int = 4,
    lines: int = 3,
) -> pathlib.Path:
    """Writes a PNG of single images, `across` in a row, each with its caption below it in at most `lines` lines.

    Images, captions and errors as of `contact_sheet`; returns the path.
    """
    if not images or len(captions) != len(images):
        raise DataError("captions", len(captions), f"one for each of the {len(images)} images, and at least one", "")
    across = min(across, len(images))
    font, high = ImageFont.load_default(_FONT), _LINE * lines + tile + _GAP
    size = (_GAP + across * (tile + _GAP), _GAP + -(-len(images) // across) * high)
    sheet = Image.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(sheet)
    for place, (image, caption) in enumerate(zip(images, captions, strict=True)):
        left, top = _GAP + place % across * (tile + _GAP), _GAP + place // across * high
        sheet.paste(_as_tile(image, tile), (left, top))
        for number, line in enumerate(_wrapped(caption, font, tile, lines)):
            draw.text((left, top + tile + number * _LINE), line, _INK, font)
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_png(path, sheet)
    return path


def _wrapped(text: str, font: ImageFont.ImageFont, width: int, lines: int) -> list[str]:
    """The text in at most `lines` lines, broken at spaces; what does not fit ends in an ellipsis."""
    found, words = [], text[:2000].split()
    while words and len(found) < lines - 1:
        count = 1
        while count < len(words) and font.getlength(" ".join(words[: count + 1])) <= width:
            count += 1
        found.append(_cut(" ".join(words[:count]), font, width))
        words = words[count:]
    return [*found, _cut(" ".join(words), font, width)] if words else found


def unnormalize(views: np.ndarray, config) -> np.ndarray:
    """Undoes the normalization of `augment.make_views`: float [..., 3 + bits] -> float32 [..., 3], 0..1.

    `config` is its section; channels of bits are not colors and are left out.
    """
    shown = np.asarray(views, np.float32)[..., :3] * np.asarray(config.std, np.float32) + np.asarray(
        config.mean, np.float32
    )
    return np.clip(shown, 0.0, 1.0)


def _as_tile(image: np.ndarray, tile: int) -> Image.Image:
    image = np.asarray(image)
    if image.ndim != 3 or image.shape[2] not in (3, 4):
        raise DataError("image", image.shape, "a shape [H, W, 3] or [H, W, 4]", "")
    values = image.astype(np.float32) / (255.0 if image.dtype == np.uint8 else 1.0)
    if image.shape[2] == 4:
        place = np.indices(image.shape[:2]) * 8 // np.array(image.shape[:2])[:, None, None]
        board = np.where(place.sum(axis=0) % 2, 0.93, 0.8)[:, :, None]
        values = values[:, :, :3] * values[:, :, 3:] + board * (1 - values[:, :, 3:])
    pixels = (np.clip(values, 0.0, 1.0) * 255 + 0.5).astype(np.uint8)
    grown = max(pixels.shape[:2]) <= tile
    return Image.fromarray(pixels).resize((tile, tile), Image.Resampling.NEAREST if grown else Image.Resampling.BOX)


def _cut(text: str, font: ImageFont.ImageFont, width: int) -> str:
    if font.getlength(text) <= width:
        return text
    # By halves: to measure a text takes as long as the text is, and captions of 10,000 letters exist.
    fitting = bisect.bisect(range(len(text)), width, key=lambda letters: font.getlength(text[:letters] + "…"))
    return text[: max(fitting - 1, 0)] + "…"


def _drawn_images(size: int) -> tuple[np.ndarray, list[str]]:
    """A few plain figures with alpha, for a sheet that needs no dataset: uint8 [n, size, size, 4] and captions."""
    scale = 4 * size / 64  # drawn four times as large, for smooth edges

    def figure(*shapes):
        image = Image.new("RGBA", (4 * size, 4 * size))
        draw = ImageDraw.Draw(image)
        for kind, box, color in shapes:
            getattr(draw, kind)([value * scale for value in box], fill=color)
        return np.asarray(image.resize((size, size), Image.Resampling.BOX))

    sun = [("ellipse", (6, 6, 58, 58), "#f59a1d"), ("ellipse", (14, 14, 50, 50), "#ffd84a")]
    house = [
        ("rectangle", (14, 30, 50, 60), "#d8c3a5"),
        ("polygon", (8, 32, 32, 8, 56, 32), "#b23a48"),
        ("rectangle", (27, 42, 37, 60), "#5b3a29"),
        ("rectangle", (18, 36, 25, 43), "#7fc8f8"),
    ]
    fish = [
        ("polygon", (40, 32, 60, 16, 60, 48), "#1f6f8b"),
        ("ellipse", (4, 16, 48, 48), "#2ea3c7"),
        ("ellipse", (12, 25, 18, 31), "#0b2239"),
    ]
    tree = [
        ("rectangle", (28, 40, 36, 62), "#7a4a21"),
        ("ellipse", (10, 4, 54, 46), "#3c8d40"),
        ("ellipse", (22, 14, 28, 20), "#d7263d"),
    ]
    names = ["sun, yellow, sky", "house, home, building", "fish, animal, water", "tree, plant, nature"]
    return np.stack([figure(*shapes) for shapes in (sun, house, fish, tree)]), names


def main() -> None:
    """Draws figures, the emoji recipe's views of them, AutoAugment's, and backgrounds of evaluation, side by side."""
    import jax
    import jax.numpy as jnp

    from xsample_jax.augment import backgrounds
    from xsample_jax.augment.views import eval_view, make_views
    from xsample_jax.config import default_config

    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("path", help="PNG to write")
    path = parser.parse_args().path
    images, captions = _drawn_images(64)
    ids = jnp.arange(len(images))
    groups = np.arange(len(images)) // 2

    config = default_config().augment
    config.size = 64
    with_policy = default_config().augment
    with_policy.update(size=64, jitter=0.0, gray=0.0, auto_augment=True)

    def views(section, count):
        make = jax.jit(lambda images, ids, step: make_views(images, ids, 0, step, section, count))
        made = np.asarray(make(images, ids, jnp.int32(0))).reshape(len(images), count, 64, 64, 3)
        return unnormalize(made, section)

    def seen(background):
        return unnormalize(np.asarray(eval_view(images, config, background)), config)

    simclr, policy = views(config, 4), views(with_policy, 3)
    shown = [
        seen(None),
        seen(backgrounds.textures(ids, 0, 64, "checker")),
        seen(backgrounds.textures(ids, 0, 64, "noise")),
        seen(backgrounds.mixed_same(images, groups, 0)),
        seen(backgrounds.mixed_rand(images, groups, 0)),
    ]
    rows = [[images[k], *simclr[k], *policy[k], *(view[k] for view in shown)] for k in range(len(images))]
    titles = ["source", *["SimCLR view"] * 4, *["ImageNet AA"] * 3]
    titles += ["eval: gray", "eval: checker", "eval: noise", "mixed same", "mixed rand"]
    print(contact_sheet(rows, captions, path, titles, tile=80))


if __name__ == "__main__":
    main()
