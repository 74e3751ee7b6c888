"""A smoke config for commands: who loads it has a linear map in the place of resnet18, and no page of every run."""

from tests.objectives.synthetic import LinearEncoder
from tests.tiny import tiny_config
from xsample_jax import loop
from xsample_jax.models import towers


def get_config(arg=""):
    towers.ENCODERS["resnet18"] = lambda config, rngs: LinearEncoder(rngs)
    loop.write_report = lambda runs, path: None  # its figures take longer than the run
    config = tiny_config().copy_and_resolve_references()
    config.unlock()
    return config
