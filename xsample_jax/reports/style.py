"""How the figures of the report look: each is drawn twice (light and dark) in one style, as PNG."""

import base64
import contextlib
import dataclasses
import hashlib
import io
import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import jinja2
import numpy as np
from markupsafe import Markup, escape
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from xsample_jax.errors import ConfigError, DataError, shorten
from xsample_jax.io.files import FIGURES, atomic_write, read_text

# Okabe-Ito's hues, moved so that each reads on white and on near-black.
COLORS = ("#c8553d", "#2f7fb5", "#3a9a72", "#9560b3", "#b0851f", "#5f6fd0", "#c44f85", "#6d8a96")


@dataclasses.dataclass(frozen=True)
class Theme:
    """Colors of a theme; templates/base.html has the same."""

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
class Panel:
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
        "axes.prop_cycle": matplotlib.cycler(color=COLORS),
        "font.family": "sans-serif",
        "font.size": 10.5,
        "grid.linewidth": 0.7,
        "lines.linewidth": 1.8,
        "lines.solid_capstyle": "round",
        "legend.frameon": False,
        "legend.labelcolor": theme.ink,
        "text.parse_math": False,  # names and captions of users may have dollar signs
        "xtick.major.size": 0,
        "ytick.major.size": 0,
    }
    with matplotlib.rc_context(style):
        yield


def file_name(text: str) -> str:
    """A name for a file made of any text: letters, digits, dots and dashes; different texts have different names."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "_", text)[:80].lstrip(".")
    if plain == text:
        return plain
    return f"{plain}-{hashlib.blake2b(text.encode('utf-8', 'surrogatepass'), digest_size=4).hexdigest()}"


FITTED = (4.6, 3.5)  # inches: half of the page


def draw_panel(
    folder: Path,
    name: str,
    title: str,
    caption: str,
    draw: Callable,
    size: tuple[float, float] | None = None,
) -> Panel:
    """Draws `draw(figure, theme)` in both themes, writes <name>.png and <name>-dark.png, returns the Panel.

    Args:
      size: width and height in inches, as FITTED, of a figure that is laid out by the widths of its labels (slow);
        None: half of the page, with fixed margins.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    encoded = {}
    for theme in THEMES:
        with _style(theme):
            figure = Figure(figsize=size or (4.6, 2.9), dpi=160, layout="constrained" if size else None)
            if size is None:
                figure.subplots_adjust(left=0.145, right=0.975, top=0.965, bottom=0.165)
            draw(figure, theme)
            _cut_names(figure)
            # The canvas is drawn once; figure.savefig would draw it twice.
            canvas = FigureCanvasAgg(figure)
            canvas.draw()
        # 256 colors are plenty here and a third of the bytes.
        flat = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
        file = folder / f"{file_name(name)}{'' if theme.name == 'light' else '-dark'}.png"
        write_png(file, flat.quantize(256, dither=Image.Dither.NONE))
        encoded[theme.name] = data_uri(file.read_bytes())
    return Panel(name, title, caption, encoded["light"], encoded["dark"])


MADE = {"Software": "xsample_jax"}  # what the metadata of our figures say


def write_png(path: Path, image: Image.Image, optimize: bool = False) -> None:
    """Writes a figure, all of it or nothing; it says that it is ours."""
    about = PngInfo()
    for name, value in MADE.items():
        about.add_text(name, value)
    atomic_write(path, lambda partial: image.save(partial, "PNG", pnginfo=about, optimize=optimize))


def check_figures(page: Path, names: Iterable[str], field: str = "--out") -> None:
    """Raises ConfigError where a figure <name>.png or <name>-dark.png beside a page would replace a file that is not
    an earlier one: neither does it say that it is ours, nor does the page show it. To be called before any work."""
    text = read_text(page, "page") if page.exists() else ""
    for name in map(file_name, names):
        shown = re.search(rf"(?<![\w.-]){re.escape(name)}\.png", text)
        for file in (page.with_name(f"{name}.png"), page.with_name(f"{name}-dark.png")):
            if file.is_dir() or (os.path.lexists(file) and not shown and not _is_ours(file)):
                expected = "nothing, or a figure of this page in its place: it would be replaced"
                raise ConfigError(field, str(file), expected, "Move it away, or give the page another name.")


def _is_ours(file: Path) -> bool:
    try:
        with Image.open(file) as image:
            return MADE.items() <= image.info.items()
    except (OSError, ValueError, SyntaxError):  # no image, or a damaged one
        return False


LONGEST = 32  # characters of a line of text in a figure


