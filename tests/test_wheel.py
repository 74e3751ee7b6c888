"""The wheel: what a user installs runs in an empty folder, without the checkout."""

import os
import pathlib
import re
import resource
import runpy
import shutil
import subprocess
import sys
import zipfile

import pytest
import setuptools

ROOT = pathlib.Path(__file__).parent.parent
PARTS = ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "CITATION.cff", "configs", "xsample_jax")


def start(*command, folder, path=ROOT):
    """Runs a command in `folder` with `path` as the only place of the package."""
    environment = os.environ | {"PYTHONPATH": str(path), "JAX_PLATFORMS": "cpu"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of a copy of the checkout, built without network."""
    pytest.importorskip("wheel", reason="needs wheel, of the extra test")
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for part in PARTS:
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, source / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / part, source / part)
    options = ("--no-deps", "--no-build-isolation", "--no-index", "-q", "-w", str(out), str(source))
    path = os.environ.get("PYTHONPATH", "")
    done = start(sys.executable, "-m", "pip", "wheel", *options, folder=source, path=path)
    assert done.returncode == 0, done.stderr
    (path,) = out.glob("xsample_jax-*-py3-none-any.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """The folder that the wheel is installed in."""
    target = tmp_path_factory.mktemp("installed")
    options = ("--no-deps", "--no-index", "--no-compile", "-q", "--target", str(target), str(wheel))
    assert start(sys.executable, "-m", "pip", "install", *options, folder=target).returncode == 0
    return target


@pytest.mark.slow
def test_the_wheel_holds_all_files_of_the_package(wheel):
    files = {path for path in (ROOT / "xsample_jax").rglob("*") if path.is_file() and path.suffix != ".pyc"}
    expected = {path.relative_to(ROOT).as_posix() for path in files}
    expected |= {f"xsample_jax/{path.relative_to(ROOT).as_posix()}" for path in (ROOT / "configs").rglob("*.py")}
    assert expected <= set(zipfile.ZipFile(wheel).namelist())


@pytest.mark.slow
def test_the_metadata_is_complete(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        head, _, long = archive.read(name).decode().partition("\n\n")
    for line in ("Author: The xsample_jax authors", "Project-URL: Paper, https://arxiv.org", "Keywords: jax,",
                 "Requires-Python: >=3.11", "Classifier: Programming Language :: Python :: 3.13"):  # fmt: skip
        assert line in head
    links = re.findall(r"\]\(([^)]+)\)", long)
    assert links
    assert [link for link in links if not re.match(r"https?://|#", link)] == []


@pytest.mark.slow
def test_the_installed_wheel_runs_in_an_empty_folder(installed, tmp_path):
    command = str(installed / "bin" / "xsample")
    code = (
        "import xsample_jax, xsample_jax.config.load as load\n"
        f"assert xsample_jax.__file__.startswith({str(installed)!r}), xsample_jax.__file__\n"
        "names = load.names_of_configs(load.CONFIG_FOLDERS[1])\n"
        "runs = [name for name in names if not name.startswith(('ablations/', 'studies/'))]\n"
        "print(len([xsample_jax.load_config(name + ':smoke') for name in runs]))\n"
        "from xsample_jax.sweeps.grid import read_grid\n"
        "print(len(read_grid('ablations/temperature')[1]))\n"
    )
    done = start(sys.executable, "-c", code, folder=tmp_path, path=installed)
    assert done.returncode == 0, done.stderr
    configs = [path for path in (ROOT / "configs").rglob("*.py") if path.parent.name not in ("ablations", "studies")]
    assert int(done.stdout.split()[0]) == len(configs)
    wrong = ("--config=quickstart:smoke", "--workdir=run", "--config.optimizer.name=adam")
    done = start(command, "train", *wrong, folder=tmp_path, path=installed)
    assert done.returncode == 2
    assert "Did you mean adamw" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_links_of_the_readme_lead_to_the_repository_where_one_is_named(monkeypatch):
    monkeypatch.setattr(setuptools, "setup", lambda **arguments: None)
    describe = runpy.run_path(str(ROOT / "setup.py"))["description"]
    text = "[a](pages/b.md#c) ![d](e.png) [f](https://g.org) [h](#i)"
    made = "[a](https://x.org/y/blob/HEAD/pages/b.md#c) ![d](https://x.org/y/raw/HEAD/e.png)"
    assert describe(text, "https://x.org/y") == f"{made} [f](https://g.org) [h](#i)"
    assert describe(text, None) == "a  [f](https://g.org) [h](#i)"


def test_help_starts_at_once(tmp_path):
    """Commands load what they need when they start, not before: `xsample --help` loads no jax."""
    code = (
        "import sys\nfrom xsample_jax.tools.__main__ import main\n"
        "code = main(['--help'])\n"
        "heavy = {'jax', 'numpy', 'flax', 'ml_collections', 'absl', 'etils'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else code)"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = start(sys.executable, "-c", code, folder=tmp_path)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    assert "xsample train" in done.stdout
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.3


def test_a_command_is_started_with_its_name_and_exit_code(tmp_path):
    module = (sys.executable, "-m", "xsample_jax")
    done = start(*module, "train", "--help", folder=tmp_path)
    assert (done.returncode, "--workdir" in done.stdout) == (0, True), done.stderr
    done = start(*module, "export", "--run=nowhere", "--format=safetensors", "--out=x", folder=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    done = start(*module, "trian", folder=tmp_path)
    assert done.returncode == 2
    assert "Did you mean train?" in done.stderr
    assert start(*module, "export", "--help", folder=tmp_path).stdout.startswith("usage: xsample export ")
