"""Draws a picture of the set `shapes` from its factors: 48 x 48 pixels, one object or several alike on a ground."""

import numpy as np
from PIL import Image, ImageDraw

from xsample_jax.prepare.shape_factors import FACTORS

SIZE = 48  # pixels
_FINE = 4  # objects are drawn this much larger, for smooth edges
_COLOURS = {
    "red": (205, 40, 45), "orange": (240, 135, 25), "yellow": (245, 215, 40), "green": (40, 150, 70),
    "blue": (45, 85, 200), "purple": (125, 55, 160), "pink": (240, 130, 180), "grey": (125, 125, 130),
}  # fmt: skip
_CENTRES = {"left": (-0.13, 0), "right": (0.13, 0), "top": (0, -0.13), "bottom": (0, 0.13), "centre": (0, 0)}
# Places of the objects around the centre of their group, and their radius, as shares of the picture's side.
_GROUPS = {
    "one": (((0, 0),), 0.32),
    "two": (((-0.18, 0.08), (0.18, -0.08)), 0.19),
    "three": (((0, -0.18), (-0.19, 0.15), (0.19, 0.15)), 0.18),
    "four": (((-0.19, -0.19), (0.19, -0.19), (-0.19, 0.19), (0.19, 0.19)), 0.17),
}


def draw(values: dict[str, int], index: int) -> Image.Image:
    """The picture with these factors, RGB; `index` decides what no caption tells (turns, sizes, shades, grain)."""
    words = {name: FACTORS[name][value] for name, value in values.items()}
    # A stream for each part, so that changing one factor changes nothing else.
    of_ground, of_objects, of_colour, of_texture = (np.random.default_rng([2407, index, part]) for part in range(4))
    picture = _ground(words["ground"], of_ground)
    mask, outline = _objects(words, of_objects)
    shade, tint = of_colour.uniform(0.88, 1.06), of_colour.normal(0, 5, 3)
    colour = np.clip(np.array(_COLOURS[words["colour"]]) * shade + tint, 0, 255)
    light = 0.5 * colour + 0.5 * 255
    pattern = _texture(words["texture"], of_texture)[..., None]
    surface = pattern * light + (1 - pattern) * colour
    for cover, paint in ((outline, 0.15 * colour), (mask, surface)):
        picture = (1 - cover[..., None]) * picture + cover[..., None] * paint
    return Image.fromarray(np.clip(picture + 0.5, 0, 255).astype(np.uint8))


def _objects(words: dict[str, str], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Coverage in 0..1 of the objects and of the objects with their outline, float [SIZE, SIZE] each."""
    places, radius = _GROUPS[words["count"]]
    centre = np.array(_CENTRES[words["position"]]) + rng.uniform(-0.02, 0.02, 2) + 0.5
    radius *= rng.uniform(0.88, 1.1)
    turn = rng.uniform(-0.3, 0.3)
    side = SIZE * _FINE
    covers = []
    for border in (0.0, 0.025):
        canvas = Image.new("L", (side, side))
        pen = ImageDraw.Draw(canvas)
        for place in places:
            _draw_shape(pen, words["shape"], (centre + place) * side, (radius + border) * side, turn, border * side)
        covers.append(np.asarray(canvas.resize((SIZE, SIZE), Image.Resampling.BOX), np.float64) / 255)
    return covers[0], covers[1]


def _draw_shape(pen: ImageDraw.ImageDraw, shape: str, centre: np.ndarray, radius: float, turn: float, border: float):
    box = [*(centre - radius), *(centre + radius)]
    if shape == "circle":
        pen.ellipse([*(centre - 0.9 * radius), *(centre + 0.9 * radius)], fill=255)
    elif shape == "ring":
        pen.ellipse(box, fill=255)
        hole = 0.5 * (radius - border) - border
        pen.ellipse([*(centre - hole), *(centre + hole)], fill=0)
    else:
        corners = _outline(shape) * radius
        spin = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        pen.polygon([tuple(point) for point in corners @ spin.T + centre], fill=255)


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
    """Where the surface is light, float [SIZE, SIZE]; phase and direction differ from picture to picture."""
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
