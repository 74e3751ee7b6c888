"""The pages of docs/ and the API reference build without a warning: `make site`."""

import pathlib
import re
import subprocess
import sys

import pytest

EXTENSIONS = "myst_parser,sphinx.ext.autodoc,sphinx.ext.napoleon"  # without pages of highlighted source
ROOT = pathlib.Path(__file__).parent.parent


def test_site_builds_without_a_warning(tmp_path):
    pytest.importorskip("furo")
    build = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", "docs", str(tmp_path)]
    build[3:3] = ["-D", f"extensions={EXTENSIONS}", "-D", "toc_object_entries=0", "-D", "html_use_index=0"]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "api" / "objectives.html").read_text()
    assert 'id="xsample_jax.objectives.cross_entropy.cross_entropy"' in page
    missing = []
    for file in tmp_path.rglob("*.html"):
        for image in re.findall(r'(?:src|srcset)="([^":?]+\.png)', file.read_text()):
            if not (file.parent / image).exists():
                missing.append(f"{file.name}: {image}")
    assert missing == []
