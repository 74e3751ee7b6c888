"""The weights that a run starts from: `model.init_from`, `model.init_family`. The head always starts anew."""

import numpy as np
from flax import nnx

from xsample_jax.distributed import log_info
from xsample_jax.models.towers import ENCODERS
from xsample_jax.state import to_flat
from xsample_jax.weights.families import FAMILIES
from xsample_jax.weights.files import read_weights
from xsample_jax.weights.name_map import to_ours

ENCODER = "encoder/"


def read_pretrained(config) -> dict[str, np.ndarray]:
    """Returns {path: float32 array} of all parameters and running statistics of the encoder; {} without init_from.

    Raises DataError, or Problems with every name of the file that does not fit the encoder of the config.
    """
    path = config.model.init_from
    if path is None:
        return {}
    family = FAMILIES[config.model.init_family]
    arrays = import_encoder(config, family, read_weights(path), path)
    log_info(f"{config.name}: the encoder starts from {path} ({family.title}), the head anew")
    return {ENCODER + name: value for name, value in arrays.items()}


def import_encoder(config, family, theirs, where: str) -> dict[str, np.ndarray]:
    """Returns {path below encoder/: array} of the encoder of `config` out of `theirs` (weights/name_map.py)."""
    encoder = abstract_encoder(config)
    return to_ours(family, encoder, encoder_shapes(encoder), theirs, where)


def abstract_encoder(config) -> nnx.Module:
    """The encoder of a config, its arrays being shapes only."""
    return nnx.eval_shape(lambda: ENCODERS[config.model.encoder](config, nnx.Rngs(0)))


def encoder_shapes(encoder: nnx.Module) -> dict[str, tuple[int, ...]]:
    """{path below encoder/: shape} of all its parameters and running statistics."""
    return {path: leaf.shape for path, leaf in to_flat(nnx.state(encoder)).items()}
