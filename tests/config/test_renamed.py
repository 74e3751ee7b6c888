"""Configs with the names of the release before are read, with a warning that has the present name."""

import pathlib
import warnings

import pytest

from xsample_jax.config import config_from_json, default_config, load_config, resolve
from xsample_jax.config.renamed import KEYS
from xsample_jax.config.schema import flat_keys
from xsample_jax.errors import ConfigError

OLD = pathlib.Path(__file__).parent / "quickstart_of_1_0.json"  # written before the keys were renamed
# Another value than the default's, for each old key.
CHANGED = {
    "augment.grey": 0.25,
    "objective.centre": True,
    "objective.target_neighbours": 7.0,
    "loss.tile": 512,
    "loss.tiles": "xla",
    "loss.exchange": "ring",
    "loss.wire": "bfloat16",
    "loss.caption_wire": "int8",
}
FILE = """
from xsample_jax.config import default_config
def get_config():
    config = default_config()
    config.steps = 5
    {line}
    return config
"""
TERM = {"graph": {"source": "label", "normaliser": "row_sum"}, "keys": ({"block": "neighbours"},)} | {
    "row_weight": "unsure"
}


def value_of(config, name):
    section, _, leaf = name.rpartition(".")
    return config[section][leaf]


def test_a_saved_config_of_the_release_before_is_read():
    text = OLD.read_text()
    with pytest.warns(FutureWarning, match="augment.grey is now augment.gray"):
        config = config_from_json(text.replace('"grey": 0.2', '"grey": 0.35'))
    assert config.augment.gray == 0.35
    assert config.augment.background == "random_color"
    assert config.loss.block_size == 1024


@pytest.mark.parametrize(("old", "value"), CHANGED.items())
def test_an_old_key_sets_the_new_one_wherever_it_is_written(old, value, tmp_path):
    new = KEYS[old]
    file = tmp_path / "a.py"
    file.write_text(FILE.format(line=f"config.{old} = {value!r}"))
    plain = tmp_path / "b.py"
    plain.write_text(FILE.format(line=""))
    config = default_config()
    config.steps = 5
    section, _, leaf = old.rpartition(".")
    config[section][leaf] = value
    for read in (
        lambda: load_config(str(file)),
        lambda: load_config(str(plain), [f"--config.{old}={value}"]),
        lambda: resolve(config),
        lambda: resolve(config.to_dict()),
    ):
        with pytest.warns(FutureWarning, match=f"{old} is now {new}") as said:
            assert value_of(read(), new) == value
        assert len(said) == 1
    with pytest.warns(FutureWarning):  # what is on the command line wins over the file, whatever the names
        got = load_config(str(file), [f"--config.{new}={flat_keys()[new].default}"])
    assert value_of(got, new) == flat_keys()[new].default


def test_words_inside_terms_are_renamed():
    config = default_config()
    config.update(steps=5, batch_size=16)
    config.objective.update(preset="nnclr", terms=(TERM,))
    with pytest.warns(FutureWarning) as said:
        term = resolve(config).objective.terms[0]
    assert term == {
        "graph": {"source": "label", "normalizer": "row_sum"},
        "keys": ({"block": "neighbors"},),
        "row_weight": "inverse_one_minus_p",
    }
    assert len(said) == 1
    for words in ("normaliser is now normalizer", "block=neighbours is now", "row_weight=unsure is now"):
        assert words in str(said[0].message)


def test_present_names_give_no_warning_and_the_caller_keeps_its_config():
    config = default_config()
    config.steps = 5
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        resolve(config)
    values = config.to_dict()
    values["loss"]["tile"] = 64
    with pytest.warns(FutureWarning):
        resolve(values)
    assert values["loss"]["tile"] == 64
    with pytest.raises(ConfigError, match=r"loss\.block_size"), pytest.warns(FutureWarning):
        resolve(values | {"loss": values["loss"] | {"tile": 1}})
