"""The controlled set `shapes` as a source: images drawn from six known factors, captions that name some of them."""

import hashlib
import io
from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
from PIL import Image, ImageDraw

from xsample_jax.errors import DataError, did_you_mean
from xsample_jax.prepare.example import Example, Fields, InputShard, Source

# The controlled set `shapes`: its factors, which values image number i has, and what captions say of them.
#
# Factors are independent and uniform, so chance and the similarity of any two images are known exactly.


FACTORS = {
    "shape": ("circle", "square", "triangle", "star", "cross", "ring", "heart", "hexagon"),
    "color": ("red", "orange", "yellow", "green", "blue", "purple", "pink", "gray"),
    "texture": ("plain", "striped", "dotted", "checked"),
    "count": ("one", "two", "three", "four"),
    "ground": ("sky", "grass", "sand", "brick", "night", "paper"),
    "position": ("left", "right", "top", "bottom", "center"),
}
# The captions of an image, in the order of `data.caption`: what each of them names.
CAPTIONS = (tuple(FACTORS), ("shape", "color", "texture", "count"), ("shape",), ("ground",))

_POSITIONS = {
    "left": "on the left", "right": "on the right", "top": "at the top", "bottom": "at the bottom",
    "center": "in the center",
}  # fmt: skip
_GROUNDS = {"sky": "in the sky", "night": "at night"}


def factors_of(index: int) -> dict[str, int]:
    """The value of every factor in image `index`: digits of a hash, the same on every machine."""
    number = int.from_bytes(hashlib.blake2b(f"shapes {index}".encode(), digest_size=16).digest(), "big")
    values = {}
    for name, names in FACTORS.items():
        number, values[name] = divmod(number, len(names))
    return values


def caption_of(values: dict[str, int], named: Sequence[str]) -> str:
    """A caption that names these factors and no others: "three red striped stars on the left, on grass"."""
    words = {name: FACTORS[name][values[name]] for name in named}
    thing = words.get("shape", "")
    if thing and words.get("count", "one") != "one":
        thing += "es" if thing == "cross" else "s"
    parts = [" ".join(filter(None, (words.get("count"), words.get("color"), words.get("texture"), thing)))]
    if "position" in words:
        parts[0] += f" {_POSITIONS[words['position']]}"
    if "ground" in words:
        parts.append(_GROUNDS.get(words["ground"], f"on {words['ground']}"))
    return ", ".join(part.strip() for part in parts if part)


def factor_vector(values: dict[str, int], named: Sequence[str]) -> np.ndarray:
    """A unit vector float32 [35] for a caption: the cosine of two is the share of the named factors that agree."""
    rows = [np.zeros(len(names), np.float32) for names in FACTORS.values()]
    for row, name in zip(rows, FACTORS, strict=True):
        if name in named:
            row[values[name]] = len(named) ** -0.5
    return np.concatenate(rows)


def check_factors(named: Sequence[str]) -> tuple[str, ...]:
    """Returns the names in the order of FACTORS; DataError for one that is none of them or is there twice."""
    for name in named:
        if name not in FACTORS:
            expected = f"factors of shapes: {', '.join(FACTORS)}"
            raise DataError("--caption_fields", name, expected, did_you_mean(name, FACTORS))
    if len(set(named)) < len(named):
        raise DataError("--caption_fields", ",".join(named), "each factor once")
    return tuple(name for name in FACTORS if name in named)


# Draws an image of the set `shapes` from its factors: 48 x 48 pixels, one object or several alike on a ground.


SIZE = 48  # pixels
_FINE = 4  # objects are drawn this much larger, for smooth edges
_COLORS = {
    "red": (205, 40, 45), "orange": (240, 135, 25), "yellow": (245, 215, 40), "green": (40, 150, 70),
    "blue": (45, 85, 200), "purple": (125, 55, 160), "pink": (240, 130, 180), "gray": (125, 125, 130),
}  # fmt: skip
_CENTERS = {"left": (-0.13, 0), "right": (0.13, 0), "top": (0, -0.13), "bottom": (0, 0.13), "center": (0, 0)}
# Places of the objects around the center of their group, and their radius, as shares of the image's side.
_GROUPS = {
    "one": (((0, 0),), 0.32),
    "two": (((-0.18, 0.08), (0.18, -0.08)), 0.19),
    "three": (((0, -0.18), (-0.19, 0.15), (0.19, 0.15)), 0.18),
    "four": (((-0.19, -0.19), (0.19, -0.19), (-0.19, 0.19), (0.19, 0.19)), 0.17),
}


