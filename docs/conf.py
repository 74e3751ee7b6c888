"""Sphinx: `make site` writes docs as pages, with an API reference made from the docstrings."""

import pathlib
import re
import shutil
import sys

ROOT = pathlib.Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

project = "xsample_jax"
author = "the xsample_jax authors"
release = re.search(r'__version__ = "(.+)"', (ROOT / "xsample_jax" / "__init__.py").read_text())[1]

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["_build"]
myst_heading_anchors = 4
myst_enable_extensions = ["dollarmath"]
html_theme = "furo"
html_title = "xsample_jax"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
napoleon_use_ivar = True  # an attribute of a dataclass is described once, in its docstring


def tidy(app, what, name, obj, options, lines: list[str]) -> None:
    """Makes reST of a docstring: formulas keep their lines, and |x| is a norm, not a substitution."""
    tidied, before = [], ""
    for number, line in enumerate(lines):
        starts = line.startswith("    ") and not lines[number - 1].strip() if number else False
        if starts and not before.startswith("    ") and not before.endswith(":"):
            tidied += ["::", ""]
        tidied.append(line if line.startswith("    ") else line.replace("|", "\\|"))
        before = line if line.strip() else before
    lines[:] = tidied


def copy_panels(app, error: Exception | None) -> None:
    """Sphinx copies the images of Markdown, not those of <picture>, which are dark and light."""
    for path in (ROOT / "docs").rglob("*.png") if error is None and app.builder.format == "html" else ():
        shutil.copy(path, pathlib.Path(app.outdir) / path.relative_to(ROOT / "docs"))


def setup(app) -> None:
    app.connect("build-finished", copy_panels)
    app.connect("autodoc-process-docstring", tidy, priority=400)  # before napoleon reads the sections
