"""One config for a whole run: schema.py is the manual, load.py reads a config file, check.py reports every mistake."""

from xsample_jax.config.check import check_config, find_problems
from xsample_jax.config.key import Key
from xsample_jax.config.load import (
    apply_overrides,
    default_config,
    load_config,
    parse_variant_groups,
    parse_variants,
    read_config_file,
    resolve,
    smoke,
)
from xsample_jax.config.saved import config_from_json, config_to_json, diff_configs
from xsample_jax.config.schema import SCHEMA, flat_keys

__all__ = [
    "SCHEMA",
    "Key",
    "apply_overrides",
    "check_config",
    "config_from_json",
    "config_to_json",
    "default_config",
    "diff_configs",
    "find_problems",
    "flat_keys",
    "load_config",
    "parse_variant_groups",
    "parse_variants",
    "read_config_file",
    "resolve",
    "smoke",
]