def draw(values: dict[str, int], index: int) -> Image.Image:
    """The image with these factors, RGB; `index` decides what no caption tells (turns, sizes, shades, grain)."""
    words = {name: FACTORS[name][value] for name, value in values.items()}
    # A stream for each part, so that changing one factor changes nothing else.
    of_ground, of_objects, of_color, of_texture = (np.random.default_rng([2407, index, part]) for part in range(4))
    image = _ground(words["ground"], of_ground)
    mask, outline = _objects(words, of_objects)
    shade, tint = of_color.uniform(0.88, 1.06), of_color.normal(0, 5, 3)
    color = np.clip(np.array(_COLORS[words["color"]]) * shade + tint, 0, 255)
    light = 0.5 * color + 0.5 * 255
    pattern = _texture(words["texture"], of_texture)[..., None]
    surface = pattern * light + (1 - pattern) * color
    for cover, paint in ((outline, 0.15 * color), (mask, surface)):
        image = (1 - cover[..., None]) * image + cover[..., None] * paint
    return Image.fromarray(np.clip(image + 0.5, 0, 255).astype(np.uint8))


def _objects(words: dict[str, str], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Coverage in 0..1 of the objects and of the objects with their outline, float [SIZE, SIZE] each."""
    places, radius = _GROUPS[words["count"]]
    center = np.array(_CENTERS[words["position"]]) + rng.uniform(-0.02, 0.02, 2) + 0.5
    radius *= rng.uniform(0.88, 1.1)
    turn = rng.uniform(-0.3, 0.3)
    side = SIZE * _FINE
    covers = []
    for border in (0.0, 0.025):
        canvas = Image.new("L", (side, side))
        pen = ImageDraw.Draw(canvas)
        for place in places:
            _draw_shape(pen, words["shape"], (center + place) * side, (radius + border) * side, turn, border * side)
        covers.append(np.asarray(canvas.resize((SIZE, SIZE), Image.Resampling.BOX), np.float64) / 255)
    return covers[0], covers[1]


def _draw_shape(pen: ImageDraw.ImageDraw, shape: str, center: np.ndarray, radius: float, turn: float, border: float):
    box = [*(center - radius), *(center + radius)]
    if shape == "circle":
        pen.ellipse([*(center - 0.9 * radius), *(center + 0.9 * radius)], fill=255)
    elif shape == "ring":
        pen.ellipse(box, fill=255)
        hole = 0.5 * (radius - border) - border
        pen.ellipse([*(center - hole), *(center + hole)], fill=0)
    else:
        corners = _outline(shape) * radius
        spin = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        pen.polygon([tuple(point) for point in corners @ spin.T + center], fill=255)


def _outline(shape: str) -> np.ndarray:
    """Corners [n, 2] of a shape within the unit circle, y down."""
    if shape == "heart":
        t = np.linspace(0, 2 * np.pi, 60, endpoint=False)
        x = 16 * np.sin(t) ** 3
        y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)) - 2
        return np.stack([x, y], axis=1) / 16.5
    if shape == "cross":
        a, b = 0.3, 0.95
        return np.array([
            (-a, -b), (a, -b), (a, -a), (b, -a), (b, a), (a, a), (a, b), (-a, b), (-a, a), (-b, a), (-b, -a), (-a, -a),
        ])  # fmt: skip
    if shape == "star":
        angles, lengths = np.arange(10) / 10, np.tile([1, 0.42], 5)
    else:
        corners = {"square": 4, "triangle": 3, "hexagon": 6}[shape]
        angles, lengths = np.arange(corners) / corners + (0.125 if shape == "square" else 0), np.ones(corners)
    return lengths[:, None] * np.stack([np.sin(2 * np.pi * angles), -np.cos(2 * np.pi * angles)], axis=1)


def _texture(texture: str, rng: np.random.Generator) -> np.ndarray:
    """Where the surface is light, float [SIZE, SIZE]; phase and direction differ from image to image."""
    turn, shift, period = rng.uniform(-0.4, 0.4), rng.uniform(0, 6, 2), 6.0
    y, x = np.mgrid[:SIZE, :SIZE]
    u, v = x * np.cos(turn) + y * np.sin(turn) + shift[0], y * np.cos(turn) - x * np.sin(turn) + shift[1]
    if texture == "plain":
        return np.zeros((SIZE, SIZE))
    if texture == "striped":
        return (u % period < 2.6).astype(float)
    if texture == "dotted":
        return ((u % period - period / 2) ** 2 + (v % period - period / 2) ** 2 < 1.9**2).astype(float)
    return ((u % (1.4 * period) < 0.7 * period) ^ (v % (1.4 * period) < 0.7 * period)).astype(float)


def _ground(ground: str, rng: np.random.Generator) -> np.ndarray:
    """float [SIZE, SIZE, 3] in 0..255."""
    y, x = np.mgrid[:SIZE, :SIZE] / SIZE
    grain = rng.normal(size=(SIZE, SIZE))
    shade = rng.uniform(0.92, 1.06)
    if ground == "sky":
        clouds = 40 * np.clip(np.sin(3 * x * 2 + rng.uniform(0, 6)) * np.sin(9 * y + rng.uniform(0, 6)), 0, 1)
        base, change = (130, 185, 235), 45 * y + clouds
    elif ground == "grass":
        base, change = (90, 150, 60), 14 * np.sin(40 * x + 4 * np.sin(9 * y) + rng.uniform(0, 6)) + 9 * grain
    elif ground == "sand":
        base, change = (222, 196, 142), 9 * grain + 8 * np.sin(14 * y + 3 * x + rng.uniform(0, 6))
    elif ground == "brick":
        row = np.floor((y + rng.uniform(0, 0.2)) * 7)
        mortar = ((y * 7) % 1 < 0.16) | (((x + 0.5 * (row % 2) / 4) * 4) % 1 < 0.09)
        base, change = (172, 92, 72), np.where(mortar, 55.0, 6 * grain)
    elif ground == "night":
        base, change = (24, 28, 62), np.where(rng.random((SIZE, SIZE)) < 0.02, 190.0, 2 * grain)
    else:
        base, change = (243, 241, 234), np.where((y * SIZE + rng.integers(0, 6)) % 6 < 1, -22.0, 1.5 * grain)
    return np.array(base) * shade + np.round(change)[..., None]


VERSION = 1  # of the drawings: another number, other images
SPLITS = {"train": 8000, "val": 1000, "test": 2000}
PER_SHARD = 2000


def shapes_source(fields: Fields) -> Source:
    """11,000 images of the shapes set, drawn from their numbers; the label is the shape, all factors are attributes.

    Captions come with vectors whose cosine is the share of the named factors that agree, so no text model is needed and
    the graph is known exactly.

    Args:
      fields: captions: the factors that the one caption of an image names; (): four captions, those of CAPTIONS.
    """
    captions = (check_factors(fields.captions),) if fields.captions else CAPTIONS
    shards, start = [], 0
    for split, count in SPLITS.items():
        for first in range(start, start + count, PER_SHARD):
            stop = min(first + PER_SHARD, start + count)
            name = f"shapes {VERSION}, {SIZE} pixels, {first} to {stop - 1}"
            identity = f"{name} {'; '.join('+'.join(named) for named in captions)}"
            shards.append(InputShard(name, partial(draw_range, first, stop, captions), identity, split))
        start += count
    encoder = {
        "name": "factors of shapes",
        "revision": str(VERSION),
        "pooling": "one-hot",
        "dim": sum(map(len, FACTORS.values())),
        "normalised": True,
        "template": "{caption}",
    }
    attributes = {name: list(values) for name, values in FACTORS.items()}
    return Source(tuple(shards), FACTORS["shape"], attributes, encoder)


def draw_range(start: int, stop: int, captions: tuple[tuple[str, ...], ...]) -> Iterator[Example]:
    """Yields the images `start` to `stop`, as PNG."""
    for index in range(start, stop):
        values = factors_of(index)
        buffer = io.BytesIO()
        draw(values, index).save(buffer, "PNG")
        yield Example(
            key=str(index),
            image=buffer.getvalue(),
            captions=tuple(caption_of(values, named) for named in captions),
            label=values["shape"],
            attributes=values,
            caption_embeddings=np.stack([factor_vector(values, named) for named in captions]).astype(np.float16),
        )
