"""One set of weights at two widths: the thin encoder of a ResNet (SACL-XD, NeurIPS 2023).

The thin network is a ResNet of fewer channels whose kernels, scales and shifts are the first corner of those of the
wide one: of every axis as many entries as it has channels there. All blocks of a stage so keep the same channels of
their residual stream. Its running statistics are its own: channels see other inputs than in the wide network.

The published code masks filters, those of the smallest L1 norm when the network is made, and its batch norms let a
constant of masked channels through. At a random start the first filters are no worse than the largest: batch norms
take away their length.
"""

from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from xsample_jax.models.towers import ENCODERS, Towers
from xsample_jax.state import ModelDef, define_model, to_flat

SLIM = "slim/"  # before the paths of the thin network's running statistics, among those of the model


def thin_width(config) -> int:
    """Channels of the first stage of the thin network."""
    return round(config.model.slim * config.model.width)


def thin_config(config):
    """The config of the thin encoder, an ordinary ResNet."""
    thin = config.copy_and_resolve_references().unlock()
    thin.model.width, thin.model.slim = thin_width(config), 1.0
    return thin


def define_thin(config, frozen: Callable[[str], bool]) -> ModelDef:
    """The thin encoder of a config: views [n, s, s, 3] to features [n, F'].

    frozen(path of a parameter of the whole model): as for define_model.
    """
    made = thin_config(config)
    return define_model(lambda rngs: ENCODERS[made.model.encoder](made, rngs), lambda path: frozen(f"encoder/{path}"))


def thin_statistics(thin: ModelDef) -> dict[str, jax.Array]:
    """Running statistics of the thin encoder before the first step, under slim/."""
    return {
        SLIM + path: value for path, value in to_flat(nnx.split(thin.build(nnx.Rngs(0)), nnx.Param, ...)[2]).items()
    }


def corners(arrays: Mapping[str, jax.Array], shapes: Mapping[str, Sequence[int]]) -> dict[str, jax.Array]:
    """Of every array that has a shape in `shapes` the first entries of each axis that fill it."""
    return {path: arrays[path][tuple(slice(size) for size in shape)] for path, shape in shapes.items()}


def thin_pass(
    thin: ModelDef, network: Towers, params: Mapping[str, jax.Array], statistics: Mapping, images: jax.Array
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """A training pass of views [n, s, s, 3] through the thin encoder and the head that both encoders share.

    The head reads the features of the channels that the thin encoder lacks as 0. network: the wide one, whose running
    statistics stay as they are. params, statistics: those of the whole model.

    Returns:
      (head outputs [n, D], the thin encoder's running statistics after the pass).
    """
    shapes = {path: leaf.shape for path, leaf in to_flat(thin.params).items()}
    own = corners({path: params[f"encoder/{path}"] for path in shapes}, shapes)
    moving = {path.removeprefix(SLIM): value for path, value in statistics.items() if path.startswith(SLIM)}
    encoder = thin.merge(own, moving, training=True)
    features = encoder(images)
    wide = jnp.pad(features, ((0, 0), (0, network.encoder.features - features.shape[1])))
    after = to_flat(nnx.split(encoder, nnx.Param, ...)[2])
    return nnx.clone(network).head(wide), {SLIM + path: value for path, value in after.items()}
