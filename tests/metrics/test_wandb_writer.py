"""Weights & Biases: imported only when asked for, missing with a clear error, one W&B run over resumes."""

import sys
from types import ModuleType, SimpleNamespace

import pytest

from tests.tiny import tiny_config
from xsample_jax.errors import ConfigError
from xsample_jax.metrics.writers import open_writers, wandb_writer


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
        writers = open_writers(tmp_path, total_steps=20, resume_step=start, wandb=wandb_writer(config, tmp_path))
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
    open_writers(other, total_steps=1, wandb=wandb_writer(config, other)).close()
    assert calls[-2][1]["id"] != first["id"]


def test_it_is_not_imported_unless_asked_for(tmp_path, calls):
    assert wandb_writer(tiny_config(), tmp_path) is None
    open_writers(tmp_path, total_steps=1, wandb=None).close()
    asked = wandb_writer(tiny_config(log__wandb="p"), tmp_path)
    open_writers(tmp_path, total_steps=1, wandb=asked, enabled=False)  # another process than the first
    assert calls == []


def test_a_missing_package_is_named_with_its_extra_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    folder = tmp_path / "run"
    with pytest.raises(ConfigError, match=r"log\.wandb = 'p'.*xsample_jax\[wandb\]"):
        open_writers(folder, total_steps=1, wandb=wandb_writer(tiny_config(log__wandb="p"), folder))
    assert not folder.exists()
