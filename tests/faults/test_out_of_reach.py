"""Files of a run that cannot be read for now, or cost less than a checkpoint: nothing whole is moved away or lost."""

import contextlib
import errno
import itertools
import json
import os
import pathlib
import shutil
import types

import pytest
from etils import epath

import xsample_jax.hooks
import xsample_jax.loop
from tests.tiny import tiny_config
from xsample_jax.checkpoint import Checkpoints, started_config
from xsample_jax.errors import CheckpointError, ConfigError, RunError
from xsample_jax.evals.catalog import better_side, read_scores
from xsample_jax.io.checkpoint_files import FORMAT, text_checksum
from xsample_jax.io.run_dir import RunFolder, read_history
from xsample_jax.loop import train
from xsample_jax.metrics.jsonl import JsonlWriter, read_jsonl
from xsample_jax.state import Progress, TrainState

pytestmark = pytest.mark.usefixtures("linear_encoder")
RANKED = {
    "steps": 4, "log__every": 1, "checkpoint__every": 2, "checkpoint__metric": "label/knn", "eval__every": 2,
    "data__label": "group", "eval__suite": "probe", "eval__train_split": "val_styles", "eval__split": "val",
}  # fmt: skip


@pytest.fixture(autouse=True)
def no_report(monkeypatch):
    monkeypatch.setattr(xsample_jax.loop, "write_report", lambda runs, path: path.write_text(""))


@pytest.fixture(scope="module")
def ranked(linear_run):
    return linear_run(**RANKED)


@pytest.fixture
def run(ranked, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(ranked, folder)
    return folder


def steps_of(folder):
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def refuse(monkeypatch, name, code=errno.EIO):
    """Every reading of a file of this name fails, as on a disk or mount that is away."""
    for kind, way in itertools.product((pathlib.Path, type(epath.Path("/"))), ("read_text", "read_bytes")):
        inner = getattr(kind, way)

        def read(path, *arguments, inner=inner, **options):
            if path.name == name:
                raise OSError(code, os.strerror(code), str(path))
            return inner(path, *arguments, **options)

        monkeypatch.setattr(kind, way, read)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"label/knn": "high"}', None])
def test_broken_metrics_cost_a_checkpoint_its_rank_and_not_its_state(run, content, capsys):
    """faults B6: empty metrics files of all checkpoints moved all of them away, and the run began again at step 0."""
    (run / "evaluation.json").unlink()
    before = read_jsonl(run / "metrics.jsonl")
    for path in (run / "checkpoints").glob("*/metrics/metrics"):
        path.unlink() if content is None else path.write_text(content)
    options = tiny_config(**RANKED).checkpoint
    with contextlib.closing(Checkpoints(run, options, own=False)) as reader:  # another run's folder stays as it is
        assert reader.latest_step() == 4
    train(tiny_config(**RANKED), run)
    assert [line["step"] for line in read_jsonl(run / "metrics.jsonl")] == [line["step"] for line in before]
    assert steps_of(run) == ["2", "4"]
    assert not (run / "damaged").exists()
    said = "the metrics of checkpoint 2 are damaged" in capsys.readouterr().err
    assert said == (content is not None and not content.startswith('{"label'))


def test_a_run_whose_checkpoints_were_all_set_aside_does_not_begin_again(run):
    """faults B6: with damaged/ full and checkpoints/ empty, a run began at step 0 and its metrics were overwritten."""
    (run / "evaluation.json").unlink()
    shutil.move(run / "checkpoints", run / "damaged")
    before = (run / "metrics.jsonl").read_text()
    with pytest.raises(CheckpointError, match=r"damaged.*move it back") as caught:
        train(tiny_config(**RANKED), run)
    assert caught.value.exit_code == 2
    assert (run / "metrics.jsonl").read_text() == before


@pytest.mark.parametrize("code", [errno.EIO, errno.EACCES, errno.ESTALE])
def test_what_cannot_be_read_for_now_is_left_where_it_is(run, tmp_path, monkeypatch, code):
    """faults B6: EIO, EACCES and ESTALE counted as damage of metrics, config and evaluation."""
    options = tiny_config(**RANKED).checkpoint
    readers = {
        "metrics": lambda: Checkpoints(run, options),
        "metrics.jsonl": lambda: JsonlWriter(run / "metrics.jsonl", 4),
        "config.json": lambda: started_config(RunFolder(run)),
        "evaluation.json": lambda: read_scores(run / "evaluation.json"),
    }
    for name, read in readers.items():
        with monkeypatch.context() as patch:
            refuse(patch, name, code)
            with pytest.raises(RunError, match=os.strerror(code)):
                read()
            with pytest.raises(RunError, match=os.strerror(code)):
                train(tiny_config(**RANKED | {"steps": 6}), run, allow_config_change=True)
        assert steps_of(run) == ["2", "4"]
        assert (run / "metrics.jsonl").exists()
        assert (run / "config.json").exists()
        assert not list(run.glob("*.damaged*"))
        assert not (run / "damaged").exists()


