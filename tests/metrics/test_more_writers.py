"""Weights & Biases, a writer of one's own and a function: only when asked for, told before anything is built."""

import sys
from types import ModuleType, SimpleNamespace

import pytest

from tests.objectives.synthetic import LinearEncoder
from tests.tiny import tiny_config
from xsample_jax import loop
from xsample_jax.encoder import load_encoder
from xsample_jax.errors import ConfigError
from xsample_jax.metrics.jsonl import read_jsonl
from xsample_jax.metrics.progress_bar import ProgressLine
from xsample_jax.metrics.writers import check_writers, find_writer, more_writers, open_writers
from xsample_jax.models import towers


@pytest.fixture
def calls(monkeypatch):
    """What a stand-in for the package was called with."""
    seen = []

    def init(**options):
        seen.append(("init", options))
        return SimpleNamespace(
            log=lambda values, step: seen.append(("log", step, values)), finish=lambda: seen.append(("finish",))
        )

    module = ModuleType("wandb")
    module.init = init
    monkeypatch.setitem(sys.modules, "wandb", module)
    return seen


def test_numbers_go_to_one_run_also_after_a_resume(tmp_path, calls):
    config = tiny_config(log__wandb="soft-graphs", seed=3)
    for start in (0, 10):
        writers = open_writers(tmp_path, ProgressLine(20), resume_step=start, more=more_writers(config, tmp_path))
        writers.write(start + 10, {"loss": 1.5, "n": 2, "bad": float("nan")})
        writers.close()
    (_, first), (_, step, values), finish, (_, second) = calls[:4]
    assert first["project"] == "soft-graphs"
    assert first["name"] == config.name
    assert first["dir"] == str(tmp_path)
    assert first["config"]["optimizer"]["name"] == "adamw"
    assert first["config"]["seed"] == 3
    assert step == 10
    assert values["loss"] == 1.5
    assert values["n"] == 2
    assert finish == ("finish",)
    assert second["id"] == first["id"]
    assert second["resume"] == "allow"
    other = tmp_path / "other"
    open_writers(other, ProgressLine(1), more=more_writers(config, other)).close()
    assert calls[-2][1]["id"] != first["id"]


def test_it_is_not_imported_unless_asked_for(tmp_path, calls):
    assert more_writers(tiny_config(), tmp_path) == []
    open_writers(tmp_path, ProgressLine(1)).close()
    more_writers(tiny_config(log__wandb="p"), tmp_path)  # they are made where they write, on the first process
    assert calls == []


def test_a_missing_package_is_named_with_its_extra_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    folder = tmp_path / "run"
    with pytest.raises(ConfigError, match=r"log\.wandb = 'p'.*xsample_jax\[wandb\]"):
        loop.train(tiny_config(log__wandb="p"), folder)
    assert not folder.exists()


MLFLOW = """
class Metrics:
    def __init__(self, config, folder):
        self.file = open(folder / "mine.txt", "a")
        self.file.write(f"{config.name}\\n")

    def write(self, step, values):
        self.file.write(f"{step} {values['loss']}\\n" if "loss" in values else f"{step} {sorted(values)}\\n")

    def close(self):
        self.file.close()


class NoClose:
    def write(self, step, values):
        pass
"""


def test_a_class_and_a_function_of_ones_own_get_every_line(tmp_path, monkeypatch):
    (tmp_path / "my_metrics.py").write_text(MLFLOW)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(towers.ENCODERS, "mine", lambda config, rngs: LinearEncoder(rngs))
    monkeypatch.setattr(loop, "write_report", lambda runs, path: None)
    config = tiny_config(steps=2, model__encoder="mine", log__to="my_metrics:Metrics", name="own")
    seen = []
    loop.train(config, tmp_path / "run", on_log=lambda step, values: seen.append((step, values)))
    recorded = [line["loss"] for line in read_jsonl(tmp_path / "run" / "metrics.jsonl")]
    assert [step for step, _ in seen] == [1, 2]
    assert [values["loss"] for _, values in seen] == pytest.approx(recorded)
    lines = (tmp_path / "run" / "mine.txt").read_text().splitlines()
    assert lines == ["own", *(f"{step} {values['loss']}" for step, values in seen)]
    assert load_encoder(tmp_path / "run").features == LinearEncoder.features  # an encoder from outside, by its name


@pytest.mark.parametrize(
    "name", ["nowhere:A", "my_metrics:Missing", "my_metrics:NoClose", "my_metrics", ":A", "os:sep"]
)
def test_what_is_no_writer_is_refused_before_anything_is_written(tmp_path, monkeypatch, name):
    (tmp_path / "my_metrics.py").write_text(MLFLOW)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=r"log\.to = .*module:Class"):
        check_writers(tiny_config(log__to=name))
    assert find_writer("my_metrics:Metrics").__name__ == "Metrics"
