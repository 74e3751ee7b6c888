"""python -m xsample_jax.tools.sweep: prints, emits commands that the launchers take, and trains a real grid."""

import shlex
import subprocess
from pathlib import Path

import pyarrow.parquet
import pytest

from tests.xla_flags import QUICK
from xsample_jax.errors import ConfigError, Problems
from xsample_jax.sweeps.grid import grid
from xsample_jax.sweeps.launch import KINDS, check_points, emit
from xsample_jax.tools.sweep import sweep

ROOT = Path(__file__).parent.parent.parent
OPTIONS = {
    "slurm": "--gpus-per-node=1",
    "gpu_host": "--gpus=0",
    "xpk": "--cluster=c --zone=z --project=p --type=v5litepod-16 --image=i",
    "gke": "--image=i",
    "queued": "--zone=z --type=v5litepod-16",
    "babysit": "--zone=z --type=v5litepod-16",
}


@pytest.fixture
def tool(forks):
    """The command: f(*arguments, **environment) -> (exit code, stdout, stderr)."""
    return lambda *arguments, **environment: forks.run("xsample_jax.tools.sweep", [arguments], environment)[0]


def write_grid(tmp_path, body="{'seed': (0, 1)}", config="configs/quickstart.py:smoke"):
    path = tmp_path / "mine.py"
    path.write_text(
        f"from xsample_jax.sweeps.grid import grid\ndef get_grid(arg=''):\n    return grid('{config}', {body})\n"
    )
    return f"--grid={path}"


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("shell", "slurm")])
def test_the_launchers_take_the_commands(kind):
    points = grid("configs/quickstart.py", {"data.hierarchy": [("group", "subgroup")], "seed": (0, 1)})
    out = "runs/t" if kind == "gpu_host" else "gs://bucket/t"
    lines = emit(kind, points, "My_grid", out, OPTIONS[kind])
    assert len(lines) == 2
    words = shlex.split(lines[1])
    if kind != "gpu_host":
        assert "--name=my-grid-1" in words
    words.insert(words.index("--"), "--dry-run")
    result = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "data.hierarchy=(group,subgroup)" in result.stdout
    assert "seed=1" in result.stdout


def test_slurm_and_shell():
    points = grid("configs/quickstart.py", {"seed": (3,)})
    (line,) = emit("slurm", points, "g", "/shared/g/", "--gpus-per-node=1 --time=1:00:00")
    words = shlex.split(line)
    assert words[:5] == ["sbatch", "--job-name=g-0", "--gpus-per-node=1", "--time=1:00:00", "launch/slurm.sbatch"]
    assert "--workdir=/shared/g/seed=3" in words
    result = subprocess.run(
        ["bash", "launch/slurm.sbatch", "--dry-run", *words[5:]], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    (line,) = emit("shell", points, "g", "/shared/g")
    assert shlex.split(line)[:3] == ["python", "-m", "xsample_jax.main"]
    with pytest.raises(ConfigError, match="has no launcher"):
        emit("shell", points, "g", "out", "--x")
    with pytest.raises(ConfigError, match="Did you mean slurm"):
        emit("slurn", points, "g", "out")


def test_problems_come_before_anything_starts(tool, tmp_path):
    code, _, said = tool(
        write_grid(tmp_path, "{'batch_size': (16, 1), 'seed': (0,)}"), f"--out={tmp_path / 'out'}", "--run"
    )
    assert code == 2
    assert "[batch_size=1,seed=0] batch_size" in said
    assert "Traceback" not in said
    assert not (tmp_path / "out").exists()


def test_metrics_that_the_runs_would_refuse_are_found_before_they_start(tmp_path):
    """faults C9: a grid was launched, here or on a cluster, whose runs each ended with this message."""
    values = {"checkpoint.metric": ("label/knn", "label/knm", "geometry/effective_rank"), "eval.suite": ("probe",)} | {
        "eval.every": (2,)
    }
    points = grid("configs/quickstart.py:smoke", values)
    with pytest.raises(Problems) as refused:
        check_points(points, "mine", data=False)
    said = [str(problem) for problem in refused.value.problems]
    assert len(said) == 2
    assert "label/knm" in said[0]
    assert "Did you mean label/knn" in said[0]
    assert "no better side" in said[1]
    for point in points:  # finished: nothing ranks any more
        (tmp_path / point.name).mkdir(parents=True)
        (tmp_path / point.name / "evaluation.json").write_text("{}")
    assert len(check_points(points, "mine", str(tmp_path), data=False)) == 3


@pytest.mark.slow
def test_a_real_grid_from_print_to_table(tool, tmp_path):
    body = "{'data.caption_noise': (0.0, 0.5), 'steps': (2,)}"
    where = (write_grid(tmp_path, body, "tests/sweeps/linear_config.py"), f"--out={tmp_path / 'out'}")
    assert "absent" in tool(*where)[1]
    one_device = {"XLA_FLAGS": QUICK}
    code, printed, said = tool(*where, "--run", "--jobs=2", **one_device)
    assert code == 0, printed + said
    assert "2 of 2 runs finished" in printed
    rows = pyarrow.parquet.read_table(tmp_path / "out" / "results.parquet").to_pylist()
    assert [(row["status"], row["step"], row["data.caption_noise"]) for row in rows] == [
        ("finished", 2, 0.0),
        ("finished", 2, 0.5),
    ]
    assert rows[0]["train/loss"] != rows[1]["train/loss"]
    assert "2 of them finished" in tool(*where, "--run")[1]


def test_results_that_stay_are_of_runs_here(tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")  # the tool sets it for itself
    grid = write_grid(tmp_path)
    out = f"--out={tmp_path / 'out'}"
    for flags, message in (
        (["--keep=seed=0"], "nothing without --results"),
        (["--results=r", "--emit=shell"], "nothing beside --emit"),
        (["--results=r", "--keep=seed=7"], "the name of a point"),
    ):
        with pytest.raises(ConfigError, match=message):
            sweep([grid, out, *flags])
