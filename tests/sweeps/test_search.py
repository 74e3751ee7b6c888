"""A search with a stand-in for the trainer: what is proposed, what is told, and that it continues."""

import sys

import pytest

from tests.sweeps.test_local import plan  # noqa: F401
from xsample_jax.config import default_config
from xsample_jax.errors import BAD_INPUT, ConfigError, DataError
from xsample_jax.sweeps import search as searches
from xsample_jax.sweeps.local import Workers
from xsample_jax.sweeps.search import Choice, Integer, Space, Uniform, edge_points, open_study, read_space, search
from xsample_jax.tools.sweep import main

SPACE = Space("x.py", {"seed": Integer(0, 99), "optimizer.learning_rate": Uniform(1e-4, 1e-1, log=True)})
FILE = """
from xsample_jax.sweeps.search import Choice, Integer, Space, Uniform

def get_space(arg):
    return Space("configs/quickstart.py:smoke", {"seed": Integer(0, 3), "batch_size": Choice((16, 32))})
"""


def done(study):
    return [trial for trial in study.trials if trial.state.name == "COMPLETE"]


def test_trials_are_run_and_told_and_the_next_call_continues(tmp_path, plan):  # noqa: F811
    pytest.importorskip("optuna")
    out, said = tmp_path / "out", []
    study = open_study(out, "label/knn", SPACE)
    assert search(study, SPACE, out, 3, Workers(2), said.append) == {}
    values = {trial.number: trial.value for trial in done(study)}
    assert values == {trial.number: 0.25 + trial.params["seed"] for trial in study.trials}
    assert len(values) == 3
    folders = sorted(path.name for path in out.iterdir() if path.name.startswith("seed="))
    assert len(folders) == 3
    rates = [float(name.partition("learning_rate=")[2]) for name in folders]
    assert rates == [float(f"{rate:.4g}") for rate in rates]
    assert study.best_value == max(values.values())  # accuracies: larger is better
    assert "best" in said[-1]

    # A trial that was asked for and never told, as after Ctrl-C: it is the first that the next call runs.
    asked = study.ask(searches._distributions(SPACE))
    again = open_study(out, "label/knn", SPACE)
    bare = again.ask().number  # as after a kill between the proposal of a trial and that of its values
    search(again, SPACE, out, 4, say=said.append)
    assert [trial.number for trial in done(again)] == [0, 1, 2, 3]
    assert again.trials[bare].state.name == "FAIL"
    assert len(searches.points_of(again, SPACE)) == 4
    assert searches.count_failed(again, SPACE) == 0  # no run of it failed
    assert again.trials[asked.number].value == 0.25 + asked.params["seed"]
    search(again, SPACE, out, 4, say=lambda words: pytest.fail(words))  # nothing is left


def test_a_failed_run_is_no_value_and_counts(tmp_path, plan):  # noqa: F811
    pytest.importorskip("optuna")
    space = Space("x.py", {"seed": Choice((7,))})
    plan({"seed=7": {"code": 3}})
    study = open_study(tmp_path / "out", "label/knn", space)
    assert search(study, space, tmp_path / "out", 1, say=lambda words: None) == {"seed=7": 3}
    assert [trial.state.name for trial in study.trials] == ["FAIL"]
    assert search(study, space, tmp_path / "out", 1, say=lambda words: None) == {}
    assert searches.count_failed(study, space) == 1  # of the call before
    plan({})
    study = open_study(tmp_path / "other", "zero_shot/label", space)
    with pytest.raises(ConfigError, match="label/knn"):  # a metric that the runs do not have
        search(study, space, tmp_path / "other", 1, say=lambda words: None)
    assert [trial.state.name for trial in study.trials] == ["FAIL"]


def test_one_folder_has_one_search(tmp_path):
    pytest.importorskip("optuna")
    open_study(tmp_path, "label/knn", SPACE)
    for metric, space in (("zero_shot/label", SPACE), ("label/knn", Space("x.py", {"seed": Integer(0, 9)}))):
        with pytest.raises(ConfigError, match=r"search\.log.*another --out"):
            open_study(tmp_path, metric, space)


def test_a_torn_log_goes_on_and_a_damaged_one_is_named(tmp_path, plan, capsys):  # noqa: F811
    """faults B6: both ended in a traceback of optuna."""
    pytest.importorskip("optuna")
    study = open_study(tmp_path, "label/knn", SPACE)
    search(study, SPACE, tmp_path, 2, say=lambda words: None)
    log = tmp_path / searches.LOG
    whole = log.read_bytes()
    for torn in (whole[:-20], whole + b"\0\0\0\n", whole + b"3\n"):
        log.write_bytes(torn)
        study = open_study(tmp_path, "label/knn", SPACE)
        assert "the last line of" in capsys.readouterr().err
        assert search(study, SPACE, tmp_path, 2, say=lambda words: None) == {}
        assert len(done(study)) == 2
    first, rest = whole.split(b"\n", 1)
    for damaged in (first + b"\nnoise\n" + rest, b"{}\n" + whole, b"\xff\n" + whole):
        log.write_bytes(damaged)
        with pytest.raises(DataError, match=r"search\.log.*another --out"):
            open_study(tmp_path, "label/knn", SPACE)
        assert log.read_bytes() == damaged
    log.unlink()
    log.mkdir()
    with pytest.raises(DataError, match=r"search\.log.*another --out"):
        open_study(tmp_path, "label/knn", SPACE)


def test_spaces_are_read_and_checked(tmp_path):
    file = tmp_path / "few.py"
    file.write_text(FILE)
    space = read_space(str(file))
    assert space.name == "few"
    assert [point.name for point in edge_points(space)] == ["seed=0,batch_size=16", "seed=3,batch_size=32"]
    for wrong in ("Uniform(1, 1)", "Uniform(0.0, 1.0, log=True)", "Choice(())", "(1, 2)", "Choice(((1,), (2, 3)))"):
        file.write_text(FILE.replace("Integer(0, 3)", wrong))
        with pytest.raises(ConfigError, match="low < high"):
            read_space(str(file))
    file.write_text("x = 1")
    with pytest.raises(ConfigError, match="no get_space"):
        read_space(str(file))


def test_a_metric_that_the_runs_will_not_have_is_refused_before_the_first():
    config = default_config()
    for suite, metric in (("emoji", "label/knn"), ("probe", "subgroup/knn"), ("none", "label/knn")):
        config.eval.suite = suite
        with pytest.raises(ConfigError, match=f"--metric.*{suite}"):
            searches.check_metric(metric, config)
    for suite, metric in (
        ("emoji", "spearman/captions"),
        ("probe", "label/probe_top5"),
        ("shapes", "factor/shape/kept"),
    ):
        config.eval.suite = suite
        searches.check_metric(metric, config)


def test_what_is_missing_is_said_before_anything_is_made(tmp_path, monkeypatch, capsys):
    file, out = tmp_path / "few.py", tmp_path / "out"
    file.write_text(FILE)
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    flags = [f"--grid={file}", f"--out={out}", "--sampler=optuna"]
    for more in (["--metric=label/knn"], ["--run"], ["--run", "--metric=label/knn", "--trials=0"]):
        assert main([*flags, *more]) == BAD_INPUT
        assert "--metric=label/knn --trials=20 --run" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert main([*flags, "--run", "--metric=label/knn"]) == BAD_INPUT
    assert "xsample_jax[search]" in capsys.readouterr().err
    assert not out.exists()
