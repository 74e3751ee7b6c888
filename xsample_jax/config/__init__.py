"""One config for a whole run: schema.py is the manual, load.py reads a config file, check.py reports every mistake."""

from xsample_jax.config.check import check_config, find_problems
from xsample_jax.config.key import Key
from xsample_jax.config.load import default_config, load_config, read_config_file, resolve
from xsample_jax.config.overrides import apply_overrides, split_overrides
from xsample_jax.config.saved import config_from_json, config_to_json, diff_configs
from xsample_jax.config.schema import SCHEMA, flat_keys
from xsample_jax.config.smoke import smoke
from xsample_jax.config.variants import parse_variant_groups, parse_variants

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
    "split_overrides",
]