def test_checkpoints_on_another_disk_are_set_aside_there_too(run, tmp_path, monkeypatch):
    """faults B6: with checkpoints/ a link to another disk, a damaged one ended every start with a traceback."""
    (run / "evaluation.json").unlink()
    shutil.move(run / "checkpoints", tmp_path / "disk")
    (run / "checkpoints").symlink_to(tmp_path / "disk")
    (tmp_path / "disk" / "4" / "meta" / "metadata").write_text("{")
    inner = os.rename

    def rename(source, target, **options):
        if "damaged" in str(target):
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        return inner(source, target, **options)

    monkeypatch.setattr(os, "rename", rename)
    train(tiny_config(**RANKED), run)
    assert steps_of(run) == ["2", "4"]
    assert (run / "damaged" / "4-0" / "meta" / "metadata").read_text() == "{"


@pytest.mark.parametrize("change", [{"format": FORMAT + 1}, {"progress": "eons"}])
def test_a_checkpoint_of_another_version_is_named_and_stays(run, change):
    """faults B6: a checkpoint of newer code counted as damaged, and was moved away."""
    (run / "evaluation.json").unlink()
    path = run / "checkpoints" / "4" / "meta" / "metadata"
    meta = json.loads(path.read_text())
    if "progress" in change:
        meta["progress"]["eons"] = 1
    else:
        meta |= change
    del meta["checksum"]
    meta |= {"version": "9.9"}
    path.write_text(json.dumps(meta | {"checksum": text_checksum(meta)}))
    with pytest.raises(CheckpointError, match=r"written by xsample_jax 9\.9.*Use the version that wrote it"):
        train(tiny_config(**RANKED), run)
    assert steps_of(run) == ["2", "4"]
    assert not (run / "damaged").exists()
    assert "a damaged checkpoint was set aside" not in [event["event"] for event in read_history(run)]


@pytest.mark.parametrize(("metric", "best"), [("geometry/alignment", 4), ("label/knn", 2)])
def test_the_best_checkpoint_is_that_of_the_better_side(tmp_path, metric, best):
    """faults D9: of a metric of which smaller values are better, the worst checkpoint was kept as the best."""
    options = types.SimpleNamespace(keep_latest=1, keep_best=1, metric=metric)
    with contextlib.closing(Checkpoints(tmp_path, options, better=better_side(metric))) as checkpoints:
        for step, value in ((2, 0.9), (4, 0.1), (6, 0.5), (8, float("nan"))):
            checkpoints.save(TrainState(0, {}, {}, {}, {}, {}), Progress(step=step), "{}", {metric: value})
            checkpoints.wait()
        assert checkpoints._manager.all_steps() == [best, 8]


def test_patience_looks_at_the_better_side(tmp_path, monkeypatch):
    """faults D9: a run whose distances became smaller and smaller was ended for lack of patience."""
    falling = iter((0.9, 0.7, 0.5, 0.3, 0.2, 0.1))
    result = lambda *arguments: (types.SimpleNamespace(metrics={"geometry/uniformity": next(falling)}), None)  # noqa: E731
    monkeypatch.setattr(xsample_jax.hooks, "evaluate_state", result)
    monkeypatch.setattr(xsample_jax.loop, "_finish", lambda setup, progress, *arguments: {"step": progress.step})
    few = {"steps": 6, "eval__every": 1, "eval__patience": 1, "checkpoint__metric": "geometry/uniformity"}
    assert train(tiny_config(**RANKED | few), tmp_path) == {"step": 6}


def test_a_metric_without_a_better_side_ranks_nothing(tmp_path):
    """faults D9: found before the run, not in its choice of checkpoints."""
    with pytest.raises(ConfigError, match=r"checkpoint\.metric.*no better side"):
        train(tiny_config(**RANKED | {"checkpoint__metric": "geometry/effective_rank"}), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert better_side("of/the/user") == 1  # as ever


def test_a_finished_run_returns_its_results_whatever_its_rules_name(run):
    """faults D9: a run of before metrics without a better side were refused did not return what it had measured."""
    config = json.loads((run / "config.json").read_text())
    config["checkpoint"]["metric"] = "geometry/effective_rank"
    (run / "config.json").write_text(json.dumps(config))
    changes = RANKED | {"checkpoint__metric": "geometry/effective_rank"}
    assert train(tiny_config(**changes), run) == read_scores(run / "evaluation.json")
    (run / "evaluation.json").unlink()  # not finished: its rules would be read
    with pytest.raises(ConfigError, match=r"checkpoint\.metric.*no better side"):
        train(tiny_config(**changes), run)
    (run / "evaluation.json").write_text("{")  # damaged
    with pytest.raises(ConfigError, match=r"checkpoint\.metric.*no better side"):
        train(tiny_config(**changes), run)