def cut(text: str) -> str:
    """Text without the middle of its longest lines: names of users of any length would leave no room for a figure."""
    return "\n".join(shorten(line, LONGEST) for line in text.split("\n"))


def _cut_names(figure) -> None:
    """Cuts the long ones among all texts of a figure."""
    from matplotlib.text import Text
    from matplotlib.ticker import FixedLocator

    for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
        if isinstance(axis.get_major_locator(), FixedLocator):  # ticks get their texts again when they are drawn
            names = [label.get_text() for label in axis.get_ticklabels()]
            if (short := [*map(cut, names)]) != names:
                axis.set_ticklabels(short)
    for text in figure.findobj(Text):
        text.set_text(cut(text.get_text()))


def data_uri(png: bytes) -> str:
    """Returns a PNG as a data URI."""
    return "data:image/png;base64," + base64.b64encode(png).decode()


def color(place: int) -> str:
    """Returns the color of the run at this place; colors repeat after eight."""
    return COLORS[place % len(COLORS)]


# HTML pages of the tools: one file, no script, every figure inside; templates/base.html is their common dress.


def write_page(template: str, out: Path, **values) -> Path:
    """Fills a template of xsample_jax/reports/templates and writes it; returns the path."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("xsample_jax.reports", "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"breakable": breakable, "soft": soft, "unbroken": unbroken}
    page = environment.get_template(template).render(themes={theme.name: theme for theme in THEMES}, **values)
    atomic_write(out, lambda partial: partial.write_text(page, encoding="utf-8"))
    return out


def breakable(text: object) -> Markup:
    """A name that may go on in the next line after a sign, and not inside a word."""
    return Markup("<wbr>").join(map(escape, _breaks(text)))


def soft(text: object) -> str:
    """As `breakable`, for an attribute that a style prints: with spaces of no width."""
    return "\u200b".join(_breaks(text))


def _breaks(text: object) -> list[str]:
    return re.findall(r"[^_\-/=,.]*[_\-/=,.]+|[^_\-/=,.]+", str(text))


def unbroken(text: object) -> Markup:
    """A text whose flags, as --config.a.b=1, are not broken after their dashes but only between their words."""
    parts = re.split(r"(--\w[^\s,;)`]*)", str(text))  # flags have the odd places
    return Markup("").join(_pieces(part) if place % 2 else escape(part) for place, part in enumerate(parts))


def _pieces(flag: str) -> Markup:
    name, sign, value = flag.partition("=")
    found = re.findall(r"-*[^._]+[._]*", name + sign) + [value] * bool(value)
    return Markup("<wbr>").join(Markup('<span class="piece">{}</span>').format(piece) for piece in found)


def figures_folder(out: Path) -> Path:
    """The folder beside a page that has its figures as PNG; made if missing."""
    folder = out.with_name(out.stem + FIGURES)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def image_uri(image: np.ndarray) -> str:
    """A uint8 image [h, w, 3] as the data URI of a PNG."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="png", optimize=True)
    return data_uri(buffer.getvalue())


# Generated parts of hand-written Markdown pages, between marker lines; rows of their tables.


def insert(path: str | Path, name: str, markdown: str) -> None:
    """Puts the text between the lines `<!-- name -->` and `<!-- /name -->` of a file, in place of the old text.

    A file that does not exist is made. Raises DataError as `check_markers`, which is to be called before any work.
    """
    before, after = check_markers(path, name)
    text = f"{before}\n\n{markdown}\n\n{after}"
    # Behind a link the page itself is replaced.
    atomic_write(Path(path).resolve(), lambda partial: partial.write_text(text, encoding="utf-8"))


def check_markers(path: str | Path, name: str) -> tuple[str, str]:
    """What a page has before and after the text of `insert`, with the marker lines; DataError where they are not."""
    path, first, last = Path(path), f"<!-- {name} -->", f"<!-- /{name} -->"
    text = f"# {name.capitalize()}\n\n{first}\n{last}\n"
    if path.exists():
        text = read_text(path, "page")
    before, start, rest = text.partition(first)
    _, end, after = rest.partition(last)
    if not (start and end):
        fix = "Add them where the text should stand."
        raise DataError(str(path), "no markers", f"the lines {first} and {last}", fix)
    return before + first, last + after


def row(cells: Sequence[str]) -> str:
    """One line of a table."""
    return f"| {' | '.join(cells)} |"


def rule(columns: int) -> str:
    """The line below the head of a table: a column of words, then `columns` of numbers."""
    return "|---|" + "---:|" * columns
