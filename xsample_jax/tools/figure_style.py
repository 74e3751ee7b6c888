"""How the figures of the report look: each is drawn twice (light and dark) in one style, as PNG."""

import base64
import contextlib
import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

# Okabe-Ito's hues, moved so that each reads on white and on near-black.
COLOURS = ("#c8553d", "#2f7fb5", "#3a9a72", "#9560b3", "#b0851f", "#5f6fd0", "#c44f85", "#6d8a96")


@dataclasses.dataclass(frozen=True)
class Theme:
    """Colours of a theme; templates/base.html has the same."""

    name: str
    ground: str
    ink: str
    muted: str
    line: str


THEMES = (
    Theme("light", "#ffffff", "#1f2225", "#6a7076", "#e4e4df"),
    Theme("dark", "#1b1e20", "#e6e6e3", "#9aa1a7", "#32373a"),
)


@dataclasses.dataclass(frozen=True)
class Picture:
    """One figure for the page: data URIs of both themes, a caption of one sentence."""

    name: str
    title: str
    caption: str
    light: str
    dark: str


@contextlib.contextmanager
def _style(theme: Theme):
    import matplotlib

    style = {
        "figure.facecolor": theme.ground,
        "axes.facecolor": theme.ground,
        "savefig.facecolor": theme.ground,
        "text.color": theme.ink,
        "axes.labelcolor": theme.muted,
        "axes.edgecolor": theme.line,
        "xtick.color": theme.muted,
        "ytick.color": theme.muted,
        "grid.color": theme.line,
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.prop_cycle": matplotlib.cycler(color=COLOURS),
        "font.family": "sans-serif",
        "font.size": 10.5,
        "grid.linewidth": 0.7,
        "lines.linewidth": 1.8,
        "lines.solid_capstyle": "round",
        "legend.frameon": False,
        "legend.labelcolor": theme.ink,
        "xtick.major.size": 0,
        "ytick.major.size": 0,
    }
    with matplotlib.rc_context(style):
        yield


def picture(
    folder: Path,
    name: str,
    title: str,
    caption: str,
    draw: Callable,
    fit: bool = False,
    size: tuple[float, float] | None = None,
) -> Picture:
    """Draws `draw(figure, theme)` in both themes, writes <name>.png and <name>-dark.png, returns the Picture.

    Args:
      fit: lay the figure out by the widths of its labels (slow) in place of fixed margins.
      size: width and height in inches; default: a half of the page.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    encoded = {}
    for theme in THEMES:
        with _style(theme):
            inches = size or ((4.6, 3.5) if fit else (4.6, 2.9))
            figure = Figure(figsize=inches, dpi=160, layout="constrained" if fit else None)
            if not fit:
                figure.subplots_adjust(left=0.145, right=0.975, top=0.965, bottom=0.165)
            draw(figure, theme)
            # The canvas is drawn once; figure.savefig would draw it twice.
            canvas = FigureCanvasAgg(figure)
            canvas.draw()
        # 256 colours are plenty here and a third of the bytes.
        flat = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
        file = folder / f"{name}{'' if theme.name == 'light' else '-dark'}.png"
        flat.quantize(256, dither=Image.Dither.NONE).save(file)
        encoded[theme.name] = data_uri(file.read_bytes())
    return Picture(name, title, caption, encoded["light"], encoded["dark"])


def data_uri(png: bytes) -> str:
    """Returns a PNG as a data URI."""
    return "data:image/png;base64," + base64.b64encode(png).decode()


def colour(place: int) -> str:
    """Returns the colour of the run at this place; colours repeat after eight."""
    return COLOURS[place % len(COLOURS)]
