"""Which changes of the config a run folder takes, and which it refuses."""

import pytest

from tests.tiny import tiny_config
from xsample_jax.config.saved import OF_THE_MACHINE, changed_keys, save_config
from xsample_jax.errors import CheckpointError


def test_a_machine_may_change_and_the_run_may_not(tmp_path):
    assert changed_keys(tiny_config(), tmp_path, allow=False) == {}  # a new folder
    save_config(tiny_config(), tmp_path, {})
    machine = {"data__threads": 7, "data__cache": "decoded", "data__prefetch": 9, "faults__grace": 1.0}
    assert changed_keys(tiny_config(**machine), tmp_path, allow=False) == {}
    with pytest.raises(CheckpointError, match=r"\(batch_size was 16, is now 32\)"):
        changed_keys(tiny_config(batch_size=32, **machine), tmp_path, allow=False)
    assert changed_keys(tiny_config(batch_size=32, **machine), tmp_path, allow=True) == {"batch_size": (16, 32)}


def test_the_keys_of_the_machine_exist():
    config = tiny_config()
    for key in OF_THE_MACHINE:
        section, name = key.split(".")
        assert name in config[section]
