"""HTML pages of the tools: one file, no script, every picture inside; templates/base.html is their common dress."""

import io
from pathlib import Path

import jinja2
import numpy as np
from PIL import Image

from xsample_jax.tools.figure_style import THEMES, data_uri


def write_page(template: str, out: Path, **values) -> Path:
    """Fills a template of xsample_jax/tools/templates and writes it; returns the path."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("xsample_jax.tools", "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    page = environment.get_template(template).render(themes={theme.name: theme for theme in THEMES}, **values)
    out.write_text(page, encoding="utf-8")
    return out


def figures_folder(out: Path) -> Path:
    """The folder beside a page that has its figures as PNG; made if missing."""
    folder = out.with_name(out.stem + "_figures")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def image_uri(image: np.ndarray) -> str:
    """A uint8 image [h, w, 3] as the data URI of a PNG."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="png", optimize=True)
    return data_uri(buffer.getvalue())
