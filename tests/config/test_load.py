import os
import subprocess
import sys

import pytest

from xsample_jax.config import SCHEMA, default_config, flat_keys, load_config, resolve
from xsample_jax.config.load import import_file
from xsample_jax.errors import ConfigError, Problems

GOOD = """
from xsample_jax.config import default_config
def get_config(arg=""):
    config = default_config()
    config.steps = 10
    config.name = arg or "plain"
    return config
"""


@pytest.fixture
def config_file(tmp_path):
    def write(text, name="run.py"):
        path = tmp_path / name
        path.write_text(text)
        return str(path)

    return write


def test_defaults_are_the_schema():
    config = default_config()
    assert config.optimizer.b2 == SCHEMA["optimizer"]["b2"].default
    assert config.model.head.hidden == (2048,)
    assert list(flat_keys())[:2] == ["name", "seed"]
    assert flat_keys()["model.head.dim"] is SCHEMA["model"]["head"]["dim"]


def test_default_config_takes_mistakes_without_complaint():
    config = default_config()
    config.seed = "seven"
    config.model.typo = 3


def test_argument_reaches_the_file(config_file):
    path = config_file(GOOD)
    assert load_config(path).name == "plain"
    assert load_config(f"{path}:left,right").name == "left,right"


def test_result_is_locked_and_typed(config_file):
    path = config_file(
        GOOD.replace("config.steps = 10", "config.steps = None; config.epochs = 2; config.model.head.hidden = [8, 4]")
    )
    config = load_config(path)
    assert type(config.epochs) is float
    assert config.model.head.hidden == (8, 4)
    with pytest.raises(AttributeError):
        config.new_key = 1
    with pytest.raises(TypeError):
        config.batch_size = "many"


def test_resolve_does_not_share_with_its_source():
    config = default_config()
    config.steps = 10
    resolved = resolve(config)
    config.optimizer.b1 = 0.5
    assert resolved.optimizer.b1 == 0.9


def test_references_follow_an_override(config_file):
    text = GOOD.replace("return config", "config.checkpoint.every = config.get_ref('steps') // 5\n    return config")
    assert load_config(config_file(text), ["--config.steps=50"]).checkpoint.every == 10


def test_mistakes_of_file_and_command_line_come_together(config_file):
    text = GOOD.replace(
        "return config",
        """config.seed = "3"
    config.batchsize = 64
    config.optimizer.learning_rte = 0.1
    config.model.head = 3
    config.augment.crop_scale = (1.0, 0.5)
    config.epochs = 3.0
    return config""",
    )
    with pytest.raises(Problems) as caught:
        load_config(config_file(text), ["--config.optimiser.b1=0.5", "--config.data.threads=many", "--config.views=1"])
    message = str(caught.value)
    assert len(caught.value.problems) == 9
    assert "9 problem(s)" in message
    for part in (
        "optimiser.b1 = '0.5': expected a known key. Did you mean optimizer.b1?",
        "data.threads = 'many': expected an integer >= 1",
        "batchsize = 64: expected a known key. Did you mean batch_size",
        "optimizer.learning_rte = 0.1: expected a known key. Did you mean optimizer.learning_rate?",
        "model.head = 3: expected a section with the keys hidden, dim, batch_norm",
        "seed = '3': expected an integer >= 0 and <= 4294967295. Write it without quotes",
        "augment.crop_scale = (1.0, 0.5): expected a tuple of 0 or 2 numbers, low then high",
        "steps = 10: expected only one of steps and epochs",
        "views = 1: expected at least 2 for objective.preset = 'xclr'",
    ):
        assert part in message


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("x = 1", ["no get_config", "default_config()"]),
        ("def get_config(arg):\n    return 1 / 0", ["run.py, line 2", "ZeroDivisionError"]),
        ("def get_config(arg)\n    return 1", ["run.py, line 1", "SyntaxError"]),
        ("import no_such_module_at_all", ["run.py, line 1", "ModuleNotFoundError"]),
        ("def get_config(arg):\n    return {'steps': 3}", ["the ConfigDict made by default_config()"]),
    ],
)
def test_broken_file_is_named_with_line_and_fix(config_file, text, parts):
    path = config_file(text)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert path in str(caught.value)
    for part in parts:
        assert part in str(caught.value)


def test_argument_for_a_file_that_takes_none(config_file):
    path = config_file(GOOD.replace('arg=""', "").replace('arg or "plain"', '"plain"'))
    assert load_config(path).name == "plain"
    with pytest.raises(ConfigError, match="takes none"):
        load_config(f"{path}:smoke")


def test_missing_file_suggests_its_neighbor(config_file):
    path = config_file(GOOD, "quickstart.py")
    with pytest.raises(ConfigError, match=f"Did you mean {path}"):
        load_config(path.replace("quickstart", "quickstrat"))


def test_error_of_a_file_that_another_file_reads_names_the_inner_file(config_file):
    inner = config_file("def get_config(arg):\n    return 1 / 0", "inner.py")
    outer = config_file(
        "from xsample_jax.config import read_config_file\n"
        f"def get_config(arg):\n    return read_config_file({inner!r})",
        "outer.py",
    )
    with pytest.raises(ConfigError, match=r"inner\.py, line 2"):
        load_config(outer)


def test_reading_a_config_starts_no_backend():
    code = (
        # The command sets variables that jax reads when it is imported.
        "import sys, xsample_jax.main; assert 'jax' not in sys.modules; "
        # Reading a config takes no device: XLA_FLAGS may still be set, and other processes may have the accelerator.
        "import xsample_jax.config as c; config = c.default_config(); config.steps = 1; c.check_config(config); "
        "from jax._src import xla_bridge; sys.exit(xla_bridge.backends_are_initialized())"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_file_edited_within_a_second_is_read_again(tmp_path):
    path = tmp_path / "mine.py"
    for seed in (1, 2):  # the same size and time: python's own loader takes the bytecode of the first
        path.write_text(f"def get_config():\n    return {{'seed': {seed}}}\n")
        os.utime(path, (1e9, 1e9))
        assert import_file(path).get_config() == {"seed": seed}
    assert os.listdir(tmp_path) == ["mine.py"]
